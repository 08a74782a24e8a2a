//! A lane: a thread that dirties its partition of the working set on schedule until it is stopped.
//!
//! A lane waits only for its schedule: it takes no locks and does no I/O.
//!
//! **Timing.** Reading the clock takes 20 to 30 ns on a host and 0.1 to 1 µs under emulation. Writing a whole
//! page takes several times as long, so each page write is timed. Writing one word takes less time than
//! reading the clock, so words are timed in groups of [`WORDS_TIMED_TOGETHER`]. A group that is not unusually
//! slow is recorded as that many equal writes; an unusually slow group is recorded as one slow write, with
//! the other writes at their usual time.

use crate::{
    clock::Clock,
    memory::Partition,
    meter::LaneMeter,
    pace::{Action, Pacer, Pacing},
    walk::Walk,
    workload::{Phase, Rate, Workload, Write},
};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The number of word writes that are timed together.
const WORDS_TIMED_TOGETHER: u64 = 64;

/// A group of writes is unusually slow if it takes more than this many times the time of the last usual
/// group.
const SLOW_FACTOR: u64 = 4;

/// The longest time that a lane sleeps before it checks again whether to stop, in nanoseconds.
const MAX_SLEEP_NS: u64 = 10_000_000;

/// The schedule that all lanes of a workload follow.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    phases: Vec<Phase>,
    final_rate: Rate,
    pacing: Pacing,
    start_ns: u64,
}

impl Schedule {
    pub(crate) fn new(workload: &Workload, start_ns: u64) -> Self {
        let pacing = Pacing { step_ns: workload.step.as_nanos(), catch_up: workload.catch_up };
        Self { phases: workload.phases.clone(), final_rate: workload.rate, pacing, start_ns }
    }

    /// Returns the phases, and then the final rate without an end: each with its rate, start time and end
    /// time in nanoseconds.
    fn segments(&self) -> impl Iterator<Item = (Rate, u64, u64)> {
        let mut start = self.start_ns;
        let phases = self.phases.iter().map(|phase| (phase.rate, Some(phase.duration.as_nanos())));
        phases.chain([(self.final_rate, None)]).map(move |(rate, duration)| {
            let end = duration.map_or(u64::MAX, |ns| start.saturating_add(ns));
            (rate, std::mem::replace(&mut start, end), end)
        })
    }
}

/// The data that one thread works with.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    pub(crate) number: u64,
    pub(crate) lanes: u64,
    pub(crate) partition: Partition<'a>,
    pub(crate) walk: &'a mut Walk,
    pub(crate) meter: &'a LaneMeter,
}

