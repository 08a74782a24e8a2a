//! The workload: the settings of the stressor, as people write them and as the host sends them.
//!
//! The names are the same in the `stress:` section of a matrix file and, with dashes, on the command line.
//! Reading a workload depends only on its text. [`Workload::check`] finds contradictory settings, and
//! [`SystemMemory::check`](crate::machine::SystemMemory::check) finds out whether there is enough memory.

use crate::share::Percentage;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use units::{ByteRate, Bytes, Span, counted};

/// The unit in which memory is dirtied and counted, in bytes, even if huge pages back it.
pub const PAGE_BYTES: u64 = 4096;

/// The complete settings of the stressor. The default workload uses no memory and is idle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// The dirty rate of all threads together; each page written counts as 4 KiB. 0 is idle, `unlimited` is
    /// as fast as the CPUs allow.
    pub rate: Rate,
    /// The size of the memory that is dirtied repeatedly, rounded up to whole pages of 4 KiB.
    pub working_set: Bytes,
    /// The size of the memory that is filled once and not written again, rounded up to whole pages of 4 KiB.
    pub ballast: Bytes,
    /// The content of the pages of the working set.
    pub content: Content,
    /// The content of the pages of the ballast.
    pub ballast_content: Content,
    /// How much of a page each write stores.
    pub write: Write,
    /// The order in which pages are written.
    pub order: Order,
    /// The number of writing threads, at most 16 for each CPU. Each has its own part of the working set; they
    /// are pinned to the CPUs in turn.
    pub threads: u32,
    /// The size of the pages that back the working set. Memory is dirtied in units of 4 KiB with any size.
    pub page_size: PageSize,
    /// Whether writes that a stall prevented are made up for.
    pub catch_up: CatchUp,
    /// The interval at which the pages that have come due are written, from 10 us to 1 ms. A shorter step is
    /// smoother and costs more wake-ups; each takes about 20 us of CPU time on a host and 300 us under
    /// emulation.
    pub step: Span,
    /// Consecutive phases with rates of their own; `rate` applies after the last one. They begin when
    /// dirtying starts, and again when a workload is set while the stressor is dirtying.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// The seed of the random content and the random order. The same seed gives the same content and order.
    pub seed: u64,
}

/// A dirty rate. Written `96MB/s`, `0`, `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rate {
    /// A rate in bytes per second; each page written counts as 4 KiB.
    Limited(ByteRate),
    /// As fast as the CPUs allow.
    Unlimited,
}

/// The content of a page. Written `zero`, `constant`, `random`, `increment`, `sparse:1%`, `compressible:25%`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Content {
    /// Only zeros. Verification cannot detect a lost write, because all writes store the same content.
    Zero,
    /// A non-zero value of 8 bytes, repeated. It differs for each page and each write.
    Constant,
    /// Random data that does not compress.
    #[default]
    Random,
    /// Random data that stays the same, except for a counter in the first 8 bytes that each write increments.
    /// This is the best case for XBZRLE.
    Increment,
    /// Random data that stays the same, except for this percentage of the page's 512 words of 8 bytes, evenly
    /// spread, each of which gets a new random value with each write. `sparse:1%` changes 5 words, 40 bytes.
    Sparse(Percentage),
    /// Random data in this percentage of the page and a constant in the rest. It compresses to about this
    /// percentage.
    Compressible(Percentage),
}

/// The part of a page that each write stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// The whole page: 4096 bytes.
    #[default]
    Page,
    /// The first 8 bytes; the rest keeps its initial content.
    Word,
}

/// The order in which pages are written. Written `sequential`, `random`, `hot-cold:90%/10%`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// In address order; after the last page, the first is next.
    #[default]
    Sequential,
    /// In random order, all pages equally likely. Some pages are written twice before others are written
    /// once.
    Random,
    /// In random order, with more writes to the hot pages than to the cold ones.
    HotCold {
        /// The percentage of the writes that go to hot pages.
        writes: Percentage,
        /// The percentage of the pages that are hot. They are the first pages of each thread's memory.
        pages: Percentage,
    },
}

