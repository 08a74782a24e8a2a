//! Progress messages of a run, for people: [`live`] on a terminal, [`plain`] lines elsewhere.

use crate::results::record::Record;
use std::time::Duration;

pub mod live;
pub mod plain;

/// Returns a line about an attempt that has ended, with its outcome and main figures.
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

/// Returns a duration rounded to seconds, such as `45 s` or `3 min 20 s`.
fn about(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, outcome::Outcome, results::builder::RecordBuilder};

    #[test]
    fn a_line_has_the_outcome_and_the_figures_that_were_measured() {
        let plan =
            File::parse("name: n\n", "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let mut record = RecordBuilder::start().freeze(&plan.cells[0], 2, Outcome::Converged, None);
        record.measured.total_time_ms = Some(4_049.0);
        record.measured.downtime_ms.qemu = Some(61.4);
        record.measured.transferred.qemu_bytes = Some(471_600_000);
        assert_eq!(outcome_line(&record), "base #2: converged in 4.0 s, downtime 61 ms, 472 MB");
        let failed = RecordBuilder::start().freeze(
            &plan.cells[0],
            1,
            Outcome::Failed,
            Some("node compute1 is gone".into()),
        );
        assert_eq!(outcome_line(&failed), "base #1: failed (node compute1 is gone)");
    }

    #[test]
    fn estimates_are_rounded_to_seconds() {
        let text = |ms| about(Duration::from_millis(ms));
        assert_eq!(text(400), "0 s");
        assert_eq!(text(59_400), "59 s");
        assert_eq!(text(59_600), "1 min 00 s");
        assert_eq!(text(200_000), "3 min 20 s");
        assert_eq!(text(7_265_000), "121 min 05 s");
    }
}
