//! The version of the results format, which every record and `environment.json` state.
//!
//! A version is a number. It is raised when what older programs read changes its meaning, its type or its
//! name, or goes. A new field does not raise it: readers pass over fields that they do not know, and what a
//! record does not have is absent. So a program reads every version up to its own, and refuses newer ones.
//!
//! | version | since |
//! |---|---|
//! | none | the first records; later ones also have `obtained` and `round_trips` |
//! | 1 | `format` itself |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A version of the results format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct FormatVersion(u32);

impl FormatVersion {
    /// The one that this program writes, and the newest that it reads.
    pub const CURRENT: Self = Self(1);

    /// Whether this is of results that do not state their version.
    pub fn is_unversioned(&self) -> bool {
        self.0 == 0
    }
}

/// Why a value of the results cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// It is of a version that this program does not know.
    #[error(
        "it is in results format {found}; testbed {} reads formats up to {}: read it with the version that \
         wrote it, or a newer one",
        env!("CARGO_PKG_VERSION"),
        FormatVersion::CURRENT.0
    )]
    Newer {
        /// The version.
        found: u32,
    },
    /// It makes no sense.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The one field that every version has.
#[derive(Default, Deserialize)]
struct Stated {
    #[serde(default)]
    format: FormatVersion,
}

/// Reads a value of the results from JSON.
///
/// # Errors
///
/// Where it is of a newer version, or no such value.
pub(super) fn read<'a, T: Deserialize<'a>>(
    json: &'a str,
    format: fn(&T) -> FormatVersion,
) -> Result<T, Problem> {
    let value = serde_json::from_str(json);
    // A newer version may well read as this one, and mean something else.
    let found = match &value {
        Ok(value) => format(value),
        Err(_) => serde_json::from_str::<Stated>(json).unwrap_or_default().format,
    };
    if found > FormatVersion::CURRENT {
        return Err(Problem::Newer { found: found.0 });
    }
    Ok(value?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Thing {
        #[serde(default)]
        format: FormatVersion,
        name: String,
    }

    fn said(json: &str) -> String {
        match read::<Thing>(json, |thing| thing.format) {
            Ok(thing) => thing.name,
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn versions_up_to_this_one_are_read_and_newer_ones_refused() {
        assert_eq!(said(r#"{ "name": "first" }"#), "first");
        assert_eq!(said(r#"{ "format": 1, "name": "now", "new": [] }"#), "now");
        let refused = |format| {
            format!(
                "it is in results format {format}; testbed {} reads formats up to 1: read it with the version \
                 that wrote it, or a newer one",
                env!("CARGO_PKG_VERSION")
            )
        };
        assert_eq!(said(r#"{ "format": 2, "name": "later" }"#), refused(2));
        assert_eq!(said(r#"{ "format": 7, "title": "renamed" }"#), refused(7));
        assert!(said(r#"{ "format": 1 }"#).starts_with("missing field `name`"));
        assert!(said(r#"{ "format": "one" "#).contains("invalid type"));
    }
}
