//! Pacing: computes when the next page is due. This is pure arithmetic on times that the caller reads from a
//! clock.
//!
//! The time since the pacer's origin is divided into steps (of 1 ms, unless the workload has a shorter step).
//! At the end of each step, the pages that came due in it are written; if there are none, the lane sleeps
//! through the step. The number of pages due is computed from the whole time since the origin, never
//! accumulated step by step, so it does not drift: in any whole second, the number of pages written matches
//! the rate to the page. If there are several lanes (threads), the pages are assigned to them in turn, and
//! the sum over all lanes matches the rate.
//!
//! A lane that wakes up late has two options. It can catch up, by immediately writing the pages that came due
//! in the meantime. Or it can move its origin by the delay, as if that time had not passed, and skip those
//! pages. With [`CatchUp::Burst`], it always catches up. Otherwise the delay decides:
//!
//! - Up to [`TIMER_JITTER_NS`]: normal timer jitter. The lane catches up.
//! - More than [`MAX_CATCH_UP_NS`]: a stall (the guest was stopped or throttled). The lane forgoes all of it.
//! - In between: the lane catches up as long as such delays are rare, at most 1/[`CATCH_UP_DIVISOR`] of the
//!   time. This keeps the average rate exact on a host that also runs other programs. The budget does not
//!   cover throttling: a CPU that is throttled by a fifth, 2.5 ms at a time, soon exceeds it.

use crate::workload::{CatchUp, PAGE_BYTES, Rate};

/// The delay of a wake-up that is always made up for, in nanoseconds (1 ms).
pub const TIMER_JITTER_NS: u64 = 1_000_000;

/// The longest delay that may be made up for, in nanoseconds (10 ms).
pub const MAX_CATCH_UP_NS: u64 = 10_000_000;

/// The divisor that limits how much delay may be made up for: at most 1/20 of the elapsed time.
pub const CATCH_UP_DIVISOR: u64 = 20;

/// The maximum number of pages that a lane writes before it consults the schedule again.
pub const BATCH_PAGES: u64 = 512;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The settings of a workload that determine how a lane keeps its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The interval at which due pages are written, in nanoseconds; not 0.
    pub step_ns: u64,
    /// Whether pages that came due during a stall are made up for.
    pub catch_up: CatchUp,
}

/// The schedule of one lane at one rate.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate: Rate,
    pacing: Pacing,
    lane: u64,
    lanes: u64,
    /// The start of the schedule, moved forward by the stalls that are not made up for.
    origin_ns: u64,
    /// The number of pages that this lane was asked to write.
    pages_issued: u64,
    /// The delay that may be made up for at present; at most [`MAX_CATCH_UP_NS`].
    budget_ns: u64,
    /// The time when the budget was last increased.
    budget_updated_ns: u64,
}

/// The next action of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write pages that are due.
    Write {
        /// The number of pages to write, at least 1 and at most [`BATCH_PAGES`].
        pages: u64,
        /// The time at which the first page was due, in nanoseconds on the caller's clock.
        due_ns: u64,
        /// The number of pages that were dropped because of a stall.
        forgone: u64,
    },
    /// Sleep, because no page is due yet.
    Sleep {
        /// The time of the next page, in nanoseconds on the caller's clock. `u64::MAX` means never.
        until_ns: u64,
    },
}

impl Pacer {
    /// Creates the schedule of lane number `lane` (counted from 0) of `lanes` lanes. It starts at
    /// `origin_ns`.
    pub fn new(rate: Rate, pacing: Pacing, (lane, lanes): (u64, u64), origin_ns: u64) -> Self {
        Self {
            rate,
            pacing,
            lane,
            lanes,
            origin_ns,
            pages_issued: 0,
            budget_ns: MAX_CATCH_UP_NS,
            budget_updated_ns: origin_ns,
        }
    }

