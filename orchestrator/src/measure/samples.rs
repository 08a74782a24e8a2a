//! One answer of `query-migrate`, reduced to what is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What QEMU said of a migration at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// When, in milliseconds since the migrate command was sent.
    pub at_ms: f64,
    /// QEMU's state: `setup`, `active`, `device`, `completed`, …
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

/// QEMU's own account of a migration that completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Completion {
    /// From the command to the end, in milliseconds.
    pub total_time_ms: u64,
    /// From the stop at the source to the end, in milliseconds.
    pub downtime_ms: u64,
    /// From the command until memory started to flow, in milliseconds.
    pub setup_time_ms: u64,
}

/// The answer to `query-migrate`; all is absent before a migration, `ram` before it is set up.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueryMigrate {
    /// QEMU's state.
    #[serde(default)]
    pub status: String,
    /// Why the migration failed.
    pub error_desc: Option<String>,
    ram: Option<Ram>,
    total_time: Option<u64>,
    downtime: Option<u64>,
    setup_time: Option<u64>,
    cpu_throttle_percentage: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Ram {
    transferred: u64,
    remaining: u64,
    normal: u64,
    duplicate: u64,
    dirty_sync_count: u64,
    dirty_pages_rate: u64,
    page_size: u64,
    mbps: f64,
}

impl QueryMigrate {
    /// What it says, as a sample taken at a time.
    pub fn sample(&self, at_ms: f64) -> Sample {
        let ram = self.ram.clone().unwrap_or_default();
        Sample {
            at_ms,
            status: self.status.clone(),
            transferred_bytes: ram.transferred,
            remaining_bytes: ram.remaining,
            normal_pages: ram.normal,
            zero_pages: ram.duplicate,
            pass: ram.dirty_sync_count,
            dirty_rate_bytes_per_s: ram.dirty_pages_rate.saturating_mul(ram.page_size),
            mbit_per_s: ram.mbps,
            throttle_percent: self.cpu_throttle_percentage.unwrap_or(0),
        }
    }

    /// The final account, once the migration has completed.
    pub fn completion(&self) -> Option<Completion> {
        (self.status == "completed").then(|| Completion {
            total_time_ms: self.total_time.unwrap_or(0),
            downtime_ms: self.downtime.unwrap_or(0),
            setup_time_ms: self.setup_time.unwrap_or(0),
        })
    }
}
