//! The threshold of convergence: the highest dirty rate up to which every attempt converged.

use super::record::Record;
use crate::{
    matrix::{Cell, Plan},
    mode::Mode,
    outcome::{Outcome, OutcomeCounts},
};
use frontend::one_line;
use indexmap::IndexMap;
use std::collections::HashMap;
use stressor::workload::Rate;
use units::ByteRate;

const DIRTY_RATE: &str = "stress.rate";

/// The attempts that share their values on all axes but the dirty rate, at two or more dirty rates.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The values of the other axes, such as `link.rate 400mbit, link.delay 0`; empty if there are none.
    pub name: String,
    /// The dirty rates that were tried, the lowest first.
    pub levels: Vec<Level>,
}

/// The attempts of a group at one dirty rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// The dirty rate.
    pub rate: ByteRate,
    /// The ID of the first of its cells.
    pub cell: String,
    /// The dirty rate as the matrix has it.
    pub text: String,
    /// The total time of each attempt that converged, in milliseconds. Absent where it was not measured.
    pub converged: Vec<Option<f64>>,
    /// The number of attempts that were given up.
    pub given_up: usize,
    /// The outcomes of the attempts that failed, lost the guest or corrupted its memory.
    pub failed: Vec<Outcome>,
}

impl Level {
    /// Returns whether every attempt converged.
    pub fn all_converged(&self) -> bool {
        self.is_decided() && self.given_up == 0 && self.failed.is_empty()
    }

    /// Returns whether an attempt converged or was given up. If not, the level says nothing about
    /// convergence.
    pub fn is_decided(&self) -> bool {
        self.has_converged() || self.given_up > 0
    }

    /// Returns whether an attempt converged.
    fn has_converged(&self) -> bool {
        !self.converged.is_empty()
    }

    /// Returns whether some attempts converged and others did not.
    fn is_mixed(&self) -> bool {
        self.has_converged() && !self.all_converged()
    }
}

/// Returns the cells of a plan that differ in nothing but their dirty rate, with the rate, the lowest first.
/// The keys are the values of the other axes, as in [`Group::name`]. Cells with an unlimited dirty rate are
/// left out, and so are cells whose dirty rate changes during the migration.
pub fn cells(plan: &Plan) -> IndexMap<String, Vec<(ByteRate, &Cell)>> {
    let mut groups: IndexMap<String, Vec<(ByteRate, &Cell)>> = IndexMap::new();
    for cell in plan.cells.iter().filter(|cell| cell.axes.contains_key(DIRTY_RATE)) {
        let stress = &cell.settings.stress;
        let (Rate::Limited(rate), true) = (stress.rate, !stress.moves()) else { continue };
        let others = cell.axes.iter().filter(|(path, _)| *path != DIRTY_RATE);
        let name = others.map(|(path, value)| format!("{path} {}", one_line(value)));
        let name = name.collect::<Vec<_>>().join(", ");
        groups.entry(name).or_default().push((rate, cell));
    }
    for cells in groups.values_mut() {
        cells.sort_by_key(|(rate, _)| *rate);
    }
    groups
}

/// Returns the groups of a run, in the order of their first attempts. Attempts that were skipped or have no
/// result do not count, nor do those of cells that [`cells`] leaves out. A group in which attempts converged
/// or were given up at a single rate says nothing about a threshold, so it is left out too.
pub fn groups(plan: &Plan, records: &[Record]) -> Vec<Group> {
    let cells = cells(plan);
    let places = cells.iter().flat_map(|(name, cells)| {
        cells.iter().map(move |(rate, cell)| (cell.id.as_str(), (name.as_str(), *rate, *cell)))
    });
    let places: HashMap<&str, (&str, ByteRate, &Cell)> = places.collect();
    let mut groups: IndexMap<&str, Vec<Level>> = IndexMap::new();
    for record in records {
        if record.outcome == Outcome::Skipped || !record.is_result() {
            continue;
        }
        let Some(&(name, rate, cell)) = places.get(record.cell.as_str()) else { continue };
        let levels = groups.entry(name).or_default();
        let at = levels.iter().position(|level| level.rate == rate).unwrap_or_else(|| {
            let (id, text) = (cell.id.clone(), cell.axes[DIRTY_RATE].clone());
            let (converged, failed) = (Vec::new(), Vec::new());
            levels.push(Level { rate, cell: id, text, converged, given_up: 0, failed });
            levels.len() - 1
        });
        match record.outcome {
            Outcome::Converged => levels[at].converged.push(record.measured.total_time_ms),
            Outcome::NotConverged => levels[at].given_up += 1,
            other => levels[at].failed.push(other),
        }
    }
    let decided = |levels: &[Level]| levels.iter().filter(|level| level.is_decided()).count();
    let groups = groups.into_iter().filter(|(_, levels)| decided(levels) > 1);
    let sorted = groups.map(|(name, mut levels)| {
        levels.sort_unstable_by_key(|level| level.rate);
        Group { name: name.into(), levels }
    });
    sorted.collect()
}

