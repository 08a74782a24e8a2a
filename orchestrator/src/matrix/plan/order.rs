//! Shards, and a shuffle that gives the same order for the same seed on every host and in every later
//! version.

use crate::matrix::file::MAX_CELLS;
use frontend::one_line;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use units::random::{STEP, mix};

/// A Fisher-Yates shuffle with random numbers from `SplitMix64` (Steele, Lea and Flood, 2014).
///
/// The generator is our own, not a crate's, because a recorded seed must give the same order forever.
pub(super) struct Shuffle {
    state: u64,
}

impl Shuffle {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn apply<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// Returns a random number below `bound`, which must not be 0. Its bias, `bound / 2^64`, is negligible.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }
}

/// One of several parts of a matrix that are run separately, with about equally many cells each. `2/3` is the
/// second of three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    /// The number of the shard, from 1 to `count`.
    number: usize,
    count: usize,
}

/// An error for a text that is not a shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// It is not written like a shard, or its number is out of range.
    #[error("`{}` is not a shard: write it like `2/3`, the second of three", one_line(.0))]
    Text(String),
    /// It is one of more shards than any matrix has cells.
    #[error("`{}` is one of too many shards: a matrix has at most {MAX_CELLS} cells", one_line(.0))]
    TooMany(String),
}

impl Shard {
    /// Returns the shard to which the cell at `position` (from 0) belongs, of `count` shards. `count` must
    /// not be 0.
    pub const fn at(position: usize, count: usize) -> Self {
        Self { number: position % count + 1, count }
    }

    /// Returns the number of this shard, from 1.
    pub const fn number(self) -> usize {
        self.number
    }

    /// Returns how many shards the matrix is divided into.
    pub const fn count(self) -> usize {
        self.count
    }

    /// Returns whether the cell at `position`, from 0, belongs to this shard.
    pub(super) const fn contains(self, position: usize) -> bool {
        position % self.count == self.number - 1
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let parsed = || {
            let (number, count) = text.trim().split_once('/')?;
            let (number, count) = (number.parse().ok()?, count.parse().ok()?);
            (1 <= number && number <= count).then_some(Self { number, count })
        };
        let shard = parsed().ok_or_else(|| ShardError::Text(text.into()))?;
        // A shard may be empty, so that the number of hosts can be the same for every matrix.
        if shard.count > MAX_CELLS { Err(ShardError::TooMany(text.into())) } else { Ok(shard) }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl TryFrom<String> for Shard {
    type Error = ShardError;

    fn try_from(text: String) -> Result<Self, ShardError> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_order() {
        let shuffled = |seed| {
            let mut items: Vec<_> = (0..8).collect();
            Shuffle::new(seed).apply(&mut items);
            items
        };
        // The first numbers of SplitMix64 from 0, as published.
        let mut numbers = Shuffle::new(0);
        assert_eq!([numbers.next(), numbers.next()], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
    }

    #[test]
    fn every_position_is_equally_likely() {
        let mut shuffle = Shuffle::new(7);
        let mut counts = [0u32; 4];
        for _ in 0..40_000 {
            let mut items = [0, 1, 2, 3];
            shuffle.apply(&mut items);
            counts[items.iter().position(|i| *i == 0).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
    }

    #[test]
    fn shards_parse_and_print() {
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
        assert!("1/100000".parse::<Shard>().is_ok());
        let error = "1/100001".parse::<Shard>().unwrap_err().to_string();
        assert_eq!(error, "`1/100001` is one of too many shards: a matrix has at most 100000 cells");
        for bad in ["", "3", "0/3", "4/3", "1/0", "a/b", "-1/3"] {
            let error = bad.parse::<Shard>().unwrap_err().to_string();
            assert_eq!(error, format!("`{bad}` is not a shard: write it like `2/3`, the second of three"));
        }
    }
}
