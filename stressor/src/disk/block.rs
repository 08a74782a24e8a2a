//! The content of a block as a function of its index and its generation, which is the number of times that
//! the disk load has written it.
//!
//! A block begins with its index and its generation, so no two blocks are equal, and a misplaced or stale
//! block can be named. Random words follow, so neither compression nor the detection of zeros makes a block
//! smaller. They cost a multiplication for each 8 bytes, like those of memory.

use super::verification::BadBlock;
use crate::{content::Lcg, workload::PAGE_BYTES};
use units::random::mix;

/// The unit in which a disk is written and read, in bytes.
pub const BLOCK_BYTES: u64 = 4096;

// A pacer counts pages, and one page is one block.
const _: () = assert!(BLOCK_BYTES == PAGE_BYTES);

/// The number of bytes of a block.
const SIZE: usize = BLOCK_BYTES as usize;

/// The unit that disks write whole, in bytes.
const SECTOR: usize = 512;

/// The number that is combined with the index of a block, so that the index does not look like a small
/// number. Arbitrary.
const INDEX_MASK: u64 = 0x5D15_C0DE_B10C_C0DE;

/// The number that is combined with the generation of a block. Arbitrary.
const GENERATION_MASK: u64 = 0xA7C3_1E5B_92F4_680D;

/// A buffer for one block, aligned as direct I/O needs it.
#[derive(Debug, Clone)]
#[repr(C, align(4096))]
pub(crate) struct Block(pub(crate) [u8; SIZE]);

impl Block {
    pub(crate) const ZEROS: Self = Self([0; SIZE]);
}

/// Fills a buffer with the content of the block with this index, from 0, after this many writes by the disk
/// load. Generation 0 is the content of a block written beforehand.
pub fn fill_block(block: &mut [u8; SIZE], index: u64, generation: u32) {
    let header = header(index, generation);
    let mut random = random_words(header);
    let (words, _) = block.as_chunks_mut();
    for word in words.iter_mut() {
        *word = random.next().to_le_bytes();
    }
    words[0] = header[0].to_le_bytes();
    words[1] = header[1].to_le_bytes();
}

/// Returns the first two words of a block.
fn header(index: u64, generation: u32) -> [u64; 2] {
    [index ^ INDEX_MASK, u64::from(generation) ^ GENERATION_MASK]
}

/// Returns the generator of the words of a block, of which the first two are replaced by the header.
fn random_words(header: [u64; 2]) -> Lcg {
    Lcg::new(mix(header[0].wrapping_add(mix(header[1]))))
}

/// Returns whether a buffer holds exactly the content that [`fill_block`] writes.
fn holds(block: &[u8; SIZE], index: u64, generation: u32) -> bool {
    let header = header(index, generation);
    let mut random = random_words(header);
    let (words, _) = block.as_chunks();
    let word = |at: usize| u64::from_le_bytes(words[at]);
    random.next();
    random.next();
    // Differences are accumulated without branches, because nearly all blocks match.
    let wrong = (word(0) ^ header[0]) | (word(1) ^ header[1]);
    words[2..].iter().fold(wrong, |wrong, &word| wrong | (u64::from_le_bytes(word) ^ random.next())) == 0
}

/// Returns whether a buffer holds only zeros.
fn is_zero(block: &[u8; SIZE]) -> bool {
    let (words, _) = block.as_chunks();
    words.iter().fold(0, |any, &word| any | u64::from_le_bytes(word)) == 0
}

/// Returns the index and the generation of the block that a buffer holds, whichever block it is.
fn identify(block: &[u8; SIZE]) -> Option<(u64, u32)> {
    let (words, _) = block.as_chunks();
    let index = u64::from_le_bytes(words[0]) ^ INDEX_MASK;
    let generation = u32::try_from(u64::from_le_bytes(words[1]) ^ GENERATION_MASK).ok()?;
    holds(block, index, generation).then_some((index, generation))
}

