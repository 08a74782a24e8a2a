//! The policy of post-copy, which moves the guest before its memory.
//!
//! Memory is first sent in passes, as in pre-copy. Then the guest moves to the destination, and its pages
//! follow: those that it needs at once, and all others meanwhile. The guest moves at the first of the
//! conditions in the settings, or at once if there are none. From then on the migration cannot be given up:
//! neither end has all of the guest's memory.

use super::{Action, Decision, Limits, Policy, Progress, precopy::Precopy};
use crate::measure::samples::MemoryProgress;
use units::Span;

/// When a guest moves to the destination. The first condition that is met counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PostcopyStart {
    /// After this many passes over the memory.
    pub after_passes: Option<u32>,
    /// After this time since the migrate command.
    pub after: Option<Span>,
    /// Once the remaining memory has stopped shrinking.
    pub at_stall: bool,
}

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

    fn starts(&self, progress: &Progress<'_>, now: MemoryProgress) -> bool {
        let PostcopyStart { after_passes, after, at_stall } = self.limits.postcopy_start;
        let Some(last) = progress.samples.last() else { return false };
        let at_once = after_passes.is_none() && after.is_none() && !at_stall;
        at_once
            || after_passes.is_some_and(|passes| now.pass > u64::from(passes))
            || after.is_some_and(|after| last.at_ms >= after.as_millis_f64())
            || (at_stall && self.precopy.stall(progress, now).is_some())
    }
}

impl Policy for Postcopy {
    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        let Some(now) = progress.samples.last().and_then(|last| last.memory) else { return Decision::Wait };
        if self.started {
            return Decision::Wait;
        }
        if self.starts(progress, now) {
            self.started = true;
            return Decision::Act(Action::StartPostcopy);
        }
        self.precopy.past_last_pass(now).map_or(Decision::Wait, Decision::GiveUp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::samples::Sample;

    const LIMITS: Limits = Limits {
        timeout: Span::from_secs(60),
        downtime_limit: Span::from_millis(300),
        max_passes: None,
        stall_detection: true,
        postcopy_start: PostcopyStart { after_passes: None, after: None, at_stall: false },
    };

    /// Returns the samples of a migration whose passes take a second each and leave the same memory.
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

    /// Returns the second at which the guest moves, and the decisions of all seconds.
    fn decisions(limits: Limits) -> (Option<usize>, Vec<Decision>) {
        let samples = samples(40);
        let mut policy = Postcopy::new(limits);
        let seconds = 1..=samples.len();
        let progress = |to| Progress { samples: &samples[..to], settled_ms: Some(0.0), period_ms: 0.0 };
        let decisions: Vec<Decision> = seconds.map(|to| policy.decide(&progress(to))).collect();
        (decisions.iter().position(|decision| *decision == Decision::Act(Action::StartPostcopy)), decisions)
    }

    #[test]
    fn the_first_condition_counts_and_the_guest_moves_once() {
        let start = |postcopy_start| decisions(Limits { postcopy_start, ..LIMITS });
        let nothing = PostcopyStart::default();
        let (at, all) = start(nothing);
        assert_eq!(at, Some(0));
        assert!(all[1..].iter().all(|decision| *decision == Decision::Wait));
        assert_eq!(start(PostcopyStart { after_passes: Some(3), ..nothing }).0, Some(3));
        let after = Some(Span::from_secs(5));
        assert_eq!(start(PostcopyStart { after, ..nothing }).0, Some(5));
        assert_eq!(start(PostcopyStart { after_passes: Some(3), after, ..nothing }).0, Some(3));
        let at_stall = start(PostcopyStart { at_stall: true, ..nothing }).0.unwrap();
        assert!(at_stall >= 15, "a stall shows after 16 passes: {at_stall}");
    }

    #[test]
    fn a_guest_that_may_not_move_yet_is_given_up_after_the_last_pass() {
        let postcopy_start = PostcopyStart { after: Some(Span::from_secs(30)), ..PostcopyStart::default() };
        let limits = Limits { max_passes: Some(4), postcopy_start, ..LIMITS };
        let (at, all) = decisions(limits);
        assert_eq!(all[4], Decision::GiveUp("not finished after 4 passes".into()));
        assert_eq!(at, Some(30), "whoever asks on is told to move");
        // It waits out a stall.
        let (_, all) = decisions(Limits { postcopy_start, ..LIMITS });
        assert!(all[..30].iter().all(|decision| *decision == Decision::Wait));
    }
}
