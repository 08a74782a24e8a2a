//! The memory that is available on the system, host or guest, that the stressor runs on. A workload that
//! needs more is refused; otherwise the kernel's out-of-memory killer would end the stressor.

use crate::{
    cgroup,
    workload::{PAGE_BYTES, PageSize, Workload, pages_for},
};
use std::{fs, io, path::Path};
use units::{Bytes, counted};

/// The memory that a workload leaves free: for other programs that may grow, page tables, and the kernel.
const MARGIN_BYTES: u64 = 32 << 20;

/// The memory of this system, host or guest, in ordinary pages and in huge pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemMemory {
    /// The total memory that the kernel manages.
    pub total: Bytes,
    /// The memory that can be allocated without swapping and without reaching a control group's limit.
    pub available: Bytes,
    /// Whether `available` is determined by a control group's limit.
    pub limited_by_cgroup: bool,
    /// The number of free reserved huge pages of 2 MiB. `None` if the kernel or the CPU does not support
    /// them.
    pub free_2m: Option<u64>,
    /// The number of free reserved huge pages of 1 GiB. `None` if the kernel or the CPU does not support
    /// them.
    pub free_1g: Option<u64>,
}

/// A lack of memory for a workload. The message says how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum MemoryError {
    #[error(
        "the workload needs {} of memory (working set {working_set}, ballast {ballast}, and a table of \
         their pages) and {} must stay free, but only {} are available {location}: \
         make the working set or the ballast smaller, or provide more memory",
        need.rounded(), margin.rounded(), available.rounded()
    )]
    TooLittleMemory {
        need: Bytes,
        working_set: Bytes,
        ballast: Bytes,
        margin: Bytes,
        location: &'static str,
        available: Bytes,
    },
    #[error(
        "the working set needs {} of {size}, but {}: reserve them as root \
         with `echo {need} > {path}` (add the number of pages that other programs use)",
        counted(*need, "huge page"),
        match free {
            0 => "none is free".to_owned(),
            1 => "only one is free".to_owned(),
            several => format!("only {several} are free"),
        }
    )]
    TooFewHugePages { need: u64, free: u64, size: Bytes, path: String },
    #[error("huge pages of {size} are not supported here: choose another page size ({path} does not exist)")]
    NoHugePages { size: Bytes, path: String },
}

impl SystemMemory {
    /// Reads the current values from the kernel.
    ///
    /// # Errors
    ///
    /// The errors of [`MemInfo::probe`].
    pub fn probe() -> io::Result<Self> {
        let MemInfo { total, available, limited_by_cgroup } = MemInfo::probe()?;
        Ok(Self {
            total,
            available,
            limited_by_cgroup,
            free_2m: huge_pages(PageSize::Huge2M, "free_hugepages"),
            free_1g: huge_pages(PageSize::Huge1G, "free_hugepages"),
        })
    }

    /// Adds the memory that a workload holds to the available memory, because its successor can use it.
    pub(crate) fn add_available(&mut self, held: &Workload) {
        self.available = Bytes::new(self.available.get() + ordinary_bytes(held));
        let huge_pages = huge_pages_needed(held);
        match held.page_size {
            PageSize::Small => {}
            PageSize::Huge2M => self.free_2m = self.free_2m.map(|free| free + huge_pages),
            PageSize::Huge1G => self.free_1g = self.free_1g.map(|free| free + huge_pages),
        }
    }

