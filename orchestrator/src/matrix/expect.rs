//! What the author of a matrix expects of its cells, and the published figures to stand beside them.

use super::{
    expression::{Expression, Operator},
    settings::Settings,
};
use crate::outcome::Outcome;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, str::FromStr};
use units::{Bytes, ParseError, Span};

/// What is expected of some cells. Every attempt of each of them has to meet all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The cells it is about; without it, all of them.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<Expression>,
    /// How the migration ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Bounds of the downtime, like `<= 300ms`: as the client saw it, or as QEMU reported it where no client
    /// looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Bounds<Span>>,
    /// Bounds of the total time, from the migrate command until the guest runs at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_time: Option<Bounds<Span>>,
    /// Bounds of the data transferred, as QEMU reported it, like `>= 448MB and <= 496MB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred: Option<Bounds<Bytes>>,
}

/// What an expectation is held against. A figure that was not measured meets no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// How the migration ended.
    pub outcome: Outcome,
    /// See [`Expectation::downtime`].
    pub downtime: Option<Span>,
    /// See [`Expectation::total_time`].
    pub total_time: Option<Span>,
    /// See [`Expectation::transferred`].
    pub transferred: Option<Bytes>,
}

impl Expectation {
    /// Whether it says something about a cell with these settings.
    pub fn applies_to(&self, settings: &Settings) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.matches(settings))
    }

    /// How an attempt falls short, one sentence each; empty when it meets the expectation.
    pub fn violations(&self, measured: &Measured) -> Vec<String> {
        let mut violations = Vec::new();
        if let Some(outcome) = self.outcome.filter(|outcome| *outcome != measured.outcome) {
            violations.push(format!("outcome is {}, expected {outcome}", measured.outcome));
        }
        let bounded = [
            self.downtime.as_ref().and_then(|b| b.violation("downtime", measured.downtime)),
            self.total_time.as_ref().and_then(|b| b.violation("total_time", measured.total_time)),
            self.transferred.as_ref().and_then(|b| b.violation("transferred", measured.transferred)),
        ];
        violations.extend(bounded.into_iter().flatten());
        violations
    }

    /// Whether it expects anything at all.
    pub(crate) const fn is_empty(&self) -> bool {
        self.outcome.is_none()
            && self.downtime.is_none()
            && self.total_time.is_none()
            && self.transferred.is_none()
    }
}

impl fmt::Display for Expectation {
    /// As a sentence: "stress.rate <= 96MB/s: converged, downtime <= 300ms".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.condition {
            Some(condition) => write!(f, "{condition}: ")?,
            None => f.write_str("every cell: ")?,
        }
        let parts = [
            self.outcome.map(|outcome| outcome.to_string()),
            self.downtime.as_ref().map(|bounds| format!("downtime {bounds}")),
            self.total_time.as_ref().map(|bounds| format!("total_time {bounds}")),
            self.transferred.as_ref().map(|bounds| format!("transferred {bounds}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// One bound of a quantity: `<= 300ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<T> {
    operator: Operator,
    value: T,
}

/// All bounds of a quantity, joined by `and`: `>= 448MB and <= 496MB`. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds<T>(Vec<Bound<T>>);

impl<T: Ord + Copy + fmt::Display> Bounds<T> {
    /// Whether a value lies within all bounds.
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
                .ok_or_else(|| format!("`{part}` is not a bound: it starts with one of <, <=, >, >=, =="))?;
            let value =
                part[name.len()..].trim_start().parse().map_err(|error: ParseError| error.to_string())?;
            Ok(Bound { operator: *operator, value })
        };
        text.split(" and ").map(bound).collect::<Result<_, _>>().map(Self)
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
        json_schema!({ "type": "string", "pattern": "^ *(<|<=|>|>=|==|!=) *[0-9]" })
    }
}

/// Published figures, to stand beside what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Where they were published.
    pub source: String,
    /// The figures.
    pub rows: Vec<ReferenceRow>,
}

/// The published figures of some cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRow {
    /// The cells they belong to.
    #[serde(rename = "where")]
    pub condition: Expression,
    /// How the migration ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Total time of the migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_time: Option<Span>,
    /// Downtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Span>,
    /// Data transferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred: Option<Bytes>,
}

impl Reference {
    /// The first row about these settings.
    pub fn row_for(&self, settings: &Settings) -> Option<&ReferenceRow> {
        self.rows.iter().find(|row| row.condition.matches(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_print_as_written() {
        let bounds: Bounds<Bytes> = ">= 448MB and <= 496MB".parse().unwrap();
        let mb = |mb: u64| Bytes::new(mb * 1_000_000);
        let held = [447, 448, 496, 497].map(|n| bounds.contain(mb(n)));
        assert_eq!(held, [false, true, true, false]);
        assert_eq!(bounds.to_string(), ">= 448MB and <= 496MB");
        assert!("<= 300".parse::<Bounds<Span>>().unwrap_err().contains("has no unit"));
        assert!("300ms".parse::<Bounds<Span>>().unwrap_err().contains("is not a bound"));
        assert!("".parse::<Bounds<Span>>().unwrap_err().contains("is not a bound"));
    }

    #[test]
    fn a_violation_says_what_was_and_what_was_expected() {
        let expectation: Expectation = serde_json::from_value(serde_json::json!({
            "where": "stress.rate == 0", "outcome": "converged",
            "downtime": "<= 300ms", "transferred": "< 1GB",
        }))
        .unwrap();
        let met = Measured {
            outcome: Outcome::Converged,
            downtime: Some(Span::from_millis(300)),
            total_time: None,
            transferred: Some(Bytes::new(1)),
        };
        assert_eq!(expectation.violations(&met), [""; 0]);
        let missed = Measured {
            outcome: Outcome::Failed,
            downtime: Some(Span::from_millis(301)),
            transferred: None,
            ..met
        };
        assert_eq!(
            expectation.violations(&missed),
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
