//! The moment at which a policy acts.

use super::{Progress, precopy::Precopy};
use units::Span;

/// When a policy acts on a migration: once the first of these conditions is met. Without any condition, it
/// never acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct When {
    /// After this many passes over the memory.
    pub after_passes: Option<u32>,
    /// After this time since the migrate command.
    pub after: Option<Span>,
    /// Once the remaining memory has stopped shrinking.
    pub at_stall: bool,
}

impl When {
    /// No condition at all.
    pub const NEVER: Self = Self { after_passes: None, after: None, at_stall: false };

    /// Returns whether a condition is met. `precopy` determines whether the remaining memory has stopped
    /// shrinking.
    pub(super) fn is_met(self, progress: &Progress<'_>, precopy: &Precopy) -> bool {
        let Self { after_passes, after, at_stall } = self;
        let Some(last) = progress.samples.last() else { return false };
        let Some(now) = last.memory else { return false };
        after_passes.is_some_and(|passes| now.pass > u64::from(passes))
            || after.is_some_and(|after| last.at_ms >= after.as_millis_f64())
            || (at_stall && precopy.stall(progress, now).is_some())
    }
}
