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
    let measured = &record.measured;
    let parts = [
        Some(format!("{} #{}: {}", record.cell, record.attempt, record.outcome)),
        measured.total_time_ms.map(|ms| format!(" in {:.1} s", ms / 1e3)),
        measured.downtime_ms.qemu.map(|ms| format!(", downtime {ms:.0} ms")),
        measured.transferred.qemu_bytes.map(|bytes| format!(", {:.0} MB", bytes as f64 / 1e6)),
        record.reason.as_ref().map(|reason| format!(" ({reason})")),
    ];
    parts.into_iter().flatten().collect()
}

/// A duration for people: `45 s`, `3 min 20 s`.
fn about(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}
