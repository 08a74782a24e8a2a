//! Expectations, which the attempts of a run must meet, and published figures to compare measurements with.

use super::{
    expression::{Expression, Operator},
    settings::Settings,
};
use crate::outcome::Outcome;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, str::FromStr};
use units::{Bytes, ParseError, Span};

/// An expectation about some cells. Every attempt of these cells must have the outcome and meet all bounds.
/// At least an outcome or one bound is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// A condition that selects the cells, such as `stress.rate <= 96MB/s`. Default: all cells.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<Expression>,
    /// The outcome that every attempt must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Bounds on the downtime, such as `<= 300ms`: as the probe measured it or, without a probe, as QEMU
    /// reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Bounds<Span>>,
    /// Bounds on the total time, such as `<= 20s`: from the migrate command until the guest runs at the
    /// destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_time: Option<Bounds<Span>>,
    /// Bounds on the data transferred, such as `>= 448MB and <= 496MB`: as QEMU reported it, without the
    /// headers of TCP, IP and Ethernet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred: Option<Bounds<Bytes>>,
}

/// A quantity that expectations bound and references publish. The list of figures, `results::figures`, says
/// which figure of a record measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The time without service, see [`Expectation::downtime`].
    Downtime,
    /// The duration of the migration, see [`Expectation::total_time`].
    TotalTime,
    /// The size of the migration stream, see [`Expectation::transferred`].
    Transferred,
}

impl Subject {
    /// All subjects, in the order in which messages name them.
    pub const ALL: [Self; 3] = [Self::Downtime, Self::TotalTime, Self::Transferred];

    /// Returns the subject's name, which is its key in a matrix file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Downtime => "downtime",
            Self::TotalTime => "total_time",
            Self::Transferred => "transferred",
        }
    }
}

/// The bounds of one subject.
enum SubjectBounds<'a> {
    Time(&'a Bounds<Span>),
    Data(&'a Bounds<Bytes>),
}

impl SubjectBounds<'_> {
    /// Returns a sentence if a figure, in milliseconds or bytes, violates the bounds. A figure that was not
    /// measured violates all bounds.
    fn violation(&self, subject: Subject, figure: Option<f64>) -> Option<String> {
        match self {
            Self::Time(bounds) => {
                bounds.violation(subject.name(), figure.map(|ms| Span::from_nanos((ms * 1e6) as u64)))
            }
            Self::Data(bounds) => {
                bounds.violation(subject.name(), figure.map(|bytes| Bytes::new(bytes as u64)))
            }
        }
    }
}

impl fmt::Display for SubjectBounds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(bounds) => bounds.fmt(f),
            Self::Data(bounds) => bounds.fmt(f),
        }
    }
}

impl Expectation {
    fn bounds(&self, subject: Subject) -> Option<SubjectBounds<'_>> {
        match subject {
            Subject::Downtime => self.downtime.as_ref().map(SubjectBounds::Time),
            Subject::TotalTime => self.total_time.as_ref().map(SubjectBounds::Time),
            Subject::Transferred => self.transferred.as_ref().map(SubjectBounds::Data),
        }
    }

    /// Returns whether the expectation is about cells with these settings.
    pub fn applies_to(&self, settings: &Settings) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.matches(settings))
    }

    /// Returns a sentence for each part of the expectation that an attempt violates; none if it meets the
    /// expectation. `figure` returns what the attempt measured of a subject, in milliseconds or bytes.
    pub fn violations(&self, outcome: Outcome, figure: impl Fn(Subject) -> Option<f64>) -> Vec<String> {
        let wrong_outcome = self.outcome.filter(|expected| *expected != outcome);
        let wrong_outcome =
            wrong_outcome.map(|expected| format!("outcome is {outcome}, expected {expected}"));
        let violated = Subject::ALL
            .into_iter()
            .filter_map(|subject| self.bounds(subject)?.violation(subject, figure(subject)));
        wrong_outcome.into_iter().chain(violated).collect()
    }

    /// Returns whether the expectation has neither an outcome nor bounds.
    pub(crate) fn is_empty(&self) -> bool {
        self.outcome.is_none() && Subject::ALL.into_iter().all(|subject| self.bounds(subject).is_none())
    }
}

impl fmt::Display for Expectation {
    /// Writes the expectation in one line: "stress.rate <= 96MB/s: converged, downtime <= 300ms".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.condition {
            Some(condition) => write!(f, "{condition}: ")?,
            None => f.write_str("every cell: ")?,
        }
        let bounds = Subject::ALL
            .into_iter()
            .filter_map(|subject| Some(format!("{} {}", subject.name(), self.bounds(subject)?)));
        let outcome = self.outcome.map(|outcome| outcome.to_string());
        f.write_str(&outcome.into_iter().chain(bounds).collect::<Vec<_>>().join(", "))
    }
}

/// One bound on a quantity: `<= 300ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<T> {
    operator: Operator,
    value: T,
}

/// The bounds on a quantity, joined by `and`: `>= 448MB and <= 496MB`. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds<T>(Vec<Bound<T>>);

