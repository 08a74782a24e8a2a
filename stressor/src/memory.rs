//! Memory with known content: a region of pages, each derivable from its index and generation.
//!
//! The working set is a region whose pages are written over and over; a table of 4 bytes a page says which
//! generation each is at. The ballast is a region that stays at generation 0 and needs no table. The table
//! is dirtied too: in sequential order, 1 page for 1024 of the working set.

use crate::{
    content::{Page, Recipe},
    sys::{self, Backing, Mapping},
    verify::{Area, BadPage, Verification},
    workload::Write,
};
use nix::errno::Errno;
use std::{ops::Range, thread};

/// How many pages ahead a word's cache line is asked for.
const PREFETCH_PAGES: usize = 12;

/// Memory that holds what its recipe says.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) recipe: Recipe,
    mapping: Mapping,
    /// Empty when every page is at generation 0.
    generations: Vec<u32>,
}

/// A part of a region that one thread writes to.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) recipe: Recipe,
    /// The index in the region of the first page.
    pub(crate) first_index: u64,
    pub(crate) pages: &'a mut [Page],
    pub(crate) generations: &'a mut [u32],
}

/// Whether the pages of a region will be written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Dirtied,
    LeftAlone,
}

impl Region {
    /// Maps and fills `pages` pages.
    ///
    /// # Errors
    ///
    /// The kernel's, when it refuses the mapping or has no memory to put behind it.
    pub(crate) fn new(pages: u64, backing: Backing, recipe: Recipe, usage: Use) -> Result<Self, Errno> {
        let pages = usize::try_from(pages).map_err(|_| Errno::ENOMEM)?;
        let mut mapping = Mapping::new(pages, backing)?;
        let table = if usage == Use::Dirtied { pages } else { 0 };
        let share = share_of_each(pages);
        thread::scope(|scope| {
            let fillers: Vec<_> = mapping
                .pages_mut()
                .chunks_mut(share)
                .enumerate()
                .map(|(chunk, pages)| move || fill(&recipe, pages, (chunk * share) as u64))
                .collect();
            run_all(scope, fillers).into_iter().collect::<Result<(), Errno>>()
        })?;
        Ok(Self { recipe, mapping, generations: vec![0; table] })
    }

    /// Splits the region into `count` parts of equal size, give or take a page; fewer if it has fewer pages.
    pub(crate) fn parts(&mut self, count: usize) -> Vec<Part<'_>> {
        let recipe = self.recipe;
        let mut pages = self.mapping.pages_mut();
        let mut generations = self.generations.as_mut_slice();
        let total = pages.len();
        let mut first = 0;
        let mut parts = Vec::with_capacity(count);
        for end in (1..=count).map(|part| total * part / count).filter(|&end| end > 0) {
            if end == first {
                continue;
            }
            let (pages_here, pages_after) = pages.split_at_mut(end - first);
            let (generations_here, generations_after) = generations.split_at_mut(end - first);
            parts.push(Part {
                recipe,
                first_index: first as u64,
                pages: pages_here,
                generations: generations_here,
            });
            (pages, generations, first) = (pages_after, generations_after, end);
        }
        parts
    }

    /// Compares every page with what it should hold.
    pub(crate) fn verify(&self, area: Area) -> Verification {
        let pages = self.mapping.pages();
        let share = share_of_each(pages.len());
        thread::scope(|scope| {
            let checkers: Vec<_> = pages
                .chunks(share)
                .enumerate()
                .map(|(chunk, pages)| move || self.verify_from(chunk * share, pages, area))
                .collect();
            run_all(scope, checkers).into_iter().fold(Verification::default(), Verification::and)
        })
    }

    fn verify_from(&self, first: usize, pages: &[Page], area: Area) -> Verification {
        let mut verification = Verification { pages_checked: pages.len() as u64, ..Verification::default() };
        for (index, page) in (first..).zip(pages) {
            let generation = self.generations.get(index).copied().unwrap_or(0);
            let index = index as u64;
            if !self.recipe.holds(page, index, generation) {
                verification.pages_bad += 1;
                verification
                    .first_bad
                    .get_or_insert_with(|| BadPage::describe(&self.recipe, page, area, index, generation));
            }
        }
        verification
    }

    /// How often each page was written.
    #[cfg(test)]
    pub(crate) fn generations(&self) -> &[u32] {
        &self.generations
    }

    /// The pages, for a test to corrupt.
    #[cfg(test)]
    pub(crate) fn pages_mut(&mut self) -> &mut [Page] {
        self.mapping.pages_mut()
    }
}

impl Part<'_> {
    /// Brings these pages, by position in the part, to their next generations.
    #[inline]
    pub(crate) fn write(&mut self, range: Range<usize>) {
        let recipe = self.recipe;
        // Writing a word is mostly waiting for its cache line, and the hardware does not look beyond a page.
        let ahead = recipe.write == Write::Word && range.len() > 1;
        let first = self.first_index + range.start as u64;
        let pages = self.pages[range.clone()].iter_mut().zip(&mut self.generations[range]);
        for (index, (page, generation)) in (first..).zip(pages) {
            if ahead {
                sys::prefetch(std::ptr::from_ref(page).wrapping_add(PREFETCH_PAGES));
            }
            // After 2^32 writes a page holds what it held at first, and so does the table.
            *generation = generation.wrapping_add(1);
            recipe.write(page, index, *generation);
        }
    }
}

