//! The counters of the dirtying threads, which can be read while the threads run.
//!
//! Counting must not disturb the dirtying: each lane has counters of its own, which no other lane changes,
//! with plain loads and stores. A lane never waits for a reader. A reader may see the counters at slightly
//! different moments, but it does not lose anything: the next reading includes what this one missed.
//!
//! Latencies are counted in buckets whose width is 1/32 of their value, so percentiles are accurate to 3 %.
//! The longest write and the longest stall are exact.

use crate::protocol::Latency;
use hdrhistogram::Histogram;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// The counters of all lanes of a stressor, shared between the lanes and their reader.
#[derive(Debug, Default)]
pub struct Meter {
    running: AtomicBool,
    lanes: Mutex<Vec<Arc<LaneMeter>>>,
}

/// The counters of a single lane.
#[derive(Debug)]
pub(crate) struct LaneMeter {
    pages_dirtied: AtomicU64,
    pages_forgone: AtomicU64,
    longest_stall_ns: AtomicU64,
    longest_write_ns: AtomicU64,
    writes: Box<[AtomicU64; buckets::COUNT]>,
}

/// A reader of a [`Meter`], which returns the changes since its last reading. A meter should have a single
/// reader, because reading resets the longest stall and the longest write.
#[derive(Debug)]
pub struct Reader {
    meter: Arc<Meter>,
    pages_dirtied: u64,
    pages_forgone: u64,
    writes: Vec<u64>,
}

/// The activity of all lanes between two readings.
#[derive(Debug, Clone)]
pub struct Interval {
    /// The number of pages dirtied. A page counts each time it is written.
    pub pages_dirtied: u64,
    /// The number of pages that were due during stalls and were dropped.
    pub pages_forgone: u64,
    /// The longest delay between two consecutive writes, in nanoseconds, not counting the pauses of pacing.
    pub longest_stall_ns: u64,
    /// The longest time that a write took, in nanoseconds.
    pub longest_write_ns: u64,
    /// The times that the writes took, in nanoseconds, accurate to 3 %.
    pub writes: Histogram<u64>,
}

impl Meter {
    /// Returns whether the engine is started. A started engine dirties memory, unless the rate is 0.
    pub fn is_running(&self) -> bool {
        self.running.load(Relaxed)
    }

    pub(crate) fn set_running(&self, running: bool) {
        self.running.store(running, Relaxed);
    }

    /// Returns the counters of the first `count` lanes. A lane always gets the same counters.
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
    /// Records `count` writes that took `ns` nanoseconds each.
    #[inline]
    pub(crate) fn record_writes(&self, count: u64, ns: u64) {
        add(&self.pages_dirtied, count);
        add(&self.writes[buckets::index(ns)], count);
        raise(&self.longest_write_ns, ns);
    }

    /// Records that a write was `ns` nanoseconds late.
    #[inline]
    pub(crate) fn record_stall(&self, ns: u64) {
        raise(&self.longest_stall_ns, ns);
    }

    /// Records that `pages` pages were dropped.
    pub(crate) fn record_forgone(&self, pages: u64) {
        add(&self.pages_forgone, pages);
    }
}

/// Adds to a counter that has no other writer. This is cheaper than an atomic addition.
#[inline]
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Raises a maximum that a reader may reset to 0 at any time.
#[inline]
fn raise(cell: &AtomicU64, value: u64) {
    if value > cell.load(Relaxed) {
        cell.fetch_max(value, Relaxed);
    }
}

impl Reader {
    /// The number of entries of [`Reader::distribution`], which equals that of QEMU's distribution of page
    /// fault latencies.
    pub const DISTRIBUTION: usize = 24;

    /// Creates a reader whose first interval begins with the creation of the meter.
    pub fn new(meter: Arc<Meter>) -> Self {
        Self { meter, pages_dirtied: 0, pages_forgone: 0, writes: vec![0; buckets::COUNT] }
    }

    /// Returns whether the engine is started. A started engine dirties memory, unless the rate is 0.
    pub fn is_running(&self) -> bool {
        self.meter.is_running()
    }

