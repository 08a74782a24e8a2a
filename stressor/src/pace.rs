//! When the next page is due: arithmetic on a clock's readings, without a clock.
//!
//! Time since the pacer's origin is divided into steps (1 ms unless the workload says finer). At the end of
//! each step, the pages that came due in it are written; a step in which none came due is slept through. The
//! number due is computed from the whole time since the origin, never added up step by step, so nothing
//! drifts: over any whole second the pages written are the rate's, to the page. Several lanes (threads) deal
//! the pages out among themselves in turn, and that holds for their sum.
//!
//! A lane that arrives late was held up, and has two ways to go on. It can make up for the time, by writing
//! at once what came due in it; or it can move its origin by as much, as if that time had not been, and
//! forgo what came due in it. Unless the workload asks to catch up always:
//!
//! - Up to [`PUNCTUAL_NS`] late is how timers are: made up for.
//! - More than [`SHORT_NS`] late is a stall (the guest was stopped or throttled): forgone, all of it.
//! - Anything between is made up for while it is rare, so that the average of an undisturbed run is exact on
//!   a machine with other things to do: the time made up for is at most 1/[`RARE`] of the time. A CPU that
//!   is throttled by a fifth, 2.5 ms at a time, soon exceeds that.

use crate::workload::{CatchUp, PAGE_BYTES, Rate};

/// How late every lane may be at any time, in nanoseconds.
pub const PUNCTUAL_NS: u64 = 1_000_000;

/// The longest hold-up that may be made up for, in nanoseconds.
pub const SHORT_NS: u64 = 10_000_000;

/// Hold-ups of up to one part in so many of the time may be made up for.
pub const RARE: u64 = 20;

/// The most pages that are written before the clock is read for the schedule again.
pub const BATCH_PAGES: u64 = 512;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// How to keep a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// How often pages are written, in nanoseconds; not 0.
    pub step_ns: u64,
    /// What becomes of the time that a stall took.
    pub catch_up: CatchUp,
}

/// One lane's schedule at one rate.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate: Rate,
    pacing: Pacing,
    lane: u64,
    lanes: u64,
    /// When the schedule began, moved by what stalls took.
    origin_ns: u64,
    /// Pages of the schedule that this lane has been told to write.
    handed_out: u64,
    /// How much hold-up may be made up for now; at most [`SHORT_NS`].
    allowance_ns: u64,
    /// When the allowance was last added to.
    allowance_at_ns: u64,
}

/// What a lane has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Write `pages` pages.
    Write {
        /// How many; at least one.
        pages: u64,
        /// When they should have been begun, by the clock that was read.
        due_ns: u64,
        /// How many were dropped because the lane was stalled.
        forgone: u64,
    },
    /// Nothing is due before this time; `u64::MAX` for ever.
    Sleep {
        /// By the clock that was read.
        until_ns: u64,
    },
}

impl Pacer {
    /// The schedule of lane number `lane` of `lanes`, counted from 0, that begins at `origin_ns`.
    pub fn new(rate: Rate, pacing: Pacing, (lane, lanes): (u64, u64), origin_ns: u64) -> Self {
        Self {
            rate,
            pacing,
            lane,
            lanes,
            origin_ns,
            handed_out: 0,
            allowance_ns: SHORT_NS,
            allowance_at_ns: origin_ns,
        }
    }

    /// What to do at the time `now_ns`. Pages it says to write are taken as written.
    pub fn turn(&mut self, now_ns: u64) -> Turn {
        let Rate::Limited(rate) = self.rate else {
            return Turn::Write { pages: BATCH_PAGES, due_ns: now_ns, forgone: 0 };
        };
        let rate = u128::from(rate.get());
        if rate == 0 {
            return Turn::Sleep { until_ns: u64::MAX };
        }
        let due_ns = self.next_due_ns(rate);
        let Some(late_ns) = now_ns.checked_sub(due_ns) else {
            return Turn::Sleep { until_ns: due_ns };
        };
        let mut due = self.share_of_pages_at(rate, now_ns);
        let mut forgone = 0;
        let lost_ns = self.not_made_up_for(late_ns, now_ns);
        if lost_ns > 0 {
            self.origin_ns += lost_ns;
            let still_due = self.share_of_pages_at(rate, now_ns);
            forgone = due - still_due;
            due = still_due;
        }
        let pages = (due - self.handed_out).min(BATCH_PAGES);
        self.handed_out += pages;
        Turn::Write { pages, due_ns, forgone }
    }