/// How many pages each thread takes on, when all CPUs work on `pages` pages.
fn share_of_each(pages: usize) -> usize {
    /// Less is not worth a thread.
    const LEAST: usize = 4096;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    pages.div_ceil(threads).max(LEAST)
}

/// Runs the jobs in threads of their own, but for the first, which runs in this one.
fn run_all<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    jobs: Vec<impl FnOnce() -> T + Send + 'scope>,
) -> Vec<T> {
    let mut jobs = jobs.into_iter();
    let Some(first) = jobs.next() else {
        return Vec::new();
    };
    let others: Vec<_> = jobs.map(|job| scope.spawn(job)).collect();
    let first = first();
    let others = others.into_iter().map(|other| other.join().expect("filling and checking do not panic"));
    std::iter::once(first).chain(others).collect()
}

/// Fills pages that come one after the other. Memory is populated a little ahead of being filled, so that
/// it is still in the cache.
fn fill(recipe: &Recipe, pages: &mut [Page], first_index: u64) -> Result<(), Errno> {
    /// 4 MiB: two huge pages.
    const AHEAD: usize = 1024;
    let mut index = first_index;
    for pages in pages.chunks_mut(AHEAD) {
        sys::populate(pages)?;
        for page in pages {
            recipe.fill(page, index);
            index += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Content;

    const RECIPE: Recipe = Recipe { content: Content::Random, write: Write::Page, seed: 1 };

    fn region(pages: u64, usage: Use) -> Region {
        Region::new(pages, Backing::Fastest, RECIPE, usage).unwrap()
    }

    fn write_all(region: &mut Region) {
        for mut part in region.parts(3) {
            part.write(0..part.pages.len());
        }
    }

    #[test]
    fn memory_that_was_filled_and_written_verifies() {
        // More than one thread's share, and not a multiple of anything.
        let mut region = region(9001, Use::Dirtied);
        let good = Verification { pages_checked: 9001, pages_bad: 0, first_bad: None };
        assert_eq!(region.verify(Area::WorkingSet), good);
        write_all(&mut region);
        write_all(&mut region);
        assert_eq!(region.verify(Area::WorkingSet), good);
    }

    #[test]
    fn corrupted_memory_is_caught_and_described() {
        let mut region = region(9001, Use::Dirtied);
        write_all(&mut region);
        let old = region.pages_mut()[8000].clone();
        write_all(&mut region);
        let held = |region: &Region, index| {
            let verification = region.verify(Area::WorkingSet);
            let bad = verification.first_bad.unwrap();
            assert_eq!((bad.index, bad.expected_generation, bad.area), (index, 2, Area::WorkingSet));
            (verification.pages_bad, bad.held)
        };
        region.pages_mut()[8000] = old;
        assert_eq!(held(&region, 8000), (1, "generation 1 of its content".into()));
        RECIPE.fill(&mut region.pages_mut()[7000], 7000);
        assert_eq!(held(&region, 7000), (2, "what it was filled with, and none of its writes".into()));
        region.pages_mut()[6000].0.fill(0);
        assert_eq!(held(&region, 6000), (3, "only zeros".into()));
        let word = region.pages_mut()[5000].0[100];
        region.pages_mut()[5000].0[100] = !word;
        let expected = format!("{:#018x} instead of {word:#018x} at byte 800", !word);
        assert_eq!(held(&region, 5000), (4, expected));
    }

    #[test]
    fn corrupted_ballast_is_caught() {
        let mut ballast = region(100, Use::LeftAlone);
        assert!(ballast.verify(Area::Ballast).is_good());
        ballast.pages_mut()[99].0[511] ^= 1 << 63;
        let bad = ballast.verify(Area::Ballast).first_bad.unwrap();
        assert_eq!((bad.index, bad.expected_generation, bad.area), (99, 0, Area::Ballast));
        assert!(bad.to_string().starts_with("page 99 of the ballast, written 0 times, held 0x"), "{bad}");
    }

    #[test]
    fn parts_cover_the_region_evenly() {
        let mut region = region(1000, Use::Dirtied);
        for count in [1, 2, 3, 7, 999, 1000] {
            let parts = region.parts(count);
            assert_eq!(parts.len(), count);
            let mut next = 0;
            for part in parts {
                assert_eq!(part.first_index, next);
                assert_eq!(part.pages.len(), part.generations.len());
                assert!(part.pages.len().abs_diff(1000 / count) <= 1);
                next += part.pages.len() as u64;
            }
            assert_eq!(next, 1000);
        }
    }

    #[test]
    fn an_empty_region_is_good() {
        let mut empty = region(0, Use::Dirtied);
        assert!(empty.parts(4).is_empty());
        assert_eq!(empty.verify(Area::WorkingSet), Verification::default());
    }
}
