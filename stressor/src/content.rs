//! The content of a page as a function of the seed, the page's index, and its generation, which is the number
//! of times it was written. Writing and verification both use this function, so only the generations have to
//! be stored.
//!
//! The code is optimized for a guest under TCG, QEMU's emulation: a word of 8 bytes takes a multiplication,
//! an addition, a shift, an exclusive or and a store. TCG translates these into about as many host
//! instructions, but it emulates vector instructions one by one. Therefore the generator is a recurrence,
//! which the compiler does not vectorize.

use crate::{
    share::Percentage,
    workload::{Content, PAGE_BYTES, Write},
};
use units::random::{self, mix};

/// The number of 8-byte words in a page of 4 KiB.
pub(crate) const WORDS: usize = PAGE_BYTES as usize / 8;

/// A page of 4 KiB, as words of 8 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [u64; WORDS]);

/// The content of all pages of a region of memory, by index and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) content: Content,
    pub(crate) write: Write,
    pub(crate) seed: u64,
}

/// A word of a page whose value is not the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) word: usize,
    pub(crate) held: u64,
    pub(crate) expected: u64,
}

impl Pattern {
    /// Writes the initial content, generation 0, to a page.
    pub(crate) fn fill(&self, page: &mut Page, index: u64) {
        self.store_body(page, index, 0);
        page.0[0] = self.first_word(index, 0);
    }

    /// Changes a page from the previous generation to this one. Stores as much of it as the setting `write`
    /// says.
    #[inline]
    pub(crate) fn write(&self, page: &mut Page, index: u64, generation: u32) {
        if self.write == Write::Page {
            self.store_body(page, index, generation);
        }
        page.0[0] = self.first_word(index, generation);
    }

    /// Returns whether a page has exactly the expected content.
    #[inline]
    pub(crate) fn matches(&self, page: &Page, index: u64, generation: u32) -> bool {
        if matches!(self.content, Content::Sparse(_)) {
            return self.first_mismatch(page, index, generation).is_none();
        }
        let key = self.key(index, self.body_generation(generation));
        let random = self.random_words();
        // Mismatches are accumulated without branches, because nearly all pages match.
        let mut lcg = Lcg::new(key);
        let mut wrong = page.0[0] ^ self.first_word(index, generation);
        lcg.next();
        for &held in &page.0[1..random.max(1)] {
            wrong |= held ^ lcg.next();
        }
        let filler = self.filler(key);
        page.0[random.max(1)..].iter().fold(wrong, |wrong, &held| wrong | (held ^ filler)) == 0
    }

    /// Returns the first word of a page that differs from the expected content, or `None` if there is none.
    pub(crate) fn first_mismatch(&self, page: &Page, index: u64, generation: u32) -> Option<Mismatch> {
        let mut expected = Page([0; WORDS]);
        self.store_body(&mut expected, index, generation);
        expected.0[0] = self.first_word(index, generation);
        let word = (0..WORDS).find(|&word| page.0[word] != expected.0[word])?;
        Some(Mismatch { word, held: page.0[word], expected: expected.0[word] })
    }

    /// Returns the generation that determines the body (all words but the first, and those that are changed
    /// sparsely) of a page of this generation.
    fn body_generation(&self, generation: u32) -> u32 {
        match (self.write, self.content) {
            (Write::Word, _) | (_, Content::Increment | Content::Sparse(_)) => 0,
            _ => generation,
        }
    }

    /// Returns the first word of a page, which changes with each write unless the content is zero.
    fn first_word(&self, index: u64, generation: u32) -> u64 {
        match self.content {
            Content::Zero => 0,
            Content::Increment => self.key(index, 0).wrapping_add(u64::from(generation)),
            Content::Constant | Content::Random | Content::Sparse(_) | Content::Compressible(_) => {
                self.key(index, generation)
            }
        }
    }

    /// Returns the number of words of a page that are random.
    fn random_words(&self) -> usize {
        match self.content {
            Content::Zero | Content::Constant => 0,
            Content::Random | Content::Increment | Content::Sparse(_) => WORDS,
            Content::Compressible(share) => share.of(WORDS as u64) as usize,
        }
    }

