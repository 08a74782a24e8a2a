//! What a page holds, as a function of the seed, the page's index and its generation (how often it was
//! written). The writer and the verifier both derive it from here; nothing else needs to be remembered.
//!
//! Speed is for a guest under TCG, QEMU's emulation: per word of 8 bytes a multiplication, an addition, a
//! shift, an exclusive or and a store. TCG turns these into about as many host instructions, whereas it
//! emulates vector instructions one by one; the generator is a recurrence so that the compiler does not
//! vectorise it.

use crate::workload::{Content, PAGE_BYTES, Write};
use units::random::{self, mix};

/// The words of 8 bytes in a page of 4 KiB.
pub(crate) const WORDS: usize = PAGE_BYTES as usize / 8;

/// A page of 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [u64; WORDS]);

/// How to make the content of any page of one region of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) content: Content,
    pub(crate) write: Write,
    pub(crate) seed: u64,
}

/// The first difference between what a page holds and what it should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) word: usize,
    pub(crate) held: u64,
    pub(crate) expected: u64,
}

impl Recipe {
    /// Stores the whole content of generation 0.
    pub(crate) fn fill(&self, page: &mut Page, index: u64) {
        self.store_body(page, self.key(index, 0));
        page.0[0] = self.head(index, 0);
    }

    /// Brings a page from the generation before to this one, by storing what the `write` setting says.
    #[inline]
    pub(crate) fn write(&self, page: &mut Page, index: u64, generation: u32) {
        if self.write == Write::Page {
            self.store_body(page, self.key(index, self.body_generation(generation)));
        }
        page.0[0] = self.head(index, generation);
    }

    /// Whether a page holds exactly what it should.
    #[inline]
    pub(crate) fn holds(&self, page: &Page, index: u64, generation: u32) -> bool {
        let key = self.key(index, self.body_generation(generation));
        let random = self.random_words();
        let mut noise = Noise::new(key);
        let mut wrong = page.0[0] ^ self.head(index, generation);
        noise.next();
        for &held in &page.0[1..random.max(1)] {
            wrong |= held ^ noise.next();
        }
        let rest = self.rest(key);
        page.0[random.max(1)..].iter().fold(wrong, |wrong, &held| wrong | (held ^ rest)) == 0
    }

    /// Where a page first differs from what it should hold, if it does.
    pub(crate) fn first_difference(&self, page: &Page, index: u64, generation: u32) -> Option<Difference> {
        let mut expected = Page([0; WORDS]);
        self.store_body(&mut expected, self.key(index, self.body_generation(generation)));
        expected.0[0] = self.head(index, generation);
        let word = (0..WORDS).find(|&word| page.0[word] != expected.0[word])?;
        Some(Difference { word, held: page.0[word], expected: expected.0[word] })
    }

    /// The generation whose noise is in the body of a page of this generation.
    fn body_generation(&self, generation: u32) -> u32 {
        match (self.write, self.content) {
            (Write::Word, _) | (_, Content::Increment) => 0,
            _ => generation,
        }
    }

    /// What the first word of a page holds.
    fn head(&self, index: u64, generation: u32) -> u64 {
        match self.content {
            Content::Zero => 0,
            Content::Increment => self.key(index, 0).wrapping_add(u64::from(generation)),
            Content::Constant | Content::Random | Content::Compressible(_) => self.key(index, generation),
        }
    }

    /// How many words of a page are noise.
    fn random_words(&self) -> usize {
        match self.content {
            Content::Zero | Content::Constant => 0,
            Content::Random | Content::Increment => WORDS,
            Content::Compressible(share) => share.of(WORDS as u64) as usize,
        }
    }

    /// What the words of a page that are not noise hold.
    fn rest(&self, key: u64) -> u64 {
        if self.content == Content::Zero { 0 } else { key }
    }

    #[inline]
    fn store_body(&self, page: &mut Page, key: u64) {
        let (random, rest) = page.0.split_at_mut(self.random_words());
        let mut noise = Noise::new(key);
        for word in random {
            *word = noise.next();
        }
        rest.fill(self.rest(key));
    }

    /// A number that differs for each page and generation, never 0 in practice.
    #[inline]
    fn key(&self, index: u64, generation: u32) -> u64 {
        mix(self
            .seed
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
            .wrapping_add(index.wrapping_mul(random::STEP))
            .wrapping_add(u64::from(generation).wrapping_mul(0xC2B2_AE3D_27D4_EB4F)))
    }
}

/// A linear congruential generator of 64 bits, its weak low half covered by the high one.
struct Noise {
    state: u64,
}

impl Noise {
    const fn new(key: u64) -> Self {
        Self { state: key }
    }

