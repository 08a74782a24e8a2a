//! A record while its attempt runs.

use super::{
    figures,
    format::FormatVersion,
    record::{Measured, Phase, Record, round_micros},
};
use crate::{matrix::Cell, outcome::Outcome};
use jiff::Timestamp;
use std::time::Instant;

/// A record that is still being written: it times the phases, and becomes a [`Record`] once, with the
/// outcome. After that nothing changes it.
pub struct RecordBuilder {
    /// What has been measured so far.
    pub measured: Measured,
    started_at: Timestamp,
    started: Instant,
    phase: Option<(Phase, Instant)>,
}

impl RecordBuilder {
    /// Starts the record, and the clock.
    pub fn start() -> Self {
        Self {
            measured: Measured::default(),
            started_at: Timestamp::now(),
            started: Instant::now(),
            phase: None,
        }
    }

    /// Ends the current phase and enters the next.
    pub fn enter(&mut self, phase: Phase) {
        self.end_phase();
        self.phase = Some((phase, Instant::now()));
    }

    fn end_phase(&mut self) {
        if let Some((phase, since)) = self.phase.take() {
            self.measured.phases_ms.insert(phase, millis(since));
        }
    }

    /// Ends the record.
    pub fn freeze(mut self, cell: &Cell, attempt: u32, outcome: Outcome, reason: Option<String>) -> Record {
        self.end_phase();
        self.measured.wall_time_ms = millis(self.started);
        self.measured.obtained = figures::obtained(&self.measured);
        Record {
            format: FormatVersion::CURRENT,
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

fn millis(since: Instant) -> f64 {
    round_micros(since.elapsed().as_secs_f64() * 1e3)
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
        builder.freeze(&plan.cells[0], 2, Outcome::Interrupted, Some("it was interrupted".into()))
    }

    #[test]
    fn every_phase_that_was_entered_has_its_time_in_order() {
        let record = frozen(&[Phase::Boot, Phase::Fill, Phase::TearDown]);
        let phases: Vec<Phase> = record.measured.phases_ms.keys().copied().collect();
        assert_eq!(phases, [Phase::Boot, Phase::Fill, Phase::TearDown]);
        let sum: f64 = record.measured.phases_ms.values().sum();
        assert!(record.measured.phases_ms.values().all(|ms| *ms >= 2.0), "{:?}", record.measured.phases_ms);
        assert!(sum <= record.measured.wall_time_ms + 0.01, "{sum} of {}", record.measured.wall_time_ms);
    }

    #[test]
    fn a_record_has_the_names_that_others_read() {
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
