//! What the records say about the matrix's expectations.

use super::{figures, record::Record, threshold};
use crate::{
    matrix::{Cell, Plan},
    outcome::Outcome,
};
use serde::Serialize;

/// The exit code when an expectation does not hold.
pub const EXIT_UNEXPECTED: u8 = 1;

/// The exit code when the lab or QEMU failed.
pub const EXIT_FAILED: u8 = 3;

/// How the records of a run compare with what its matrix expects.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// Each expectation, in the order of the file.
    pub expectations: Vec<Judged>,
    /// Attempts in which the lab or QEMU failed, or the guest or its memory was lost.
    pub failed: usize,
    /// Where convergence ends, in sentences; empty where the matrix does not vary the dirty rate.
    pub threshold: Vec<String>,
}

/// One expectation and whether attempts met it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// The expectation, as a sentence.
    pub expectation: String,
    /// The attempts it was held against.
    pub attempts: usize,
    /// How attempts fell short of it, one sentence each.
    pub violations: Vec<String>,
}

impl Judged {
    /// Returns whether the expectation holds, as tables say it.
    pub fn verdict(&self) -> &'static str {
        match (self.attempts, self.violations.len()) {
            (0, _) => "not tried",
            (_, 0) => "holds",
            _ => "DOES NOT HOLD",
        }
    }
}

impl Judgement {
    /// Whether nothing failed and every expectation holds. One that no attempt was held against does not
    /// speak against a run.
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

/// Judges these records.
pub fn judge(plan: &Plan, records: &[Record]) -> Judgement {
    let counted: Vec<(&Cell, &Record)> = records
        .iter()
        .filter(|r| !matches!(r.outcome, Outcome::Interrupted | Outcome::Skipped))
        .filter_map(|r| Some((plan.cell(&r.cell)?, r)))
        .collect();
    let expectations = plan.expect.iter().map(|expectation| {
        let about = counted.iter().filter(|(cell, _)| expectation.applies_to(&cell.settings));
        let mut judged = Judged { expectation: expectation.to_string(), attempts: 0, violations: Vec::new() };
        for (cell, record) in about {
            judged.attempts += 1;
            let figure = |subject| figures::expected(subject, &record.measured);
            let violations = expectation.violations(record.outcome, figure);
            judged
                .violations
                .extend(violations.into_iter().map(|v| format!("{} #{}: {v}", cell.id, record.attempt)));
        }
        judged
    });
    let verdicts: Vec<(&Cell, &Record)> =
        counted.iter().filter(|(_, record)| !is_failure(record.outcome)).copied().collect();
    Judgement {
        expectations: expectations.collect(),
        failed: records.iter().filter(|r| is_failure(r.outcome)).count(),
        threshold: threshold::sentences(plan, &verdicts),
    }
}

/// Whether the lab, QEMU or the guest did not do what every run counts on.
fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted)
}

#[cfg(test)]
mod tests;