    #[inline]
    fn next(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state ^ (self.state >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Share;
    use proptest::prelude::*;

    const CONTENTS: [Content; 5] = [
        Content::Zero,
        Content::Constant,
        Content::Random,
        Content::Increment,
        Content::Compressible(Share::from_permille(250).unwrap()),
    ];

    fn recipes() -> impl Iterator<Item = Recipe> {
        let both = |content| [Write::Page, Write::Word].map(|write| Recipe { content, write, seed: 7 });
        CONTENTS.into_iter().flat_map(both)
    }

    fn empty() -> Page {
        Page([0; WORDS])
    }

    fn any_recipe() -> impl Strategy<Value = Recipe> {
        let content = prop_oneof![
            Just(Content::Zero),
            Just(Content::Constant),
            Just(Content::Random),
            Just(Content::Increment),
            (1..=999u16).prop_map(|permille| Content::Compressible(Share::from_permille(permille).unwrap())),
        ];
        let write = prop_oneof![Just(Write::Page), Just(Write::Word)];
        (content, write, any::<u64>()).prop_map(|(content, write, seed)| Recipe { content, write, seed })
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_expected_and_any_flipped_byte_is_noticed_and_located(
            recipe in any_recipe(),
            index in any::<u64>(),
            generation in any::<u32>(),
            writes in 0..5u32,
            byte in 0..WORDS * 8,
            flip in 1..=u8::MAX,
        ) {
            let mut page = empty();
            recipe.fill(&mut page, index);
            prop_assert!(recipe.holds(&page, index, 0));
            let last = generation.wrapping_add(writes);
            for back in (0..=writes).rev() {
                recipe.write(&mut page, index, last.wrapping_sub(back));
            }
            prop_assert!(recipe.holds(&page, index, last));
            prop_assert_eq!(recipe.first_difference(&page, index, last), None);

            let flip = u64::from(flip) << (byte % 8 * 8);
            page.0[byte / 8] ^= flip;
            prop_assert!(!recipe.holds(&page, index, last));
            let difference = recipe.first_difference(&page, index, last).unwrap();
            prop_assert_eq!((difference.word, difference.held ^ difference.expected), (byte / 8, flip));
        }
    }

    #[test]
    fn generations_wrap_around_like_the_table() {
        for recipe in recipes() {
            let mut page = empty();
            recipe.fill(&mut page, 3);
            let filled = page.clone();
            recipe.write(&mut page, 3, u32::MAX);
            recipe.write(&mut page, 3, u32::MAX.wrapping_add(1));
            assert_eq!(page, filled, "{recipe:?}");
        }
    }

    #[test]
    fn a_stale_or_misplaced_page_is_noticed() {
        for recipe in recipes().filter(|recipe| recipe.content != Content::Zero) {
            let mut page = empty();
            recipe.fill(&mut page, 5);
            recipe.write(&mut page, 5, 41);
            assert!(!recipe.holds(&page, 5, 42), "{recipe:?}");
            assert!(!recipe.holds(&page, 6, 41), "{recipe:?}");
            assert!(!Recipe { seed: 8, ..recipe }.holds(&page, 5, 41), "{recipe:?}");
        }
    }

    #[test]
    fn a_word_write_changes_the_first_word_and_an_increment_a_few_bytes_of_it() {
        for recipe in recipes().filter(|r| r.write == Write::Word || r.content == Content::Increment) {
            let mut page = empty();
            recipe.fill(&mut page, 9);
            let before = page.clone();
            recipe.write(&mut page, 9, 1);
            assert_eq!(page.0[1..], before.0[1..], "{recipe:?}");
            match recipe.content {
                Content::Zero => assert_eq!(page, before),
                Content::Increment => assert_eq!(page.0[0], before.0[0].wrapping_add(1)),
                _ => assert_ne!(page.0[0], before.0[0], "{recipe:?}"),
            }
        }
    }

    /// The size that 64 pages compress to, as a share of their own, after a write.
    fn compressed(content: Content, level: u8) -> f64 {
        let recipe = Recipe { content, write: Write::Page, seed: 1 };
        let mut bytes = Vec::new();
        for index in 0..64 {
            let mut page = empty();
            recipe.fill(&mut page, index);
            recipe.write(&mut page, index, 1);
            bytes.extend(page.0.iter().flat_map(|word| word.to_le_bytes()));
        }
        miniz_oxide::deflate::compress_to_vec(&bytes, level).len() as f64 / bytes.len() as f64
    }

    #[test]
    fn content_compresses_as_its_name_says() {
        for level in [1, 9] {
            assert!(compressed(Content::Random, level) > 0.999);
            assert!(compressed(Content::Increment, level) > 0.999);
            assert!(compressed(Content::Constant, level) < 0.02);
            assert!(compressed(Content::Zero, level) < 0.01);
            for permille in [100, 250, 500, 900] {
                let asked = f64::from(permille) / 1000.0;
                let got = compressed(Content::Compressible(Share::from_permille(permille).unwrap()), level);
                assert!((got - asked).abs() < 0.02, "{got} instead of {asked}");
            }
        }
    }
}
