//! The memory available on the system, host or guest, on which the stressor runs. A workload that needs more
//! is refused; otherwise the kernel's out-of-memory killer would end the stressor.

use crate::{
    cgroup,
    headroom::{self, Bound, Headroom, Sizes},
    huge_pages::{self, HugePool},
    workload::{PAGE_BYTES, PageSize, Workload, pages_for},
};
use std::{io, path::Path};
use units::{Bytes, counted};

/// The memory that a workload leaves free: for other programs that may grow, page tables, and the kernel.
const MARGIN_BYTES: u64 = 32 << 20;

/// The address space that a thread takes: its stack of 2 MiB, and what surrounds it.
const THREAD_BYTES: u64 = (2 << 20) + (64 << 10);

/// The memory of this system, host or guest, in ordinary pages and in huge pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemMemory {
    /// What each limit leaves of the ordinary memory.
    headrooms: Vec<Headroom>,
    /// The huge pages of 2 MiB. `None` if the kernel or the CPU does not support them.
    huge_2m: Option<HugePool>,
    /// The huge pages of 1 GiB. `None` if the kernel or the CPU does not support them.
    huge_1g: Option<HugePool>,
}

/// A lack of memory for a workload. The message says how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum MemoryError {
    #[error(
        "the workload needs {} of memory (working set {working_set}, ballast {ballast}, and a table of \
         their pages) and {} must stay free, but only {} are available {place}: \
         make the working set or the ballast smaller, or {remedy}",
        need.rounded(), margin.rounded(), available.rounded()
    )]
    TooLittleMemory {
        need: Bytes,
        working_set: Bytes,
        ballast: Bytes,
        margin: Bytes,
        place: &'static str,
        available: Bytes,
        remedy: String,
    },
    #[error(
        "the working set needs {} of {size}, but {}: {remedy}",
        counted(*need, "huge page"),
        match available {
            0 => "none is free".to_owned(),
            1 => "only one is free".to_owned(),
            several => format!("only {several} are free"),
        }
    )]
    TooFewHugePages { need: u64, available: u64, size: Bytes, remedy: String },
    #[error(
        "the working set needs {} of {size}, but {}: make the working set smaller, or raise the limit in \
         {file}",
        counted(*need, "huge page"),
        match left {
            0 => "this control group may use no more".to_owned(),
            left => format!("this control group may use only {left} more"),
        }
    )]
    HugePageLimit { need: u64, left: u64, size: Bytes, file: String },
    #[error("huge pages of {size} are not supported here: choose another page size ({path} does not exist)")]
    NoHugePages { size: Bytes, path: String },
    #[error("huge pages of {size} cannot be counted: /sys is not mounted; mount it, or use pages of 4KiB")]
    NoSysfs { size: Bytes },
}

impl SystemMemory {
    /// Reads the current values from the kernel.
    ///
    /// # Errors
    ///
    /// The errors of [`MemInfo::probe`].
    pub fn probe() -> io::Result<Self> {
        Ok(Self {
            headrooms: headroom::all(&Sizes::read("/proc/meminfo")?)?,
            huge_2m: HugePool::probe(PageSize::Huge2M),
            huge_1g: HugePool::probe(PageSize::Huge1G),
        })
    }

    /// Adds the memory that a workload holds to the available memory, because its successor can use it.
    pub(crate) fn add_available(&mut self, held: &Workload) {
        for headroom in &mut self.headrooms {
            headroom.left = headroom.left.saturating_add(bytes_needed(held, &headroom.bound));
        }
        let pages = huge_pages_needed(held);
        let pool = match held.page_size {
            PageSize::Small => None,
            PageSize::Huge2M => self.huge_2m.as_mut(),
            PageSize::Huge1G => self.huge_1g.as_mut(),
        };
        if let Some(pool) = pool {
            pool.free += pages;
            if let Some(limit) = &mut pool.limit {
                limit.left += pages * held.page_size.bytes();
            }
        }
    }

    /// Checks that there is enough memory for a workload.
    ///
    /// # Errors
    ///
    /// Returns what is missing: ordinary memory or huge pages.
    pub fn check(&self, workload: &Workload) -> Result<(), MemoryError> {
        let pool = match workload.page_size {
            PageSize::Small => None,
            PageSize::Huge2M => Some(&self.huge_2m),
            PageSize::Huge1G => Some(&self.huge_1g),
        };
        // This comes before ordinary memory, which an attempt to reserve huge pages may have used up.
        pool.map_or(Ok(()), |pool| self.check_huge_pages(pool.as_ref(), workload))?;
        let lacking = |headroom: &&Headroom| {
            let need = bytes_needed(workload, &headroom.bound);
            need > 0 && need + margin(workload, &headroom.bound) > headroom.left
        };
        if let Some(headroom) = self.headrooms.iter().filter(lacking).min_by_key(|headroom| headroom.left) {
            return Err(MemoryError::TooLittleMemory {
                need: Bytes::new(bytes_needed(workload, &headroom.bound)),
                working_set: workload.working_set,
                ballast: workload.ballast,
                margin: Bytes::new(margin(workload, &headroom.bound)),
                place: headroom.bound.place(),
                available: Bytes::new(headroom.left),
                remedy: headroom.bound.to_string(),
            });
        }
        Ok(())
    }

