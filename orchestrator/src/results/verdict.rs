//! The verdict on a run: whether its records meet the expectations of its matrix.

use super::{figures, record::Record, threshold};
use crate::{
    matrix::{Cell, Plan},
    outcome::Outcome,
};
use serde::Serialize;

/// The exit code of `testbed run` if an expectation does not hold.
pub const EXIT_UNEXPECTED: u8 = 1;

/// The exit code of `testbed run` if an attempt failed, or lost or corrupted its guest.
pub const EXIT_FAILED: u8 = 3;

/// The verdict on the records of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunVerdict {
    /// The verdict on each expectation, in the order of the matrix file.
    pub expectations: Vec<ExpectationVerdict>,
    /// The number of attempts that are `failed`, `guest-lost` or `corrupted`.
    pub failed: usize,
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
    /// How attempts violate the expectation, one sentence each.
    pub violations: Vec<String>,
}

impl ExpectationVerdict {
    /// Returns whether the expectation holds, in the words that reports print.
    pub fn word(&self) -> &'static str {
        match (self.attempts, self.violations.len()) {
            (0, _) => "not tried",
            (_, 0) => "holds",
            _ => "DOES NOT HOLD",
        }
    }
}

impl RunVerdict {
    /// Returns the exit code of the run: [`EXIT_FAILED`], [`EXIT_UNEXPECTED`], or 0 if no attempt failed and
    /// no expectation is violated. An expectation that no attempt was checked against is not violated.
    pub fn exit_code(&self) -> u8 {
        if self.failed > 0 {
            EXIT_FAILED
        } else if self.expectations.iter().any(|e| !e.violations.is_empty()) {
            EXIT_UNEXPECTED
        } else {
            0
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
        let applicable = checked.iter().filter(|(cell, _)| expectation.applies_to(&cell.settings));
        let mut verdict =
            ExpectationVerdict { expectation: expectation.to_string(), attempts: 0, violations: Vec::new() };
        for (cell, record) in applicable {
            verdict.attempts += 1;
            let figure = |subject| figures::value_for(subject, &record.measured);
            let violations = expectation.violations(record.outcome, figure);
            verdict
                .violations
                .extend(violations.into_iter().map(|v| format!("{} #{}: {v}", cell.id, record.attempt)));
        }
        verdict
    });
    let decided: Vec<(&Cell, &Record)> =
        checked.iter().filter(|(_, record)| !is_failure(record.outcome)).copied().collect();
    RunVerdict {
        expectations: expectations.collect(),
        failed: records.iter().filter(|r| is_failure(r.outcome)).count(),
        threshold: threshold::sentences(plan, &decided),
    }
}

/// Returns whether the lab, QEMU or the guest did not work, as opposed to a migration that does not converge.
fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted)
}

#[cfg(test)]
mod tests;
