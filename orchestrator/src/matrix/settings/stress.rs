//! The section `stress`, and the workload that it amounts to.

use super::{Settings, WorkingSet, field::section};
use stressor::workload::{CatchUp, Content, Order, PageSize, Phase, Rate, Workload, Write};
use units::{Bytes, Span};

section! {
    /// What dirties the guest's memory: a [`Workload`], except that the size of the working set may follow
    /// from the rate, and that the ballast belongs to the guest.
    pub struct Stress {
        /// How fast memory is dirtied: bytes of 4 KiB pages written per second, by all threads together. 0
        /// leaves the guest idle, `unlimited` is as fast as its CPUs can.
        pub rate: Rate = Rate::IDLE,
        /// The memory that is dirtied over and over: a size, or a time, meaning what the rate dirties in that
        /// time.
        pub working_set: WorkingSet = WorkingSet::default(),
        /// What a page of the working set holds.
        pub content: Content = Content::default(),
        /// How much of a page one write stores.
        pub write: Write = Write::default(),
        /// Which page is written next.
        pub order: Order = Order::default(),
        /// How many threads write, each to its own part of the working set, pinned to the guest's CPUs in
        /// turn.
        #[schemars(range(min = 1))]
        pub threads: u32 = 1,
        /// The pages that back the working set. It is dirtied in steps of 4 KiB all the same.
        pub page_size: PageSize = PageSize::default(),
        /// How often to write what has come due since the last time: at most 1ms, at least 10us.
        pub step: Span = Workload::LONGEST_STEP,
        /// Whether writes that a stall prevented are made up for.
        pub catch_up: CatchUp = CatchUp::default(),
        /// Rates for the first stretches of time after the start, one after the other; `rate` holds after
        /// them.
        pub phases: Vec<Phase> = Vec::new(),
        /// Chooses the random content and the random order; the same seed gives the same again.
        pub seed: u64 = 1,
    }
}

impl Stress {
    /// The size of the working set, whichever way it was written. None for a time at an unlimited rate, which
    /// [`Settings::check`] refuses.
    pub fn working_set_bytes(&self) -> Option<Bytes> {
        match (self.working_set, self.rate) {
            (WorkingSet::Size(size), _) => Some(size),
            (WorkingSet::Time(time), Rate::Limited(rate)) => Some(rate.over(time)),
            (WorkingSet::Time(_), Rate::Unlimited) => None,
        }
    }
}

impl Settings {
    /// What the stressor in the guest is asked to do.
    pub fn workload(&self) -> Workload {
        let Stress {
            rate, content, write, order, threads, page_size, step, catch_up, ref phases, seed, ..
        } = self.stress;
        Workload {
            rate,
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
            phases: phases.clone(),
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_stressors() {
        assert_eq!(Settings::default().workload(), Workload::default());
    }
}
