//! The version of the results format, which is stated in every record and in `environment.json`.
//!
//! A version is a number. It is incremented when a field that older programs read is removed, or changes its
//! meaning, type or name. A new field does not increment it: readers ignore fields that they do not know, and
//! a field that a record does not have counts as absent. A program therefore reads every version up to its
//! own and refuses newer ones.
//!
//! | version | contents |
//! |---|---|
//! | none | the first records; later ones also have `obtained` and `round_trips` |
//! | 1 | adds `format` itself; in later records, skipped attempts have no `wall_time_ms` |
//!
//! Results may come from anywhere, and charts and sums rely on their numbers. Numbers that nothing can have
//! measured are refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::Error as _};
use serde_json::Value;

/// The largest number in the results. A counter of 64 bits does not exceed it.
const MOST: f64 = u64::MAX as f64;

/// The smallest number in the results, except for moments. A duration between readings of two clocks may be
/// slightly less than zero.
const LEAST: f64 = -1_000.0;

/// The numbers that are negative before the start of the migration.
const MOMENTS: [&str; 7] = ["at_ms", "began_ms", "done_ms", "due_ms", "from_ms", "started_at_ms", "to_ms"];

/// A version of the results format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct FormatVersion(u32);

impl FormatVersion {
    /// The version that this program writes, which is also the newest that it reads.
    pub const CURRENT: Self = Self(1);

    /// Returns whether the results state no version.
    pub fn is_unversioned(&self) -> bool {
        self.0 == 0
    }
}

/// An error reading a value from the results.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The value has a version that this program does not know.
    #[error(
        "it uses results format {found}, but testbed {} reads formats only up to {}; use the version of \
         testbed that wrote it, or a newer one",
        env!("CARGO_PKG_VERSION"),
        FormatVersion::CURRENT.0
    )]
    Newer {
        /// The version that the value states.
        found: u32,
    },
    /// The value is not valid JSON, or lacks a field, or has one of the wrong type or with an impossible
    /// number.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The only field that is the same in every version.
#[derive(Default, Deserialize)]
struct VersionOnly {
    #[serde(default)]
    format: FormatVersion,
}

/// Reads a value of the results from JSON. `format` returns the version that a value states.
///
/// # Errors
///
/// Fails if the value states a newer version, or cannot be parsed.
pub(super) fn read<'a, T: Deserialize<'a> + Serialize>(
    json: &'a str,
    format: fn(&T) -> FormatVersion,
) -> Result<T, ReadError> {
    let value = from_json(json.as_bytes());
    // A value of a newer version may parse as one of this version, but mean something else.
    let found = match &value {
        Ok(value) => format(value),
        Err(_) => serde_json::from_str::<VersionOnly>(json).unwrap_or_default().format,
    };
    if found > FormatVersion::CURRENT {
        return Err(ReadError::Newer { found: found.0 });
    }
    Ok(value?)
}

/// Reads a value of the results from JSON, whatever its version.
///
/// # Errors
///
/// Fails if the value cannot be parsed, or has a number that is far below zero, although it is not a moment,
/// or larger than any counter.
pub(crate) fn from_json<'a, T: Deserialize<'a> + Serialize>(json: &'a [u8]) -> serde_json::Result<T> {
    let value: T = serde_json::from_slice(json)?;
    // Fields that this program does not know may have any number.
    match impossible("", &serde_json::to_value(&value)?) {
        Some(what) => Err(serde_json::Error::custom(what)),
        None => Ok(value),
    }
}

/// Returns what is wrong with a number in this part of a value, which is at `path`; nothing if all are
/// possible.
fn impossible(path: &str, value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => {
            let number = number.as_f64()?;
            let is_moment = MOMENTS.iter().any(|moment| path.rsplit('.').next() == Some(moment));
            if number.abs() > MOST {
                Some(format!("`{path}` is {number:e}, which is more than anything can be"))
            } else if number < LEAST && !is_moment {
                Some(format!("`{path}` is {number}, but cannot be negative"))
            } else {
                None
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| impossible(&format!("{path}[{at}]"), item))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let dot = if path.is_empty() { "" } else { "." };
            impossible(&format!("{path}{dot}{name}"), field)
        }),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Document {
        #[serde(default)]
        format: FormatVersion,
        name: String,
    }

    /// Returns the name of the document that was read, or the error message.
    fn name_or_error(json: &str) -> String {
        match read::<Document>(json, |document| document.format) {
            Ok(document) => document.name,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn versions_up_to_this_one_are_read_and_newer_ones_refused() {
        assert_eq!(name_or_error(r#"{ "name": "first" }"#), "first");
        assert_eq!(name_or_error(r#"{ "format": 1, "name": "now", "new": [] }"#), "now");
        let refusal = |format| {
            format!(
                "it uses results format {format}, but testbed {} reads formats only up to 1; use the version \
                 of testbed that wrote it, or a newer one",
                env!("CARGO_PKG_VERSION")
            )
        };
        assert_eq!(name_or_error(r#"{ "format": 2, "name": "later" }"#), refusal(2));
        assert_eq!(name_or_error(r#"{ "format": 7, "title": "renamed" }"#), refusal(7));
        assert!(name_or_error(r#"{ "format": 1 }"#).starts_with("missing field `name`"));
        assert!(name_or_error(r#"{ "format": "one" "#).contains("invalid type"));
    }
}
