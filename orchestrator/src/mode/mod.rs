//! Migration modes: the policies that decide when to act on a migration in progress, and when to give it up.
//!
//! A [`Policy`] gets the samples taken so far and decides what to do next. It does not know the driver and
//! does not keep a record: the driver carries out its decisions, and [`crate::migration`] takes the samples
//! and records everything. `modes!` is the list of all modes. To add a mode, write its file and add its line
//! to that list.

pub use when::When;

use crate::measure::samples::Sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::Span;

mod when;

/// The limits that a policy may need: the settings in a matrix's `migrate` section that say when to give up,
/// and when to stop or move the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The deadline, counted from the migrate command. [`crate::migration::follow`] enforces it, whatever the
    /// policy decides.
    pub timeout: Span,
    /// The downtime that the driver aims for.
    pub downtime_limit: Span,
    /// The largest number of passes over the memory; `None` for no limit.
    pub max_passes: Option<u32>,
    /// Whether to give up a migration once the remaining memory has stopped shrinking.
    pub stall_detection: bool,
    /// When post-copy moves the guest; immediately if there is no condition.
    pub postcopy_start: When,
    /// When pre-copy pauses the guest.
    pub pause: When,
}

/// The progress of a migration whose switchover has not begun, as a policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// All samples taken so far, oldest first.
    pub samples: &'a [Sample],
    /// The time at which the last change of the link or the workload took effect, in milliseconds since the
    /// migrate command, not counting changes that repeat. 0 without changes; absent while one is still to
    /// come.
    pub settled_ms: Option<f64>,
    /// The period with which link and workload repeat, in milliseconds; 0 if they no longer change.
    pub period_ms: f64,
}

/// A decision of a policy.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Do nothing until the next sample.
    Wait,
    /// Stop the guest at the source now, and send the rest of its memory while it is stopped.
    Pause,
    /// Move the guest to the destination now, and send the rest of its memory afterwards. After that, the
    /// migration cannot be cancelled.
    StartPostcopy,
    /// Cancel the migration, so that the guest stays at the source, and record this reason.
    GiveUp(String),
}

/// A policy for one migration.
pub trait Policy {
    /// Decides what to do next. Called after every sample, until the switchover begins or the migration ends,
    /// but not while an action is being carried out.
    fn decide(&mut self, progress: &Progress<'_>) -> Decision;
}

/// Declares the modes: each with its description, its name, its term for use in sentences, its file and the
/// policy in that file.
macro_rules! modes {
    ($($(#[$attribute:meta])* $name:ident($term:literal) = $file:ident::$policy:ident),+ $(,)?) => {
        $(mod $file;)+

        /// How the guest's memory gets to the destination.
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            JsonSchema,
        )]
        #[serde(rename_all = "kebab-case")]
        pub enum Mode {
            $($(#[$attribute])* $name),+
        }

        impl Mode {
            /// Returns the term for this mode, for use in the middle of a sentence.
            pub const fn term(self) -> &'static str {
                match self {
                    $(Self::$name => $term),+
                }
            }

            /// Creates the policy of this mode for one migration.
            pub fn policy(self, limits: Limits) -> Box<dyn Policy> {
                match self {
                    $(Self::$name => Box::new($file::$policy::new(limits))),+
                }
            }
        }
    };
}

modes! {
    /// Pre-copy. While the guest runs at the source, its memory is sent in passes, each of which sends what
    /// was dirtied during the previous one. Once the rest can be sent within the downtime limit, the guest
    /// stops at the source, the rest is sent, and the guest resumes at the destination. `pause_after_passes`,
    /// `pause_after` and `pause_at_stall` stop it earlier, whatever is left.
    #[default]
    Precopy("pre-copy") = precopy::Precopy,
    /// Post-copy. Memory is sent in passes as in pre-copy at first. Then the guest moves to the destination,
    /// whatever is still missing there: a page that it needs is requested from the source, and all others
    /// follow meanwhile. `postcopy_after_passes`, `postcopy_after` and `postcopy_at_stall` say when the guest
    /// moves; without any of them it moves immediately. From then on the migration cannot be given up. If the
    /// link fails, the migration recovers once it works again (`postcopy_recovery`). The destination needs
    /// userfaultfd.
    Postcopy("post-copy") = postcopy::Postcopy,
    /// The guest is saved to a file on the source's disk, and the destination resumes it from there. As with
    /// `virsh save`, the guest is stopped until then, unless `save_live` lets it run while it is saved.
    /// `mapped_ram` gives each page a fixed place in the file. On several hosts, the file is in the folder
    /// that they share, `images` in the inventory.
    File("migration through a file") = file::File,
    /// A new QEMU process on the same host takes over the guest's memory, none of which is copied (QEMU's
    /// `cpr-transfer`, made for live updates). Only the device state is sent, while the guest is stopped.
    CprTransfer("cpr-transfer") = cpr_transfer::CprTransfer,
}

impl Mode {
    /// Returns whether the guest migrates over the migration link.
    pub const fn uses_link(self) -> bool {
        !matches!(self, Self::File | Self::CprTransfer)
    }

    /// Returns whether the guest's memory is sent or written, rather than handed over.
    pub const fn sends_memory(self) -> bool {
        !matches!(self, Self::CprTransfer)
    }
}