    /// Returns what to do at the time `now_ns`. Pages in the returned action are considered written.
    pub fn next_action(&mut self, now_ns: u64) -> Action {
        let Rate::Limited(rate) = self.rate else {
            return Action::Write { pages: BATCH_PAGES, due_ns: now_ns, forgone: 0 };
        };
        let rate = u128::from(rate.get());
        if rate == 0 {
            return Action::Sleep { until_ns: u64::MAX };
        }
        let due_ns = self.next_due_ns(rate);
        let Some(late_ns) = now_ns.checked_sub(due_ns) else {
            return Action::Sleep { until_ns: due_ns };
        };
        let mut due = self.pages_due_at(rate, now_ns);
        let mut forgone = 0;
        let lost_ns = self.forgone_time_ns(late_ns, now_ns);
        if lost_ns > 0 {
            self.origin_ns += lost_ns;
            let still_due = self.pages_due_at(rate, now_ns);
            forgone = due - still_due;
            due = still_due;
        }
        let pages = (due - self.pages_issued).min(BATCH_PAGES);
        self.pages_issued += pages;
        Action::Write { pages, due_ns, forgone }
    }

    /// Returns the part of a delay that is not made up for, in nanoseconds, and updates the budget.
    fn forgone_time_ns(&mut self, late_ns: u64, now_ns: u64) -> u64 {
        if self.pacing.catch_up == CatchUp::Burst {
            return 0;
        }
        let earned = now_ns.saturating_sub(self.budget_updated_ns) / CATCH_UP_DIVISOR;
        self.budget_ns = (self.budget_ns + earned).min(MAX_CATCH_UP_NS);
        self.budget_updated_ns = now_ns;
        if late_ns > MAX_CATCH_UP_NS {
            return late_ns;
        }
        if late_ns <= TIMER_JITTER_NS {
            return 0;
        }
        let caught_up_ns = late_ns.min(self.budget_ns);
        self.budget_ns -= caught_up_ns;
        late_ns - caught_up_ns
    }

