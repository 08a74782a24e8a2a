//! Regions of memory with known content: each page is derived from its index and its generation, which is the
//! number of times it was written.
//!
//! The working set is a region whose pages are written repeatedly; a table with 4 bytes per page holds their
//! generations. The ballast is a region that stays at generation 0 and needs no table. The table is dirtied
//! too: in sequential order, 1 page for every 1024 pages of the working set.

use crate::{
    content::{Page, Pattern},
    sys::{self, Backing, Mapping},
    verify::{Area, BadPage, Verification},
    workload::Write,
};
use nix::errno::Errno;
use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
};

/// The distance, in pages, at which the cache lines of word writes are prefetched.
const PREFETCH_PAGES: usize = 12;

/// A range of memory whose content follows a [`Pattern`].
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) pattern: Pattern,
    mapping: Mapping,
    /// The generation of each page. Empty if the pages stay at generation 0.
    generations: Vec<u32>,
}

/// The part of a region that one thread writes to.
#[derive(Debug)]
pub(crate) struct Partition<'a> {
    pub(crate) pattern: Pattern,
    /// The index of the partition's first page in the region.
    pub(crate) first_index: u64,
    pub(crate) pages: &'a mut [Page],
    pub(crate) generations: &'a mut [u32],
}

/// Whether the pages of a region are written again after they have been filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Dirtied,
    Static,
}

impl Region {
    /// Maps and fills a region of `pages` pages, with all CPUs.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses the mapping or has no memory for it.
    pub(crate) fn new(pages: u64, backing: Backing, pattern: Pattern, usage: Usage) -> Result<Self, Errno> {
        let pages = usize::try_from(pages).map_err(|_| Errno::ENOMEM)?;
        let mut mapping = Mapping::new(pages, backing)?;
        let table = if usage == Usage::Dirtied { pages } else { 0 };
        let per_thread = pages_per_thread(pages);
        let fillers = mapping
            .pages_mut()
            .chunks_mut(per_thread)
            .enumerate()
            .map(|(chunk, pages)| move || fill(&pattern, pages, (chunk * per_thread) as u64))
            .collect();
        run_all(fillers).into_iter().collect::<Result<(), Errno>>()?;
        Ok(Self { pattern, mapping, generations: vec![0; table] })
    }

    /// Splits the region into `count` partitions whose sizes differ by at most one page. Returns fewer
    /// partitions if the region has fewer pages.
    pub(crate) fn partitions(&mut self, count: usize) -> Vec<Partition<'_>> {
        let pattern = self.pattern;
        let mut pages = self.mapping.pages_mut();
        let mut generations = self.generations.as_mut_slice();
        let total = pages.len();
        let mut first = 0;
        let mut partitions = Vec::with_capacity(count);
        for end in (1..=count).map(|partition| total * partition / count).filter(|&end| end > 0) {
            if end == first {
                continue;
            }
            let (pages_here, pages_after) = pages.split_at_mut(end - first);
            let (generations_here, generations_after) = generations.split_at_mut(end - first);
            partitions.push(Partition {
                pattern,
                first_index: first as u64,
                pages: pages_here,
                generations: generations_here,
            });
            (pages, generations, first) = (pages_after, generations_after, end);
        }
        partitions
    }

    /// Compares all pages with their expected content, with all CPUs.
    pub(crate) fn verify(&self, area: Area) -> Verification {
        let pages = self.mapping.pages();
        let per_thread = pages_per_thread(pages.len());
        let checkers = pages
            .chunks(per_thread)
            .enumerate()
            .map(|(chunk, pages)| move || self.verify_from(chunk * per_thread, pages, area))
            .collect();
        run_all(checkers).into_iter().fold(Verification::default(), Verification::and)
    }

    fn verify_from(&self, first: usize, pages: &[Page], area: Area) -> Verification {
        let mut verification = Verification { pages_checked: pages.len() as u64, ..Verification::default() };
        for (index, page) in (first..).zip(pages) {
            let generation = self.generations.get(index).copied().unwrap_or(0);
            let index = index as u64;
            if !self.pattern.matches(page, index, generation) {
                verification.pages_bad += 1;
                verification
                    .first_bad
                    .get_or_insert_with(|| BadPage::describe(&self.pattern, page, area, index, generation));
            }
        }
        verification
    }

    /// Returns the number of times that each page was written.
    #[cfg(test)]
    pub(crate) fn generations(&self) -> &[u32] {
        &self.generations
    }

    /// Returns the pages, for tests that corrupt them.
    #[cfg(test)]
    pub(crate) fn pages_mut(&mut self) -> &mut [Page] {
        self.mapping.pages_mut()
    }
}

