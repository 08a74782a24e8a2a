//! The builder of a record, which collects measurements while the attempt runs.

use super::{
    figures,
    format::FormatVersion,
    record::{Measured, Phase, Record},
};
use crate::{matrix::Cell, measure::millis, outcome::Outcome};
use jiff::Timestamp;
use std::time::Instant;

/// A record in progress. It measures the phases, and becomes a [`Record`] when the outcome is known. After
/// that, the record does not change.
pub struct RecordBuilder {
    /// The measurements so far.
    pub measured: Measured,
    started_at: Timestamp,
    started: Instant,
    phase: Option<(Phase, Instant)>,
}

impl RecordBuilder {
    /// Starts the record and the measurement of its duration.
    pub fn start() -> Self {
        Self {
            measured: Measured::default(),
            started_at: Timestamp::now(),
            started: Instant::now(),
            phase: None,
        }
    }

    /// Ends the current phase, if any, and enters this one.
    pub fn enter(&mut self, phase: Phase) {
        self.end_phase();
        self.phase = Some((phase, Instant::now()));
    }

    /// Returns the phase in progress.
    pub fn phase(&self) -> Option<Phase> {
        self.phase.map(|(phase, _)| phase)
    }

    fn end_phase(&mut self) {
        if let Some((phase, since)) = self.phase.take() {
            self.measured.phases_ms.insert(phase, millis(since.elapsed()));
        }
    }

    /// Ends the current phase and returns the finished record.
    pub fn freeze(mut self, cell: &Cell, attempt: u32, outcome: Outcome, reason: Option<String>) -> Record {
        self.end_phase();
        // An attempt that was not made has no duration.
        self.measured.wall_time_ms = (outcome != Outcome::Skipped).then(|| millis(self.started.elapsed()));
        self.measured.obtained = figures::provenance(&self.measured, &cell.settings);
        Record {
            format: FormatVersion::CURRENT,
            version: None,
            cell: cell.id.clone(),
            attempt,
            outcome,
            reason,
            started_at: self.started_at,
            axes: cell.axes.clone(),
            settings: cell.settings.clone(),
            measured: self.measured,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::File;
    use serde_json::json;
    use std::{thread::sleep, time::Duration};

    fn frozen(phases: &[Phase]) -> Record {
        let plan =
            File::parse("name: n\n", "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let mut builder = RecordBuilder::start();
        for phase in phases {
            builder.enter(*phase);
            sleep(Duration::from_millis(2));
        }
        builder.freeze(&plan.cells[0], 2, Outcome::Interrupted, Some("interrupted by the user".into()))
    }

    #[test]
    fn phases_are_recorded_in_order_with_their_durations() {
        let record = frozen(&[Phase::Boot, Phase::Fill, Phase::TearDown]);
        let phases: Vec<Phase> = record.measured.phases_ms.keys().copied().collect();
        assert_eq!(phases, [Phase::Boot, Phase::Fill, Phase::TearDown]);
        let sum: f64 = record.measured.phases_ms.values().sum();
        assert!(record.measured.phases_ms.values().all(|ms| *ms >= 2.0), "{:?}", record.measured.phases_ms);
        let wall_time_ms = record.measured.wall_time_ms.unwrap();
        assert!(sum <= wall_time_ms + 0.01, "{sum} of {wall_time_ms}");
    }

    #[test]
    fn an_attempt_that_was_skipped_has_no_duration() {
        let plan = File::parse("name: n\n", "n").and_then(|file| file.expand()).unwrap();
        let record = RecordBuilder::start().freeze(&plan.cells[0], 1, Outcome::Skipped, None);
        assert_eq!(record.measured, Measured::default());
    }

    #[test]
    fn the_names_of_fields_do_not_change() {
        let json = serde_json::to_value(frozen(&[Phase::Boot])).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "format",
                "cell",
                "attempt",
                "outcome",
                "reason",
                "started_at",
                "axes",
                "settings",
                "total_time_ms",
                "downtime_ms",
                "transferred",
                "iterations",
                "stress",
                "verified",
                "qemu",
                "probe",
                "link",
                "link_lateness",
                "phases_ms",
                "wall_time_ms",
                "disagreements",
                "obtained",
            ]
        );
        assert_eq!(json["downtime_ms"], json!({ "qemu": null, "guest": null, "client": null }));
        assert_eq!(json["transferred"], json!({ "qemu_bytes": null, "wire_bytes": null }));
        assert_eq!((&json["cell"], &json["outcome"]), (&json!("base"), &json!("interrupted")));
        assert!(json["phases_ms"]["boot"].is_f64());
    }
}