/// What a block of a disk is expected to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The number of times that the disk load has written the block. `None` if it was never written: it holds
    /// zeros.
    pub(crate) generation: Option<u32>,
    /// Whether writing the next generation has failed since then, so that each sector may already hold it.
    pub(crate) unsure: bool,
}

impl Expected {
    /// Returns the generation that the next write gives the block.
    pub(crate) fn next(self) -> u32 {
        // After 2^32 writes the block starts again at 1: a written block never counts as unwritten.
        self.generation.map_or(1, |generation| generation.checked_add(1).unwrap_or(1))
    }

    /// Returns whether the block with this index, as read, has the expected content.
    pub(crate) fn matches(self, block: &[u8; SIZE], index: u64) -> bool {
        let exact = match self.generation {
            Some(generation) => holds(block, index, generation),
            None => is_zero(block),
        };
        exact || (self.unsure && self.matches_by_sector(block, index))
    }

    /// Returns whether each sector of the block has the expected generation or the next one.
    fn matches_by_sector(self, block: &[u8; SIZE], index: u64) -> bool {
        let (mut before, mut after) = ([0; SIZE], [0; SIZE]);
        self.fill(&mut before, index);
        fill_block(&mut after, index, self.next());
        let sectors = before.chunks(SECTOR).zip(after.chunks(SECTOR));
        sectors.zip(block.chunks(SECTOR)).all(|((before, after), held)| held == before || held == after)
    }

    /// Fills a buffer with the expected content of the block with this index.
    fn fill(self, block: &mut [u8; SIZE], index: u64) {
        match self.generation {
            Some(generation) => fill_block(block, index, generation),
            None => block.fill(0),
        }
    }

    /// Describes what the block with this index, as read, holds instead of the expected content.
    pub(crate) fn describe(self, block: &[u8; SIZE], index: u64) -> BadBlock {
        let held = match identify(block) {
            _ if is_zero(block) => "only zeros".to_owned(),
            Some((found, 0)) if found == index => "its initial content, without any of the writes".to_owned(),
            Some((found, generation)) if found == index => format!("its content of generation {generation}"),
            Some((found, generation)) => format!("the content of block {found}, generation {generation}"),
            None => {
                let mut expected = [0; SIZE];
                self.fill(&mut expected, index);
                let (held, expected) = (block.as_chunks::<8>().0, expected.as_chunks::<8>().0);
                let at = (0..held.len()).find(|&at| held[at] != expected[at]).unwrap_or(0);
                let [held, expected] = [held[at], expected[at]].map(u64::from_le_bytes);
                format!("{held:#018x} instead of {expected:#018x} at byte {}", at * 8)
            }
        };
        self.bad(index, held)
    }