/// The size of the pages that back the working set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PageSize {
    /// Ordinary pages of 4 KiB, with transparent huge pages disabled.
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

/// What happens to writes that a stall prevented, because the guest was stopped, throttled or short of CPU
/// time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// They are dropped and counted as forgone; after a stall the rate is the same as before. Only delays of
    /// up to 10 ms that add up to at most 5 % of the time are made up for.
    #[default]
    Never,
    /// They are made up for immediately, so that the average rate includes the time of the stall.
    Burst,
}

/// A period of time with a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// The dirty rate during the phase.
    pub rate: Rate,
    /// The length of the phase; more than 0.
    pub duration: Span,
}

/// An error in the settings of a workload. The message says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum WorkloadError {
    #[error("a rate of {rate} needs a working set: set `working_set` to a size, like `96MB`")]
    NothingToDirty { rate: Rate },
    #[error("`threads` is 0: at least one thread is needed")]
    NoThreads,
    #[error(
        "{threads} threads cannot share a working set of {} of 4 KiB: \
         use at most {}, or a larger working set",
        counted(*pages, "page"), counted(*pages, "thread")
    )]
    MoreThreadsThanPages { threads: u32, pages: u64 },
    #[error(
        "{threads} threads are too many for {}: threads on the same CPU only take turns, and waking more \
         than {} for each takes the time that they need to write; use at most {}",
        counted(*cpus as u64, "CPU"), Workload::MAX_THREADS_PER_CPU,
        counted(Workload::max_threads(*cpus), "thread")
    )]
    MoreThreadsThanCpus { threads: u32, cpus: usize },
    #[error("phase {number} has a duration of 0: set it to a time, like `30s`")]
    EmptyPhase { number: usize },
    #[error("a step of {0} is out of range: use a step from 10us to 1ms")]
    Step(Span),
    #[error("a size of {0} exceeds the maximum of 128TiB")]
    TooLarge(Bytes),
    #[error(
        "a rate of {0} exceeds the maximum of {max}: `unlimited` is as fast as the CPUs allow",
        max = Rate::MAX
    )]
    TooFast(Rate),
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
    /// A rate of 0: the memory is allocated but not dirtied.
    pub const IDLE: Self = Self::Limited(ByteRate::ZERO);

    /// The largest rate with a limit: more than the 255 CPUs of a guest write, even if it is only 8 bytes of
    /// each page, for which a page counts.
    pub const MAX: ByteRate = ByteRate::new(100_000_000_000_000);

    /// Returns whether the rate has a limit above [`Self::MAX`].
    pub(crate) fn is_too_fast(self) -> bool {
        matches!(self, Self::Limited(rate) if rate > Self::MAX)
    }

    /// Returns whether the rate is 0.
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Limited(rate) if rate.is_zero())
    }
}

impl PageSize {
    /// Returns the size of a page in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => PAGE_BYTES,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

/// Returns the number of 4 KiB pages needed for `bytes`, rounded up.
pub const fn pages_for(bytes: Bytes) -> u64 {
    bytes.get().div_ceil(PAGE_BYTES)
}

impl Workload {
    /// The longest allowed step and the default, 1 ms. With longer steps the dirty rate would not be even.
    pub const LONGEST_STEP: Span = Span::from_millis(1);

    /// The shortest allowed step, 10 us. A wake-up takes almost as long.
    pub const SHORTEST_STEP: Span = Span::from_nanos(10_000);

    /// The largest number of threads for each CPU. A wake-up takes about 20 us of a step.
    pub const MAX_THREADS_PER_CPU: u64 = 16;

    /// Returns the largest number of threads on a system with this many CPUs.
    pub const fn max_threads(cpus: usize) -> u64 {
        (cpus as u64).saturating_mul(Self::MAX_THREADS_PER_CPU)
    }