impl<T: Ord + Copy + fmt::Display> Bounds<T> {
    /// Returns whether a value is within all bounds.
    pub fn contain(&self, value: T) -> bool {
        self.0.iter().all(|bound| bound.operator.holds(Some(value.cmp(&bound.value))))
    }

    fn violation(&self, name: &str, value: Option<T>) -> Option<String> {
        match value {
            None => Some(format!("{name} was not measured, expected {self}")),
            Some(value) if self.contain(value) => None,
            Some(value) => Some(format!("{name} is {value}, expected {self}")),
        }
    }
}

impl<T: FromStr<Err = ParseError>> FromStr for Bounds<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bound = |part: &str| {
            let part = part.trim();
            let operator = Operator::ALL.iter().find(|(name, _)| part.starts_with(name));
            let (name, operator) = operator
                .ok_or_else(|| format!("`{part}` is not a bound: start it with <, <=, >, >= or =="))?;
            let value =
                part[name.len()..].trim_start().parse().map_err(|error: ParseError| error.to_string())?;
            Ok(Bound { operator: *operator, value })
        };
        let mut parts = Vec::new();
        let mut rest = text;
        // ASCII letters have the same length in either case.
        while let Some(at) = rest.to_ascii_lowercase().find(" and ") {
            parts.push(&rest[..at]);
            rest = &rest[at + " and ".len()..];
        }
        parts.push(rest);
        parts.into_iter().map(bound).collect::<Result<_, _>>().map(Self)
    }
}

impl<T: fmt::Display> fmt::Display for Bounds<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Bound { operator, value }) in self.0.iter().enumerate() {
            write!(f, "{}{operator} {value}", if i > 0 { " and " } else { "" })?;
        }
        Ok(())
    }
}

impl<T: fmt::Display> Serialize for Bounds<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: FromStr<Err = ParseError>> Deserialize<'de> for Bounds<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<T> JsonSchema for Bounds<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Bounds".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\s*(<|<=|>|>=|==|!=)\\s*[0-9]" })
    }
}

/// Published figures, which reports show beside the measured ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Where the figures were published, for example the title of a paper or a URL.
    pub source: String,
    /// The figures. If several rows match a cell, the first of them counts.
    pub rows: Vec<ReferenceRow>,
}

/// The published figures of some cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRow {
    /// A condition that selects the cells to which the figures belong.
    #[serde(rename = "where")]
    pub condition: Expression,
    /// The published outcome of the migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The published total time of the migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_time: Option<Span>,
    /// The published downtime of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Span>,
    /// The published size of the transferred data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred: Option<Bytes>,
}

impl ReferenceRow {
    /// Returns the published figure of a subject, in milliseconds or bytes.
    pub fn figure(&self, subject: Subject) -> Option<f64> {
        match subject {
            Subject::Downtime => Some(self.downtime?.as_millis_f64()),
            Subject::TotalTime => Some(self.total_time?.as_millis_f64()),
            Subject::Transferred => Some(self.transferred?.get() as f64),
        }
    }
}

impl Reference {
    /// Returns the first row whose condition these settings meet.
    pub fn row_for(&self, settings: &Settings) -> Option<&ReferenceRow> {
        self.rows.iter().find(|row| row.condition.matches(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_and_print_as_written() {
        let bounds: Bounds<Bytes> = ">= 448MB and <= 496MB".parse().unwrap();
        let mb = |mb: u64| Bytes::new(mb * 1_000_000);
        let held = [447, 448, 496, 497].map(|n| bounds.contain(mb(n)));
        assert_eq!(held, [false, true, true, false]);
        assert_eq!(bounds.to_string(), ">= 448MB and <= 496MB");
        assert_eq!("< 1m30s AND > 1m".parse::<Bounds<Span>>().unwrap().to_string(), "< 90s and > 60s");
        assert!("<= 300".parse::<Bounds<Span>>().unwrap_err().contains("has no unit"));
        assert!("300ms".parse::<Bounds<Span>>().unwrap_err().contains("is not a bound"));
        assert!("".parse::<Bounds<Span>>().unwrap_err().contains("is not a bound"));
    }

    #[test]
    fn a_violation_states_the_actual_and_the_expected_figure() {
        let expectation: Expectation = serde_json::from_value(serde_json::json!({
            "where": "stress.rate == 0", "outcome": "converged",
            "downtime": "<= 300ms", "transferred": "< 1GB",
        }))
        .unwrap();
        let figures = |downtime_ms: f64, transferred_bytes: Option<f64>| {
            move |subject| match subject {
                Subject::Downtime => Some(downtime_ms),
                Subject::TotalTime => None,
                Subject::Transferred => transferred_bytes,
            }
        };
        assert_eq!(expectation.violations(Outcome::Converged, figures(300.0, Some(1.0))), [""; 0]);
        assert_eq!(
            expectation.violations(Outcome::Failed, figures(301.0, None)),
            [
                "outcome is failed, expected converged",
                "downtime is 301ms, expected <= 300ms",
                "transferred was not measured, expected < 1GB",
            ]
        );
        assert_eq!(
            expectation.to_string(),
            "stress.rate == 0: converged, downtime <= 300ms, transferred < 1GB"
        );
    }
}
