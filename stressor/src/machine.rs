//! What memory a machine can spare, so that a workload too large for it is refused instead of ending in the
//! kernel's out-of-memory killer.

use crate::workload::{PAGE_BYTES, PageSize, Workload, pages_for};
use std::{fs, io, path::Path};
use units::Bytes;

/// Memory left to everybody else: programs that are about to grow, page tables, the kernel.
const MARGIN_BYTES: u64 = 32 << 20;

/// What the stressor needs to know about the machine it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// All memory the kernel has.
    pub total: Bytes,
    /// What can be allocated without pushing anybody else out.
    pub available: Bytes,
    /// Free reserved huge pages of 2 MiB; `None` where the kernel or the CPU has no such pages.
    pub free_2m: Option<u64>,
    /// Free reserved huge pages of 1 GiB; `None` where the kernel or the CPU has no such pages.
    pub free_1g: Option<u64>,
}

/// Why a workload does not fit a machine. Says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum MachineError {
    #[error(
        "{need} of memory are needed (working set {working_set}, ballast {ballast}, the table of their \
         pages), but only {available} are available and {margin} of that stay free: \
         make the working set or the ballast smaller, or give the machine more memory"
    )]
    TooLittleMemory { need: Bytes, working_set: Bytes, ballast: Bytes, available: Bytes, margin: Bytes },
    #[error(
        "{need} free huge pages of {size} are needed and there are {free}: \
         reserve them with `echo {need} > {path}` as root"
    )]
    TooFewHugePages { need: u64, free: u64, size: Bytes, path: String },
    #[error("this machine has no huge pages of {size}: choose another page size ({path} does not exist)")]
    NoHugePages { size: Bytes, path: String },
}

impl Machine {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// When /proc/meminfo cannot be read or does not say what it should.
    pub fn probe() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let field = |name| {
            meminfo_bytes(&text, name).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("/proc/meminfo has no {name}"))
            })
        };
        Ok(Self {
            total: field("MemTotal")?,
            available: field("MemAvailable")?,
            free_2m: huge_pages(PageSize::Huge2M, "free_hugepages"),
            free_1g: huge_pages(PageSize::Huge1G, "free_hugepages"),
        })
    }

    /// Counts the memory that a workload holds as available.
    pub(crate) fn add(&mut self, held: &Workload) {
        self.available = Bytes::new(self.available.get() + ordinary_bytes(held));
        let huge_pages = huge_pages_needed(held);
        match held.page_size {
            PageSize::Small => {}
            PageSize::Huge2M => self.free_2m = self.free_2m.map(|free| free + huge_pages),
            PageSize::Huge1G => self.free_1g = self.free_1g.map(|free| free + huge_pages),
        }
    }

    /// Whether the memory of a workload is to be had.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn check(&self, workload: &Workload) -> Result<(), MachineError> {
        let need = ordinary_bytes(workload);
        if need > 0 && need + MARGIN_BYTES > self.available.get() {
            return Err(MachineError::TooLittleMemory {
                need: Bytes::new(need),
                working_set: workload.working_set,
                ballast: workload.ballast,
                available: readable(self.available),
                margin: Bytes::new(MARGIN_BYTES),
            });
        }
        let size = workload.page_size;
        let free = match size {
            PageSize::Small => return Ok(()),
            PageSize::Huge2M => self.free_2m,
            PageSize::Huge1G => self.free_1g,
        };
        let need = huge_pages_needed(workload);
        let path = huge_page_file(size, "nr_hugepages");
        let size = Bytes::new(size.bytes());
        match free {
            None => Err(MachineError::NoHugePages { size, path }),
            Some(free) if free < need => Err(MachineError::TooFewHugePages { need, free, size, path }),
            Some(_) => Ok(()),
        }
    }
}

/// How many huge pages back the working set.
pub(crate) fn huge_pages_needed(workload: &Workload) -> u64 {
    match workload.page_size {
        PageSize::Small => 0,
        huge => workload.working_set.get().div_ceil(huge.bytes()),
    }
}

/// What a workload takes of memory that is not reserved for huge pages, in bytes: its pages, and 4 bytes for
/// each of the working set.
pub(crate) fn ordinary_bytes(workload: &Workload) -> u64 {
    let (working_set, ballast) = (pages_for(workload.working_set), pages_for(workload.ballast));
    let mapped = if workload.page_size == PageSize::Small { working_set + ballast } else { ballast };
    mapped * PAGE_BYTES + working_set * 4
}

/// A file of the kernel about huge pages of this size.
pub(crate) fn huge_page_file(size: PageSize, name: &str) -> String {
    format!("/sys/kernel/mm/hugepages/hugepages-{}kB/{name}", size.bytes() >> 10)
}

/// A number the kernel gives about huge pages of this size; `None` where there are none.
pub(crate) fn huge_pages(size: PageSize, name: &str) -> Option<u64> {
    fs::read_to_string(Path::new(&huge_page_file(size, name))).ok()?.trim().parse().ok()
}

/// A size rounded down to whole MiB, which reads better than the last kilobyte.
fn readable(bytes: Bytes) -> Bytes {
    Bytes::new(bytes.get() & !((1 << 20) - 1))
}

fn meminfo_bytes(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes::new(kib << 10))
}
