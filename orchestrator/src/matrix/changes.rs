//! What changed between two versions of a matrix, in terms of cells and settings: a run is only resumed with
//! the matrix it began with. Comments, formatting and other spellings of the same value do not count.

use super::{
    catalog,
    plan::{Cell, Plan, RunOrder},
};
use indexmap::IndexMap;
use sha2::{Digest, Sha256};

/// How many cells a line names before it only counts them.
const NAMED: usize = 3;

/// What changed from one plan to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What makes measurements of the old plan useless for the new one: cells, their settings, their number
    /// of repeats, their order.
    pub measured: Vec<String>,
    /// What does not: the name, the description, expectations, published figures.
    pub judged: Vec<String>,
}

impl Changes {
    /// Whether nothing changed.
    pub const fn is_empty(&self) -> bool {
        self.measured.is_empty() && self.judged.is_empty()
    }
}

impl Plan {
    /// Identifies what the plan measures: equal for two plans exactly if [`Plan::changes_to`] finds nothing
    /// that concerns measurements. 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {}\n", self.order, self.repeat));
        for cell in &self.cells {
            let settings = serde_json::to_string(&cell.settings).unwrap_or_default();
            hash.update(format!("{} {} {settings}\n", cell.index, cell.id));
        }
        let digits = |byte: u8| [byte >> 4, byte & 15];
        let digits = hash.finalize().into_iter().flat_map(digits);
        digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
    }

    /// What changed from this plan to another one.
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
        let measured = &mut changes.measured;
        for (change, cells) in settings {
            let all = cells.len() == old_cells.len() && cells.len() > 1;
            let where_ = if all { "in every cell".into() } else { format!("in {}", names(&cells)) };
            measured.push(format!("{change} {where_}"));
        }
        let missing = |from: &IndexMap<&str, &Cell>, in_: &IndexMap<&str, &Cell>| -> Vec<String> {
            from.keys().filter(|id| !in_.contains_key(*id)).map(ToString::to_string).collect()
        };
        let gone = missing(&old_cells, &new_cells);
        let added = missing(&new_cells, &old_cells);
        for (verb, cells) in [("removed", &gone), ("added", &added)] {
            if !cells.is_empty() {
                let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
                measured.push(format!("{verb}: {}", names(&cells)));
            }
        }
        if gone.is_empty() && added.is_empty() && !old_cells.keys().eq(new_cells.keys()) {
            measured.push("the cells are in another order".into());
        } else if measured.is_empty() && self.cells.iter().zip(&new.cells).any(|(a, b)| a.index != b.index) {
            measured.push("the cells are another part of the matrix".into());
        }
        if self.repeat != new.repeat {
            measured.push(format!("repeat: {} -> {}", self.repeat, new.repeat));
        }
        if self.order != new.order {
            measured.push(format!("order: {} -> {}", order(self.order), order(new.order)));
        }
        let judged = &mut changes.judged;
        for (name, changed) in [
            ("name", self.name != new.name),
            ("description", self.description != new.description),
            ("expect", self.expect != new.expect),
            ("reference", self.reference != new.reference),
        ] {
            if changed {
                judged.push(format!("{name} changed"));
            }
        }
        changes
    }
}

/// Each setting that differs, as `path: old -> new`.
fn setting_changes(old: &Cell, new: &Cell) -> Vec<String> {
    let values = catalog::all()
        .map(|setting| (setting.path(), setting.value(&old.settings), setting.value(&new.settings)));
    let changed = values.filter(|(_, old, new)| old != new);
    changed.map(|(path, old, new)| format!("{path}: {old} -> {new}")).collect()
}

fn names(cells: &[&str]) -> String {
    if cells.len() <= NAMED {
        return cells.join(", ");
    }
    format!("{} and {} more cells", cells[..NAMED].join(", "), cells.len() - NAMED)
}

fn order(order: RunOrder) -> String {
    match order {
        RunOrder::AsWritten => "as-written".into(),
        RunOrder::Shuffled { seed } => format!("shuffled by {seed}"),
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
        assert_eq!(changes.measured.is_empty(), old.digest() == new.digest(), "{changes:?}");
        changes
    }

    fn measured(new: &str) -> Vec<String> {
        let changes = changes(new);
        assert_eq!(changes.judged, [""; 0]);
        changes.measured
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
            measured(&OLD.replace("timeout: 60s", "timeout: 30s")),
            ["migrate.timeout: 60s -> 30s in every cell"]
        );
        assert_eq!(
            measured(&OLD.replace("{ timeout", "{ max_passes: 3, timeout")),
            ["migrate.max_passes: none -> 3 in every cell"]
        );
        assert_eq!(
            measured(&OLD.replace("migrate:", "link: { loss: 1% }\nmigrate:")),
            ["link.loss: 0 -> 1% in every cell"]
        );
        assert_eq!(
            measured(&format!("{OLD}timeline: [{{ at: 1s, link: {{ rate: 1000mbit }} }}]\n")),
            [r#"timeline: none -> [{"at":"1s","link":{"rate":"1gbit"}}] in every cell"#]
        );
    }

    #[test]
    fn cells_that_came_and_went_are_named() {
        assert_eq!(
            measured(&OLD.replace("32MB/s, 64MB/s", "48MB/s, 64MB/s")),
            ["removed: stress.rate=32MBps", "added: stress.rate=48MBps"]
        );
        assert_eq!(
            measured(&OLD.replace("0, 16MB/s, 32MB/s, 64MB/s", "0")),
            ["removed: stress.rate=16MBps, stress.rate=32MBps, stress.rate=64MBps"]
        );
        assert_eq!(
            measured(&OLD.replace("64MB/s]", "64MB/s, 1MB/s, 2MB/s, 3MB/s, 4MB/s]")),
            ["added: stress.rate=1MBps, stress.rate=2MBps, stress.rate=3MBps and 1 more cells"]
        );
        assert_eq!(
            measured(&OLD.replace("16MB/s, 32MB/s", "32MB/s, 16MB/s")),
            ["the cells are in another order"]
        );
    }

    #[test]
    fn repeats_and_order_count() {
        assert_eq!(measured(&format!("{OLD}repeat: 3\n")), ["repeat: 1 -> 3"]);
        assert_eq!(
            measured(&format!("{OLD}order: shuffled\nseed: 7\n")),
            ["order: as-written -> shuffled by 7"]
        );
    }

    #[test]
    fn expectations_and_words_do_not_invalidate_but_are_mentioned() {
        let new = OLD.replace("name: n", "name: other\ndescription: d").replace("stress.rate == 0,", "");
        let changes = changes(&new.replace("{ where:", "{").replace("{  outcome", "{ outcome"));
        assert_eq!(changes.measured, [""; 0]);
        assert_eq!(changes.judged, ["name changed", "description changed", "expect changed"]);
    }

    #[test]
    fn a_part_of_a_matrix_is_not_the_whole() {
        let whole = plan(OLD);
        let part = whole.clone().shard("1/2".parse().unwrap());
        assert_ne!(whole.digest(), part.digest());
        assert_eq!(whole.changes_to(&part).measured, ["removed: stress.rate=16MBps, stress.rate=64MBps"]);
    }
}
