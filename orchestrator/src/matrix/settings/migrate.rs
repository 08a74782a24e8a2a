//! The section `migrate`.

use super::{Bandwidth, field::section};
use crate::mode::{Limits, Mode};
use units::Span;

section! {
    /// How the guest is migrated, and when that is given up.
    pub struct Migrate {
        /// The way the memory moves.
        pub mode: Mode = Mode::Precopy,
        /// The downtime QEMU may plan for: it stops the guest once what remains fits into this time. Whole
        /// milliseconds, at most 2000s.
        pub downtime_limit: Span = Span::from_millis(300),
        /// The deadline: a migration that takes longer is given up.
        pub timeout: Span = Span::from_secs(60),
        /// Give up after this many passes; without it, passes are not counted.
        #[schemars(range(min = 1))]
        pub max_passes: Option<u32> = None,
        /// Give up as soon as the remaining memory has stopped shrinking.
        pub stall_detection: bool = true,
        /// QEMU's own cap on the migration's bandwidth, in bytes or bits per second; without it, only the
        /// link limits it.
        pub max_bandwidth: Option<Bandwidth> = None,
    }
}

impl Migrate {
    /// The part that a mode decides by.
    pub fn limits(&self) -> Limits {
        let Self { timeout, downtime_limit, max_passes, stall_detection, .. } = *self;
        Limits { timeout, downtime_limit, max_passes, stall_detection }
    }
}
