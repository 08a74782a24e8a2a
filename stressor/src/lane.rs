//! A lane: one thread that dirties its part of the working set on schedule until it is told to stop.
//!
//! A lane never waits for anything but its schedule: it shares no lock with anybody and does no I/O.
//!
//! **Timing.** Reading the clock costs 20 to 30 ns on a host and 0.1 to 1 µs under emulation. Writing a
//! whole page costs several times that, so each write is timed; writing one word costs less than reading
//! the clock, so words are timed in groups of [`WORDS_TIMED_TOGETHER`]. A group that took no longer than
//! usual counts as that many equal writes; one that took longer as usual ones and a slow one.

use crate::{
    clock::Clock,
    memory::Part,
    meter::LaneMeter,
    pace::{Pacer, Pacing, Turn},
    walk::Walk,
    workload::{Phase, Rate, Workload, Write},
};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How many writes of a word are timed together.
const WORDS_TIMED_TOGETHER: u64 = 64;

/// A group of writes that took this many times what the one before took had a slow write among them.
const SLOW: u64 = 4;

/// The longest that a lane sleeps without looking whether it should stop, in nanoseconds.
const NAP_NS: u64 = 10_000_000;

/// The schedule all lanes of a workload follow.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    phases: Vec<Phase>,
    then: Rate,
    pacing: Pacing,
    start_ns: u64,
}

impl Schedule {
    pub(crate) fn new(workload: &Workload, start_ns: u64) -> Self {
        let pacing = Pacing { step_ns: workload.step.as_nanos(), catch_up: workload.catch_up };
        Self { phases: workload.phases.clone(), then: workload.rate, pacing, start_ns }
    }

    /// Each stretch of time with its rate: where it starts, where it ends.
    fn stretches(&self) -> impl Iterator<Item = (Rate, u64, u64)> {
        let mut start = self.start_ns;
        let phases = self.phases.iter().map(|phase| (phase.rate, Some(phase.duration.as_nanos())));
        phases.chain([(self.then, None)]).map(move |(rate, duration)| {
            let end = duration.map_or(u64::MAX, |ns| start.saturating_add(ns));
            (rate, std::mem::replace(&mut start, end), end)
        })
    }
}

/// What one thread works with.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    pub(crate) number: u64,
    pub(crate) of: u64,
    pub(crate) part: Part<'a>,
    pub(crate) walk: &'a mut Walk,
    pub(crate) meter: &'a LaneMeter,
}

