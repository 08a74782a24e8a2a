//! The pool of reserved huge pages of one size, as the kernel reports it.

use crate::{
    cgroup::{self, Limit},
    workload::PageSize,
};
use std::fs;

/// The directory in sysfs with the pools of huge pages.
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// The pool of huge pages of one size. All numbers count pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HugePool {
    /// The pages in the pool, in use or not, including those that the kernel has added on its own.
    pub(crate) total: u64,
    /// The pages that nothing uses yet.
    pub(crate) free: u64,
    /// The free pages that are promised to memory that is mapped but not touched.
    pub(crate) promised: u64,
    /// The pages that the kernel may add on its own when they are needed (`nr_overcommit_hugepages`).
    pub(crate) spare: u64,
    /// The limit of this process's control groups on these pages, in bytes.
    pub(crate) limit: Option<Limit>,
}

impl HugePool {
    /// Reads the current numbers from the kernel. Returns `None` if the kernel or the CPU does not support
    /// huge pages of this size.
    pub(crate) fn probe(size: PageSize) -> Option<Self> {
        let optional = |name| read(size, name).unwrap_or(0);
        Some(Self {
            total: read(size, "nr_hugepages")?,
            free: read(size, "free_hugepages")?,
            promised: optional("resv_hugepages"),
            spare: optional("nr_overcommit_hugepages").saturating_sub(optional("surplus_hugepages")),
            limit: cgroup::huge_page_limit(size.bytes()),
        })
    }

    /// Returns the number of pages that new memory can have.
    pub(crate) fn available(&self) -> u64 {
        self.free.saturating_sub(self.promised) + self.spare
    }

    /// Returns the number of pages that new memory cannot have: those in use, and those promised.
    pub(crate) fn taken(&self) -> u64 {
        self.total.saturating_sub(self.free) + self.promised
    }
}

/// Returns the path of a file in sysfs about huge pages of this size.
pub(crate) fn file(size: PageSize, name: &str) -> String {
    format!("{POOLS}/hugepages-{}kB/{name}", size.bytes() >> 10)
}

/// Reads a number in sysfs about huge pages of this size. Returns `None` if the size is not supported.
pub(crate) fn read(size: PageSize, name: &str) -> Option<u64> {
    fs::read_to_string(file(size, name)).ok()?.trim().parse().ok()
}
