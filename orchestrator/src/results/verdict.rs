//! What the records say about the matrix's expectations, and where the threshold lies.

use crate::{
    matrix::{Cell, Measured, Plan},
    outcome::Outcome,
    results::record::Record,
};
use serde::Serialize;
use stressor::workload::Rate;
use units::{Bytes, Span};

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

/// One expectation and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// The expectation, as a sentence.
    pub expectation: String,
    /// The attempts it was held against.
    pub attempts: usize,
    /// How attempts fell short of it, one sentence each.
    pub violations: Vec<String>,
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
            let violations = expectation.violations(&measured(record)).into_iter();
            judged.violations.extend(violations.map(|v| format!("{} #{}: {v}", cell.id, record.attempt)));
        }
        judged
    });
    Judgement {
        expectations: expectations.collect(),
        failed: records.iter().filter(|r| is_failure(r.outcome)).count(),
        threshold: thresholds(plan, &counted),
    }
}

/// Whether the lab, QEMU or the guest did not do what every run counts on.
fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted)
}

fn measured(record: &Record) -> Measured {
    let span = |ms: f64| Span::from_nanos((ms * 1e6) as u64);
    let downtime = &record.measured.downtime_ms;
    Measured {
        outcome: record.outcome,
        downtime: downtime.client.or(downtime.qemu).map(span),
        total_time: record.measured.total_time_ms.map(span),
        transferred: record.measured.transferred.qemu_bytes.map(Bytes::new),
    }
}

const DIRTY_RATE: &str = "stress.rate";

/// A sentence for each combination of the other axes: up to which dirty rate every attempt converged.
fn thresholds(plan: &Plan, counted: &[(&Cell, &Record)]) -> Vec<String> {
    if !plan.axis_paths().contains(&DIRTY_RATE) {
        return Vec::new();
    }
    let mut groups: Vec<(String, Vec<(&Cell, &Record)>)> = Vec::new();
    for &(cell, record) in counted.iter().filter(|(_, record)| !is_failure(record.outcome)) {
        let others = cell.axes.iter().filter(|(path, _)| *path != DIRTY_RATE);
        let name = others.map(|(path, value)| format!("{path} {value}")).collect::<Vec<_>>().join(", ");
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, members)) => members.push((cell, record)),
            None => groups.push((name, vec![(cell, record)])),
        }
    }
    groups.iter().filter_map(|(name, members)| threshold(name, members)).collect()
}

fn threshold(group: &str, members: &[(&Cell, &Record)]) -> Option<String> {
    let mut levels: Vec<(u64, &str, bool)> = Vec::new();
    for (cell, record) in members {
        let Rate::Limited(rate) = cell.settings.stress.rate else { continue };
        let converged = record.outcome == Outcome::Converged;
        match levels.iter_mut().find(|(known, ..)| *known == rate.get()) {
            Some((.., all)) => *all &= converged,
            None => levels.push((rate.get(), cell.axes.get(DIRTY_RATE)?, converged)),
        }
    }
    levels.sort_unstable_by_key(|(rate, ..)| *rate);
    let highest = levels.iter().take_while(|(.., converged)| *converged).last();
    let lowest = levels.iter().find(|(.., converged)| !*converged);
    let place = if group.is_empty() { String::new() } else { format!("With {group}: ") };
    let sentence = match (highest, lowest) {
        (Some((limit, up_to, _)), Some((_, from, _))) => {
            let above = if levels.iter().all(|(rate, _, converged)| *converged == (rate <= limit)) {
                format!("at {from} and above it never did")
            } else {
                format!("at {from} it did not; some higher rates did, so repeat the run")
            };
            format!("pre-copy converged at every dirty rate up to {up_to}; {above}.")
        }
        (Some((_, up_to, _)), None) => {
            format!("pre-copy converged at every dirty rate tried, up to {up_to}.")
        }
        (None, Some((_, from, _))) => format!("pre-copy did not converge even at {from}."),
        (None, None) => return None,
    };
    let mut sentence = place + &sentence;
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Some(sentence)
}

#[cfg(test)]
mod tests;
