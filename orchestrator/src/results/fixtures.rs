//! Plans and records for tests of verdicts and thresholds.

use super::{builder::RecordBuilder, record::Record};
use crate::{
    matrix::{Cell, File, Plan},
    outcome::Outcome,
};

pub(super) fn plan(text: &str) -> Plan {
    File::parse(text, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"))
}

/// Returns one record per outcome, for the plan's cells in order. `None` leaves a cell without a record.
pub(super) fn records(plan: &Plan, outcomes: &[Option<Outcome>]) -> Vec<Record> {
    assert_eq!(plan.cells.len(), outcomes.len());
    let record = |(cell, outcome): (&Cell, &Option<Outcome>)| {
        Some(RecordBuilder::start().freeze(cell, 1, (*outcome)?, None))
    };
    plan.cells.iter().zip(outcomes).filter_map(record).collect()
}

pub(super) const YES: Option<Outcome> = Some(Outcome::Converged);
pub(super) const NO: Option<Outcome> = Some(Outcome::NotConverged);