    /// Checks that there is enough memory for a workload.
    ///
    /// # Errors
    ///
    /// Returns what is missing: ordinary memory or huge pages.
    pub fn check(&self, workload: &Workload) -> Result<(), MemoryError> {
        let need = ordinary_bytes(workload);
        if need > 0 && need + MARGIN_BYTES > self.available.get() {
            return Err(MemoryError::TooLittleMemory {
                need: Bytes::new(need),
                working_set: workload.working_set,
                ballast: workload.ballast,
                margin: Bytes::new(MARGIN_BYTES),
                location: if self.limited_by_cgroup { "in this control group" } else { "on this system" },
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
            None => Err(MemoryError::NoHugePages { size, path }),
            Some(free) if free < need => Err(MemoryError::TooFewHugePages { need, free, size, path }),
            Some(_) => Ok(()),
        }
    }
}

/// Returns the number of huge pages that back the working set; 0 with ordinary pages.
pub(crate) fn huge_pages_needed(workload: &Workload) -> u64 {
    match workload.page_size {
        PageSize::Small => 0,
        huge => workload.working_set.get().div_ceil(huge.bytes()),
    }
}

/// Returns the memory that a workload takes outside of reserved huge pages, in bytes: its ordinary pages, and
/// 4 bytes of table for each page of the working set.
pub(crate) fn ordinary_bytes(workload: &Workload) -> u64 {
    let (working_set, ballast) = (pages_for(workload.working_set), pages_for(workload.ballast));
    let mapped = if workload.page_size == PageSize::Small { working_set + ballast } else { ballast };
    mapped * PAGE_BYTES + working_set * 4
}

/// Returns the path of a file in sysfs about huge pages of this size.
pub(crate) fn huge_page_file(size: PageSize, name: &str) -> String {
    format!("/sys/kernel/mm/hugepages/hugepages-{}kB/{name}", size.bytes() >> 10)
}

/// Reads a counter in sysfs about huge pages of this size. Returns `None` if the size is not supported.
pub(crate) fn huge_pages(size: PageSize, name: &str) -> Option<u64> {
    fs::read_to_string(Path::new(&huge_page_file(size, name))).ok()?.trim().parse().ok()
}

/// The memory in ordinary pages, as /proc/meminfo and the limits of this process's control groups report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemInfo {
    /// The total memory of the system.
    pub total: Bytes,
    /// The memory that can be allocated without swapping, or the rest of the control group's limit if that is
    /// less.
    pub available: Bytes,
    /// Whether `available` is determined by the control group's limit.
    pub limited_by_cgroup: bool,
}

impl MemInfo {
    /// Reads the current values from the kernel.
    ///
    /// # Errors
    ///
    /// Fails if /proc/meminfo cannot be read or lacks a field.
    pub fn probe() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let field = |name| {
            meminfo_bytes(&text, name).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("/proc/meminfo has no {name}"))
            })
        };
        let available = field("MemAvailable")?;
        let limit = cgroup::memory_left().map(Bytes::new).filter(|&left| left < available);
        let limited_by_cgroup = limit.is_some();
        Ok(Self { total: field("MemTotal")?, available: limit.unwrap_or(available), limited_by_cgroup })
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

    fn system(available_mib: u64) -> SystemMemory {
        SystemMemory {
            total: Bytes::new(1 << 30),
            available: Bytes::new(available_mib * MIB),
            limited_by_cgroup: false,
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
    fn a_workload_that_leaves_too_little_memory_is_refused() {
        // 100 MiB, the table of 60 KiB, and the margin of 32 MiB.
        let small = workload(60, 40, PageSize::Small);
        assert_eq!(system(133).check(&small), Ok(()));
        let huge = system(132).check(&workload(95_000_000, 0, PageSize::Small)).unwrap_err().to_string();
        assert!(huge.starts_with("the workload needs 99.7 TB of memory"), "{huge}");
        let error = system(132).check(&small).unwrap_err().to_string();
        assert_eq!(
            error,
            "the workload needs 104.9 MB of memory (working set 60MiB, ballast 40MiB, and a table of \
             their pages) and 33.6 MB must stay free, but only 138.4 MB are available on this system: \
             make the working set or the ballast smaller, or provide more memory"
        );
        let limited = SystemMemory { limited_by_cgroup: true, ..system(132) };
        assert!(limited.check(&small).unwrap_err().to_string().contains("available in this control group"));
    }

    #[test]
    fn an_empty_workload_needs_no_memory() {
        assert_eq!(system(0).check(&Workload::default()), Ok(()));
    }

    #[test]
    fn huge_pages_and_ordinary_memory_are_checked_separately() {
        assert_eq!(system(33).check(&workload(20, 0, PageSize::Huge2M)), Ok(()));
        assert_eq!(
            system(1000).check(&workload(21, 0, PageSize::Huge2M)).unwrap_err().to_string(),
            "the working set needs 11 huge pages of 2MiB, but only 10 are free: reserve them as root \
             with `echo 11 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` \
             (add the number of pages that other programs use)"
        );
        let none = SystemMemory { free_2m: Some(0), ..system(1000) };
        let error = none.check(&workload(1, 0, PageSize::Huge2M)).unwrap_err().to_string();
        assert!(error.starts_with("the working set needs 1 huge page of 2MiB, but none is free:"), "{error}");
        let error = system(1000).check(&workload(21, 0, PageSize::Huge1G)).unwrap_err().to_string();
        assert!(error.starts_with("huge pages of 1GiB are not supported here"), "{error}");
        assert!(system(33).check(&workload(20, 10, PageSize::Huge2M)).is_err());
    }

    #[test]
    fn memory_held_by_the_old_workload_counts_as_available() {
        let held = workload(20, 40, PageSize::Huge2M);
        let mut system = system(0);
        system.add_available(&held);
        assert_eq!(system.free_2m, Some(20));
        assert_eq!(system.available.get(), ordinary_bytes(&held));
        assert_eq!(ordinary_bytes(&held), 40 * MIB + 20 * 256 * 4);
    }

    #[test]
    fn the_memory_of_this_system_can_be_read() {
        let memory = SystemMemory::probe().unwrap();
        assert!(memory.available <= memory.total);
        assert!(memory.total.get() > 64 * MIB);
    }

    #[test]
    fn meminfo_fields_are_matched_by_their_full_name() {
        let text = "MemTotal:       24000 kB\nMemAvailable:   12 kB\nHugePages_Free:        3\n";
        assert_eq!(meminfo_bytes(text, "MemAvailable"), Some(Bytes::new(12 << 10)));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        assert_eq!(meminfo_bytes(text, "HugePages_Free"), None);
    }
}
