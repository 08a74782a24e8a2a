//! The baselines of cells, with which an expectation with `relative_to` compares them.

use super::{Cell, Plan, expand::unmet};
use crate::matrix::{catalog, expect::Expectation, settings::Settings};
use std::collections::HashMap;

/// A cell that an expectation is about, and the cells that may be its baseline. In an expanded matrix, that
/// is exactly one if the expectation compares cells, and none otherwise.
pub(super) type Candidates<'a> = (&'a Cell, Vec<&'a Cell>);

/// Returns the cells that an expectation is about, each with all cells that `relative_to` allows as its
/// baseline.
pub(super) fn candidates<'a>(cells: &'a [Cell], expectation: &Expectation) -> Vec<Candidates<'a>> {
    let mut baselines: HashMap<Settings, Vec<&Cell>> = HashMap::new();
    if let Some(condition) = &expectation.relative_to {
        for cell in cells.iter().filter(|cell| condition.matches(&cell.settings)) {
            baselines.entry(expectation.shared_with_baseline(&cell.settings)).or_default().push(cell);
        }
    }
    let found = |cell: &'a Cell| {
        let shared = (!baselines.is_empty()).then(|| expectation.shared_with_baseline(&cell.settings));
        shared.and_then(|shared| baselines.get(&shared).cloned()).unwrap_or_default()
    };
    let about = cells.iter().filter(|cell| expectation.applies_to(&cell.settings));
    about.map(|cell| (cell, found(cell))).collect()
}

/// Returns why the cells cannot be compared as an expectation demands, and how to fix that.
pub(super) fn problem(cells: &[Cell], expectation: &Expectation) -> Option<(String, String)> {
    let condition = expectation.relative_to.as_ref()?;
    let mut meeting = cells.iter().filter(|cell| condition.matches(&cell.settings)).peekable();
    if meeting.peek().is_none() {
        return Some((unmet(cells.len()), "add cells to compare with, or correct it".into()));
    }
    let candidates = candidates(cells, expectation);
    let (cell, found) = candidates.iter().find(|(_, found)| found.len() != 1)?;
    if let [first, second, ..] = found[..] {
        let message = format!("`{}` has {} baselines: `{}`, `{}`", cell.id, found.len(), first.id, second.id);
        let more = if found.len() > 2 { " and others" } else { "" };
        return Some((message + more, "narrow the condition, so that each cell has one baseline".into()));
    }
    let differing = |other: &Cell| -> Vec<&str> {
        let [cell, other] = [cell, other].map(|cell| expectation.shared_with_baseline(&cell.settings));
        let differ = catalog::all().filter(|setting| setting.value(&cell) != setting.value(&other));
        differ.map(catalog::Setting::path).collect()
    };
    let (nearest, settings) =
        meeting.map(|other| (other, differing(other))).min_by_key(|(_, settings)| settings.len())?;
    let help = format!(
        "`{}` also differs in {}: name that in this condition too, narrow `where`, or add a cell",
        nearest.id,
        settings.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ")
    );
    Some((format!("`{}` has no baseline", cell.id), help))
}

impl Plan {
    /// Returns the cells that an expectation is about, each with its baseline if the expectation compares
    /// cells. Leaves out cells whose baseline is not part of the plan.
    pub fn cells_of<'a>(&'a self, expectation: &Expectation) -> Vec<(&'a Cell, Option<&'a Cell>)> {
        let compares = expectation.relative_to.is_some();
        let cells = candidates(&self.cells, expectation).into_iter();
        cells
            .map(|(cell, found)| (cell, found.first().copied()))
            .filter(|(_, baseline)| baseline.is_some() == compares)
            .collect()
    }
}