impl Lane<'_> {
    /// Dirties pages on schedule. Returns when `stop` is set, or when no page will ever be due again.
    pub(crate) fn run(mut self, schedule: &Schedule, clock: &impl Clock, stop: &AtomicBool) {
        for (rate, start_ns, end_ns) in schedule.segments() {
            if rate.is_idle() && end_ns == u64::MAX {
                return;
            }
            let mut pacer = Pacer::new(rate, schedule.pacing, (self.number, self.lanes), start_ns);
            loop {
                if stop.load(Relaxed) {
                    return;
                }
                let now = clock.now_ns();
                let over = now >= end_ns;
                // Pages that came due by the end of a phase are still written as part of it.
                match pacer.next_action(now.min(end_ns)) {
                    Action::Sleep { .. } if over => {}
                    Action::Sleep { until_ns } => {
                        clock.sleep_until(until_ns.min(end_ns).min(now + MAX_SLEEP_NS));
                    }
                    Action::Write { pages, due_ns, forgone } => {
                        self.meter.record_forgone(forgone);
                        self.write(pages, due_ns, now, clock);
                    }
                }
                if over {
                    break;
                }
            }
        }
    }

    /// Writes and times `pages` pages. The first of them was due at `due_ns`; the time is now `now_ns`.
    fn write(&mut self, pages: u64, due_ns: u64, now_ns: u64, clock: &impl Clock) {
        // A late wake-up is a stall; a CPU that is too slow for the rate is not.
        self.meter.record_stall(now_ns.saturating_sub(due_ns));
        let together = match self.partition.pattern.write {
            Write::Page => 1,
            Write::Word => WORDS_TIMED_TOGETHER,
        };
        let mut left = pages;
        let mut before = now_ns;
        let mut usual_ns = u64::MAX / SLOW_FACTOR;
        while left > 0 {
            let group = left.min(together);
            self.write_next(group);
            left -= group;
            let after = clock.now_ns();
            // The clock may not advance, and has been seen to go back slightly after a migration.
            let took = after.saturating_sub(before);
            before = after;
            let each_ns = took / group;
            let slow_ns =
                if each_ns > usual_ns * SLOW_FACTOR { took - usual_ns * (group - 1) } else { each_ns };
            if slow_ns == each_ns {
                usual_ns = each_ns;
                self.meter.record_writes(group, each_ns);
            } else {
                self.meter.record_writes(group - 1, usual_ns);
                self.meter.record_writes(1, slow_ns);
            }
            self.meter.record_stall(slow_ns);
        }
    }

    /// Writes the next `count` pages of the walk, without timing them.
    #[inline]
    fn write_next(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let pages = self.walk.next(left);
            left -= pages.len() as u64;
            self.partition.write(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::Pattern,
        memory::{Region, Usage},
        meter::{Meter, Reader},
        sys::Backing,
        verify::Area,
        workload::{Content, pages_for},
    };
    use std::{cell::Cell, sync::Arc};
    use units::{Bytes, Span};

    const SECOND: u64 = 1_000_000_000;

    /// A simulated clock: each reading advances it, sleeps are exact, and at a given time it stops the lane.
    struct FakeClock<'a> {
        now_ns: Cell<u64>,
        ns_per_read: u64,
        stop_at_ns: u64,
        stop: &'a AtomicBool,
    }

    impl Clock for FakeClock<'_> {
        fn now_ns(&self) -> u64 {
            let now = self.now_ns.get() + self.ns_per_read;
            self.now_ns.set(now);
            if now >= self.stop_at_ns {
                self.stop.store(true, Relaxed);
            }
            now
        }

        fn sleep_until(&self, ns: u64) {
            self.now_ns.set(self.now_ns.get().max(ns));
        }
    }

    /// Runs one lane on a simulated clock and verifies the memory. Returns what the lane counted.
    fn run(workload: &Workload, ns_per_read: u64, stop_at_ns: u64) -> crate::meter::Interval {
        let pattern = Pattern { content: Content::Random, write: workload.write, seed: 1 };
        let pages = pages_for(workload.working_set);
        let mut region = Region::new(pages, Backing::Small, pattern, Usage::Dirtied).unwrap();
        let meter = Arc::new(Meter::default());
        let mut walk = Walk::new(workload, pages, 0);
        let partition = region.partitions(1).remove(0);
        let lane = Lane { number: 0, lanes: 1, partition, walk: &mut walk, meter: &meter.lanes(1)[0] };
        let stop = AtomicBool::new(false);
        let clock = FakeClock { now_ns: Cell::new(0), ns_per_read, stop_at_ns, stop: &stop };
        lane.run(&Schedule::new(workload, 0), &clock, &stop);
        assert!(region.verify(Area::WorkingSet).is_good());
        Reader::new(meter).interval()
    }

    fn workload(rate: &str) -> Workload {
        Workload { rate: rate.parse().unwrap(), working_set: Bytes::new(1 << 20), ..Workload::default() }
    }

    #[test]
    fn pages_are_dirtied_at_the_rate_and_timed() {
        let seen = run(&workload("8MB/s"), 2_000, 3 * SECOND + 1);
        assert!(seen.pages_dirtied.abs_diff(3 * 8_000_000 / 4096) <= 1, "{}", seen.pages_dirtied);
        assert_eq!(seen.pages_forgone, 0);
        assert_eq!(seen.latency().max_ns, 2_000);
        assert!(seen.latency().p50_ns.abs_diff(2_000) < 64);
        // The lane wakes up on time; the stall is the time of one reading of the clock.
        assert_eq!(seen.longest_stall_ns, 2_000);
    }

    #[test]
    fn words_are_timed_together_and_all_counted() {
        let workload = Workload { write: Write::Word, ..workload("80MB/s") };
        let seen = run(&workload, 1_600, SECOND);
        assert!(seen.pages_dirtied.abs_diff(80_000_000 / 4096) <= 20, "{}", seen.pages_dirtied);
        assert_eq!(seen.writes.len(), seen.pages_dirtied);
        // 1,600 ns for the 19 or 20 pages of a step.
        assert!((80..=85).contains(&seen.latency().p50_ns), "{:?}", seen.latency());
    }

    #[test]
    fn phases_run_in_order_before_the_final_rate() {
        let phase = |rate: &str, ms| Phase { rate: rate.parse().unwrap(), duration: Span::from_millis(ms) };
        let phases = vec![phase("4MB/s", 500), phase("0", 1000), phase("40MB/s", 250)];
        let workload = Workload { phases, ..workload("0") };
        let seen = run(&workload, 100, 100 * SECOND);
        let expected = (4_000_000 / 2 + 40_000_000 / 4) / 4096;
        assert!(seen.pages_dirtied.abs_diff(expected) <= 2, "{} pages", seen.pages_dirtied);
        assert_eq!(seen.pages_forgone, 0);
    }

    #[test]
    fn an_unlimited_lane_stops_when_told() {
        let seen = run(&workload("unlimited"), 1_000, SECOND / 100);
        // One reading per page and one per batch; the last batch is completed.
        assert!((9_900..=10_600).contains(&seen.pages_dirtied), "{}", seen.pages_dirtied);
    }

    #[test]
    fn a_cpu_too_slow_for_the_rate_forgoes_pages() {
        // 10 us per page allow 100,000 pages/s; 244,140 are requested.
        let seen = run(&workload("1GB/s"), 10_000, SECOND);
        assert!(seen.pages_dirtied > 90_000, "{}", seen.pages_dirtied);
        let asked = seen.pages_dirtied + seen.pages_forgone;
        assert!(asked.abs_diff(244_140) < 10_000, "{asked} written and forgone");
        assert!(seen.longest_stall_ns < 100_000_000);
    }
}
