//! The policies that decide while a guest migrates: when to act, and when to give up.
//!
//! A [`Policy`] sees what has been sampled so far and says what to do next. It knows no driver and keeps no
//! record: the driver carries its decisions out, [`crate::migration`] takes the samples and writes everything
//! down. `modes!` is the list of all modes; to add one, write its file and add its line there.

use crate::measure::samples::Sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::Span;

/// What a policy decides by: the part of a matrix's `migrate` section that is about giving up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The deadline, counted from the migrate command.
    pub timeout: Span,
    /// The downtime that the driver may plan for.
    pub downtime_limit: Span,
    /// The most passes over the memory; any number without it.
    pub max_passes: Option<u32>,
    /// Whether a migration is given up once the remaining memory has stopped shrinking.
    pub stall_detection: bool,
}

/// What a policy sees: a migration that is neither switching over nor over.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// All samples, oldest first.
    pub samples: &'a [Sample],
    /// When the last entry of the timeline took effect, in milliseconds since the migrate command; 0 without
    /// a timeline, absent while an entry is still to come.
    pub settled_ms: Option<f64>,
}

/// What a policy wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Nothing, until there is something new to see.
    Wait,
    /// This, while the migration goes on.
    Act(Action),
    /// End the migration and keep the guest at the source, for this reason.
    GiveUp(String),
}

/// What a driver can be asked to do to a migration in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allow this downtime from now on.
    SetDowntimeLimit(Span),
    /// Cancel the migration: the guest stays at the source.
    Cancel,
}

/// A policy.
pub trait Policy {
    /// Decides what to do next. Called after every sample of a migration that is neither switching over nor
    /// over.
    fn decide(&mut self, progress: &Progress<'_>) -> Decision;
}

/// Declares the modes: for each its documentation, its name, its file and the policy in it.
macro_rules! modes {
    ($($(#[$attribute:meta])* $name:ident = $file:ident::$policy:ident),+ $(,)?) => {
        $(mod $file;)+

        /// The way the memory moves.
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(rename_all = "kebab-case")]
        pub enum Mode {
            $($(#[$attribute])* $name),+
        }

        impl Mode {
            /// Returns the policy of this mode, for one migration.
            pub fn policy(self, limits: Limits) -> Box<dyn Policy> {
                match self {
                    $(Self::$name => Box::new($file::$policy::new(limits))),+
                }
            }
        }
    };
}

modes! {
    /// The guest runs at the source while its memory is sent, pass after pass, until the rest fits into the
    /// downtime limit.
    #[default]
    Precopy = precopy::Precopy,
}
