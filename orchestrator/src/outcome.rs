//! The outcome of an attempt. Users see its words: matrix files expect them, and records and tables contain
//! them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest runs at the destination, and its memory is what the stressor wrote.
    Converged,
    /// The migration was given up (deadline, pass cap, or remaining memory that stopped shrinking) and the
    /// guest is alive at the source.
    NotConverged,
    /// The guest runs at the destination, but its memory is not what the stressor wrote.
    Corrupted,
    /// QEMU, the guest or the lab reported an error.
    Failed,
    /// The guest runs neither at the source nor at the destination.
    GuestLost,
    /// Not attempted: the hosts or QEMU lack something that the cell needs, or its settings contradict each
    /// other.
    Skipped,
    /// Interrupted by the user before it ended.
    Interrupted,
}

impl Outcome {
    /// Every outcome, in the order in which tables list them.
    pub const ALL: [Self; 7] = [
        Self::Converged,
        Self::NotConverged,
        Self::Corrupted,
        Self::Failed,
        Self::GuestLost,
        Self::Skipped,
        Self::Interrupted,
    ];

    /// Returns the outcome's word, as it appears in matrix files and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::NotConverged => "not-converged",
            Self::Corrupted => "corrupted",
            Self::Failed => "failed",
            Self::GuestLost => "guest-lost",
            Self::Skipped => "skipped",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error parsing an outcome: the word names none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an outcome")]
pub struct UnknownOutcome(String);

impl FromStr for Outcome {
    type Err = UnknownOutcome;

    fn from_str(text: &str) -> Result<Self, UnknownOutcome> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
            .ok_or_else(|| UnknownOutcome(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_display_and_parsing_agree_on_every_word() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.to_string());
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        assert!("Converged".parse::<Outcome>().is_err());
    }
}
