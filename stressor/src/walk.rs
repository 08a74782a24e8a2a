//! Which page is written next: the [`Order`] setting, made into an endless sequence of page numbers.

use crate::workload::{Order, Workload};
use std::ops::Range;
use units::random::{Random, mix};

/// An endless walk over pages `0..pages`.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pages: u64,
    step: Step,
}

#[derive(Debug, Clone)]
enum Step {
    Sequential { next: u64 },
    Random { dice: Random },
    HotCold { dice: Random, hot_pages: u64, hot_writes: u64 },
}

/// Hot writes are decided by a throw below this share of it.
const ALL: u64 = 1 << 32;

impl Walk {
    /// A walk over `pages` pages, more than none, in the order of the workload. Walks of different `lane`s
    /// are independent of each other.
    pub(crate) fn new(workload: &Workload, pages: u64, lane: u64) -> Self {
        debug_assert!(pages > 0, "a walk needs a page to stand on");
        let dice = Random::of(workload.seed ^ mix(lane + 1));
        let step = match workload.order {
            Order::Sequential => Step::Sequential { next: 0 },
            // The only page there is cannot be both hot and cold.
            Order::HotCold { .. } | Order::Random if pages == 1 => Step::Sequential { next: 0 },
            Order::Random => Step::Random { dice },
            Order::HotCold { writes, pages: hot } => {
                Step::HotCold { dice, hot_pages: hot.of(pages), hot_writes: writes.of(ALL) }
            }
        };
        Self { pages, step }
    }

    /// The next pages that follow each other in memory, at most `most` of them; at least one, if `most` is.
    #[inline]
    pub(crate) fn next(&mut self, most: u64) -> Range<usize> {
        let page = match &mut self.step {
            Step::Sequential { next } => {
                let first = *next;
                let end = self.pages.min(first + most);
                *next = if end == self.pages { 0 } else { end };
                return first as usize..end as usize;
            }
            Step::Random { dice } => dice.below(self.pages),
            Step::HotCold { dice, hot_pages, hot_writes } => {
                if dice.below(ALL) < *hot_writes {
                    dice.below(*hot_pages)
                } else {
                    *hot_pages + dice.below(self.pages - *hot_pages)
                }
            }
        };
        page as usize..page as usize + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(order: &str, pages: u64, steps: usize) -> Vec<u64> {
        let workload = Workload { order: order.parse().unwrap(), ..Workload::default() };
        let mut walk = Walk::new(&workload, pages, 0);
        let mut visits = vec![0; pages as usize];
        for _ in 0..steps {
            visits[walk.next(1).start] += 1;
        }
        visits
    }

    #[test]
    fn sequential_visits_all_before_any_twice() {
        assert_eq!(visits("sequential", 7, 7), [1; 7]);
        assert_eq!(visits("sequential", 7, 16), [3, 3, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn pages_that_follow_each_other_come_together() {
        let walk = |order: &str| {
            let workload = Workload { order: order.parse().unwrap(), ..Workload::default() };
            let mut walk = Walk::new(&workload, 7, 0);
            [4, 4, 5, 9].map(|most| walk.next(most))
        };
        assert_eq!(walk("sequential"), [0..4, 4..7, 0..5, 5..7]);
        assert!(walk("random").iter().all(|pages| pages.len() == 1 && pages.end <= 7));
    }

    #[test]
    fn random_visits_all_about_equally() {
        let visits = visits("random", 100, 100_000);
        // 6 standard deviations of a count whose mean is 1000.
        assert!(visits.iter().all(|&count| (810..1190).contains(&count)), "{visits:?}");
    }

    #[test]
    fn hot_pages_get_their_share() {
        let visits = visits("hot-cold:90%/10%", 1000, 1_000_000);
        let hot: u64 = visits[..100].iter().sum();
        assert!((897_000..903_000).contains(&hot), "{hot} writes to hot pages");
        assert!(visits.iter().all(|&count| count > 0), "every page is visited");
    }

    #[test]
    fn even_one_page_can_be_walked() {
        for order in ["sequential", "random", "hot-cold:99.9%/0.1%"] {
            assert_eq!(visits(order, 1, 5), [5]);
            assert!(visits(order, 2, 100_000).iter().all(|&count| count > 0), "{order}");
        }
    }

    #[test]
    fn lanes_and_seeds_walk_differently() {
        let steps = |seed, lane| {
            let workload = Workload { order: Order::Random, seed, ..Workload::default() };
            let mut walk = Walk::new(&workload, 1000, lane);
            [(); 16].map(|()| walk.next(1))
        };
        assert_ne!(steps(1, 0), steps(1, 1));
        assert_ne!(steps(1, 0), steps(2, 0));
        assert_eq!(steps(1, 0), steps(1, 0));
    }
}