    /// Describes a block with this index that holds, or is, something other than expected.
    pub(crate) fn bad(self, index: u64, held: String) -> BadBlock {
        BadBlock { index, expected_generation: self.generation, held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn filled(index: u64, generation: u32) -> [u8; SIZE] {
        let mut block = [0; SIZE];
        fill_block(&mut block, index, generation);
        block
    }

    fn sure(generation: impl Into<Option<u32>>) -> Expected {
        Expected { generation: generation.into(), unsure: false }
    }

    proptest! {
        #[test]
        fn a_block_matches_itself_and_every_changed_byte_is_located(
            index in any::<u64>(),
            generation in any::<u32>(),
            at in 0..SIZE,
            flip in 1..=u8::MAX,
        ) {
            let mut block = filled(index, generation);
            prop_assert!(sure(generation).matches(&block, index));
            prop_assert_eq!(identify(&block), Some((index, generation)));
            block[at] ^= flip;
            prop_assert!(!sure(generation).matches(&block, index));
            let bad = sure(generation).describe(&block, index);
            prop_assert_eq!((bad.index, bad.expected_generation), (index, Some(generation)));
            let byte = format!("at byte {}", at / 8 * 8);
            prop_assert!(bad.held.ends_with(&byte), "{}", bad.held);
        }
    }

    #[test]
    fn every_block_and_generation_is_different() {
        let indexes = [0, 1, 2, 255, 1 << 20, (1 << 35) - 1];
        let generations = [0, 1, 2, 255, 1 << 20, u32::MAX];
        let all = indexes.iter().flat_map(|&index| generations.map(|generation| filled(index, generation)));
        // Not even a sector occurs twice, so a lost or misplaced part of a block does not go unnoticed.
        let sectors: Vec<[u8; SECTOR]> = all.flat_map(|block| block.as_chunks().0.to_vec()).collect();
        let different: HashSet<&[u8; SECTOR]> = sectors.iter().collect();
        assert_eq!(different.len(), indexes.len() * generations.len() * SIZE / SECTOR);
        assert!(!different.contains(&[0; SECTOR]));
    }

    #[test]
    fn blocks_do_not_compress() {
        let blocks: Vec<u8> = (0..64).flat_map(|index| filled(index, index as u32 % 3)).collect();
        for level in [1, 9] {
            let size = miniz_oxide::deflate::compress_to_vec(&blocks, level).len();
            assert!(size as f64 > 0.99 * blocks.len() as f64, "{size} of {}", blocks.len());
        }
    }

    #[test]
    fn wrong_blocks_are_described() {
        let held = |expected: Expected, block: [u8; SIZE]| expected.describe(&block, 5).to_string();
        assert_eq!(held(sure(3), [0; SIZE]), "block 5 of the disk, written 3 times, held only zeros");
        assert_eq!(
            held(sure(3), filled(5, 2)),
            "block 5 of the disk, written 3 times, held its content of generation 2"
        );
        assert_eq!(
            held(sure(1), filled(5, 0)),
            "block 5 of the disk, written once, held its initial content, without any of the writes"
        );
        assert_eq!(
            held(sure(0), filled(6, 1)),
            "block 5 of the disk, written beforehand, held the content of block 6, generation 1"
        );
        let mut torn = filled(5, 3);
        torn[SECTOR..].copy_from_slice(&filled(5, 4)[SECTOR..]);
        let text = held(sure(4), torn);
        assert!(text.starts_with("block 5 of the disk, written 4 times, held 0x"), "{text}");
        assert!(text.ends_with(" at byte 8"), "the generation: {text}");
        let text = held(sure(None), [7; SIZE]);
        assert!(
            text.starts_with("block 5 of the disk, never written, held 0x0707070707070707 instead of 0x0"),
            "{text}"
        );
    }

    #[test]
    fn a_write_that_failed_may_have_changed_any_sector() {
        let unsure = |generation| Expected { generation, unsure: true };
        let mix = |mut before: [u8; SIZE], after: [u8; SIZE], sector: usize| {
            before[sector * SECTOR..][..SECTOR].copy_from_slice(&after[sector * SECTOR..][..SECTOR]);
            before
        };
        for (expected, before) in [(unsure(Some(2)), filled(9, 2)), (unsure(None), [0; SIZE])] {
            let after = filled(9, expected.next());
            for sector in 0..SIZE / SECTOR {
                let torn = mix(before, after, sector);
                assert!(expected.matches(&torn, 9));
                assert!(!Expected { unsure: false, ..expected }.matches(&torn, 9));
            }
            assert!(expected.matches(&before, 9) && expected.matches(&after, 9));
            assert!(!expected.matches(&mix(before, filled(9, 1 + expected.next()), 3), 9));
            assert!(!expected.matches(&mix(before, filled(10, expected.next()), 3), 9));
        }
    }

    #[test]
    fn generations_wrap_around_without_the_initial_one() {
        assert_eq!([sure(None), sure(0), sure(7), sure(u32::MAX)].map(Expected::next), [1, 1, 8, 1]);
    }
}
