//! The outcome of an attempt. Users see its words: they appear in matrix files, records and tables.

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

/// How often each outcome occurred among attempts, in the order in which tables list them. Outcomes that did
/// not occur are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutcomeCounts(Vec<(Outcome, usize)>);

impl OutcomeCounts {
    /// Returns each outcome that occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, usize)> {
        self.0.iter().copied()
    }

    /// Returns the number of different outcomes.
    pub fn kinds(&self) -> usize {
        self.0.len()
    }

    /// Returns the outcomes as the field of a table: the word alone if there was only one attempt.
    pub fn field(&self) -> String {
        match self.0[..] {
            [] => "not tried".into(),
            [(outcome, 1)] => outcome.to_string(),
            _ => self.to_string(),
        }
    }
}

impl FromIterator<Outcome> for OutcomeCounts {
    fn from_iter<I: IntoIterator<Item = Outcome>>(outcomes: I) -> Self {
        let all: Vec<Outcome> = outcomes.into_iter().collect();
        let count = |outcome| (outcome, all.iter().filter(|other| **other == outcome).count());
        Self(Outcome::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect())
    }
}

impl fmt::Display for OutcomeCounts {
    /// Writes the outcomes as `converged 2, failed 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (outcome, count)) in self.iter().enumerate() {
            write!(f, "{}{outcome} {count}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error parsing an outcome: the word is not the name of one.
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
    fn outcomes_are_counted_in_the_order_of_tables() {
        let counts = |outcomes: &[Outcome]| outcomes.iter().copied().collect::<OutcomeCounts>();
        let several = counts(&[Outcome::Failed, Outcome::Converged, Outcome::Converged]);
        assert_eq!((several.to_string().as_str(), several.kinds()), ("converged 2, failed 1", 2));
        assert_eq!(several.field(), several.to_string());
        assert_eq!(counts(&[Outcome::Failed]).to_string(), "failed 1");
        assert_eq!(counts(&[Outcome::Failed]).field(), "failed");
        assert_eq!(counts(&[]).field(), "not tried");
    }

    #[test]
    fn serde_display_and_parsing_agree_on_every_word() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.to_string());
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        assert!("Converged".parse::<Outcome>().is_err());
    }
}