impl Lane<'_> {
    /// Dirties on schedule. Returns when told to stop, or when nothing more will ever be due.
    pub(crate) fn run(mut self, schedule: &Schedule, clock: &impl Clock, stop: &AtomicBool) {
        for (rate, start_ns, end_ns) in schedule.stretches() {
            if rate.is_idle() && end_ns == u64::MAX {
                return;
            }
            let mut pacer = Pacer::new(rate, schedule.pacing, (self.number, self.of), start_ns);
            loop {
                if stop.load(Relaxed) {
                    return;
                }
                let now = clock.now_ns();
                let over = now >= end_ns;
                // What came due by the end of a phase still belongs to it.
                match pacer.turn(now.min(end_ns)) {
                    Turn::Sleep { .. } if over => {}
                    Turn::Sleep { until_ns } => clock.sleep_until(until_ns.min(end_ns).min(now + NAP_NS)),
                    Turn::Write { pages, due_ns, forgone } => {
                        self.meter.forwent(forgone);
                        self.write(pages, due_ns, now, clock);
                    }
                }
                if over {
                    break;
                }
            }
        }
    }

    /// Writes this many pages, the first of which was due at `due_ns`, beginning at `now_ns`.
    fn write(&mut self, pages: u64, due_ns: u64, now_ns: u64, clock: &impl Clock) {
        // A wake-up that came late is a stall; a CPU that is not fast enough is not.
        self.meter.stalled(now_ns.saturating_sub(due_ns));
        let together = match self.part.recipe.write {
            Write::Page => 1,
            Write::Word => WORDS_TIMED_TOGETHER,
        };
        let mut left = pages;
        let mut before = now_ns;
        let mut usual_ns = u64::MAX / SLOW;
        while left > 0 {
            let group = left.min(together);
            self.write_next(group);
            left -= group;
            let after = clock.now_ns();
            // A clock may stand still, and after a migration has been seen to go back a little.
            let took = after.saturating_sub(before);
            before = after;
            let each_ns = took / group;
            let slow_ns = if each_ns > usual_ns * SLOW { took - usual_ns * (group - 1) } else { each_ns };
            if slow_ns == each_ns {
                usual_ns = each_ns;
                self.meter.wrote(group, each_ns);
            } else {
                self.meter.wrote(group - 1, usual_ns);
                self.meter.wrote(1, slow_ns);
            }
            self.meter.stalled(slow_ns);
        }
    }

    /// Writes the next pages.
    #[inline]
    fn write_next(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let pages = self.walk.next(left);
            left -= pages.len() as u64;
            self.part.write(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::Recipe,
        memory::{Region, Use},
        meter::{Meter, Reader},
        sys::Backing,
        verify::Area,
        workload::{Content, pages_for},
    };
    use std::{cell::Cell, sync::Arc};
    use units::{Bytes, Span};

    const SECOND: u64 = 1_000_000_000;

    /// A clock that advances by itself when read, sleeps exactly, and tells the lane to stop at a time.
    struct Script<'a> {
        now_ns: Cell<u64>,
        per_reading_ns: u64,
        stop_at_ns: u64,
        stop: &'a AtomicBool,
    }

    impl Clock for Script<'_> {
        fn now_ns(&self) -> u64 {
            let now = self.now_ns.get() + self.per_reading_ns;
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

    /// Runs one lane by the script, checks the memory, and gives what was counted.
    fn run(workload: &Workload, per_reading_ns: u64, stop_at_ns: u64) -> crate::meter::Interval {
        let recipe = Recipe { content: Content::Random, write: workload.write, seed: 1 };
        let pages = pages_for(workload.working_set);
        let mut region = Region::new(pages, Backing::Small, recipe, Use::Dirtied).unwrap();
        let meter = Arc::new(Meter::default());
        let mut walk = Walk::new(workload, pages, 0);
        let part = region.parts(1).remove(0);
        let lane = Lane { number: 0, of: 1, part, walk: &mut walk, meter: &meter.lanes(1)[0] };
        let stop = AtomicBool::new(false);
        let clock = Script { now_ns: Cell::new(0), per_reading_ns, stop_at_ns, stop: &stop };
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
        // It wakes up on time and then reads the clock.
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
    fn phases_follow_each_other_and_then_the_rate() {
        let phase = |rate: &str, ms| Phase { rate: rate.parse().unwrap(), duration: Span::from_millis(ms) };
        let phases = vec![phase("4MB/s", 500), phase("0", 1000), phase("40MB/s", 250)];
        let workload = Workload { phases, ..workload("0") };
        let seen = run(&workload, 100, 100 * SECOND);
        let expected = (4_000_000 / 2 + 40_000_000 / 4) / 4096;
        assert!(seen.pages_dirtied.abs_diff(expected) <= 2, "{} pages", seen.pages_dirtied);
        assert_eq!(seen.pages_forgone, 0);
    }

    #[test]
    fn unlimited_stops_when_told() {
        let seen = run(&workload("unlimited"), 1_000, SECOND / 100);
        // A reading for each page, one to begin each batch, and the last batch is written to its end.
        assert!((9_900..=10_600).contains(&seen.pages_dirtied), "{}", seen.pages_dirtied);
    }

    #[test]
    fn a_cpu_too_slow_for_the_rate_forgoes_the_rest() {
        // 10 us a page: 100,000 pages/s, where 244,140 are asked for.
        let seen = run(&workload("1GB/s"), 10_000, SECOND);
        assert!(seen.pages_dirtied > 90_000, "{}", seen.pages_dirtied);
        let asked = seen.pages_dirtied + seen.pages_forgone;
        assert!(asked.abs_diff(244_140) < 10_000, "{asked} written and forgone");
        assert!(seen.longest_stall_ns < 100_000_000);
    }
}
