//! Arithmetic on the raw observations of a migration, and the types that hold them. Nothing here does I/O.
//!
//! - [`samples`]: the state of a migration at one moment, as QEMU reports it.
//! - [`passes`]: one entry for each pass over the memory, computed from the samples.
//! - [`stall`]: whether a migration still makes progress.
//! - [`clock`]: the guest's downtime, computed from the time that its clock lost.
//! - [`tcp_buffers`]: how much data TCP may hold on its way over a link.
//! - [`link`]: how a link was shaped.
//! - [`median()`]: the median of several attempts.
//! - [`millis()`]: durations as results hold them.

pub mod clock;
pub mod link;
mod median;
mod millis;
pub mod passes;
pub mod samples;
pub mod stall;
pub mod tcp_buffers;

pub use median::median;
pub use millis::{millis, round_micros};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The compute node that the guest leaves.
    Source,
    /// The compute node to which the guest moves.
    Destination,
}

impl End {
    /// Returns how messages name this end.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}