impl Partition<'_> {
    /// Writes a range of the partition's pages, each with its next generation.
    #[inline]
    pub(crate) fn write(&mut self, range: Range<usize>) {
        let pattern = self.pattern;
        // Word writes mostly wait for cache lines, and the hardware prefetcher does not cross page
        // boundaries.
        let ahead = pattern.write == Write::Word && range.len() > 1;
        let first = self.first_index + range.start as u64;
        let pages = self.pages[range.clone()].iter_mut().zip(&mut self.generations[range]);
        for (index, (page, generation)) in (first..).zip(pages) {
            if ahead {
                sys::prefetch(std::ptr::from_ref(page).wrapping_add(PREFETCH_PAGES));
            }
            // After 2^32 writes the page has its initial content again, and the table wraps to 0 as well.
            *generation = generation.wrapping_add(1);
            pattern.write(page, index, *generation);
        }
    }
}

/// Returns the number of pages that each thread processes if all CPUs share `pages` pages.
fn pages_per_thread(pages: usize) -> usize {
    /// Starting a thread for fewer pages is not worth it.
    const MIN_PAGES: usize = 4096;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    pages.div_ceil(threads).max(MIN_PAGES)
}

/// Runs jobs in parallel, on as many threads as there are jobs if the system has room for them. Returns their
/// results in order.
pub(crate) fn run_all<T: Send>(jobs: Vec<impl FnOnce() -> T + Send>) -> Vec<T> {
    let count = jobs.len();
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(|| next().map(|(number, job)| (number, job()))).collect::<Vec<_>>();
    let mut results = thread::scope(|scope| {
        // If no more threads can be started, this one does all the work.
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..count).map_while(start).collect();
        let mut results = work();
        for other in others {
            results.extend(other.join().expect("filling and checking do not panic"));
        }
        results
    });
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Fills consecutive pages. Memory is populated in blocks right before it is filled, while it is still in the
/// cache.
fn fill(pattern: &Pattern, pages: &mut [Page], first_index: u64) -> Result<(), Errno> {
    /// The number of pages populated at a time: 4 MiB, two huge pages.
    const BLOCK_PAGES: usize = 1024;
    let mut index = first_index;
    for pages in pages.chunks_mut(BLOCK_PAGES) {
        sys::populate(pages)?;
        for page in pages {
            pattern.fill(page, index);
            index += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Content;

    const PATTERN: Pattern = Pattern { content: Content::Random, write: Write::Page, seed: 1 };

    fn region(pages: u64, usage: Usage) -> Region {
        Region::new(pages, Backing::Fastest, PATTERN, usage).unwrap()
    }

    fn write_all(region: &mut Region) {
        for mut partition in region.partitions(3) {
            partition.write(0..partition.pages.len());
        }
    }

    #[test]
    fn filled_and_written_memory_verifies() {
        // More pages than one thread processes, and not a multiple of any block size.
        let mut region = region(9001, Usage::Dirtied);
        let good = Verification { pages_checked: 9001, pages_bad: 0, first_bad: None };
        assert_eq!(region.verify(Area::WorkingSet), good);
        write_all(&mut region);
        write_all(&mut region);
        assert_eq!(region.verify(Area::WorkingSet), good);
    }

    #[test]
    fn corrupted_memory_is_detected_and_described() {
        let mut region = region(9001, Usage::Dirtied);
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
        assert_eq!(held(&region, 8000), (1, "the content of generation 1".into()));
        PATTERN.fill(&mut region.pages_mut()[7000], 7000);
        assert_eq!(held(&region, 7000), (2, "its initial content, without any of the writes".into()));
        region.pages_mut()[6000].0.fill(0);
        assert_eq!(held(&region, 6000), (3, "only zeros".into()));
        let word = region.pages_mut()[5000].0[100];
        region.pages_mut()[5000].0[100] = !word;
        let expected = format!("{:#018x} instead of {word:#018x} at byte 800", !word);
        assert_eq!(held(&region, 5000), (4, expected));
    }

    #[test]
    fn corrupted_ballast_is_detected() {
        let mut ballast = region(100, Usage::Static);
        assert!(ballast.verify(Area::Ballast).is_good());
        ballast.pages_mut()[99].0[511] ^= 1 << 63;
        let bad = ballast.verify(Area::Ballast).first_bad.unwrap();
        assert_eq!((bad.index, bad.expected_generation, bad.area), (99, 0, Area::Ballast));
        assert!(bad.to_string().starts_with("page 99 of the ballast, written 0 times, held 0x"), "{bad}");
    }

    #[test]
    fn parts_cover_the_region_evenly() {
        let mut region = region(1000, Usage::Dirtied);
        for count in [1, 2, 3, 7, 999, 1000] {
            let partitions = region.partitions(count);
            assert_eq!(partitions.len(), count);
            let mut next = 0;
            for partition in partitions {
                assert_eq!(partition.first_index, next);
                assert_eq!(partition.pages.len(), partition.generations.len());
                assert!(partition.pages.len().abs_diff(1000 / count) <= 1);
                next += partition.pages.len() as u64;
            }
            assert_eq!(next, 1000);
        }
    }

    #[test]
    fn an_empty_region_verifies() {
        let mut empty = region(0, Usage::Dirtied);
        assert!(empty.partitions(4).is_empty());
        assert_eq!(empty.verify(Area::WorkingSet), Verification::default());
    }
}
