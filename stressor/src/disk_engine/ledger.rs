//! The ledger: the expected content of each block of a disk, and which blocks are in flight.

use crate::disk::Expected;
use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// The table of a disk's blocks, shared by the threads that use them.
#[derive(Debug)]
pub(super) struct Ledger {
    table: Mutex<Table>,
    /// Notifies when blocks are no longer in flight.
    released: Condvar,
}

/// The expected content of the blocks of a disk.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The number of blocks that were written beforehand.
    written: u64,
    /// How many times the load has written each block of the working set, and of previous working sets.
    generations: Vec<u32>,
    /// The blocks whose last write has failed.
    unsure: BTreeSet<u64>,
    /// The blocks in flight: a handful of ranges.
    in_flight: Vec<Range<u64>>,
}

/// Blocks in flight, which no one else can reserve. Dropping it releases them.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    ledger: &'a Ledger,
    range: Range<u64>,
    /// The expected content of each of the blocks.
    expected: Vec<Expected>,
}

impl Ledger {
    /// Creates the ledger of a disk with this many blocks written beforehand.
    pub(super) fn new(written: u64) -> Self {
        let table = Table { written, ..Table::default() };
        Self { table: Mutex::new(table), released: Condvar::new() }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves consecutive blocks. Waits while one of them is in flight.
    pub(super) fn reserve(&self, range: Range<u64>) -> Reserved<'_> {
        let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        let table = self.released.wait_while(self.table(), |table| table.in_flight.iter().any(overlaps));
        let mut table = table.unwrap_or_else(PoisonError::into_inner);
        table.in_flight.push(range.clone());
        let expected = range.clone().map(|index| table.expected(index)).collect();
        Reserved { ledger: self, range, expected }
    }
}

impl Table {
    /// Returns the expected content of the block with this index.
    pub(super) fn expected(&self, index: u64) -> Expected {
        let generation = self.generations.get(index as usize).copied().unwrap_or(0);
        let is_written = generation > 0 || index < self.written;
        Expected { generation: is_written.then_some(generation), unsure: self.unsure.contains(&index) }
    }

    /// Returns whether the load has written, or tried to write, any block.
    pub(super) fn is_written(&self) -> bool {
        !self.unsure.is_empty() || self.generations.iter().any(|&generation| generation > 0)
    }

    /// Returns the size of the table for a working set of this many blocks, in bytes.
    pub(super) fn bytes(blocks: u64) -> u64 {
        blocks * size_of::<u32>() as u64
    }

    /// Makes room for a working set of this many blocks. Keeps what is known about other blocks.
    pub(super) fn grow(&mut self, blocks: u64) {
        let blocks = self.generations.len().max(blocks as usize);
        self.generations.resize(blocks, 0);
    }
}

impl Reserved<'_> {
    /// Returns the index of the first block.
    pub(super) fn first(&self) -> u64 {
        self.range.start
    }

    /// Returns the index and the expected content of each block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, Expected)> {
        self.range.clone().zip(self.expected.iter().copied())
    }

    /// Notes that the first `done` blocks have been written with their next generation, and that writing the
    /// others has failed.
    pub(super) fn written(&self, done: usize) {
        let mut table = self.ledger.table();
        for (at, (index, expected)) in self.blocks().enumerate() {
            if at < done {
                table.generations[index as usize] = expected.next();
                table.unsure.remove(&index);
            } else {
                table.unsure.insert(index);
            }
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.ledger.table().in_flight.retain(|range| *range != self.range);
        self.ledger.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn the_table_knows_what_was_written_and_what_failed() {
        let ledger = Ledger::new(2);
        ledger.table().grow(4);
        let expected = |index| ledger.table().expected(index);
        let sure = |generation| Expected { generation, unsure: false };
        assert_eq!([0, 1, 2, 3, 100].map(expected), [Some(0), Some(0), None, None, None].map(sure));
        assert!(!ledger.table().is_written());

        // A request of which only the first block was written.
        ledger.reserve(2..4).written(1);
        assert_eq!(expected(2), sure(Some(1)));
        assert_eq!(expected(3), Expected { generation: None, unsure: true });
        assert!(ledger.table().is_written());
        // The next attempt writes the same generation, so there are two candidates, not more.
        ledger.reserve(3..4).written(0);
        ledger.reserve(3..4).written(1);
        ledger.reserve(0..1).written(1);
        ledger.reserve(0..1).written(1);
        assert_eq!([0, 1, 2, 3].map(expected), [Some(2), Some(0), Some(1), Some(1)].map(sure));

        // A smaller working set does not forget any blocks.
        ledger.table().grow(1);
        assert_eq!(expected(3), sure(Some(1)));
    }

    #[test]
    fn a_block_is_in_flight_only_once_at_a_time() {
        let ledger = Ledger::new(0);
        ledger.table().grow(3);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for write in 0..500 {
                        // The block in the middle is in both.
                        let reserved = ledger.reserve(if write % 2 == 0 { 0..2 } else { 1..3 });
                        // If anyone else had these blocks now, they would count from the same generations.
                        thread::yield_now();
                        reserved.written(2);
                    }
                });
            }
        });
        let counts = [0, 1, 2].map(|index| ledger.table().expected(index).generation);
        assert_eq!(counts, [1000, 2000, 1000].map(Some));
        assert!(ledger.table().in_flight.is_empty());
    }
}
