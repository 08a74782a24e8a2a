//! The policy of pre-copy, which sends memory in passes until the rest fits into the downtime limit.
//!
//! A migration is given up after its last allowed pass, or if the stall detector finds that it cannot finish
//! before the deadline. The stall detector is not used while changes of the link or the workload are still to
//! come; afterwards, it only gets the passes that began after the last change took effect. If the link or the
//! workload keeps repeating the same changes, as in a wave, it judges by [`stall::PERIODS`] whole periods.
//!
//! If the settings say so, the guest is paused at some point. The rest is then sent while it is stopped. This
//! ends any migration, at the price of a downtime as long as sending the rest takes. From then on, only the
//! deadline ends the migration.

use super::{Decision, Limits, Policy, Progress};
use crate::measure::{
    passes::{self, Pass},
    samples::MemoryProgress,
    stall,
};

/// The pre-copy policy for one migration.
pub(super) struct Precopy {
    limits: Limits,
    paused: bool,
}

impl Precopy {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, paused: false }
    }

    fn reason_to_give_up(&self, progress: &Progress<'_>) -> Option<String> {
        let now = progress.samples.last()?.memory?;
        let stall = || self.stall(progress, now).filter(|_| self.limits.stall_detection);
        self.past_last_pass(now).or_else(stall)
    }

    /// Returns why to give up a migration that has begun more passes than allowed; nothing otherwise.
    pub(super) fn past_last_pass(&self, now: MemoryProgress) -> Option<String> {
        let cap = self.limits.max_passes.filter(|cap| now.pass > u64::from(*cap))?;
        Some(format!("not finished after {cap} pass{}", if cap == 1 { "" } else { "es" }))
    }

    /// Returns in what way a migration has stopped making progress, if it has and a pass has just begun.
    pub(super) fn stall(&self, progress: &Progress<'_>, now: MemoryProgress) -> Option<String> {
        // The stall detector needs whole passes, so it is only used when a new pass begins.
        let before = progress.samples.iter().rev().nth(1);
        let pass_begins = before.is_none_or(|before| before.pass() != now.pass);
        if pass_begins { self.stalled(progress, now) } else { None }
    }

    fn stalled(&self, progress: &Progress<'_>, now: MemoryProgress) -> Option<String> {
        let Limits { timeout, downtime_limit, .. } = self.limits;
        let settled_ms = progress.settled_ms?;
        let mut passes = passes::passes(progress.samples);
        passes.retain(|pass| pass.started_at_ms >= settled_ms);
        let limit = bandwidth(&passes)? * downtime_limit.as_secs_f64();
        let window_ms = stall::MIN_WINDOW_MS.max(stall::PERIODS * progress.period_ms);
        stall::is_stalled(&passes, limit, timeout.as_millis_f64(), window_ms).then(|| {
            format!(
                "the remaining memory stopped shrinking: {:.0} MB at the start of pass {}, which cannot \
                 reach {:.0} MB within {timeout}",
                now.remaining_bytes as f64 / 1e6,
                now.pass,
                limit / 1e6,
            )
        })
    }
}

impl Policy for Precopy {
    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        if self.paused {
            return Decision::Wait;
        }
        if self.limits.pause.is_met(progress, self) {
            self.paused = true;
            return Decision::Pause;
        }
        self.reason_to_give_up(progress).map_or(Decision::Wait, Decision::GiveUp)
    }
}

/// Returns the average bandwidth over these passes, in bytes per second. Returns nothing if they took no time
/// at all.
fn bandwidth(passes: &[Pass]) -> Option<f64> {
    let sent: u64 = passes.iter().map(|p| p.sent_bytes).sum();
    let millis: f64 = passes.iter().map(|p| p.duration_ms).sum();
    (millis > 0.0).then(|| sent as f64 * 1e3 / millis)
}

#[cfg(test)]
mod tests {
    use super::{super::When, *};
    use crate::measure::samples::Sample;
    use units::Span;

    const LIMITS: Limits = Limits {
        timeout: Span::from_secs(60),
        downtime_limit: Span::from_millis(300),
        max_passes: None,
        stall_detection: true,
        postcopy_start: When::NEVER,
        pause: When::NEVER,
    };

