//! What the stressor is asked to do: the settings, as a person writes them and as the host sends them.
//!
//! The names here are those of a matrix file's `stress:` section and, with dashes, of the command line.
//! Reading a workload looks at nothing but its text; [`Workload::check`] finds what contradicts itself;
//! whether a machine has the memory is the [`Machine`](crate::machine::Machine)'s to say.

use crate::share::Share;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use units::{ByteRate, Bytes, Span};

/// The size in which memory is dirtied and counted, whatever pages back it.
pub const PAGE_BYTES: u64 = 4096;

/// A load on memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// How fast memory is dirtied: bytes of 4 KiB pages written per second, by all threads together. 0 is
    /// idle, `unlimited` as fast as the CPU can.
    pub rate: Rate,
    /// The memory that is dirtied over and over, rounded up to whole pages of 4 KiB.
    pub working_set: Bytes,
    /// Memory that is filled once and then left alone, rounded up to whole pages of 4 KiB.
    pub ballast: Bytes,
    /// What a page of the working set holds.
    pub content: Content,
    /// What a page of the ballast holds.
    pub ballast_content: Content,
    /// How much of a page one write stores.
    pub write: Write,
    /// Which page is written next.
    pub order: Order,
    /// How many threads write, each to its own part of the working set, pinned to the CPUs in turn.
    pub threads: u32,
    /// The pages that back the working set. It is dirtied in steps of 4 KiB all the same.
    pub page_size: PageSize,
    /// Whether writes that a stall prevented are made up for.
    pub catch_up: CatchUp,
    /// How often to write what has come due since the last time: at most 1 ms, at least 10 us. A finer step
    /// is smoother and costs more wake-ups, of about 20 us of CPU time each on a host and 300 us under
    /// emulation.
    pub step: Span,
    /// Rates for the first stretches of time, one after the other; `rate` holds after them. They begin when
    /// dirtying starts, and anew when a workload is set while it goes on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// Chooses the random content and the random order; the same seed gives the same again.
    pub seed: u64,
}

/// How fast memory is dirtied. Written `96MB/s`, `0`, `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rate {
    /// This many bytes of 4 KiB pages per second.
    Limited(ByteRate),
    /// As fast as the CPU can.
    Unlimited,
}

/// What a page holds. Written `zero`, `constant`, `random`, `increment`, `compressible:25%`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing but zeros. A page that missed a write cannot be told from one that did not.
    Zero,
    /// One non-zero value of 8 bytes over and over, another one for each page and each write.
    Constant,
    /// Noise that no compressor makes smaller.
    #[default]
    Random,
    /// Noise that stays, but for a counter in the first 8 bytes that each write increments: the best case
    /// for XBZRLE.
    Increment,
    /// Noise for this share of the page, then a constant: compresses to about this share of its size.
    Compressible(Share),
}

/// How much of a page one write stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// All 4096 bytes.
    #[default]
    Page,
    /// Its first 8 bytes; the rest stays as it was filled.
    Word,
}

/// Which page is written next. Written `sequential`, `random`, `hot-cold:90%/10%`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// One after the other, from the start again after the last.
    #[default]
    Sequential,
    /// Any, each as likely as the others. Some are written twice before others are once.
    Random,
    /// At random too, but this share of the writes goes to this share of the pages.
    HotCold {
        /// The share of the writes that goes to hot pages.
        writes: Share,
        /// The share of the pages that is hot.
        pages: Share,
    },
}

/// The pages that back the working set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PageSize {
    /// Ordinary pages, transparent huge pages kept away.
    #[default]
    #[serde(rename = "4KiB")]
    #[value(name = "4KiB")]
    Small,
    /// Reserved huge pages of 2 MiB.
    #[serde(rename = "2MiB")]
    #[value(name = "2MiB")]
    Huge2M,
    /// Reserved huge pages of 1 GiB.
    #[serde(rename = "1GiB")]
    #[value(name = "1GiB")]
    Huge1G,
}

/// What becomes of the writes that a stall prevented: the guest was stopped, throttled or starved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// They are dropped, and counted as such: after a stall the rate is what it was before. Only hold-ups of
    /// a few milliseconds that take up less than 5 % of the time are made up for, see [`crate::pace`].
    #[default]
    Never,
    /// They are made up for at once, so that the average holds over the stall as well.
    Burst,
}

/// A stretch of time at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// How fast memory is dirtied in it.
    pub rate: Rate,
    /// How long it lasts.
    pub duration: Span,
}

/// Why a workload contradicts itself. Says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum WorkloadError {
    #[error("a rate of {rate} needs a working set to dirty: give `working_set` a size, like `96MB`")]
    NothingToDirty { rate: Rate },
    #[error("`threads` is 0: at least one thread has to write")]
    NoThreads,
    #[error(
        "{threads} threads cannot share a working set of {pages} pages of 4 KiB: \
         use at most {pages} threads, or a larger working set"
    )]
    MoreThreadsThanPages { threads: u32, pages: u64 },
    #[error("phase {number} lasts no time: give it a duration, like `30s`")]
    EmptyPhase { number: usize },
    #[error("a step of {0} is out of range: it can be from 10us to 1ms")]
    Step(Span),
    #[error("a memory of {0} is more than can be addressed")]
    TooLarge(Bytes),
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            rate: Rate::IDLE,
            working_set: Bytes::ZERO,
            ballast: Bytes::ZERO,
            content: Content::default(),
            ballast_content: Content::default(),
            write: Write::default(),
            order: Order::default(),
            threads: 1,
            page_size: PageSize::default(),
            catch_up: CatchUp::default(),
            step: Self::LONGEST_STEP,
            phases: Vec::new(),
            seed: 1,
        }
    }
}