    /// Checks that a pool has enough huge pages for a workload.
    fn check_huge_pages(&self, pool: Option<&HugePool>, workload: &Workload) -> Result<(), MemoryError> {
        let (need, page_size) = (huge_pages_needed(workload), workload.page_size);
        let size = Bytes::new(page_size.bytes());
        let Some(pool) = pool else {
            let path = huge_pages::file(page_size, "nr_hugepages");
            let mounted = Path::new("/sys/kernel/mm").is_dir();
            return Err(if mounted {
                MemoryError::NoHugePages { size, path }
            } else {
                MemoryError::NoSysfs { size }
            });
        };
        if let Some(limit) = &pool.limit {
            let (left, file) = (limit.left / size.get(), limit.file.display().to_string());
            if left < need {
                return Err(MemoryError::HugePageLimit { need, left, size, file });
            }
        }
        let available = pool.available();
        if available >= need {
            return Ok(());
        }
        Err(MemoryError::TooFewHugePages {
            need,
            available,
            size,
            remedy: self.remedy(pool, need, page_size),
        })
    }

    /// Returns how to enlarge a pool so that `need` of its pages are available.
    fn remedy(&self, pool: &HugePool, need: u64, size: PageSize) -> String {
        // The number in the file includes pages in use.
        let target = pool.taken() + need;
        let missing = target.saturating_sub(pool.total).saturating_mul(size.bytes());
        let free = self
            .headrooms
            .iter()
            .find(|headroom| headroom.bound == Bound::System)
            .map_or(0, |headroom| headroom.left);
        if missing > free {
            return "the system has too little memory to reserve the others; make the working set smaller, or \
                    provide more memory"
                .to_owned();
        }
        let taken = match pool.taken() {
            0 => String::new(),
            taken => format!(" ({taken} of these are in use)"),
        };
        let at_boot = match size {
            PageSize::Huge1G => format!("; if it finds fewer, boot with `hugepagesz=1G hugepages={target}`"),
            _ => String::new(),
        };
        let path = huge_pages::file(size, "nr_hugepages");
        format!("reserve them as root with `echo {target} > {path}`{taken}{at_boot}")
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

/// Returns how much of a workload's memory counts towards a limit, in bytes.
fn bytes_needed(workload: &Workload, bound: &Bound) -> u64 {
    let huge = if bound.counts_huge_pages() {
        huge_pages_needed(workload).saturating_mul(workload.page_size.bytes())
    } else {
        0
    };
    ordinary_bytes(workload).saturating_add(huge)
}

/// Returns how much of a limit a workload must leave unused, in bytes.
fn margin(workload: &Workload, bound: &Bound) -> u64 {
    // One thread starts the others. The ballast may be rounded up to 2 MiB.
    let threads = (u64::from(workload.threads) + 1) * THREAD_BYTES + (2 << 20);
    // 8 bytes for each page, twice: page tables are not in `ordinary_bytes`, and other programs have them
    // too.
    let page_tables = ordinary_bytes(workload) / PAGE_BYTES * 16;
    match bound {
        Bound::System | Bound::ControlGroup(_) => MARGIN_BYTES.max(page_tables),
        Bound::AddressSpace | Bound::Data => threads,
        // The kernel reserves 8 MiB for root, and a 32nd of a process so that every user can still end it.
        Bound::Promises => MARGIN_BYTES + threads + ordinary_bytes(workload) / 32,
    }
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
        let sizes = Sizes::read("/proc/meminfo")?;
        let available = sizes.get("MemAvailable")?;
        let limit = cgroup::memory_limit().map(|limit| Bytes::new(limit.left));
        let limit = limit.filter(|&left| left < available);
        let limited_by_cgroup = limit.is_some();
        Ok(Self { total: sizes.get("MemTotal")?, available: limit.unwrap_or(available), limited_by_cgroup })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn system(available_mib: u64) -> SystemMemory {
        let pool = HugePool { total: 10, free: 10, promised: 0, spare: 0, limit: None };
        let headrooms = vec![Headroom { bound: Bound::System, left: available_mib * MIB }];
        SystemMemory { headrooms, huge_2m: Some(pool), huge_1g: None }
    }

    /// Adds a limit to a system.
    fn limited(mut system: SystemMemory, bound: Bound, left_mib: u64) -> SystemMemory {
        system.headrooms.push(Headroom { bound, left: left_mib * MIB });
        system
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
        let high = Bound::ControlGroup("/group/memory.high".into());
        let error = limited(system(500), high, 132).check(&small).unwrap_err().to_string();
        assert!(error.contains("available in this control group"), "{error}");
        assert!(error.ends_with("smaller, or raise the limit in /group/memory.high"), "{error}");
    }

    #[test]
    fn each_limit_counts_what_it_limits() {
        let (small, huge) = (workload(60, 0, PageSize::Small), workload(20, 0, PageSize::Huge2M));
        // Two stacks and 2 MiB; a kernel that promises no more than it has reserves a part of that for root.
        for (bound, leaves, too_little, says) in [
            (Bound::AddressSpace, 67, 66, "ulimit -v"),
            (Bound::Data, 67, 66, "ulimit -d"),
            (Bound::Promises, 101, 100, "vm.overcommit_ratio"),
        ] {
            assert_eq!(limited(system(500), bound.clone(), leaves).check(&small), Ok(()));
            let error = limited(system(500), bound, too_little).check(&small).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(limited(system(500), Bound::AddressSpace, 20).check(&huge).is_err());
        assert_eq!(limited(system(500), Bound::Promises, 45).check(&huge), Ok(()));
    }

    #[test]
    fn the_page_tables_of_a_large_workload_are_counted() {
        // 64 GiB have tables of 128 MiB, and generations of 64 MiB.
        let large = workload(64 << 10, 0, PageSize::Small);
        assert!(system((64 << 10) + 64 + 100).check(&large).is_err());
        assert_eq!(system((64 << 10) + 64 + 300).check(&large), Ok(()));
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
             with `echo 11 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`"
        );
        let error = system(1000).check(&workload(21, 0, PageSize::Huge1G)).unwrap_err().to_string();
        assert!(error.starts_with("huge pages of 1GiB are not supported here"), "{error}");
        assert!(system(33).check(&workload(20, 10, PageSize::Huge2M)).is_err());
    }

    #[test]
    fn memory_held_by_the_old_workload_counts_as_available() {
        let held = workload(20, 40, PageSize::Huge2M);
        let mut system = system(0);
        system.add_available(&held);
        assert_eq!(system.huge_2m.unwrap().available(), 20);
        assert_eq!(system.headrooms[0].left, ordinary_bytes(&held));
        assert_eq!(ordinary_bytes(&held), 40 * MIB + 20 * 256 * 4);
    }

    #[test]
    fn the_memory_of_this_system_can_be_read() {
        let memory = MemInfo::probe().unwrap();
        assert!(memory.available <= memory.total);
        assert!(memory.total.get() > 64 * MIB);
        assert!(
            SystemMemory::probe().unwrap().headrooms.iter().any(|headroom| headroom.bound == Bound::System)
        );
    }

    #[test]
    fn the_advice_for_huge_pages_adds_those_in_use() {
        let advice = |pool: HugePool, available_mib, working_set_mib| {
            let system = SystemMemory { huge_2m: Some(pool), ..system(available_mib) };
            system.check(&workload(working_set_mib, 0, PageSize::Huge2M)).unwrap_err().to_string()
        };
        let pool = HugePool { total: 10, free: 6, promised: 0, spare: 0, limit: None };
        let error = advice(pool.clone(), 1000, 20);
        assert!(error.contains("10 huge pages of 2MiB, but only 6 are free: reserve"), "{error}");
        assert!(error.contains("`echo 14 >") && error.ends_with("(4 of these are in use)"), "{error}");
        // Pages that another program has mapped are not free, although they are still unused.
        let error = advice(HugePool { promised: 5, ..pool.clone() }, 1000, 20);
        assert!(error.contains("but only one is free") && error.contains("`echo 19 >"), "{error}");
        let error = advice(HugePool { free: 0, ..pool.clone() }, 1000, 2);
        assert!(
            error.contains("1 huge page of 2MiB, but none is free") && error.contains("echo 11"),
            "{error}"
        );
        // The kernel can add three pages on its own.
        let error = advice(HugePool { spare: 3, ..pool.clone() }, 1000, 20);
        assert!(error.contains("but only 9 are free"), "{error}");
        // The advice does not suggest what cannot be reserved.
        let error = advice(pool, 200, 300);
        assert!(error.contains("too little memory to reserve the others"), "{error}");
    }

    #[test]
    fn a_limit_on_huge_pages_is_named() {
        let limit = |left| Some(cgroup::Limit { file: "/group/hugetlb.2MB.max".into(), left });
        let with = |left| {
            let pool = HugePool { total: 10, free: 10, promised: 0, spare: 0, limit: limit(left) };
            SystemMemory { huge_2m: Some(pool), ..system(1000) }
        };
        let huge = workload(20, 0, PageSize::Huge2M);
        assert_eq!(with(20 * MIB).check(&huge), Ok(()));
        assert_eq!(
            with(19 * MIB).check(&huge).unwrap_err().to_string(),
            "the working set needs 10 huge pages of 2MiB, but this control group may use only 9 more: make \
             the working set smaller, or raise the limit in /group/hugetlb.2MB.max"
        );
        let mut held = with(0);
        held.add_available(&huge);
        assert_eq!(held.check(&huge), Ok(()));
    }
}