    fn sample(at_ms: f64, pass: u64) -> Sample {
        Sample {
            at_ms,
            memory: Some(MemoryProgress { pass, ..MemoryProgress::default() }),
            ..Sample::default()
        }
    }

    /// Returns why the policy gives up after these samples; nothing if it does not.
    fn reason(limits: Limits, samples: &[Sample], settled_ms: Option<f64>) -> Option<String> {
        reason_with_period(limits, samples, settled_ms, 0.0)
    }

    fn reason_with_period(
        limits: Limits,
        samples: &[Sample],
        settled_ms: Option<f64>,
        period_ms: f64,
    ) -> Option<String> {
        match Precopy::new(limits).decide(&Progress { samples, settled_ms, period_ms }) {
            Decision::Wait => None,
            Decision::GiveUp(reason) => Some(reason),
            action => panic!("{action:?}"),
        }
    }

    #[test]
    fn a_migration_is_given_up_after_its_last_pass() {
        let limits = Limits { max_passes: Some(3), ..LIMITS };
        assert_eq!(reason(limits, &[sample(10.0, 3)], Some(0.0)), None);
        let done = reason(limits, &[sample(10.0, 4)], Some(0.0));
        assert_eq!(done.unwrap(), "not finished after 3 passes");
        assert_eq!(reason(LIMITS, &[sample(10.0, 4)], Some(0.0)), None);
    }

    #[test]
    fn a_guest_is_paused_once_and_not_given_up_afterwards() {
        let pause = When { after_passes: Some(2), ..When::NEVER };
        let mut policy = Precopy::new(Limits { pause, max_passes: Some(2), ..LIMITS });
        let mut decide = |pass| {
            policy.decide(&Progress { samples: &[sample(10.0, pass)], settled_ms: None, period_ms: 0.0 })
        };
        assert_eq!(decide(2), Decision::Wait);
        assert_eq!(decide(3), Decision::Pause);
        assert_eq!(decide(4), Decision::Wait);
    }

    #[test]
    fn a_guest_can_be_paused_where_it_would_be_given_up() {
        let pause = When { at_stall: true, ..When::NEVER };
        let samples = stalled();
        let progress = Progress { samples: &samples, settled_ms: Some(0.0), period_ms: 0.0 };
        let decision = Precopy::new(Limits { pause, ..LIMITS }).decide(&progress);
        assert_eq!(decision, Decision::Pause);
    }

    /// Returns the samples of a migration that makes no progress for 30 seconds, in passes of one second.
    fn stalled() -> Vec<Sample> {
        (0..61u64)
            .map(|i| {
                let mut sample = sample(i as f64 * 500.0, i / 2 + 1);
                let memory = sample.memory.as_mut().unwrap();
                memory.transferred_bytes = i * 100_000_000;
                memory.remaining_bytes = 128_000_000;
                sample
            })
            .collect()
    }

    #[test]
    fn stalls_are_only_detected_after_the_last_entry_of_the_timeline() {
        let stalled = stalled();
        assert!(reason(LIMITS, &stalled, Some(0.0)).unwrap().contains("stopped shrinking"));
        assert_eq!(reason(LIMITS, &stalled, None), None, "an entry is still to come");
        assert!(reason(LIMITS, &stalled, Some(12_000.0)).is_some());
        assert_eq!(reason(LIMITS, &stalled, Some(20_000.0)), None, "too few passes since the last entry");
    }

    #[test]
    fn a_load_that_repeats_itself_is_judged_by_two_whole_periods() {
        let stalled = stalled();
        let after = |period_ms| {
            (1..=stalled.len())
                .find(|to| reason_with_period(LIMITS, &stalled[..*to], Some(0.0), period_ms).is_some())
                .map(|to| stalled[to - 1].at_ms)
        };
        let usual = after(0.0).unwrap();
        assert_eq!(after(1_000.0), Some(usual), "passes are enough");
        let later = after(12_000.0).unwrap();
        assert!(later > usual && later >= 24_000.0, "{later} after {usual}");
        assert_eq!(after(20_000.0), None, "there are not two periods in 30 seconds");
    }

    #[test]
    fn stall_detection_can_be_switched_off() {
        let limits = Limits { stall_detection: false, ..LIMITS };
        assert_eq!(reason(limits, &stalled(), Some(0.0)), None);
    }
}