impl Rate {
    /// Nothing is dirtied.
    pub const IDLE: Self = Self::Limited(ByteRate::ZERO);

    /// Whether nothing is dirtied.
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Limited(rate) if rate.is_zero())
    }
}

impl PageSize {
    /// The size of one page, in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => PAGE_BYTES,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

/// The number of 4 KiB pages that hold `bytes`.
pub const fn pages_for(bytes: Bytes) -> u64 {
    bytes.get().div_ceil(PAGE_BYTES)
}

impl Workload {
    /// The longest step: a load that is written in larger pieces is not an even one.
    pub const LONGEST_STEP: Span = Span::from_millis(1);

    /// The shortest step: a wake-up takes almost as long.
    pub const SHORTEST_STEP: Span = Span::from_nanos(10_000);

    /// Finds what contradicts itself on any machine.
    ///
    /// # Errors
    ///
    /// The first contradiction, in words that say what to change.
    pub fn check(&self) -> Result<(), WorkloadError> {
        // Leaves room to round up to huge pages and to add the parts up.
        const MOST: Bytes = Bytes::new(1 << 47);
        if let Some(&size) = [self.working_set, self.ballast].iter().find(|size| **size > MOST) {
            return Err(WorkloadError::TooLarge(size));
        }
        if self.threads == 0 {
            return Err(WorkloadError::NoThreads);
        }
        if !(Self::SHORTEST_STEP..=Self::LONGEST_STEP).contains(&self.step) {
            return Err(WorkloadError::Step(self.step));
        }
        if let Some(at) = self.phases.iter().position(|phase| phase.duration.is_zero()) {
            return Err(WorkloadError::EmptyPhase { number: at + 1 });
        }
        let pages = pages_for(self.working_set);
        let mut rates = self.phases.iter().map(|phase| phase.rate).chain([self.rate]);
        match rates.find(|rate| !rate.is_idle()) {
            Some(rate) if pages == 0 => Err(WorkloadError::NothingToDirty { rate }),
            _ if pages > 0 && u64::from(self.threads) > pages => {
                Err(WorkloadError::MoreThreadsThanPages { threads: self.threads, pages })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Result<(), String> {
        let workload: Workload = serde_yaml::from_str(yaml).unwrap();
        workload.check().map_err(|error| error.to_string())
    }

    #[test]
    fn sound_workloads_pass() {
        assert_eq!(Workload::default().check(), Ok(()));
        assert_eq!(check("{ rate: 96MB/s, working_set: 96MB }"), Ok(()));
        assert_eq!(check("{ ballast: 1GiB, threads: 4 }"), Ok(()));
        assert_eq!(check("{ working_set: 16KiB, threads: 4 }"), Ok(()));
    }

    #[test]
    fn contradictions_are_found() {
        let refused = |yaml, words: &str| {
            let error = check(yaml).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        refused("{ rate: 96MB/s }", "a rate of 96MB/s needs a working set");
        refused("{ rate: unlimited, ballast: 1GiB }", "a rate of unlimited needs a working set");
        refused("{ phases: [{ rate: 1MB/s, duration: 1s }] }", "a rate of 1MB/s needs a working set");
        refused("{ working_set: 1MB, threads: 0 }", "at least one thread");
        refused("{ working_set: 16KiB, threads: 5 }", "use at most 4 threads");
        refused("{ working_set: 1MB, phases: [{ rate: 0, duration: 0 }] }", "phase 1 lasts no time");
        refused("{ step: 1001us }", "a step of 1001us is out of range: it can be from 10us to 1ms");
        refused("{ step: 0 }", "out of range");
        refused("{ working_set: 10000000TB }", "more than can be addressed");
    }

    #[test]
    fn sizes_are_rounded_up_to_whole_pages() {
        assert_eq!(pages_for(Bytes::new(96_000_000)), 23_438);
        assert_eq!(pages_for(Bytes::new(4096)), 1);
        assert_eq!(pages_for(Bytes::ZERO), 0);
    }

    #[cfg(feature = "schema")]
    #[test]
    fn the_schema_describes_every_setting() {
        let schema = schemars::schema_for!(Workload).to_value();
        let serde_json::Value::Object(settings) = serde_json::to_value(Workload::default()).unwrap() else {
            panic!("a workload is an object");
        };
        for setting in settings.keys().map(String::as_str).chain(["phases"]) {
            assert!(schema["properties"][setting]["description"].is_string(), "{setting}");
        }
        assert_eq!(schema["additionalProperties"], false);
    }
}
