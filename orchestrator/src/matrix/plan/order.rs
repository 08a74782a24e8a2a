//! Shuffling that a seed reproduces, on any machine and in any later version, and shards.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use units::random::{STEP, mix};

/// Shuffles by Fisher and Yates, with the numbers of `SplitMix64` (Steele, Lea and Flood, 2014). Its own
/// generator, and not a crate's, because recorded seeds must keep their meaning.
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

    /// A number below `bound`, which is not 0. The bias, `bound / 2^64`, is beyond notice.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }
}

/// One of several equal parts of a matrix: `2/3` is the second of three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    /// From 1 to `count`.
    number: usize,
    count: usize,
}

/// A text that names no part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a shard: write it like `2/3`, the second of three")]
pub struct ShardError(String);

impl Shard {
    /// The one of `count` parts that the item of this position, from 0, belongs to. `count` is not 0.
    pub const fn at(position: usize, count: usize) -> Self {
        Self { number: position % count + 1, count }
    }

    /// Which part it is, from 1.
    pub const fn number(self) -> usize {
        self.number
    }

    /// How many parts there are.
    pub const fn count(self) -> usize {
        self.count
    }

    /// Whether the item of this position, from 0, belongs to this part.
    pub(super) const fn has(self, position: usize) -> bool {
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
        parsed().ok_or_else(|| ShardError(text.into()))
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
    fn a_seed_keeps_its_meaning() {
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
    fn every_place_is_equally_likely() {
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
    fn shards_read_and_print() {
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
        for bad in ["", "3", "0/3", "4/3", "1/0", "a/b", "-1/3"] {
            let error = bad.parse::<Shard>().unwrap_err().to_string();
            assert_eq!(error, format!("`{bad}` is not a shard: write it like `2/3`, the second of three"));
        }
    }
}
