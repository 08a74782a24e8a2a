//! The order in which pages are written: turns the setting [`Order`] into an endless sequence of page
//! numbers.

use crate::workload::{Order, Workload};
use std::ops::Range;
use units::random::{Random, mix};

/// An endless sequence of page numbers in `0..pages`.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pages: u64,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Sequential { next: u64 },
    Random { random: Random },
    HotCold { random: Random, hot_pages: u64, hot_writes: u64 },
}

/// The range of the random numbers that decide between hot and cold pages.
const SCALE: u64 = 1 << 32;

impl Walk {
    /// Creates a walk over `pages` pages (at least 1) in the order of the workload. The walks of different
    /// lanes are independent of each other.
    pub(crate) fn new(workload: &Workload, pages: u64, lane: u64) -> Self {
        debug_assert!(pages > 0, "a walk needs at least one page");
        let random = Random::from_mixed(workload.seed ^ mix(lane + 1));
        let state = match workload.order {
            Order::Sequential => State::Sequential { next: 0 },
            // A single page cannot be divided into hot and cold ones.
            Order::HotCold { .. } | Order::Random if pages == 1 => State::Sequential { next: 0 },
            Order::Random => State::Random { random },
            Order::HotCold { writes, pages: hot } => {
                State::HotCold { random, hot_pages: hot.of(pages), hot_writes: writes.of(SCALE) }
            }
        };
        Self { pages, state }
    }

    /// Returns the next pages, as many as are consecutive in memory, but at most `most`. Returns at least one
    /// page if `most` is at least 1.
    #[inline]
    pub(crate) fn next(&mut self, most: u64) -> Range<usize> {
        let page = match &mut self.state {
            State::Sequential { next } => {
                let first = *next;
                let end = self.pages.min(first + most);
                *next = if end == self.pages { 0 } else { end };
                return first as usize..end as usize;
            }
            State::Random { random } => random.below(self.pages),
            State::HotCold { random, hot_pages, hot_writes } => {
                if random.below(SCALE) < *hot_writes {
                    random.below(*hot_pages)
                } else {
                    *hot_pages + random.below(self.pages - *hot_pages)
                }
            }
        };
        page as usize..page as usize + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of visits to each page in a walk of `steps` steps.
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
    fn sequential_visits_every_page_before_repeating() {
        assert_eq!(visits("sequential", 7, 7), [1; 7]);
        assert_eq!(visits("sequential", 7, 16), [3, 3, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn consecutive_pages_are_returned_as_one_range() {
        let walk = |order: &str| {
            let workload = Workload { order: order.parse().unwrap(), ..Workload::default() };
            let mut walk = Walk::new(&workload, 7, 0);
            [4, 4, 5, 9].map(|most| walk.next(most))
        };
        assert_eq!(walk("sequential"), [0..4, 4..7, 0..5, 5..7]);
        assert!(walk("random").iter().all(|pages| pages.len() == 1 && pages.end <= 7));
    }

    #[test]
    fn random_visits_all_pages_about_equally() {
        let visits = visits("random", 100, 100_000);
        // 6 standard deviations of a count whose mean is 1000.
        assert!(visits.iter().all(|&count| (810..1190).contains(&count)), "{visits:?}");
    }

    #[test]
    fn hot_pages_get_their_percentage_of_writes() {
        let visits = visits("hot-cold:90%/10%", 1000, 1_000_000);
        let hot: u64 = visits[..100].iter().sum();
        assert!((897_000..903_000).contains(&hot), "{hot} writes to hot pages");
        assert!(visits.iter().all(|&count| count > 0), "every page is visited");
    }

    #[test]
    fn one_and_two_pages_can_be_walked() {
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