    /// Returns the number of pages dirtied from the creation of the meter to the last reading.
    pub fn pages_dirtied(&self) -> u64 {
        self.pages_dirtied
    }

    /// Returns the number of pages forgone from the creation of the meter to the last reading.
    pub fn pages_forgone(&self) -> u64 {
        self.pages_forgone
    }

    /// Returns how many writes took how long, from the creation of the meter to the last reading. Entry `n`
    /// counts the writes that took 2^n to 2^(n+1) microseconds. The first entry includes the shorter ones,
    /// and the last of the [`Reader::DISTRIBUTION`] entries the longer ones.
    pub fn distribution(&self) -> [u64; Self::DISTRIBUTION] {
        let mut counts = [0; Self::DISTRIBUTION];
        for (bucket, count) in self.writes.iter().enumerate() {
            let micros = (buckets::middle(bucket) / 1000).max(1);
            counts[(micros.ilog2() as usize).min(Self::DISTRIBUTION - 1)] += count;
        }
        counts
    }

    /// Reads the counters. Returns the activity since the last reading.
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
                // Cannot fail: the histogram resizes itself.
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
    /// Creates an interval without activity, to which others can be added.
    pub fn empty() -> Self {
        Self {
            pages_dirtied: 0,
            pages_forgone: 0,
            longest_stall_ns: 0,
            longest_write_ns: 0,
            writes: new_histogram(),
        }
    }

    /// Extends this interval by `other`.
    pub fn add(&mut self, other: &Self) {
        self.pages_dirtied += other.pages_dirtied;
        self.pages_forgone += other.pages_forgone;
        self.longest_stall_ns = self.longest_stall_ns.max(other.longest_stall_ns);
        self.longest_write_ns = self.longest_write_ns.max(other.longest_write_ns);
        // Cannot fail: the histogram resizes itself.
        let _ = self.writes.add(&other.writes);
    }

    /// Returns the distribution of the write latency.
    pub fn latency(&self) -> Latency {
        // The middle of the last bucket may be larger than the longest write.
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
    // Two significant digits are finer than the buckets. The range grows as needed.
    Histogram::new(2).expect("histograms accept 2 significant digits")
}

/// The buckets of latencies: one per nanosecond below 32 ns, then 32 for each doubling.
mod buckets {
    const BITS: u32 = 5;
    const PER_DOUBLING: usize = 1 << BITS;
    /// The longest time with a bucket of its own. Times of 2^41 ns (37 minutes) and more share the last
    /// bucket.
    const LARGEST: u64 = (1 << 41) - 1;
    pub(super) const COUNT: usize = (41 - BITS as usize + 1) * PER_DOUBLING;

    /// Returns the bucket of a time.
    #[inline]
    pub(super) fn index(ns: u64) -> usize {
        let ns = ns.min(LARGEST);
        let doubling = (ns | (PER_DOUBLING as u64 - 1)).ilog2() + 1 - BITS;
        if doubling == 0 {
            return ns as usize;
        }
        (doubling as usize) * PER_DOUBLING + ((ns >> (doubling - 1)) as usize - PER_DOUBLING)
    }

    /// Returns the time in the middle of a bucket, in nanoseconds.
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
        fn every_time_is_within_3_percent_of_its_buckets_middle() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_has_all_writes_by_powers_of_two_of_microseconds() {
        let meter = Arc::<Meter>::default();
        for (count, ns) in [(1, 5), (2, 1_500), (4, 2_100), (8, 1_100_000), (16, u64::MAX)] {
            meter.lanes(1)[0].record_writes(count, ns);
        }
        let mut reader = Reader::new(meter);
        assert_eq!(reader.distribution(), [0; Reader::DISTRIBUTION]);
        reader.interval();
        let counts = reader.distribution();
        assert_eq!((counts[0], counts[1], counts[10], counts[23]), (3, 4, 8, 16));
        assert_eq!(counts.iter().sum::<u64>(), 31);
    }
}
