//! Observes from outside how many pages a process has dirtied, by reading its memory.
//!
//! Both the stressor (content `increment`) and `mm_dirty` count in the first word of each page how often
//! they have written it. They write sequentially, so the pages before the writer's current position have
//! been written once more than those after it. A binary search in `/proc/PID/mem`, some 16 reads of 8
//! bytes, therefore finds the exact number of pages written since the start, in some 20 us and without the
//! help of the process.

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

/// The format of the counter at the start of a page, and of the bytes after it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counter {
    /// The first byte: 1 before the first write, wrapping from 255 to 0. All other bytes are zero.
    Byte,
    /// The first 8 bytes, starting from any value. The other words are random.
    Word,
}

impl Counter {
    /// Returns whether a page appears to have this counter, and is not another page of the process in the
    /// same mapping.
    fn is_in(self, page: &[u8; PAGE as usize]) -> bool {
        let words = || page[8..].chunks(8).map(|word| word != [0; 8]);
        match self {
            Self::Byte => page[0] != 0 && page[1..8] == [0; 7] && !words().any(|is_set| is_set),
            Self::Word => page[..8] != [0; 8] && words().all(|is_set| is_set),
        }
    }
}

/// The dirtied memory of a process, as seen from outside.
pub(crate) struct WatchedMemory {
    memory: File,
    start: u64,
    pages: u64,
    mask: u64,
    /// Each page's counter before the first write.
    origin: Vec<u64>,
    /// The number of writes of the first page at the last sample, according to its counter, which may have
    /// wrapped.
    first_page: u64,
    /// The number of writes of the first page by then, without wrapping, plus 1 so that it is never 0.
    passes: u64,
}

const PAGE: u64 = stressor::workload::PAGE_BYTES;

/// How long a sample may take. Usually it takes some microseconds; it is repeated when the writer is in the
/// middle of a page.
const SAMPLE_LIMIT: Duration = Duration::from_secs(1);

impl WatchedMemory {
    /// Finds the `pages` pages of a process, waiting up to `limit` for the process to fill them.
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

    /// Returns how many pages have been written since an arbitrary moment before the first sample, and the
    /// time of the sample. Must be called at least once every 255 passes, or a wrapped counter goes
    /// unnoticed.
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
            // While a page is written as a whole, its counter is random for a moment. The search then
            // considers the page not written yet, which is correct; but if it is the first page, the sample
            // is invalid.
            let advance = first.wrapping_sub(self.first_page) & self.mask;
            let is_count = u32::try_from(advance).is_ok();
            // If the first page has changed, a new pass began during the search, and the result is
            // meaningless.
            if is_count && self.writes(0)? == first {
                self.passes += advance;
                self.first_page = first;
                let pages = self.passes * self.pages + not_written - self.pages;
                return Ok(Sample { at_ns: before_ns.midpoint(after_ns), pages });
            }
        }
        Err(format!("cannot make sense of the counters in memory for {} s", SAMPLE_LIMIT.as_secs()).into())
    }

    /// Returns how many pages have been written, by reading every counter. The process must have stopped,
    /// and no counter may have wrapped.
    pub(crate) fn count(&self) -> Result<u64> {
        (0..self.pages).map(|page| self.writes(page)).sum()
    }

    /// Takes a sample every 10 ms for `span`. The first one is taken half a millisecond after a write: the
    /// stressor writes once per millisecond, and a window that begins during a write could contain a part
    /// of a step more or less.
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

/// Returns the address ranges of the private, writable, anonymous mappings of a process.
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

/// Pins the calling thread, and processes it starts later, to the last CPU, because the stressor pins its
/// first thread to the first one.
pub(crate) fn pin_to_last_cpu() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let mut only = CpuSet::new();
    if last.is_some_and(|cpu| only.set(cpu).is_ok()) {
        let _ = sched_setaffinity(Pid::from_raw(0), &only);
    }
}
