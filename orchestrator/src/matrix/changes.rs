//! The differences between two versions of a matrix, in terms of cells and settings. A run can only be
//! resumed with the matrix it began with; comments, formatting and other spellings of the same value do not
//! count as differences.

use super::{
    catalog,
    plan::{Cell, Plan, RunOrder},
};
use data_encoding::HEXLOWER;
use indexmap::IndexMap;
use sha2::{Digest, Sha256};

/// The largest number of cells that a line names; further cells are only counted.
const MAX_NAMED: usize = 3;

/// The differences between two plans, one sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Differences that make records of the old plan useless for the new one: in the cells, their settings,
    /// the number of repeats or the order.
    pub invalidating: Vec<String>,
    /// Differences that leave records valid: in the name, the description, the expectations or the published
    /// figures.
    pub harmless: Vec<String>,
}

impl Changes {
    /// Returns whether the two plans are the same.
    pub const fn is_empty(&self) -> bool {
        self.invalidating.is_empty() && self.harmless.is_empty()
    }
}

impl Plan {
    /// Returns a digest (SHA-256, as 64 hexadecimal digits) of everything that affects the plan's
    /// measurements. Two plans have the same digest exactly if [`Plan::changes_to`] finds no
    /// [invalidating](Changes::invalidating) changes between them.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {}\n", self.order, self.repeat));
        for cell in &self.cells {
            let settings = serde_json::to_string(&cell.settings).unwrap_or_default();
            hash.update(format!("{} {} {settings}\n", cell.index, cell.id));
            for (path, text) in cell.settings.traces() {
                hash.update(format!("{path} {}\n{text}", text.len()));
            }
        }
        HEXLOWER.encode(&hash.finalize())
    }

    /// Compares this plan with a newer one.
    pub fn changes_to(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        let old_cells: IndexMap<&str, &Cell> = self.cells.iter().map(|c| (c.id.as_str(), c)).collect();
        let new_cells: IndexMap<&str, &Cell> = new.cells.iter().map(|c| (c.id.as_str(), c)).collect();
        let mut settings: IndexMap<String, Vec<&str>> = IndexMap::new();
        for (id, old) in &old_cells {
            let Some(new) = new_cells.get(id).filter(|new| new.settings != old.settings) else { continue };
            for change in setting_changes(old, new) {
                settings.entry(change).or_default().push(id);
            }
        }
        let invalidating = &mut changes.invalidating;
        for (change, cells) in settings {
            let all = cells.len() == old_cells.len() && cells.len() > 1;
            let where_ = if all { "in every cell".into() } else { format!("in {}", names(&cells)) };
            invalidating.push(format!("{change} {where_}"));
        }
        let missing = |from: &IndexMap<&str, &Cell>, in_: &IndexMap<&str, &Cell>| -> Vec<String> {
            from.keys().filter(|id| !in_.contains_key(*id)).map(ToString::to_string).collect()
        };
        let gone = missing(&old_cells, &new_cells);
        let added = missing(&new_cells, &old_cells);
        for (verb, cells) in [("removed", &gone), ("added", &added)] {
            if !cells.is_empty() {
                let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
                invalidating.push(format!("{verb}: {}", names(&cells)));
            }
        }
        if gone.is_empty() && added.is_empty() && !old_cells.keys().eq(new_cells.keys()) {
            invalidating.push("the cells are in a different order".into());
        } else if invalidating.is_empty()
            && self.cells.iter().zip(&new.cells).any(|(a, b)| a.index != b.index)
        {
            invalidating.push("the cells are a different part of the matrix".into());
        }
        if self.repeat != new.repeat {
            invalidating.push(format!("repeat: {} -> {}", self.repeat, new.repeat));
        }
        if self.order != new.order {
            invalidating.push(format!("order: {} -> {}", order(self.order), order(new.order)));
        }
        let harmless = &mut changes.harmless;
        for (name, changed) in [
            ("name", self.name != new.name),
            ("description", self.description != new.description),
            ("expect", self.expect != new.expect),
            ("reference", self.reference != new.reference),
        ] {
            if changed {
                harmless.push(format!("{name} changed"));
            }
        }
        changes
    }
}

/// Returns a line `path: old -> new` for each setting that differs.
fn setting_changes(old: &Cell, new: &Cell) -> Vec<String> {
    let values = catalog::all()
        .map(|setting| (setting.path(), setting.value(&old.settings), setting.value(&new.settings)));
    let others = values.filter(|(_, old, new)| old != new);
    let mut changes: Vec<String> = others.map(|(path, old, new)| format!("{path}: {old} -> {new}")).collect();
    for (path, text) in old.settings.traces() {
        let file = |cell: &Cell| catalog::find(path).map(|setting| setting.value(&cell.settings));
        let mut news = new.settings.traces();
        if file(old) == file(new)
            && news.any(|(other, new)| other == path && new != text)
            && let Some(file) = file(old)
        {
            changes.push(format!("{path}: the content of {file} has changed"));
        }
    }
    changes
}

