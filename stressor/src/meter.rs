//! What the dirtying threads count, and how others read it while they run.
//!
//! Counting must not disturb what is counted: each lane has cells of its own, which only it adds to, with
//! plain loads and stores. No lane ever waits for a reader. A reader sees the counts of a moment that need
//! not be the same for every cell, but misses nothing: what it does not see now it sees the next time.
//!
//! Latencies are counted in buckets whose width is 1/32 of their value, so a percentile is exact to 3 %;
//! the longest write and the longest stall are exact.

use crate::protocol::Latency;
use hdrhistogram::Histogram;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// Everything the lanes of one stressor count. Shared between the lanes and their readers.
#[derive(Debug, Default)]
pub struct Meter {
    running: AtomicBool,
    lanes: Mutex<Vec<Arc<LaneMeter>>>,
}

/// What one lane counts.
#[derive(Debug)]
pub(crate) struct LaneMeter {
    pages_dirtied: AtomicU64,
    pages_forgone: AtomicU64,
    longest_stall_ns: AtomicU64,
    longest_write_ns: AtomicU64,
    writes: Box<[AtomicU64; buckets::COUNT]>,
}

/// Reads a [`Meter`], interval by interval. The longest stall and write of an interval go to the reader that
/// asks first, so a meter should have one reader.
#[derive(Debug)]
pub struct Reader {
    meter: Arc<Meter>,
    pages_dirtied: u64,
    pages_forgone: u64,
    writes: Vec<u64>,
}

/// What happened between two readings, over all lanes.
#[derive(Debug, Clone)]
pub struct Interval {
    /// Pages dirtied; the same page counts each time.
    pub pages_dirtied: u64,
    /// Pages that a stall prevented and that are not made up for.
    pub pages_forgone: u64,
    /// The longest time between two writes that should have followed each other, in nanoseconds.
    pub longest_stall_ns: u64,
    /// The longest that a write took, in nanoseconds.
    pub longest_write_ns: u64,
    /// The time that each write took, in nanoseconds, to 3 %.
    pub writes: Histogram<u64>,
}

impl Meter {
    /// Whether the stressor is dirtying.
    pub fn is_running(&self) -> bool {
        self.running.load(Relaxed)
    }

    pub(crate) fn set_running(&self, running: bool) {
        self.running.store(running, Relaxed);
    }

