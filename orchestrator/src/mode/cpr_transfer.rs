//! The policy for a migration that hands the guest's memory over: there is nothing to decide.

use super::{Decision, Limits, Policy, Progress};

/// The policy for one migration that hands the guest's memory over.
pub(super) struct CprTransfer;

impl CprTransfer {
    pub(super) fn new(_: Limits) -> Self {
        Self
    }
}

impl Policy for CprTransfer {
    fn decide(&mut self, _: &Progress<'_>) -> Decision {
        Decision::Wait
    }
}
