//! The section `stress` of a matrix, and its conversion to the stressor's workload.

use super::{LoadRate, Settings, TraceFile, Wave, WorkingSet, field::section};
use std::ops::Not;
use stressor::workload::{CatchUp, Content, Order, PageSize, Phase, Rate, Workload, Write};
use units::{Bytes, Span};

section! {
    /// The workload in the guest: how the stressor dirties memory before, during and after the migration. By
    /// default the guest is idle. (Memory that is only filled once is `guest.ballast`.)
    pub struct Stress {
        /// The dirty rate: how many bytes of memory all threads together dirty per second, in pages of 4 KiB.
        /// `0` leaves the guest idle; `unlimited` dirties memory as fast as the guest's CPUs can.
        pub rate: Rate = Rate::IDLE,
        /// The memory that is dirtied over and over. Either a size, such as `96MB`, or a time, such as `1s`:
        /// the memory that `rate` dirties in this time. With an `unlimited` rate, it must be a size. Rounded
        /// up to whole pages.
        pub working_set: WorkingSet = WorkingSet::default(),
        /// The content of the working set's pages. It decides how well they compress, and whether QEMU sends
        /// them as zero pages.
        pub content: Content = Content::default(),
        /// How much of a page a single write changes.
        pub write: Write = Write::default(),
        /// The order in which the pages of the working set are written.
        pub order: Order = Order::default(),
        /// The number of threads that write, each to its own part of the working set. Threads are pinned to
        /// the guest's CPUs in turn. At least 1, at most 16 for each CPU of the guest, and at most one for
        /// each page of the working set.
        #[schemars(range(min = 1))]
        pub threads: u32 = 1,
        /// The size of the pages that back the working set in the guest. The guest reserves huge pages whole,
        /// so they must fit into its memory. Whatever the size, memory is dirtied in units of 4 KiB.
        pub page_size: PageSize = PageSize::default(),
        /// The time between two wake-ups of a writing thread, each of which writes the pages that have come
        /// due since the last one. From `10us` to `1ms`. A shorter step dirties more evenly and costs more
        /// CPU time.
        pub step: Span = Workload::LONGEST_STEP,
        /// Whether writes that a stall of the guest prevented are made up for afterwards.
        pub catch_up: CatchUp = CatchUp::default(),
        /// Dirty rates for successive periods of the migration; after the last, `rate` applies. The first is
        /// in force from the beginning: the guest settles at it, and its duration counts from the migrate
        /// command. A period has no effect if the guest has already stopped at the source when it begins.
        /// `timeline` can change the rate as well, and much else, but a matrix can use only one of them for
        /// the rate.
        pub phases: Vec<Phase> = Vec::new(),
        /// Whether the phases start over after the last, again and again until the deadline. Then `rate`
        /// never applies. They change the rate at most 10000 times.
        #[serde(skip_serializing_if = "Not::not")]
        #[schemars(extend("default" = false))]
        pub repeat_phases: bool = false,
        /// A dirty rate that alternates between `low` and `high` until the guest stops at the source. The
        /// wave begins with the migrate command, at its lowest step; the guest settles at that rate first.
        /// `rate` never applies, except that a working set given as a time follows from it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub wave: Option<Wave> = None,
        /// The file with the dirty rate over time. It is found relative to the matrix file. Its lines are
        /// like `250ms 64MB/s`, the first at `0s`, and the last is like `6s end`; or it is in Mahimahi's
        /// format, in which each packet stands for 1500 bytes. The trace begins with the migrate command;
        /// before that, the guest settles at its first rate. `rate` never applies, as with `wave`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub trace: Option<TraceFile<LoadRate>> = None,
        /// Whether the trace starts over at its end. If not, its last rate stays.
        #[serde(skip_serializing_if = "Clone::clone")]
        #[schemars(extend("default" = true))]
        pub repeat_trace: bool = true,
        /// The seed of random content and random order. The same seed gives the same content and order.
        pub seed: u64 = 1,
    }
}

impl Stress {
    /// Returns the size of the working set. Returns nothing for a time at an unlimited rate, which
    /// [`Settings::check`] rejects.
    pub fn working_set_bytes(&self) -> Option<Bytes> {
        match (self.working_set, self.rate) {
            (WorkingSet::Size(size), _) => Some(size),
            (WorkingSet::Time(time), Rate::Limited(rate)) => Some(rate.over(time)),
            (WorkingSet::Time(_), Rate::Unlimited) => None,
        }
    }

    /// Returns the amount of memory that the working set takes, in whole pages of its size; 0 where
    /// [`Stress::working_set_bytes`] returns nothing.
    pub fn working_set_in_pages(&self) -> Bytes {
        let page = self.page_size.bytes();
        let pages = self.working_set_bytes().unwrap_or_default().get().div_ceil(page);
        Bytes::new(pages.saturating_mul(page))
    }
}

impl Settings {
    /// Returns the workload with all rates that it may have, so that it can be checked.
    pub(super) fn workload_with_phases(&self) -> Workload {
        let Stress { rate, ref phases, .. } = self.stress;
        let rates = match self.stress.course() {
            Some(course) if phases.is_empty() => {
                let phase = |(_, rate): &(_, _)| Phase { rate: *rate, duration: Span::from_secs(1) };
                course.steps.iter().map(phase).collect()
            }
            _ => phases.clone(),
        };
        // The rate applies only if there is no course.
        let rate = if phases.is_empty() && !rates.is_empty() { Rate::IDLE } else { rate };
        Workload { rate, phases: rates, ..self.workload() }
    }

    /// Returns the workload at the start of the migration. It combines this section with the ballast of the
    /// section `guest`, and has the working set as a size. If the dirty rate follows a course, the workload
    /// has the first rate and no phases: the other rates are among [`Settings::steps`].
    pub fn workload(&self) -> Workload {
        let Stress { rate, content, write, order, threads, page_size, step, catch_up, seed, .. } =
            self.stress;
        Workload {
            rate: self.stress.course().and_then(|course| course.first()).unwrap_or(rate),
            working_set: self.stress.working_set_bytes().unwrap_or_default(),
            ballast: self.guest.ballast,
            content,
            ballast_content: self.guest.ballast_content,
            write,
            order,
            threads,
            page_size,
            step,
            catch_up,
            phases: Vec::new(),
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_match_those_of_the_stressor() {
        assert_eq!(Settings::default().workload(), Workload::default());
    }
}