    /// Returns the value of the words of a page that are not random.
    fn filler(&self, key: u64) -> u64 {
        if self.content == Content::Zero { 0 } else { key }
    }

    /// Writes the content of this generation to the whole page. The caller then sets the first word.
    #[inline]
    fn store_body(&self, page: &mut Page, index: u64, generation: u32) {
        let key = self.key(index, self.body_generation(generation));
        let (random, rest) = page.0.split_at_mut(self.random_words());
        let mut lcg = Lcg::new(key);
        for word in random {
            *word = lcg.next();
        }
        rest.fill(self.filler(key));
        if let Content::Sparse(share) = self.content {
            let generation = if self.write == Write::Word { 0 } else { generation };
            store_sparse(page, share, !self.key(index, generation));
        }
    }

    /// Returns a number that differs for each page and generation. In practice it is never 0.
    #[inline]
    fn key(&self, index: u64, generation: u32) -> u64 {
        mix(self
            .seed
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
            .wrapping_add(index.wrapping_mul(random::STEP))
            .wrapping_add(u64::from(generation).wrapping_mul(0xC2B2_AE3D_27D4_EB4F)))
    }
}

/// Writes the words that are changed sparsely. They are evenly spread and do not include the first word of
/// the page.
fn store_sparse(page: &mut Page, share: Percentage, key: u64) {
    let count = share.of(WORDS as u64) as usize;
    let mut lcg = Lcg::new(key);
    for word in (1..count).map(|number| number * WORDS / count) {
        page.0[word] = lcg.next();
    }
}

/// A 64-bit linear congruential generator. The upper half of the state is mixed into the weaker lower half.
#[derive(Debug)]
pub(crate) struct Lcg {
    state: u64,
}