    /// Returns the number of pages of this lane that have come due since the origin.
    fn pages_due_at(&self, rate: u128, now_ns: u64) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.origin_ns));
        let pages = rate * elapsed / (u128::from(PAGE_BYTES) * NANOS_PER_SECOND);
        let share = (pages + u128::from(self.lanes - 1 - self.lane)) / u128::from(self.lanes);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Returns the end of the step in which this lane's next page comes due.
    fn next_due_ns(&self, rate: u128) -> u64 {
        let number = u128::from(self.pages_issued) * u128::from(self.lanes) + u128::from(self.lane) + 1;
        let elapsed = (number * u128::from(PAGE_BYTES) * NANOS_PER_SECOND).div_ceil(rate);
        let elapsed = elapsed.next_multiple_of(u128::from(self.pacing.step_ns));
        u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(self.origin_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;
    use proptest::prelude::*;
    use units::ByteRate;
    use units::random;

    const SECOND: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    /// Shorter than the default step, to test that the step is used.
    const STEP_NS: u64 = MS / 2;
    const NEVER: Pacing = Pacing { step_ns: STEP_NS, catch_up: CatchUp::Never };
    const BURST: Pacing = Pacing { catch_up: CatchUp::Burst, ..NEVER };

    fn pacer(bytes_per_second: u64, pacing: Pacing) -> Pacer {
        Pacer::new(Rate::Limited(ByteRate::new(bytes_per_second)), pacing, (0, 1), 0)
    }

    /// Runs lanes on a simulated clock on which writing takes no time. `late` returns the delay of the
    /// wake-up that is planned for a given time. Returns the time and the number of pages of each write.
    fn simulate(pacers: &mut [Pacer], until: u64, mut late: impl FnMut(u64) -> u64) -> Vec<(u64, u64)> {
        let mut written = Vec::new();
        for pacer in pacers {
            let mut now = 0;
            while now < until {
                match pacer.next_action(now) {
                    Action::Write { pages, .. } => written.push((now, pages)),
                    Action::Sleep { until_ns } => now = until_ns.saturating_add(late(until_ns)),
                }
            }
        }
        written
    }

    fn pages_between(written: &[(u64, u64)], from: u64, to: u64) -> u64 {
        written.iter().filter(|(at, _)| (from + 1..=to).contains(at)).map(|(_, pages)| pages).sum()
    }

    /// Returns a function that returns a random number below its argument.
    fn random_below(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |bound| {
            state = random::mix(state.wrapping_add(random::STEP));
            state % bound
        }
    }

    #[test]
    fn every_whole_second_matches_the_rate_to_the_page() {
        let mut random = random_below(1);
        for lanes in [1, 2, 3, 7] {
            for _ in 0..8 {
                let rate = random(200_000_000) + 1;
                let limited = Rate::Limited(ByteRate::new(rate));
                let mut pacers: Vec<_> =
                    (0..lanes).map(|lane| Pacer::new(limited, NEVER, (lane, lanes), 0)).collect();
                let written = simulate(&mut pacers, 4 * SECOND, |_| 0);
                for from in (0..3 * SECOND).step_by(250 * MS as usize) {
                    let pages = pages_between(&written, from, from + SECOND);
                    let least = rate / PAGE_BYTES;
                    assert!(
                        (least..=least + 1).contains(&pages),
                        "{pages} pages at {rate} B/s in {lanes} lanes"
                    );
                }
            }
        }
    }

    #[test]
    fn the_schedule_does_not_drift_in_a_day() {
        let mut pacer = pacer(96_000_000, NEVER);
        // Skip a day, as if all pages due in it had been written.
        let day = 86_400 * SECOND;
        pacer.pages_issued = 96_000_000 * 86_400 / PAGE_BYTES;
        let Action::Sleep { until_ns } = pacer.next_action(day) else { panic!("a page is due too early") };
        assert_eq!(until_ns, day + STEP_NS);
    }

    #[test]
    fn timer_jitter_loses_no_pages() {
        let mut random = random_below(2);
        let mut pacers = [pacer(96_000_000, NEVER)];
        let written = simulate(&mut pacers, 11 * SECOND, |_| random(TIMER_JITTER_NS));
        let pages = pages_between(&written, 0, 10 * SECOND);
        assert!(pages.abs_diff(234_375) <= 24 * 3, "{pages} pages in 10 s");
        assert!(pages_between(&written, 0, 11 * SECOND) >= 257_812 - 24 * 3);
    }

    #[test]
    fn rare_short_delays_lose_no_pages() {
        let mut pacers = [pacer(96_000_000, NEVER)];
        // 6 ms in every 200 ms: 3 %.
        let written = simulate(&mut pacers, 10 * SECOND, |at| if at % (200 * MS) == 0 { 6 * MS } else { 0 });
        let pages = pages_between(&written, 0, 10 * SECOND);
        assert!(pages.abs_diff(234_375) <= 150, "{pages} pages in 10 s");
    }

    #[test]
    fn a_stall_is_not_made_up_for() {
        let mut pacers = [pacer(96_000_000, NEVER)];
        let written = simulate(&mut pacers, 4 * SECOND, |at| if at == SECOND { SECOND } else { 0 });
        let most = written.iter().map(|(_, pages)| *pages).max().unwrap();
        assert!(most <= 12, "{most} pages at once: more than half a millisecond's worth");
        assert_eq!(pages_between(&written, SECOND, 2 * SECOND - 1), 0);
        assert!(pages_between(&written, 2 * SECOND, 3 * SECOND).abs_diff(23_437) <= 1);
    }

    #[test]
    fn a_throttled_cpu_dirties_less() {
        let mut pacers = [pacer(96_000_000, NEVER)];
        // The CPU is stopped for a fifth of the time: the first 2.5 ms of every 12.5 ms.
        let stall = |at: u64| 2_500_000_u64.saturating_sub(at % 12_500_000);
        let written = simulate(&mut pacers, 10 * SECOND, stall);
        let share = pages_between(&written, 5 * SECOND, 10 * SECOND) as f64 / (5.0 * 23_437.5);
        assert!((0.80..0.90).contains(&share), "{share} of the rate");
    }

    #[test]
    fn forgone_and_written_pages_add_up_to_the_rate() {
        let mut random = random_below(3);
        let mut pacer = pacer(50_000_000, NEVER);
        let (mut now, mut accounted) = (0, 0);
        while now < 20 * SECOND {
            match pacer.next_action(now) {
                Action::Write { pages, forgone, .. } => accounted += pages + forgone,
                Action::Sleep { until_ns } => now = until_ns + random(30 * MS),
            }
        }
        let due = 50_000_000 * (now / MS) / (PAGE_BYTES * 1000);
        assert!(due.abs_diff(accounted) * 100 < due, "{accounted} of {due} pages are accounted for");
    }

    #[test]
    fn burst_makes_up_for_a_whole_stall() {
        let mut pacers = [pacer(96_000_000, BURST)];
        let written = simulate(&mut pacers, 4 * SECOND, |at| if at == SECOND { SECOND } else { 0 });
        assert_eq!(pages_between(&written, 0, 3 * SECOND), 3 * 96_000_000 / PAGE_BYTES);
    }

    #[test]
    fn a_low_rate_sleeps_until_its_next_page() {
        let mut pacer = pacer(PAGE_BYTES, NEVER);
        assert_eq!(pacer.next_action(0), Action::Sleep { until_ns: SECOND });
        assert_eq!(pacer.next_action(SECOND), Action::Write { pages: 1, due_ns: SECOND, forgone: 0 });
        assert_eq!(pacer.next_action(SECOND), Action::Sleep { until_ns: 2 * SECOND });
    }

    #[test]
    fn idle_always_sleeps_and_unlimited_always_writes() {
        let action = |rate| Pacer::new(rate, NEVER, (0, 1), 5).next_action(7);
        assert_eq!(action(Rate::IDLE), Action::Sleep { until_ns: u64::MAX });
        assert_eq!(action(Rate::Unlimited), Action::Write { pages: BATCH_PAGES, due_ns: 7, forgone: 0 });
    }

    #[test]
    fn a_page_count_beyond_64_bits_does_not_overflow() {
        // 2^20 pages per nanosecond: 2^64 pages after 2^44 ns.
        let mut pacer = pacer((PAGE_BYTES * SECOND) << 20, BURST);
        for now in [(1 << 44) - 1, 1 << 44, u64::MAX] {
            assert!(matches!(pacer.next_action(now), Action::Write { pages: BATCH_PAGES, .. }), "{now}");
        }
    }

    proptest! {
        /// Covers all valid workloads, on a clock that never goes back.
        #[test]
        fn no_rate_and_no_time_panics(
            rate in any::<u64>(),
            shift in 0..64u32,
            (lane, lanes) in (1..=u64::from(u32::MAX)).prop_flat_map(|lanes| (0..lanes, Just(lanes))),
            origin_ns in any::<u64>(),
            step_ns in Workload::SHORTEST_STEP.as_nanos()..=Workload::LONGEST_STEP.as_nanos(),
            catch_up in prop_oneof![Just(CatchUp::Never), Just(CatchUp::Burst)],
            pauses in proptest::collection::vec((any::<u64>(), 0..64u32), 1..50),
        ) {
            let rate = Rate::Limited(ByteRate::new(rate >> shift));
            let mut pacer = Pacer::new(rate, Pacing { step_ns, catch_up }, (lane, lanes), origin_ns);
            let mut now = origin_ns;
            for (pause, shift) in pauses {
                now = now.saturating_add(pause >> shift);
                if let Action::Write { pages, .. } = pacer.next_action(now) {
                    prop_assert!(pages <= BATCH_PAGES);
                }
            }
        }
    }
}
