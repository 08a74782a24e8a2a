//! Files named by a matrix that contain rates over time: `stress.trace` and `link.trace`.
//!
//! A matrix has the path of a file. Its content is read before the cells are expanded, see
//! [`File::expand_with`](crate::matrix::File::expand_with).

use netem::trace::{Trace, TraceError, TraceRate};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, str::FromStr, sync::Arc};
use stressor::workload::Rate;
use units::{ByteRate, Span};

/// The bytes that a packet in Mahimahi's format stands for when the trace is a dirty rate.
const PACKET_BYTES: u64 = 1500;

/// The path of a file with a trace, and its content once it has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "R: Clone")]
pub struct TraceFile<R> {
    path: String,
    content: Option<Arc<Content<R>>>,
}

/// The content of a file with a trace.
#[derive(Debug, PartialEq, Eq)]
struct Content<R> {
    text: String,
    trace: Trace<R>,
}

impl<R> TraceFile<R> {
    /// Returns the path as the matrix has it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the text of the file, if it has been read.
    pub fn text(&self) -> Option<&str> {
        self.content.as_ref().map(|content| content.text.as_str())
    }

    /// Returns the number of the first line with this rate, if there is one.
    pub(super) fn line_of(&self, rate: Option<R>) -> Option<usize>
    where
        R: PartialEq + Copy,
    {
        let mut steps = self.content()?.steps().iter();
        steps.find(|step| Some(step.rate) == rate).map(|step| step.line)
    }

    /// Returns the trace, if the file has been read.
    pub(super) fn content(&self) -> Option<&Trace<R>> {
        self.content.as_ref().map(|content| &content.trace)
    }
}

impl<R: TraceRate> TraceFile<R> {
    /// Parses and stores the text of the file.
    pub(crate) fn set_text(&mut self, text: &str) -> Result<(), TraceError> {
        let trace = text.parse()?;
        self.content = Some(Arc::new(Content { text: text.into(), trace }));
        Ok(())
    }
}

impl<R> TryFrom<String> for TraceFile<R> {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        if path.trim().is_empty() {
            return Err("the path of the trace is empty: name a file, or write `none`");
        }
        Ok(Self { path, content: None })
    }
}

impl<R> From<TraceFile<R>> for String {
    fn from(file: TraceFile<R>) -> Self {
        file.path
    }
}

impl<R> JsonSchema for TraceFile<R> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TraceFile".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

/// A dirty rate in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadRate(pub Rate);

impl FromStr for LoadRate {
    type Err = <Rate as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl TraceRate for LoadRate {
    const EXAMPLE: &'static str = "64MB/s";

    fn of_packets(packets: u64, time: Span) -> Self {
        let rate =
            u128::from(packets) * u128::from(PACKET_BYTES) * 1_000_000_000 / u128::from(time.as_nanos());
        Self(Rate::Limited(ByteRate::new(u64::try_from(rate).unwrap_or(u64::MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_of_a_load_has_rates_or_packets() {
        let rates = |text: &str| -> Vec<String> {
            let trace: Trace<LoadRate> = text.parse().unwrap();
            trace.steps().iter().map(|step| format!("{} {}", step.at, step.rate.0)).collect()
        };
        assert_eq!(rates("0s 64MB/s\n2s 0\n3s Unlimited\n4s end\n"), ["0 64MB/s", "2s 0", "3s unlimited"]);
        assert_eq!(rates("50\n100\n300\n"), ["0 30kB/s", "100ms 0", "200ms 15kB/s"]);
        let error = "0s 64\n1s end\n".parse::<Trace<LoadRate>>().unwrap_err().to_string();
        assert!(error.starts_with("line 1: `64` has no unit") && error.contains("unlimited"), "{error}");
        let error = "0s\n".parse::<Trace<LoadRate>>().unwrap_err().to_string();
        assert!(error.ends_with("like `250ms 64MB/s`"), "{error}");
    }
}
