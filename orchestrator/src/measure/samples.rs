//! What is kept of a migration at one moment, and at its end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the driver said of a migration at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// When, in milliseconds since the migrate command was sent.
    pub at_ms: f64,
    /// The state in the driver's own word; QEMU's are `setup`, `active`, `device`, `completed`, …
    pub status: String,
    /// Bytes sent so far.
    pub transferred_bytes: u64,
    /// Bytes of memory that are known to be dirty and not yet sent.
    pub remaining_bytes: u64,
    /// Pages sent in full so far.
    pub normal_pages: u64,
    /// Pages of one repeated byte so far, sent as a few bytes.
    pub zero_pages: u64,
    /// How often QEMU has read the dirty bitmap: the number of the pass.
    pub pass: u64,
    /// QEMU's estimate of the dirty rate, in bytes per second; it renews it about once a second.
    pub dirty_rate_bytes_per_s: u64,
    /// QEMU's figure for its sending rate, in 10^6 bit/s.
    pub mbit_per_s: f64,
    /// How far QEMU throttles the vCPUs, in per cent; 0 where it does not.
    pub throttle_percent: u64,
}

/// The driver's own account of a migration that completed; a figure that it does not give is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Completion {
    /// From the command to the end, in milliseconds.
    pub total_time_ms: Option<u64>,
    /// From the stop at the source to the end, in milliseconds.
    pub downtime_ms: Option<u64>,
    /// From the command until memory started to flow, in milliseconds.
    pub setup_time_ms: Option<u64>,
}
