//! A process that dirties memory in order, watched from outside: how far it has come, by what its memory
//! holds.
//!
//! Both the stressor (content `increment`) and `mm_dirty` count in the first word of a page how often they
//! have written it. In sequential order the pages before the writer's place have been written once more than
//! those behind it. So a search by halves of `/proc/PID/mem`, some 16 reads of 8 bytes, finds how many pages
//! have been written since the start, to the page, without the process's help and in some 20 us.

use crate::{Result, windows::Sample};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::prctl,
    unistd::Pid,
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};
use stressor::monotonic_ns;

/// How the first word of a page counts, and what is behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counter {
    /// The first byte, from 1 before the first write, and over from 0 after 255; then nothing but zeros.
    Byte,
    /// All 8 bytes, from whatever they held; then noise.
    Word,
}

impl Counter {
    /// Whether a page looks as if it had such a counter, and not like one of the process's own that lies
    /// beside them.
    fn is_in(self, page: &[u8; PAGE as usize]) -> bool {
        let words = || page[8..].chunks(8).map(|word| word != [0; 8]);
        match self {
            Self::Byte => page[0] != 0 && page[1..8] == [0; 7] && !words().any(|is_set| is_set),
            Self::Word => page[..8] != [0; 8] && words().all(|is_set| is_set),
        }
    }
}

/// The memory that is dirtied.
pub(crate) struct Watched {
    memory: File,
    start: u64,
    pages: u64,
    mask: u64,
    /// What each page's counter was before the first write.
    origin: Vec<u64>,
    /// The counter of the first page when it was last looked at, and how often it was written by then, one
    /// more so that it is never 0.
    first_page: u64,
    passes: u64,
}

const PAGE: u64 = stressor::workload::PAGE_BYTES;

/// How long a sample may take. Usually it takes some microseconds; the writer can be met in mid-page a few
/// times.
const SAMPLE_LIMIT: Duration = Duration::from_secs(1);

impl Watched {
    /// Finds the `pages` pages in a process that has filled them.
    pub(crate) fn find(pid: u32, pages: u64, counter: Counter, limit: Duration) -> Result<Self> {
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mask = match counter {
            Counter::Byte => 0xff,
            Counter::Word => u64::MAX,
        };
        let since = Instant::now();
        let mut watched =
            Self { memory, start: 0, pages, mask, origin: Vec::new(), first_page: 0, passes: 1 };
        while since.elapsed() < limit {
            for (start, end) in anonymous_mappings(pid)? {
                let last = end.saturating_sub(pages * PAGE);
                for candidate in (start..=last).step_by(PAGE as usize) {
                    watched.start = candidate;
                    if watched.begins_with(counter)
                        && let Some(words) = watched.words_unless_zero()
                    {
                        watched.origin = match counter {
                            Counter::Byte => vec![1; words.len()],
                            Counter::Word => words,
                        };
                        return Ok(watched);
                    }
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("process {pid} did not fill {pages} pages within {} s", limit.as_secs()).into())
    }

    fn begins_with(&self, counter: Counter) -> bool {
        let mut page = [0; PAGE as usize];
        self.memory.read_exact_at(&mut page, self.start).is_ok() && counter.is_in(&page)
    }

    fn words_unless_zero(&self) -> Option<Vec<u64>> {
        let word = |page| self.word(page).ok().filter(|word| *word != 0);
        (0..self.pages).map(word).collect()
    }

    fn word(&self, page: u64) -> Result<u64> {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, self.start + page * PAGE)?;
        Ok(u64::from_le_bytes(word) & self.mask)
    }

    fn writes(&self, page: u64) -> Result<u64> {
        Ok(self.word(page)?.wrapping_sub(self.origin[page as usize]) & self.mask)
    }

    /// How many pages have been written since some moment before the first sample, and when that was. Must be
    /// called at least once in 255 passes.
    pub(crate) fn sample(&mut self) -> Result<Sample> {
        let since = Instant::now();
        while since.elapsed() < SAMPLE_LIMIT {
            let before_ns = monotonic_ns();
            let first = self.writes(0)?;
            let (mut written, mut not_written) = (0, self.pages);
            while not_written - written > 1 {
                let middle = written.midpoint(not_written);
                if self.writes(middle)? == first { written = middle } else { not_written = middle }
            }
            let after_ns = monotonic_ns();
            // A page that is being written as a whole holds noise where its counter is, for a moment:
            // elsewhere it counts as not written yet, at the first page it says nothing.
            let advance = first.wrapping_sub(self.first_page) & self.mask;
            let is_count = u32::try_from(advance).is_ok();
            // Else it began anew meanwhile, and what was found means nothing.
            if is_count && self.writes(0)? == first {
                self.passes += advance;
                self.first_page = first;
                let pages = self.passes * self.pages + not_written - self.pages;
                return Ok(Sample { at_ns: before_ns.midpoint(after_ns), pages });
            }
        }
        Err(format!("the counters in the memory make no sense for {} s", SAMPLE_LIMIT.as_secs()).into())
    }

    /// How many pages have been written, counted page by page; for a process that has stopped and whose
    /// counters have not run over.
    pub(crate) fn count(&self) -> Result<u64> {
        (0..self.pages).map(|page| self.writes(page)).sum()
    }

    /// Samples every 10 ms. Begins half a millisecond after something was written: the stressor writes once a
    /// millisecond, and a window that began in the midst of that could hold a part of a step more or less.
    pub(crate) fn follow(&mut self, span: Duration) -> Result<Vec<Sample>> {
        const TICK: Duration = Duration::from_millis(10);
        let _ = prctl::set_timerslack(1);
        let moved_by = Instant::now() + Duration::from_millis(1100);
        let here = self.sample()?.pages;
        while self.sample()?.pages == here && Instant::now() < moved_by {}
        let begin = Instant::now() + Duration::from_micros(500);
        let count = (span.as_millis() / TICK.as_millis()) as u32;
        let mut samples = Vec::with_capacity(count as usize + 1);
        for number in 0..=count {
            thread::sleep((begin + TICK * number).saturating_duration_since(Instant::now()));
            samples.push(self.sample()?);
        }
        Ok(samples)
    }
}

/// The private, writable, anonymous mappings of a process.
fn anonymous_mappings(pid: u32) -> Result<Vec<(u64, u64)>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mapping = |line: &str| {
        let mut words = line.split_whitespace();
        let (range, mode) = (words.next()?, words.next()?);
        let (start, end) = range.split_once('-')?;
        let inode = words.nth(2)?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        (mode == "rw-p" && inode == "0").then_some((address(start)?, address(end)?))
    };
    Ok(maps.lines().filter_map(mapping).collect())
}

/// Keeps the calling thread, and what it starts from then on, on the last CPU: the stressor pins its first
/// thread to the first one.
pub(crate) fn keep_to_last_cpu() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let mut only = CpuSet::new();
    if last.is_some_and(|cpu| only.set(cpu).is_ok()) {
        let _ = sched_setaffinity(Pid::from_raw(0), &only);
    }
}
