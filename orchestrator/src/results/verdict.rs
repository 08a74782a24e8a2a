//! The verdict on a run: whether its records meet the expectations of its matrix.

use super::{figures, record::Record, threshold};
use crate::{
    matrix::{Cell, Expectation, Finding, Plan},
    outcome::Outcome,
};
use relative::Attempts;
use serde::Serialize;
use std::collections::{HashMap, HashSet};

mod relative;

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
    /// The dirty rates up to which attempts converged, in sentences: one for each combination of the other
    /// axes at which two or more rates were tried.
    pub threshold: Vec<String>,
}

/// The verdict on one expectation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpectationVerdict {
    /// The expectation in words, as reports print it.
    pub expectation: String,
    /// The number of attempts that were checked.
    pub attempts: usize,
    /// The number of attempts that the plan makes at the cells that the expectation is about, and at their
    /// baselines.
    pub attempts_planned: usize,
    /// The number of cells with at least one checked attempt.
    pub cells: usize,
    /// The number of cells of the plan that the expectation is about.
    pub cells_planned: usize,
    /// How attempts and comparisons violate the expectation, one sentence each.
    pub violations: Vec<String>,
    /// Why attempts and comparisons do not decide the expectation, one sentence each.
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

    /// Adds the findings about an attempt or a comparison.
    fn add(&mut self, name: &str, findings: Vec<Finding>) {
        for finding in findings {
            match finding {
                Finding::Violated(text) => self.violations.push(format!("{name}: {text}")),
                Finding::Undecided(text) => self.undecided.push(format!("{name}: {text}")),
            }
        }
    }

    /// Returns whether every attempt that the expectation is about was made and meets it.
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
/// and neither are records of cells that the plan does not have.
pub fn evaluate(plan: &Plan, records: &[Record]) -> RunVerdict {
    let checked: Vec<(&Cell, &Record)> = records
        .iter()
        .filter(|r| !matches!(r.outcome, Outcome::Interrupted | Outcome::Skipped))
        .filter_map(|r| Some((plan.cell(&r.cell)?, r)))
        .collect();
    let mut attempts: HashMap<&str, Vec<&Record>> = HashMap::new();
    for (cell, record) in &checked {
        attempts.entry(&cell.id).or_default().push(record);
    }
    let verdict = |expectation| expectation_verdict(plan, expectation, &checked, &attempts);
    let expectations = plan.expect.iter().map(verdict).collect();
    RunVerdict {
        expectations,
        failed: records.iter().filter(|r| is_failure(r.outcome)).count(),
        nothing_made: !records.is_empty() && records.iter().all(|r| r.outcome == Outcome::Skipped),
        threshold: threshold::sentences(plan, records),
    }
}

/// Compares the attempts that are checked, as a list and by the ID of their cell, with an expectation.
fn expectation_verdict(
    plan: &Plan,
    expectation: &Expectation,
    checked: &[(&Cell, &Record)],
    attempts: &HashMap<&str, Vec<&Record>>,
) -> ExpectationVerdict {
    let cells = plan.cells_of(expectation);
    let ids = |cells: &[(&Cell, Option<&Cell>)]| -> HashSet<String> {
        let both = cells.iter().flat_map(|(cell, baseline)| [Some(*cell), *baseline]);
        both.flatten().map(|cell| cell.id.clone()).collect()
    };
    let mut verdict = ExpectationVerdict {
        expectation: expectation.to_string(),
        attempts: 0,
        attempts_planned: ids(&cells).len() * plan.repeat as usize,
        cells: 0,
        cells_planned: cells.len(),
        violations: Vec::new(),
        undecided: Vec::new(),
    };
    let about: HashSet<&str> = cells.iter().map(|(cell, _)| cell.id.as_str()).collect();
    for (cell, record) in checked.iter().filter(|(cell, _)| about.contains(cell.id.as_str())) {
        let figure = |subject| figures::interval_for(subject, &record.measured);
        let findings = expectation.check(record.outcome, figure, record.measured.disagreements.len());
        verdict.add(&format!("{} #{}", cell.id, record.attempt), findings);
    }
    let measured = |cell: &Cell| attempts.get(cell.id.as_str()).map(|attempts| Attempts(attempts));
    let mut made = Vec::new();
    for (cell, baseline) in cells {
        let Some(own) = measured(cell) else { continue };
        if let Some(baseline) = baseline {
            let Some(other) = measured(baseline) else { continue };
            let findings = relative::compare(expectation, own, other, plan.repeat);
            verdict.add(&format!("{} relative to {}", cell.id, baseline.id), findings);
        }
        made.push((cell, baseline));
    }
    verdict.cells = made.len();
    verdict.attempts = ids(&made).iter().filter_map(|id| attempts.get(id.as_str())).map(Vec::len).sum();
    verdict
}

/// Returns whether the outcome means that the lab, QEMU or the guest did not work, as opposed to a migration
/// that did not converge.
fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted)
}

#[cfg(test)]
mod tests;
