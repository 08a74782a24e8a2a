//! Progress messages of a run, for people: [`live`] on a terminal, [`plain`] lines elsewhere. Both go to a
//! [`display`], for which the run does not wait.

use crate::{
    event::Event,
    layout::hanging,
    outcome::Outcome,
    results::record::{Phase, Record},
};
use frontend::{Text, one_line};
use std::time::Instant;
use units::Bytes;

pub mod display;
pub mod live;
pub mod plain;

/// Returns a line about an attempt that has ended, with its outcome and main figures.
fn outcome_line(record: &Record) -> String {
    let measured = &record.measured;
    let parts = [
        Some(format!("{} #{}: {}", one_line(&record.cell), record.attempt, record.outcome)),
        measured.total_time_ms.map(|ms| format!(" in {:.1} s", ms / 1e3)),
        measured.downtime_ms.in_words().map(|downtime| format!(", downtime {downtime}")),
        measured.transferred.qemu_bytes.map(|bytes| format!(", {}", Bytes::new(bytes).rounded())),
        record.reason.as_ref().map(|reason| format!(" ({})", hanging(reason))),
    ];
    parts.into_iter().flatten().collect()
}

/// Returns the outcome of an attempt in its color, for a terminal.
fn painted(outcome: Outcome, line: &str) -> Text {
    let color = match outcome {
        Outcome::Converged => "32",
        Outcome::NotConverged | Outcome::Skipped | Outcome::Interrupted => "33",
        Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted => "31",
    };
    Text::from(line).painted(color)
}

/// The phase that an attempt is in, and since when, for `--verbose`.
#[derive(Debug, Default)]
struct CurrentPhase(Option<(Phase, Instant)>);

impl CurrentPhase {
    /// Follows an event. Returns a line about the phase that the event ends, if it ends one.
    fn follow(&mut self, event: &Event<'_>, now: Instant) -> Option<String> {
        match event {
            Event::PhaseEntered(phase) => self.enter(Some(*phase), now),
            Event::AttemptEnded(_) | Event::RunEnded => self.enter(None, now),
            Event::Message(_) | Event::AttemptStarted { .. } | Event::Sampled(_) => None,
        }
    }

    /// Enters a phase, or none if the attempt has ended. Returns a line about the previous phase, if there
    /// was one.
    fn enter(&mut self, next: Option<Phase>, now: Instant) -> Option<String> {
        let before = std::mem::replace(&mut self.0, next.map(|phase| (phase, now)));
        before.map(|(phase, since)| format!("{}: {:.2} s", phase.describe(), (now - since).as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, results::builder::RecordBuilder};
    use std::time::Duration;

    #[test]
    fn a_line_has_the_outcome_and_the_figures_that_were_measured() {
        let plan =
            File::parse("name: n\n", "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let mut record = RecordBuilder::start().freeze(&plan.cells[0], 2, Outcome::Converged, None);
        record.measured.total_time_ms = Some(4_049.0);
        record.measured.downtime_ms.qemu = Some(61.4);
        record.measured.transferred.qemu_bytes = Some(471_600_000);
        assert_eq!(outcome_line(&record), "base #2: converged in 4.0 s, downtime 61 ms (QEMU), 471.6 MB");
        // In post-copy, QEMU leaves out most of what the guest loses.
        record.measured.downtime_ms.guest = Some(1_220.3);
        assert_eq!(outcome_line(&record), "base #2: converged in 4.0 s, downtime 1220 ms (guest), 471.6 MB");
        let failed = RecordBuilder::start().freeze(
            &plan.cells[0],
            1,
            Outcome::Failed,
            Some("node compute1 is gone".into()),
        );
        assert_eq!(outcome_line(&failed), "base #1: failed (node compute1 is gone)");
    }

    #[test]
    fn a_phase_is_told_with_its_duration_once_it_has_ended() {
        let (mut current, start) = (CurrentPhase::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(current.enter(Some(Phase::Boot), at(0)), None);
        let told = current.enter(Some(Phase::TearDown), at(1_500)).unwrap();
        assert_eq!(told, format!("{}: 1.50 s", Phase::Boot.describe()));
        let told = current.enter(None, at(1_750)).unwrap();
        assert_eq!(told, format!("{}: 0.25 s", Phase::TearDown.describe()));
        assert_eq!(current.enter(None, at(2_000)), None);
    }
}
