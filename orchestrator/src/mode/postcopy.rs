//! The policy of post-copy, which moves the guest before its memory.
//!
//! Memory is first sent in passes, as in pre-copy. Then the guest moves to the destination, and its pages
//! follow: those that it needs on request, and all others in the background. The guest moves when the first
//! of the conditions in the settings is met, or immediately if there are none. From then on, the migration
//! cannot be given up: neither end has all of the guest's memory.

use super::{Decision, Limits, Policy, Progress, When, precopy::Precopy};

/// The post-copy policy for one migration.
pub(super) struct Postcopy {
    limits: Limits,
    precopy: Precopy,
    started: bool,
}

impl Postcopy {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, precopy: Precopy::new(limits), started: false }
    }

    fn starts(&self, progress: &Progress<'_>) -> bool {
        let start = self.limits.postcopy_start;
        start == When::NEVER || start.is_met(progress, &self.precopy)
    }
}

impl Policy for Postcopy {
    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        let Some(now) = progress.samples.last().and_then(|last| last.memory) else { return Decision::Wait };
        if self.started {
            return Decision::Wait;
        }
        if self.starts(progress) {
            self.started = true;
            return Decision::StartPostcopy;
        }
        self.precopy.past_last_pass(now).map_or(Decision::Wait, Decision::GiveUp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::samples::{MemoryProgress, Sample};
    use units::Span;

    const LIMITS: Limits = Limits {
        timeout: Span::from_secs(60),
        downtime_limit: Span::from_millis(300),
        max_passes: None,
        stall_detection: true,
        postcopy_start: When::NEVER,
        pause: When::NEVER,
    };

    /// Returns the samples of a migration whose passes take a second each and always leave the same amount of
    /// memory.
    fn samples(seconds: u64) -> Vec<Sample> {
        let memory = |second: u64| MemoryProgress {
            pass: second + 1,
            transferred_bytes: second * 100_000_000,
            remaining_bytes: 128_000_000,
            ..MemoryProgress::default()
        };
        let sample =
            |second| Sample { at_ms: second as f64 * 1e3, memory: Some(memory(second)), ..Sample::default() };
        (0..=seconds).map(sample).collect()
    }

    /// Returns the second at which the guest moves, and the decisions made in all seconds.
    fn decisions(limits: Limits) -> (Option<usize>, Vec<Decision>) {
        let samples = samples(40);
        let mut policy = Postcopy::new(limits);
        let seconds = 1..=samples.len();
        let progress = |to| Progress { samples: &samples[..to], settled_ms: Some(0.0), period_ms: 0.0 };
        let decisions: Vec<Decision> = seconds.map(|to| policy.decide(&progress(to))).collect();
        (decisions.iter().position(|decision| *decision == Decision::StartPostcopy), decisions)
    }

    #[test]
    fn the_first_condition_counts_and_the_guest_moves_once() {
        let start = |postcopy_start| decisions(Limits { postcopy_start, ..LIMITS });
        let nothing = When::NEVER;
        let (at, all) = start(nothing);
        assert_eq!(at, Some(0));
        assert!(all[1..].iter().all(|decision| *decision == Decision::Wait));
        assert_eq!(start(When { after_passes: Some(3), ..nothing }).0, Some(3));
        let after = Some(Span::from_secs(5));
        assert_eq!(start(When { after, ..nothing }).0, Some(5));
        assert_eq!(start(When { after_passes: Some(3), after, ..nothing }).0, Some(3));
        let at_stall = start(When { at_stall: true, ..nothing }).0.unwrap();
        assert!(at_stall >= 15, "a stall shows after 16 passes: {at_stall}");
    }

    #[test]
    fn a_guest_that_may_not_move_yet_is_given_up_after_the_last_pass() {
        let postcopy_start = When { after: Some(Span::from_secs(30)), ..When::NEVER };
        let limits = Limits { max_passes: Some(4), postcopy_start, ..LIMITS };
        let (at, all) = decisions(limits);
        assert_eq!(all[4], Decision::GiveUp("not finished after 4 passes".into()));
        assert_eq!(at, Some(30), "whoever asks on is told to move");
        // It waits in spite of a stall.
        let (_, all) = decisions(Limits { postcopy_start, ..LIMITS });
        assert!(all[..30].iter().all(|decision| *decision == Decision::Wait));
    }
}
