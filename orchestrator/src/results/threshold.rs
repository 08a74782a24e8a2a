//! The threshold of convergence: the highest dirty rate up to which every attempt converged.

use super::record::Record;
use crate::{
    matrix::{Cell, Plan},
    mode::Mode,
    outcome::Outcome,
};
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
}

impl Level {
    /// Returns whether every attempt converged.
    pub fn all_converged(&self) -> bool {
        self.given_up == 0
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
        let name = others.map(|(path, value)| format!("{path} {value}")).collect::<Vec<_>>().join(", ");
        groups.entry(name).or_default().push((rate, cell));
    }
    for cells in groups.values_mut() {
        cells.sort_by_key(|(rate, _)| *rate);
    }
    groups
}

/// Returns the groups of a run, in the order of their first attempts. Attempts that neither converged nor
/// were given up do not count, nor do those of cells that [`cells`] leaves out. A group with a single rate
/// says nothing about a threshold, so it is left out too.
pub fn groups(plan: &Plan, records: &[Record]) -> Vec<Group> {
    let cells = cells(plan);
    let places = cells.iter().flat_map(|(name, cells)| {
        cells.iter().map(move |(rate, cell)| (cell.id.as_str(), (name.as_str(), *rate, *cell)))
    });
    let places: HashMap<&str, (&str, ByteRate, &Cell)> = places.collect();
    let mut groups: IndexMap<&str, Vec<Level>> = IndexMap::new();
    for record in records {
        let converged = match record.outcome {
            Outcome::Converged => true,
            Outcome::NotConverged => false,
            _ => continue,
        };
        let Some(&(name, rate, cell)) = places.get(record.cell.as_str()) else { continue };
        let levels = groups.entry(name).or_default();
        let at = levels.iter().position(|level| level.rate == rate).unwrap_or_else(|| {
            let (id, text) = (cell.id.clone(), cell.axes[DIRTY_RATE].clone());
            levels.push(Level { rate, cell: id, text, converged: Vec::new(), given_up: 0 });
            levels.len() - 1
        });
        if converged {
            levels[at].converged.push(record.measured.total_time_ms);
        } else {
            levels[at].given_up += 1;
        }
    }
    let groups = groups.into_iter().filter(|(_, levels)| levels.len() > 1);
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
    /// Returns the highest level up to which every attempt converged, if there is one.
    pub fn highest_converged(&self) -> Option<&Level> {
        self.levels.iter().take_while(|level| level.all_converged()).last()
    }

    /// Returns the lowest level at which an attempt was given up, if there is one.
    pub fn lowest_given_up(&self) -> Option<&Level> {
        self.levels.iter().find(|level| !level.all_converged())
    }

    /// Returns the sentence about the group's threshold. `mode` is the term for how the guest migrated.
    fn sentence(&self, mode: &str) -> String {
        let place = if self.name.is_empty() { String::new() } else { format!("With {}: ", self.name) };
        let sentence = match (self.highest_converged(), self.lowest_given_up()) {
            (Some(Level { rate: limit, text: up_to, .. }), Some(Level { text: from, .. })) => {
                let is_sharp =
                    self.levels.iter().all(|level| level.all_converged() == (level.rate <= *limit));
                let above = if is_sharp {
                    format!("at {from} and above it never did")
                } else {
                    format!("at {from} it did not; some higher rates did, so repeat the run")
                };
                format!("{mode} converged at every dirty rate up to {up_to}; {above}.")
            }
            (Some(Level { text: up_to, .. }), None) => {
                format!("{mode} converged at every dirty rate tried, up to {up_to}.")
            }
            (None, given_up) => {
                let from = given_up.map_or("", |level| level.text.as_str());
                format!("{mode} did not converge even at {from}.")
            }
        };
        let mut sentence = place + &sentence;
        if let Some(first) = sentence.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        sentence
    }
}

#[cfg(test)]
mod tests;
