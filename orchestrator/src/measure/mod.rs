//! What is made of a migration's raw observations.
//!
//! [`samples`] is what QEMU said while it migrated, [`passes`] turns that into one entry per pass over the
//! memory, [`stall`] decides whether it still makes progress, [`clock`] finds the time that the guest lost,
//! [`tcp_buffers`] is what TCP holds on its way, [`link`] what the link was set to.

pub mod clock;
pub mod link;
pub mod passes;
pub mod samples;
pub mod stall;
pub mod tcp_buffers;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Where the guest comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl End {
    /// Its name, in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}
