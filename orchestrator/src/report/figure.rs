//! The figures that charts show: one definition for the page and for single drawings.

use crate::{
    outcome::Outcome,
    results::record::{Measured, Record},
};

/// A figure of an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    /// What it is, without the unit.
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// The number of decimals that readers need.
    pub(super) decimals: usize,
    pub(super) value: fn(&Measured) -> Option<f64>,
}

impl Figure {
    /// Returns the title of an axis or a table, with the unit.
    pub(super) fn title(&self) -> String {
        format!("{}, {}", self.name, self.unit)
    }

    /// Returns the values measured by the attempts that converged, the smallest first.
    pub(super) fn values<'a>(&self, attempts: impl IntoIterator<Item = &'a Record>) -> Vec<f64> {
        let converged = attempts.into_iter().filter(|record| record.outcome == Outcome::Converged);
        let mut values: Vec<f64> = converged.filter_map(|record| (self.value)(&record.measured)).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    /// Returns a value as text, without the unit.
    pub(super) fn show(&self, value: f64) -> String {
        let decimals = self.decimals;
        format!("{value:.decimals$}")
    }
}

/// Returns the attempts of a cell whose figures stand for it: those that converged or, if none did, all that
/// have a result. What the others have measured is about another course of events, or only a part of it.
pub(super) fn representative<'a>(attempts: impl IntoIterator<Item = &'a Record>) -> Vec<&'a Record> {
    let results: Vec<&Record> = attempts.into_iter().filter(|record| record.is_result()).collect();
    let converged = results.iter().filter(|record| record.outcome == Outcome::Converged).copied();
    let converged: Vec<&Record> = converged.collect();
    if converged.is_empty() { results } else { converged }
}

/// The total time of a migration.
pub(super) const TOTAL_TIME: Figure =
    Figure { name: "Total time", unit: "s", decimals: 1, value: |m| Some(m.total_time_ms? / 1e3) };

/// The downtime as QEMU reports it.
pub(super) const DOWNTIME: Figure =
    Figure { name: "Downtime by QEMU", unit: "ms", decimals: 0, value: |m| m.downtime_ms.qemu };

/// The data that QEMU sent.
pub(super) const DATA: Figure = Figure {
    name: "Data sent",
    unit: "MB",
    decimals: 0,
    value: |m| Some(m.transferred.qemu_bytes? as f64 / 1e6),
};