    /// Returns whether the rate is 0 in every phase.
    pub fn dirties_nothing(&self) -> bool {
        self.rate.is_idle() && self.phases.iter().all(|phase| phase.rate.is_idle())
    }

    /// Checks that a system with this many CPUs can run the threads.
    ///
    /// # Errors
    ///
    /// If there are more than [`Workload::max_threads`].
    pub fn check_cpus(&self, cpus: usize) -> Result<(), WorkloadError> {
        if u64::from(self.threads) > Self::max_threads(cpus) {
            return Err(WorkloadError::MoreThreadsThanCpus { threads: self.threads, cpus });
        }
        Ok(())
    }

    /// Checks that the settings are valid and consistent, regardless of the available memory and CPUs.
    ///
    /// # Errors
    ///
    /// Returns the first invalid setting or contradiction.
    pub fn check(&self) -> Result<(), WorkloadError> {
        // 128 TiB: small enough that rounding up to huge pages and adding sizes does not overflow.
        const MAX_SIZE: Bytes = Bytes::new(1 << 47);
        if let Some(&size) = [self.working_set, self.ballast].iter().find(|size| **size > MAX_SIZE) {
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
        if let Some(rate) = rates.clone().find(|rate| rate.is_too_fast()) {
            return Err(WorkloadError::TooFast(rate));
        }
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
    fn valid_workloads_pass() {
        assert_eq!(Workload::default().check(), Ok(()));
        assert_eq!(check("{ rate: 96MB/s, working_set: 96MB }"), Ok(()));
        assert_eq!(check("{ ballast: 1GiB, threads: 4 }"), Ok(()));
        assert_eq!(check("{ working_set: 16KiB, threads: 4 }"), Ok(()));
    }

    #[test]
    fn invalid_and_contradictory_settings_are_refused() {
        let refused = |yaml, words: &str| {
            let error = check(yaml).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        refused("{ rate: 96MB/s }", "a rate of 96MB/s needs a working set");
        refused("{ rate: unlimited, ballast: 1GiB }", "a rate of unlimited needs a working set");
        refused("{ phases: [{ rate: 1MB/s, duration: 1s }] }", "a rate of 1MB/s needs a working set");
        refused("{ working_set: 1MB, threads: 0 }", "at least one thread");
        refused("{ working_set: 16KiB, threads: 5 }", "use at most 4 threads");
        refused("{ working_set: 4KiB, threads: 2 }", "of 1 page of 4 KiB: use at most 1 thread, or");
        refused("{ working_set: 1MB, phases: [{ rate: 0, duration: 0 }] }", "phase 1 has a duration of 0");
        refused("{ step: 1001us }", "a step of 1001us is out of range: use a step from 10us to 1ms");
        refused("{ step: 0 }", "out of range");
        refused("{ working_set: 10000000TB }", "exceeds the maximum of 128TiB");
        refused(
            "{ working_set: 1MB, rate: 101TB/s }",
            "a rate of 101TB/s exceeds the maximum of 100TB/s: `un",
        );
        let phases = "{ working_set: 1MB, phases: [{ rate: 18446744073709551615B/s, duration: 1s }] }";
        refused(phases, "exceeds the maximum of 100TB/s");
        assert_eq!(check("{ working_set: 1MB, rate: 100TB/s }"), Ok(()));
    }

    #[test]
    fn more_threads_than_the_cpus_can_wake_are_refused() {
        let with = |threads| Workload { threads, ..Workload::default() };
        assert_eq!(with(32).check_cpus(2), Ok(()));
        for (threads, cpus, words) in [
            (33, 2, "33 threads are too many for 2 CPUs: threads on the same CPU only take turns"),
            (u32::MAX, 1, "for 1 CPU: "),
            (17, 1, "more than 16 for each takes the time that they need to write; use at most 16 threads"),
        ] {
            let error = with(threads).check_cpus(cpus).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
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
