//! The section `migrate` of a matrix: how the guest is migrated, and when the migration is given up.

use super::{Bandwidth, field::section};
use crate::mode::{Limits, Mode};
use units::Span;

section! {
    /// How the guest is migrated, and when the migration is given up. A migration that is given up is
    /// cancelled, and the guest stays at the source: the outcome is `not-converged`.
    pub struct Migrate {
        /// The migration mode: how the guest's memory gets to the destination.
        pub mode: Mode = Mode::Precopy,
        /// The downtime that QEMU aims for: it stops the guest as soon as it expects to send the remaining
        /// memory within this time. The actual downtime may be longer. Whole milliseconds, at most `2000s`.
        pub downtime_limit: Span = Span::from_millis(300),
        /// The deadline, counted from the migrate command. A migration that has not begun its switchover by
        /// then is given up, whatever its state. A switchover that has begun is waited for as long as it
        /// makes progress, and recorded as past its deadline. More than 0.
        pub timeout: Span = Span::from_secs(60),
        /// The largest number of passes over the memory, at least 1: a migration that begins another pass is
        /// given up. Default: no limit.
        #[schemars(range(min = 1))]
        pub max_passes: Option<u32> = None,
        /// Whether to give up as soon as the remaining memory has stopped shrinking and the deadline is out
        /// of reach, instead of waiting for the deadline. It takes at least 16 passes and 8 s to tell. While
        /// changes by `timeline` or `stress.phases` are still to come, a migration is not given up for this
        /// reason.
        pub stall_detection: bool = true,
        /// The bandwidth limit that QEMU itself applies to the migration, in bytes per second such as
        /// `110MB/s`, or in bits per second such as `900mbit`. At least `10B/s`. QEMU exceeds limits of a few
        /// MB/s, and sends at least 1.3 MB/s with any; if it sends clearly more than the limit allows, the
        /// record has a note. Default: no limit, so that only the link limits the migration.
        pub max_bandwidth: Option<Bandwidth> = None,
    }
}

impl Migrate {
    /// Returns the settings that a migration policy needs.
    pub fn limits(&self) -> Limits {
        let Self { timeout, downtime_limit, max_passes, stall_detection, .. } = *self;
        Limits { timeout, downtime_limit, max_passes, stall_detection }
    }
}