/// Returns a sentence for each group that states up to which dirty rate every attempt converged.
pub(super) fn sentences(plan: &Plan, records: &[Record]) -> Vec<String> {
    let sentence = |group: &Group| {
        let first = group.levels.first().and_then(|level| plan.cell(&level.cell));
        let mode = first.map_or_else(Mode::default, |cell| cell.settings.migrate.mode);
        group.sentence(mode.term())
    };
    groups(plan, records).iter().map(sentence).collect()
}

impl Group {
    /// Returns the levels at which attempts converged or were given up.
    fn decided(&self) -> impl Iterator<Item = &Level> {
        self.levels.iter().filter(|level| level.is_decided())
    }

    /// Returns the highest level up to which every attempt converged, if there is one. Levels at which all
    /// attempts failed are passed over.
    pub fn highest_converged(&self) -> Option<&Level> {
        self.decided().take_while(|level| level.all_converged()).last()
    }

    /// Returns the lowest level at which an attempt was given up, or one failed and another did not, if there
    /// is one.
    pub fn lowest_given_up(&self) -> Option<&Level> {
        self.decided().find(|level| !level.all_converged())
    }

    /// Returns the sentence about the group's threshold. `mode` is the term for how the guest migrated.
    fn sentence(&self, mode: &str) -> String {
        let place = if self.name.is_empty() { String::new() } else { format!("With {}: ", self.name) };
        let limit = self.highest_converged();
        let above: Vec<&Level> = self.decided().skip_while(|level| level.all_converged()).collect();
        let is_passed_over = |level: &Level| {
            !level.is_decided() && (above.is_empty() || limit.is_some_and(|limit| level.rate < limit.rate))
        };
        let every = if self.levels.iter().any(is_passed_over) { "every other" } else { "every" };
        let sentence = match (limit, &above[..]) {
            (Some(limit), []) => {
                format!("{mode} converged at {every} dirty rate tried, up to {}", limit.text)
            }
            (Some(limit), above) => {
                format!("{mode} converged at {every} dirty rate up to {}; {}", limit.text, beyond(above))
            }
            (None, above) => {
                let from = above.first().map_or("", |level| level.text.as_str());
                match above.split_at(mixed(above)) {
                    ([], rest) => format!("{mode} did not converge even at {from}{}", higher(rest)),
                    (_, rest) => {
                        format!("{mode} converged in only some attempts even at {from}{}", after_mixed(rest))
                    }
                }
            }
        };
        let failed = self.levels.iter().filter(|level| !level.failed.is_empty()).map(|level| {
            let outcomes: OutcomeCounts = level.failed.iter().copied().collect();
            format!("{outcomes} at {}", level.text)
        });
        let failed = failed.collect::<Vec<String>>().join("; ");
        let failed = if failed.is_empty() { failed } else { format!(" Other outcomes: {failed}.") };
        let mut sentence = format!("{place}{sentence}.{failed}");
        if let Some(first) = sentence.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        sentence
    }
}

/// Returns what happened at the levels above the highest up to which every attempt converged, of which the
/// first is not such a level.
fn beyond(above: &[&Level]) -> String {
    let from = above.first().map_or("", |level| level.text.as_str());
    match above.split_at(mixed(above)) {
        ([], rest) if rest.iter().any(|level| level.has_converged()) => {
            format!("at {from} it did not{}", higher(rest))
        }
        ([], _) => format!("at {from} and above it never did"),
        (mixed, rest) => format!("at {} only some attempts did{}", list(mixed), after_mixed(rest)),
    }
}

/// Returns at how many of these levels, from the first, some attempts converged and others did not.
fn mixed(levels: &[&Level]) -> usize {
    levels.iter().take_while(|level| level.is_mixed()).count()
}

/// Returns the end of a sentence about levels at which only some attempts converged: these are above them.
fn after_mixed(rest: &[&Level]) -> String {
    match rest.first() {
        Some(from) if rest.iter().all(|level| !level.has_converged()) => {
            format!("; at {} and above it never did", from.text)
        }
        _ => higher(rest),
    }
}

/// Returns the end of a sentence about a level at which not every attempt converged, if attempts at higher
/// ones, which are among these, did.
fn higher(levels: &[&Level]) -> String {
    let mixed: Vec<&Level> = levels.iter().filter(|level| level.is_mixed()).copied().collect();
    if levels.iter().any(|level| level.all_converged()) {
        "; some higher rates did, so repeat the run".into()
    } else if mixed.is_empty() {
        String::new()
    } else {
        format!("; at {} some attempts did, so repeat the run", list(&mixed))
    }
}

/// Returns the dirty rates of levels, at least one, as a list in words.
fn list(levels: &[&Level]) -> String {
    let texts: Vec<&str> = levels.iter().map(|level| level.text.as_str()).collect();
    match &texts[..] {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        texts => texts.concat(),
    }
}

#[cfg(test)]
mod tests;