    /// The cells of the first `count` lanes. The same lane always gets the same cells.
    pub(crate) fn lanes(&self, count: usize) -> Vec<Arc<LaneMeter>> {
        let mut lanes = self.lock();
        while lanes.len() < count {
            lanes.push(Arc::default());
        }
        lanes[..count].to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<LaneMeter>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LaneMeter {
    fn default() -> Self {
        Self {
            pages_dirtied: AtomicU64::new(0),
            pages_forgone: AtomicU64::new(0),
            longest_stall_ns: AtomicU64::new(0),
            longest_write_ns: AtomicU64::new(0),
            writes: Box::new([const { AtomicU64::new(0) }; buckets::COUNT]),
        }
    }
}

impl LaneMeter {
    /// `count` writes were made that took `ns` nanoseconds each.
    #[inline]
    pub(crate) fn wrote(&self, count: u64, ns: u64) {
        add(&self.pages_dirtied, count);
        add(&self.writes[buckets::index(ns)], count);
        raise(&self.longest_write_ns, ns);
    }

    /// A write came `ns` nanoseconds after it should have.
    #[inline]
    pub(crate) fn stalled(&self, ns: u64) {
        raise(&self.longest_stall_ns, ns);
    }

    /// `pages` pages were dropped.
    pub(crate) fn forwent(&self, pages: u64) {
        add(&self.pages_forgone, pages);
    }
}

/// Adds to a cell that nobody else adds to: cheaper than an atomic addition.
#[inline]
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Raises a cell that a reader may set back to 0 at any time.
#[inline]
fn raise(cell: &AtomicU64, value: u64) {
    if value > cell.load(Relaxed) {
        cell.fetch_max(value, Relaxed);
    }
}

impl Reader {
    /// A reader of everything that the meter counts from its beginning.
    pub fn new(meter: Arc<Meter>) -> Self {
        Self { meter, pages_dirtied: 0, pages_forgone: 0, writes: vec![0; buckets::COUNT] }
    }

    /// Whether the stressor is dirtying.
    pub fn is_running(&self) -> bool {
        self.meter.is_running()
    }

    /// Pages dirtied from the beginning to the last reading.
    pub fn pages_dirtied(&self) -> u64 {
        self.pages_dirtied
    }

    /// Pages forgone from the beginning to the last reading.
    pub fn pages_forgone(&self) -> u64 {
        self.pages_forgone
    }

    /// What happened since the last reading.
    pub fn interval(&mut self) -> Interval {
        let lanes = self.meter.lock();
        let sum = |cell: fn(&LaneMeter) -> &AtomicU64| lanes.iter().map(|l| cell(l).load(Relaxed)).sum();
        let take = |cell: fn(&LaneMeter) -> &AtomicU64| lanes.iter().map(|l| cell(l).swap(0, Relaxed)).max();
        let longest_write_ns: u64 = take(|lane| &lane.longest_write_ns).unwrap_or(0);
        let longest_stall_ns = take(|lane| &lane.longest_stall_ns).unwrap_or(0);
        let (dirtied, forgone): (u64, u64) =
            (sum(|lane| &lane.pages_dirtied), sum(|lane| &lane.pages_forgone));

        let mut writes = new_histogram();
        for (bucket, seen) in self.writes.iter_mut().enumerate() {
            let count: u64 = lanes.iter().map(|lane| lane.writes[bucket].load(Relaxed)).sum();
            if count > *seen {
                // A histogram that grows by itself takes any value.
                let _ = writes.record_n(buckets::middle(bucket), count - *seen);
                *seen = count;
            }
        }
        let interval = Interval {
            pages_dirtied: dirtied - self.pages_dirtied,
            pages_forgone: forgone - self.pages_forgone,
            longest_stall_ns,
            longest_write_ns,
            writes,
        };
        (self.pages_dirtied, self.pages_forgone) = (dirtied, forgone);
        interval
    }
}

impl Interval {
    /// Nothing, to add intervals up from.
    pub fn empty() -> Self {
        Self {
            pages_dirtied: 0,
            pages_forgone: 0,
            longest_stall_ns: 0,
            longest_write_ns: 0,
            writes: new_histogram(),
        }
    }

    /// Makes this the interval that spans itself and `other`.
    pub fn add(&mut self, other: &Self) {
        self.pages_dirtied += other.pages_dirtied;
        self.pages_forgone += other.pages_forgone;
        self.longest_stall_ns = self.longest_stall_ns.max(other.longest_stall_ns);
        self.longest_write_ns = self.longest_write_ns.max(other.longest_write_ns);
        // Histograms that grow by themselves can always be added.
        let _ = self.writes.add(&other.writes);
    }

    /// The distribution of the time a write took.
    pub fn latency(&self) -> Latency {
        // The middle of the last bucket may lie beyond the longest write.
        let quantile = |q| self.writes.value_at_quantile(q).min(self.longest_write_ns);
        Latency {
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            max_ns: self.longest_write_ns,
        }
    }
}

fn new_histogram() -> Histogram<u64> {
    // Two significant digits are finer than the buckets; the range grows as needed.
    Histogram::new(2).expect("2 is a number of digits that histograms accept")
}

/// Which bucket a time falls into: exact below 32 ns, then 32 buckets to each doubling.
mod buckets {
    const BITS: u32 = 5;
    const PER_DOUBLING: usize = 1 << BITS;
    /// Times of 2^41 ns (37 minutes) and more share the last bucket.
    const LARGEST: u64 = (1 << 41) - 1;
    pub(super) const COUNT: usize = (41 - BITS as usize + 1) * PER_DOUBLING;

    #[inline]
    pub(super) fn index(ns: u64) -> usize {
        let ns = ns.min(LARGEST);
        let doubling = (ns | (PER_DOUBLING as u64 - 1)).ilog2() + 1 - BITS;
        if doubling == 0 {
            return ns as usize;
        }
        (doubling as usize) * PER_DOUBLING + ((ns >> (doubling - 1)) as usize - PER_DOUBLING)
    }

    /// The middle of a bucket.
    pub(super) fn middle(index: usize) -> u64 {
        let (doubling, within) = (index / PER_DOUBLING, index % PER_DOUBLING);
        if doubling == 0 {
            return within as u64;
        }
        let width = 1u64 << (doubling - 1);
        (PER_DOUBLING + within) as u64 * width + width / 2
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_time_lies_within_3_percent_of_the_middle_of_its_bucket() {
            let powers = (0..41).map(|power| 1u64 << power);
            for ns in powers.flat_map(|p| [p.saturating_sub(1), p, p + 1, p + p / 3, p + p / 2 + p / 7]) {
                let middle = middle(index(ns));
                assert!(middle.abs_diff(ns) * 32 <= ns, "{ns} is counted as {middle}");
            }
        }

        #[test]
        fn buckets_are_in_order_without_gaps() {
            for bucket in 0..COUNT {
                assert_eq!(index(middle(bucket)), bucket);
            }
            assert_eq!(index(u64::MAX), COUNT - 1);
        }
    }
}
