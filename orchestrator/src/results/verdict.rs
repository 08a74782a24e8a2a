//! The verdict on a run: whether its records meet the expectations of its matrix.

use super::{figures, record::Record, threshold};
use crate::{
    matrix::{Cell, Finding, Plan},
    outcome::Outcome,
};
use serde::Serialize;
use std::collections::HashSet;

/// The exit code of `testbed run` if an expectation does not hold or is undecided.
pub const EXIT_UNEXPECTED: u8 = 1;

/// The exit code of `testbed run` if an attempt failed, or lost or corrupted its guest, or if no attempt
/// could be made.
pub const EXIT_FAILED: u8 = 3;

/// The verdict on the records of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunVerdict {
    /// The verdict on each expectation, in the order of the matrix file.
    pub expectations: Vec<ExpectationVerdict>,
    /// The number of attempts that are `failed`, `guest-lost` or `corrupted`.
    pub failed: usize,
    /// Whether every attempt that has a record was skipped, so that nothing was measured.
    pub nothing_made: bool,
    /// The dirty rates up to which attempts converged, in sentences. Empty if the matrix does not vary the
    /// dirty rate.
    pub threshold: Vec<String>,
}

/// The verdict on one expectation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpectationVerdict {
    /// The expectation in words, as reports print it.
    pub expectation: String,
    /// The number of attempts that were checked.
    pub attempts: usize,
    /// The number of attempts that the plan makes of the cells it is about.
    pub attempts_planned: usize,
    /// The number of cells of which an attempt was checked.
    pub cells: usize,
    /// The number of cells of the plan that it is about.
    pub cells_planned: usize,
    /// How attempts violate the expectation, one sentence each.
    pub violations: Vec<String>,
    /// Why attempts do not decide the expectation, one sentence each.
    pub undecided: Vec<String>,
}

impl ExpectationVerdict {
    /// Returns whether the expectation holds, in the words that reports print.
    pub fn words(&self) -> String {
        if !self.violations.is_empty() {
            "DOES NOT HOLD".into()
        } else if self.attempts == 0 {
            "not tried".into()
        } else if !self.undecided.is_empty() {
            "UNDECIDED".into()
        } else if self.cells < self.cells_planned {
            format!("holds so far ({} of {} cells)", self.cells, self.cells_planned)
        } else if self.attempts < self.attempts_planned {
            format!("holds so far ({} of {} attempts)", self.attempts, self.attempts_planned)
        } else {
            "holds".into()
        }
    }

    /// Returns whether every attempt that it is about was made and meets it.
    pub fn holds(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty() && self.attempts == self.attempts_planned
    }
}

impl RunVerdict {
    /// Returns the exit code of the run: [`EXIT_FAILED`] if an attempt failed or none could be made, else
    /// [`EXIT_UNEXPECTED`] if an expectation is violated or undecided, else 0. An expectation is undecided if
    /// an attempt does not decide it, or if an attempt that it is about was not made.
    pub fn exit_code(&self) -> u8 {
        if self.failed > 0 || self.nothing_made {
            EXIT_FAILED
        } else if self.expectations.iter().all(ExpectationVerdict::holds) {
            0
        } else {
            EXIT_UNEXPECTED
        }
    }
}

/// Compares the records with the expectations of the plan. Interrupted and skipped attempts are not checked,
/// nor are records of cells that the plan does not have.
pub fn evaluate(plan: &Plan, records: &[Record]) -> RunVerdict {
    let checked: Vec<(&Cell, &Record)> = records
        .iter()
        .filter(|r| !matches!(r.outcome, Outcome::Interrupted | Outcome::Skipped))
        .filter_map(|r| Some((plan.cell(&r.cell)?, r)))
        .collect();
    let expectations = plan.expect.iter().map(|expectation| {
        let cells_planned = plan.cells.iter().filter(|cell| expectation.applies_to(&cell.settings)).count();
        let mut verdict = ExpectationVerdict {
            expectation: expectation.to_string(),
            attempts: 0,
            attempts_planned: cells_planned * plan.repeat as usize,
            cells: 0,
            cells_planned,
            violations: Vec::new(),
            undecided: Vec::new(),
        };
        let mut cells = HashSet::new();
        for (cell, record) in checked.iter().filter(|(cell, _)| expectation.applies_to(&cell.settings)) {
            verdict.attempts += 1;
            cells.insert(&cell.id);
            let figure = |subject| figures::interval_for(subject, &record.measured);
            for finding in expectation.check(record.outcome, figure, record.measured.disagreements.len()) {
                let sentence = |text| format!("{} #{}: {text}", cell.id, record.attempt);
                match finding {
                    Finding::Violated(text) => verdict.violations.push(sentence(text)),
                    Finding::Undecided(text) => verdict.undecided.push(sentence(text)),
                }
            }
        }
        verdict.cells = cells.len();
        verdict
    });
    let decided: Vec<(&Cell, &Record)> =
        checked.iter().filter(|(_, record)| !is_failure(record.outcome)).copied().collect();
    RunVerdict {
        expectations: expectations.collect(),
        failed: records.iter().filter(|r| is_failure(r.outcome)).count(),
        nothing_made: !records.is_empty() && records.iter().all(|r| r.outcome == Outcome::Skipped),
        threshold: threshold::sentences(plan, &decided),
    }
}

/// Returns whether the lab, QEMU or the guest did not work, as opposed to a migration that does not converge.
fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted)
}

#[cfg(test)]
mod tests;
