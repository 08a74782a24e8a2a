//! Samples of a migration in progress, and the driver's own figures for a completed one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a migration at one moment, as the driver reports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// The time of the sample, in milliseconds since the start of the migration.
    pub at_ms: f64,
    /// The state of the migration in the driver's own words. Those of QEMU are `setup`, `active`, `device`,
    /// `completed`, … A migration through a file is `saved` once the source has written the file, and then
    /// `loading` until the destination has read it.
    pub status: String,
    /// The progress with the guest's memory. Its fields are absent until the driver reports them.
    #[serde(flatten)]
    pub memory: Option<MemoryProgress>,
    /// The progress with the guest's disk, if it is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskProgress>,
    /// The share of time for which QEMU throttles the vCPUs, in percent; 0 if it does not.
    pub throttle_percent: u64,
}

/// How far the transfer of the guest's memory has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryProgress {
    /// The number of bytes sent so far.
    pub transferred_bytes: u64,
    /// The number of bytes of memory that are known to be dirty and have not been sent yet.
    pub remaining_bytes: u64,
    /// The number of pages sent in full so far.
    pub normal_pages: u64,
    /// The number of pages so far that consist of one repeated byte, each sent as a few bytes.
    pub zero_pages: u64,
    /// The number of the current pass: how often QEMU has read the dirty bitmap.
    pub pass: u64,
    /// QEMU's estimate of the dirty rate, in bytes per second. QEMU updates it about once per second, and
    /// states 0 before it has one.
    pub dirty_rate_bytes_per_s: u64,
    /// QEMU's figure for its sending rate, in 10^6 bit/s.
    pub mbit_per_s: f64,
    /// The part of `transferred_bytes` that was sent after the guest had moved by post-copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postcopy_bytes: Option<u64>,
    /// The part of `transferred_bytes` that was sent over the connections of `multifd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multifd_bytes: Option<u64>,
    /// The work of XBZRLE so far, if it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xbzrle: Option<XbzrleProgress>,
    /// The number of times that the destination has requested a page because the guest needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_requests: Option<u64>,
}

/// What XBZRLE has done so far, as QEMU counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct XbzrleProgress {
    /// The number of pages that were in the cache, including those that overflowed and those that had not
    /// changed.
    pub pages: u64,
    /// The number of bytes that these pages took, including the whole size of each that overflowed.
    pub bytes: u64,
    /// The number of pages that were not in the cache, and were sent in full.
    pub misses: u64,
    /// The number of pages whose changes were larger than the page, and which were sent in full.
    pub overflows: u64,
}

/// How far the copy of the guest's disk has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskProgress {
    /// The number of bytes that the driver has processed so far. This includes blocks that have never been
    /// written, which cost it nothing, and counts blocks that the guest writes again once more.
    pub copied_bytes: u64,
    /// The number of bytes that the driver still has to process.
    pub remaining_bytes: u64,
    /// The number of bytes that the connection to the copy has sent, including the headers of its protocol,
    /// but not those of TCP. Absent if the kernel does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
}

impl MemoryProgress {
    /// Returns QEMU's estimate of the dirty rate, in bytes per second, if it has one.
    pub fn known_dirty_rate(&self) -> Option<u64> {
        Some(self.dirty_rate_bytes_per_s).filter(|rate| *rate > 0)
    }
}

impl Sample {
    /// Returns the number of the current pass; 0 before the first.
    pub fn pass(&self) -> u64 {
        self.memory.map_or(0, |memory| memory.pass)
    }

    /// Returns whether post-copy has begun.
    pub fn shows_postcopy(&self) -> bool {
        let sent = self.memory.and_then(|memory| memory.postcopy_bytes);
        self.status.starts_with("postcopy-") || sent.is_some_and(|bytes| bytes > 0)
    }
}

/// The driver's own figures for a completed migration. Figures that the driver does not report are absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Completion {
    /// The time from the migrate command until the migration ended, in milliseconds.
    pub total_time_ms: Option<u64>,
    /// The time from the stop of the guest at the source until the migration ended, in milliseconds.
    pub downtime_ms: Option<u64>,
    /// The time from the migrate command until the first memory was sent, in milliseconds.
    pub setup_time_ms: Option<u64>,
}
