//! What memory a machine can spare, so that a workload too large for it is refused instead of ending in the
//! kernel's out-of-memory killer.

use crate::{
    cgroup,
    workload::{PAGE_BYTES, PageSize, Workload, pages_for},
};
use std::{fs, io, path::Path};
use units::Bytes;

/// Memory left to everybody else: programs that are about to grow, page tables, the kernel.
const MARGIN_BYTES: u64 = 32 << 20;

/// What the stressor needs to know about the machine it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// All memory the kernel has.
    pub total: Bytes,
    /// What can be allocated without pushing anybody else out, and without reaching a limit.
    pub available: Bytes,
    /// Whether it is a control group's limit that is nearest.
    pub is_limited: bool,
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
        "{:.1} MB of memory are needed (working set {working_set}, ballast {ballast}, a table of their pages) \
         and {:.1} MB must stay free, but {to_whom} has {:.1} MB available: \
         make the working set or the ballast smaller, or give it more memory",
        need.as_mb(), margin.as_mb(), available.as_mb()
    )]
    TooLittleMemory {
        need: Bytes,
        working_set: Bytes,
        ballast: Bytes,
        margin: Bytes,
        to_whom: &'static str,
        available: Bytes,
    },
    #[error(
        "{need} free huge pages of {size} are needed and there are {free}: \
         reserve them with `echo {need} > {path}` as root (what others use comes on top)"
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
    /// As [`Memory::probe`].
    pub fn probe() -> io::Result<Self> {
        let Memory { total, available, is_limited } = Memory::probe()?;
        Ok(Self {
            total,
            available,
            is_limited,
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
                margin: Bytes::new(MARGIN_BYTES),
                to_whom: if self.is_limited { "this control group" } else { "this machine" },
                available: self.available,
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

/// Memory of ordinary pages, as far as this process can have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What the machine has in all.
    pub total: Bytes,
    /// What is left without swapping, to this process's control group where that has less.
    pub available: Bytes,
    /// Whether it is the control group that has less.
    pub is_limited: bool,
}

impl Memory {
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
        let available = field("MemAvailable")?;
        let limit = cgroup::memory_left().map(Bytes::new).filter(|&left| left < available);
        let is_limited = limit.is_some();
        Ok(Self { total: field("MemTotal")?, available: limit.unwrap_or(available), is_limited })
    }
}

fn meminfo_bytes(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes::new(kib << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn machine(available_mib: u64) -> Machine {
        Machine {
            total: Bytes::new(1 << 30),
            available: Bytes::new(available_mib * MIB),
            is_limited: false,
            free_2m: Some(10),
            free_1g: None,
        }
    }

    fn workload(working_set_mib: u64, ballast_mib: u64, page_size: PageSize) -> Workload {
        Workload {
            working_set: Bytes::new(working_set_mib * MIB),
            ballast: Bytes::new(ballast_mib * MIB),
            page_size,
            ..Workload::default()
        }
    }

    #[test]
    fn memory_is_refused_before_it_runs_out() {
        // 100 MiB, the table of 25 pages of 4 KiB, and the margin of 32 MiB.
        let small = workload(60, 40, PageSize::Small);
        assert_eq!(machine(133).check(&small), Ok(()));
        let error = machine(132).check(&small).unwrap_err().to_string();
        assert_eq!(
            error,
            "104.9 MB of memory are needed (working set 60MiB, ballast 40MiB, a table of their pages) and \
             33.6 MB must stay free, but this machine has 138.4 MB available: \
             make the working set or the ballast smaller, or give it more memory"
        );
        let limited = Machine { is_limited: true, ..machine(132) };
        assert!(limited.check(&small).unwrap_err().to_string().contains("but this control group has"));
    }

    #[test]
    fn nothing_is_always_to_be_had() {
        assert_eq!(machine(0).check(&Workload::default()), Ok(()));
    }

    #[test]
    fn huge_pages_are_counted_apart_from_the_rest() {
        assert_eq!(machine(33).check(&workload(20, 0, PageSize::Huge2M)), Ok(()));
        assert_eq!(
            machine(1000).check(&workload(21, 0, PageSize::Huge2M)).unwrap_err().to_string(),
            "11 free huge pages of 2MiB are needed and there are 10: reserve them with \
             `echo 11 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` as root \
             (what others use comes on top)"
        );
        let error = machine(1000).check(&workload(21, 0, PageSize::Huge1G)).unwrap_err().to_string();
        assert!(error.starts_with("this machine has no huge pages of 1GiB"), "{error}");
        assert!(machine(33).check(&workload(20, 10, PageSize::Huge2M)).is_err());
    }

    #[test]
    fn what_is_held_can_be_used_again() {
        let held = workload(20, 40, PageSize::Huge2M);
        let mut machine = machine(0);
        machine.add(&held);
        assert_eq!(machine.free_2m, Some(20));
        assert_eq!(machine.available.get(), ordinary_bytes(&held));
        assert_eq!(ordinary_bytes(&held), 40 * MIB + 20 * 256 * 4);
    }

    #[test]
    fn this_machine_can_be_probed() {
        let machine = Machine::probe().unwrap();
        assert!(machine.available <= machine.total);
        assert!(machine.total.get() > 64 * MIB);
    }

    #[test]
    fn meminfo_is_read_by_whole_names() {
        let text = "MemTotal:       24000 kB\nMemAvailable:   12 kB\nHugePages_Free:        3\n";
        assert_eq!(meminfo_bytes(text, "MemAvailable"), Some(Bytes::new(12 << 10)));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        assert_eq!(meminfo_bytes(text, "HugePages_Free"), None);
    }
}