    /// How much of a lateness is not made up for.
    fn not_made_up_for(&mut self, late_ns: u64, now_ns: u64) -> u64 {
        if self.pacing.catch_up == CatchUp::Burst {
            return 0;
        }
        let earned = now_ns.saturating_sub(self.allowance_at_ns) / RARE;
        self.allowance_ns = (self.allowance_ns + earned).min(SHORT_NS);
        self.allowance_at_ns = now_ns;
        if late_ns > SHORT_NS {
            return late_ns;
        }
        if late_ns <= PUNCTUAL_NS {
            return 0;
        }
        let made_up_for = late_ns.min(self.allowance_ns);
        self.allowance_ns -= made_up_for;
        late_ns - made_up_for
    }

    /// How many pages of this lane have come due since the origin.
    fn share_of_pages_at(&self, rate: u128, now_ns: u64) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.origin_ns));
        let pages = rate * elapsed / (u128::from(PAGE_BYTES) * NANOS_PER_SECOND);
        let share = (pages + u128::from(self.lanes - 1 - self.lane)) / u128::from(self.lanes);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// The end of the step in which this lane's next page comes due.
    fn next_due_ns(&self, rate: u128) -> u64 {
        let number = u128::from(self.handed_out) * u128::from(self.lanes) + u128::from(self.lane) + 1;
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

    /// Half a millisecond.
    const STEP_NS: u64 = MS / 2;
    const NEVER: Pacing = Pacing { step_ns: STEP_NS, catch_up: CatchUp::Never };
    const BURST: Pacing = Pacing { catch_up: CatchUp::Burst, ..NEVER };

    fn pacer(bytes_per_second: u64, pacing: Pacing) -> Pacer {
        Pacer::new(Rate::Limited(ByteRate::new(bytes_per_second)), pacing, (0, 1), 0)
    }

    /// Runs lanes on a clock that wakes them late by what `late` says, and gives when how many pages were
    /// written. Writing takes no time.
    fn simulate(pacers: &mut [Pacer], until: u64, mut late: impl FnMut(u64) -> u64) -> Vec<(u64, u64)> {
        let mut written = Vec::new();
        for pacer in pacers {
            let mut now = 0;
            while now < until {
                match pacer.turn(now) {
                    Turn::Write { pages, .. } => written.push((now, pages)),
                    Turn::Sleep { until_ns } => now = until_ns.saturating_add(late(until_ns)),
                }
            }
        }
        written
    }

    fn pages_between(written: &[(u64, u64)], from: u64, to: u64) -> u64 {
        written.iter().filter(|(at, _)| (from + 1..=to).contains(at)).map(|(_, pages)| pages).sum()
    }

    /// A small generator, for tests with many inputs.
    fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |bound| {
            state = random::mix(state.wrapping_add(random::STEP));
            state % bound
        }
    }

    #[test]
    fn any_whole_second_has_exactly_the_pages_of_the_rate() {
        let mut dice = dice(1);
        for lanes in [1, 2, 3, 7] {
            for _ in 0..8 {
                let rate = dice(200_000_000) + 1;
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
    fn nothing_drifts_in_a_day() {
        let mut pacer = pacer(96_000_000, NEVER);
        // Skip a day of it: what has been handed out is what was due.
        let day = 86_400 * SECOND;
        pacer.handed_out = 96_000_000 * 86_400 / PAGE_BYTES;
        let Turn::Sleep { until_ns } = pacer.turn(day) else { panic!("all was written") };
        assert_eq!(until_ns, day + STEP_NS);
    }

    #[test]
    fn ordinary_jitter_costs_no_page() {
        let mut dice = dice(2);
        let mut pacers = [pacer(96_000_000, NEVER)];
        let written = simulate(&mut pacers, 11 * SECOND, |_| dice(PUNCTUAL_NS));
        let pages = pages_between(&written, 0, 10 * SECOND);
        assert!(pages.abs_diff(234_375) <= 24 * 3, "{pages} pages in 10 s");
        assert!(pages_between(&written, 0, 11 * SECOND) >= 257_812 - 24 * 3);
    }

    #[test]
    fn a_rare_short_hold_up_costs_no_page() {
        let mut pacers = [pacer(96_000_000, NEVER)];
        // 6 ms in every 200: 3 %.
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
        // It stands still for a fifth of the time: the first 2.5 ms of every 12.5.
        let stall = |at: u64| 2_500_000_u64.saturating_sub(at % 12_500_000);
        let written = simulate(&mut pacers, 10 * SECOND, stall);
        let share = pages_between(&written, 5 * SECOND, 10 * SECOND) as f64 / (5.0 * 23_437.5);
        assert!((0.80..0.90).contains(&share), "{share} of the rate");
    }

    #[test]
    fn forgone_and_written_add_up_to_the_rate() {
        let mut dice = dice(3);
        let mut pacer = pacer(50_000_000, NEVER);
        let (mut now, mut accounted) = (0, 0);
        while now < 20 * SECOND {
            match pacer.turn(now) {
                Turn::Write { pages, forgone, .. } => accounted += pages + forgone,
                Turn::Sleep { until_ns } => now = until_ns + dice(30 * MS),
            }
        }
        let due = 50_000_000 * (now / MS) / (PAGE_BYTES * 1000);
        assert!(due.abs_diff(accounted) * 100 < due, "{accounted} of {due} pages are accounted for");
    }

    #[test]
    fn a_burst_makes_up_for_everything() {
        let mut pacers = [pacer(96_000_000, BURST)];
        let written = simulate(&mut pacers, 4 * SECOND, |at| if at == SECOND { SECOND } else { 0 });
        assert_eq!(pages_between(&written, 0, 3 * SECOND), 3 * 96_000_000 / PAGE_BYTES);
    }

    #[test]
    fn a_slow_rate_sleeps_until_its_next_page() {
        let mut pacer = pacer(PAGE_BYTES, NEVER);
        assert_eq!(pacer.turn(0), Turn::Sleep { until_ns: SECOND });
        assert_eq!(pacer.turn(SECOND), Turn::Write { pages: 1, due_ns: SECOND, forgone: 0 });
        assert_eq!(pacer.turn(SECOND), Turn::Sleep { until_ns: 2 * SECOND });
    }

    #[test]
    fn idle_sleeps_and_unlimited_writes_for_ever() {
        let turn = |rate| Pacer::new(rate, NEVER, (0, 1), 5).turn(7);
        assert_eq!(turn(Rate::IDLE), Turn::Sleep { until_ns: u64::MAX });
        assert_eq!(turn(Rate::Unlimited), Turn::Write { pages: BATCH_PAGES, due_ns: 7, forgone: 0 });
    }

    #[test]
    fn more_pages_than_can_be_counted_are_due_all_the_same() {
        // 2^20 pages a nanosecond, and 2^64 of them after 2^44 ns.
        let mut pacer = pacer((PAGE_BYTES * SECOND) << 20, BURST);
        for now in [(1 << 44) - 1, 1 << 44, u64::MAX] {
            assert!(matches!(pacer.turn(now), Turn::Write { pages: BATCH_PAGES, .. }), "{now}");
        }
    }

    proptest! {
        /// Any workload that is sound, on any clock that does not go back.
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
                if let Turn::Write { pages, .. } = pacer.turn(now) {
                    prop_assert!(pages <= BATCH_PAGES);
                }
            }
        }
    }
}
