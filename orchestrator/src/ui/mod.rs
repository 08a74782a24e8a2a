//! What a person sees of a run while it goes on: [`live`] on a terminal, [`plain`] lines elsewhere, or
//! nothing. [`table`] is what stands at its end.

use crate::{migration::Observer, results::record::Record};
use std::time::Duration;

pub mod live;
pub mod plain;
pub mod table;

/// Who watches a run. Progress goes to standard error; results go to standard output.
pub trait Watcher: Observer {
    /// A remark about the run as a whole.
    fn remark(&self, text: &str);
    /// An attempt begins: the `number`-th of `total`, with about `left` to go for all that remain.
    fn attempt_starts(&self, number: usize, total: usize, name: &str, left: Duration);
    /// An attempt has ended, and its record is on the disk.
    fn attempt_ended(&self, record: &Record);
    /// The run has ended; nothing more is shown.
    fn finish(&self);
}

/// Shows nothing.
pub struct Silent;

impl Observer for Silent {
    fn phase(&self, _: crate::results::record::Phase) {}
    fn sample(&self, _: &crate::measure::samples::Sample) {}
}

impl Watcher for Silent {
    fn remark(&self, _: &str) {}
    fn attempt_starts(&self, _: usize, _: usize, _: &str, _: Duration) {}
    fn attempt_ended(&self, _: &Record) {}
    fn finish(&self) {}
}

/// One line about an attempt that has ended.
fn outcome_line(record: &Record) -> String {
    let mut line = format!("{} #{}: {}", record.cell, record.attempt, record.outcome);
    let measured = &record.measured;
    if let Some(total) = measured.total_time_ms {
        line += &format!(" in {:.1} s", total / 1e3);
    }
    if let Some(downtime) = measured.downtime_ms.qemu {
        line += &format!(", downtime {downtime:.0} ms");
    }
    if let Some(bytes) = measured.transferred.qemu_bytes {
        line += &format!(", {:.0} MB", bytes as f64 / 1e6);
    }
    if let Some(reason) = &record.reason {
        line += &format!(" ({reason})");
    }
    line
}

/// A duration for people: `45 s`, `3 min 20 s`.
fn about(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}