impl Lcg {
    pub(crate) const fn new(key: u64) -> Self {
        Self { state: key }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state ^ (self.state >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTENTS: [Content; 6] = [
        Content::Zero,
        Content::Constant,
        Content::Random,
        Content::Increment,
        Content::Sparse(Percentage::from_permille(10).unwrap()),
        Content::Compressible(Percentage::from_permille(250).unwrap()),
    ];

    fn patterns() -> impl Iterator<Item = Pattern> {
        let both = |content| [Write::Page, Write::Word].map(|write| Pattern { content, write, seed: 7 });
        CONTENTS.into_iter().flat_map(both)
    }

    fn empty() -> Page {
        Page([0; WORDS])
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        let content = prop_oneof![
            Just(Content::Zero),
            Just(Content::Constant),
            Just(Content::Random),
            Just(Content::Increment),
            (1..=999u16).prop_map(|permille| Content::Sparse(Percentage::from_permille(permille).unwrap())),
            (1..=999u16)
                .prop_map(|permille| Content::Compressible(Percentage::from_permille(permille).unwrap())),
        ];
        let write = prop_oneof![Just(Write::Page), Just(Write::Word)];
        (content, write, any::<u64>()).prop_map(|(content, write, seed)| Pattern { content, write, seed })
    }

    proptest! {
        #[test]
        fn written_pages_match_and_every_changed_byte_is_located(
            pattern in any_pattern(),
            index in any::<u64>(),
            generation in any::<u32>(),
            writes in 0..5u32,
            byte in 0..WORDS * 8,
            flip in 1..=u8::MAX,
        ) {
            let mut page = empty();
            pattern.fill(&mut page, index);
            prop_assert!(pattern.matches(&page, index, 0));
            let last = generation.wrapping_add(writes);
            for back in (0..=writes).rev() {
                pattern.write(&mut page, index, last.wrapping_sub(back));
            }
            prop_assert!(pattern.matches(&page, index, last));
            prop_assert_eq!(pattern.first_mismatch(&page, index, last), None);

            let flip = u64::from(flip) << (byte % 8 * 8);
            page.0[byte / 8] ^= flip;
            prop_assert!(!pattern.matches(&page, index, last));
            let mismatch = pattern.first_mismatch(&page, index, last).unwrap();
            prop_assert_eq!((mismatch.word, mismatch.held ^ mismatch.expected), (byte / 8, flip));
        }
    }

    #[test]
    fn generations_wrap_around_like_their_table() {
        for pattern in patterns() {
            let mut page = empty();
            pattern.fill(&mut page, 3);
            let filled = page.clone();
            pattern.write(&mut page, 3, u32::MAX);
            pattern.write(&mut page, 3, u32::MAX.wrapping_add(1));
            assert_eq!(page, filled, "{pattern:?}");
        }
    }

    #[test]
    fn a_stale_or_misplaced_page_is_detected() {
        for pattern in patterns().filter(|pattern| pattern.content != Content::Zero) {
            let mut page = empty();
            pattern.fill(&mut page, 5);
            pattern.write(&mut page, 5, 41);
            assert!(!pattern.matches(&page, 5, 42), "{pattern:?}");
            assert!(!pattern.matches(&page, 6, 41), "{pattern:?}");
            assert!(!Pattern { seed: 8, ..pattern }.matches(&page, 5, 41), "{pattern:?}");
        }
    }

    #[test]
    fn word_writes_and_increments_change_only_the_first_word() {
        for pattern in patterns().filter(|p| p.write == Write::Word || p.content == Content::Increment) {
            let mut page = empty();
            pattern.fill(&mut page, 9);
            let before = page.clone();
            pattern.write(&mut page, 9, 1);
            assert_eq!(page.0[1..], before.0[1..], "{pattern:?}");
            match pattern.content {
                Content::Zero => assert_eq!(page, before),
                Content::Increment => assert_eq!(page.0[0], before.0[0].wrapping_add(1)),
                _ => assert_ne!(page.0[0], before.0[0], "{pattern:?}"),
            }
        }
    }

    #[test]
    fn a_sparse_write_changes_as_many_bytes_as_stated() {
        for (permille, words) in [(1, 1), (10, 5), (100, 51), (500, 256), (999, 511)] {
            let content = Content::Sparse(Percentage::from_permille(permille).unwrap());
            let pattern = Pattern { content, write: Write::Page, seed: 7 };
            let mut page = empty();
            pattern.fill(&mut page, 9);
            for generation in 1..4 {
                let before = page.clone();
                pattern.write(&mut page, 9, generation);
                let changed: Vec<usize> = (0..WORDS).filter(|&at| page.0[at] != before.0[at]).collect();
                assert_eq!(changed.len(), words, "{permille}: {changed:?}");
                let gaps = changed.windows(2).map(|pair| pair[1] - pair[0]);
                assert!(gaps.clone().max() <= gaps.min().map(|least| least + 1), "{changed:?}");
            }
        }
    }

    /// Returns the compressed size of 64 written pages, as a fraction of their size.
    fn compressed(content: Content, level: u8) -> f64 {
        let pattern = Pattern { content, write: Write::Page, seed: 1 };
        let mut bytes = Vec::new();
        for index in 0..64 {
            let mut page = empty();
            pattern.fill(&mut page, index);
            pattern.write(&mut page, index, 1);
            bytes.extend(page.0.iter().flat_map(|word| word.to_le_bytes()));
        }
        miniz_oxide::deflate::compress_to_vec(&bytes, level).len() as f64 / bytes.len() as f64
    }

    #[test]
    fn content_compresses_to_the_requested_size() {
        for level in [1, 9] {
            assert!(compressed(Content::Random, level) > 0.999);
            assert!(compressed(Content::Increment, level) > 0.999);
            assert!(compressed(Content::Sparse(Percentage::from_permille(500).unwrap()), level) > 0.999);
            assert!(compressed(Content::Constant, level) < 0.02);
            assert!(compressed(Content::Zero, level) < 0.01);
            for permille in [100, 250, 500, 900] {
                let asked = f64::from(permille) / 1000.0;
                let got =
                    compressed(Content::Compressible(Percentage::from_permille(permille).unwrap()), level);
                assert!((got - asked).abs() < 0.02, "{got} instead of {asked}");
            }
        }
    }
}