fn names(cells: &[&str]) -> String {
    if cells.len() <= MAX_NAMED {
        return cells.join(", ");
    }
    format!("{} and {} more cells", cells[..MAX_NAMED].join(", "), cells.len() - MAX_NAMED)
}

fn order(order: RunOrder) -> String {
    match order {
        RunOrder::AsWritten => "as-written".into(),
        RunOrder::Shuffled { seed } => format!("shuffled with seed {seed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::File;

    const OLD: &str = "name: n\nguest: { memory: 1GiB }\nmigrate: { timeout: 60s }\n\
                       axes: { stress.rate: [0, 16MB/s, 32MB/s, 64MB/s] }\n\
                       expect: [{ where: stress.rate == 0, outcome: converged }]\n";

    fn plan(text: &str) -> Plan {
        File::parse(text, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn changes(new: &str) -> Changes {
        let (old, new) = (plan(OLD), plan(new));
        let changes = old.changes_to(&new);
        assert_eq!(changes.invalidating.is_empty(), old.digest() == new.digest(), "{changes:?}");
        changes
    }

    fn invalidating(new: &str) -> Vec<String> {
        let changes = changes(new);
        assert_eq!(changes.harmless, [""; 0]);
        changes.invalidating
    }

    #[test]
    fn comments_formatting_and_spelling_change_nothing() {
        let same = "# a comment\nmigrate:\n  timeout: 1min\nname: 'n'\nguest: { memory: 1024MiB, vcpus: 1 }\n\
                    axes:\n  stress.rate:\n  - 0\n  - 16000kB/s\n  - 32MB/s\n  - 64MB/s\n\
                    expect: [{ where: stress.rate == 0, outcome: converged }]\n";
        assert!(changes(same).is_empty());
    }

    #[test]
    fn a_changed_setting_is_named_with_both_values() {
        assert_eq!(
            invalidating(&OLD.replace("timeout: 60s", "timeout: 30s")),
            ["migrate.timeout: 60s -> 30s in every cell"]
        );
        assert_eq!(
            invalidating(&OLD.replace("{ timeout", "{ max_passes: 3, timeout")),
            ["migrate.max_passes: none -> 3 in every cell"]
        );
        assert_eq!(
            invalidating(&OLD.replace("migrate:", "link: { loss: 1% }\nmigrate:")),
            ["link.loss: 0 -> 1% in every cell"]
        );
        assert_eq!(
            invalidating(&format!("{OLD}timeline: [{{ at: 1s, link: {{ rate: 1000mbit }} }}]\n")),
            [r#"timeline: none -> [{"at":"1s","link":{"rate":"1gbit"}}] in every cell"#]
        );
    }

    #[test]
    fn added_and_removed_cells_are_named() {
        assert_eq!(
            invalidating(&OLD.replace("32MB/s, 64MB/s", "48MB/s, 64MB/s")),
            ["removed: stress.rate=32MBps", "added: stress.rate=48MBps"]
        );
        assert_eq!(
            invalidating(&OLD.replace("0, 16MB/s, 32MB/s, 64MB/s", "0")),
            ["removed: stress.rate=16MBps, stress.rate=32MBps, stress.rate=64MBps"]
        );
        assert_eq!(
            invalidating(&OLD.replace("64MB/s]", "64MB/s, 1MB/s, 2MB/s, 3MB/s, 4MB/s]")),
            ["added: stress.rate=1MBps, stress.rate=2MBps, stress.rate=3MBps and 1 more cells"]
        );
        assert_eq!(
            invalidating(&OLD.replace("16MB/s, 32MB/s", "32MB/s, 16MB/s")),
            ["the cells are in a different order"]
        );
    }

    #[test]
    fn changed_repeats_and_order_are_invalidating() {
        assert_eq!(invalidating(&format!("{OLD}repeat: 3\n")), ["repeat: 1 -> 3"]);
        assert_eq!(
            invalidating(&format!("{OLD}order: shuffled\nseed: 7\n")),
            ["order: as-written -> shuffled with seed 7"]
        );
    }

    #[test]
    fn changed_expectations_and_descriptions_are_mentioned_but_harmless() {
        let new = OLD.replace("name: n", "name: other\ndescription: d").replace("stress.rate == 0,", "");
        let changes = changes(&new.replace("{ where:", "{").replace("{  outcome", "{ outcome"));
        assert_eq!(changes.invalidating, [""; 0]);
        assert_eq!(changes.harmless, ["name changed", "description changed", "expect changed"]);
    }

    #[test]
    fn a_shard_differs_from_the_whole_matrix() {
        let whole = plan(OLD);
        let part = whole.clone().shard("1/2".parse().unwrap());
        assert_ne!(whole.digest(), part.digest());
        assert_eq!(whole.changes_to(&part).invalidating, ["removed: stress.rate=16MBps, stress.rate=64MBps"]);
    }
}
