//! The policy for a migration through a file, which is the policy of pre-copy.
//!
//! It is only consulted about a guest that runs while it is saved: then its memory is written in passes, as
//! pre-copy sends it. A guest that is stopped first is saved in one pass, which nothing interrupts.

use super::{Decision, Limits, Policy, Progress, precopy::Precopy};

/// The policy for one migration through a file.
pub(super) struct File(Precopy);

impl File {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Precopy::new(limits))
    }
}

impl Policy for File {
    fn decide(&mut self, progress: &Progress<'_>) -> Decision {
        self.0.decide(progress)
    }
}
