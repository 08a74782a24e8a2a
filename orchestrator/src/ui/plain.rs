//! Progress as plain lines, for logs and pipes: one when an attempt starts, one when it has ended.

use super::{Watcher, about, outcome_line};
use crate::{
    measure::samples::Sample,
    migration::Observer,
    results::record::{Phase, Record},
};
use std::time::Duration;

/// Writes a line to standard error for each attempt.
pub struct Plain;

impl Observer for Plain {
    fn phase(&self, _: Phase) {}
    fn sample(&self, _: &Sample) {}
}

impl Watcher for Plain {
    fn remark(&self, text: &str) {
        eprintln!("{text}");
    }

    fn attempt_starts(&self, number: usize, total: usize, name: &str, left: Duration) {
        eprintln!("[{number}/{total}] {name} … (about {} left)", about(left));
    }

    fn attempt_ended(&self, record: &Record) {
        eprintln!("        {}", outcome_line(record));
        for disagreement in &record.measured.disagreements {
            eprintln!("        note: {disagreement}");
        }
    }

    fn finish(&self) {}
}
