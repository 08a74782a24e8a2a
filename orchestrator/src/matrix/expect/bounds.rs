//! Bounds on a quantity: on its value, or on its percentage of another cell's value.

use super::{Finding, Interval, Percentage, Subject};
use crate::matrix::expression::Operator;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};
use units::{Bytes, Span};

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

    /// Checks an interval. `quantity` converts its ends, and `show` prints them. Returns nothing if it is
    /// within all bounds.
    fn check(
        &self,
        name: &str,
        figure: Option<Interval>,
        quantity: impl Fn(f64) -> T,
        show: impl Fn(f64) -> String,
    ) -> Option<Finding> {
        let Some(Interval { least, most }) = figure else {
            return Some(Finding::Violated(format!("{name} was not measured, expected {self}")));
        };
        let is = match most {
            Some(most) if most > least => format!("{name} is between {} and {}", show(least), show(most)),
            Some(_) => format!("{name} is {}", show(least)),
            None => format!("{name} is at least {}", show(least)),
        };
        let (least, most) = (quantity(least), most.map(quantity));
        let decided: Vec<Option<bool>> = self.0.iter().map(|bound| bound.decide(least, most)).collect();
        if decided.contains(&Some(false)) {
            Some(Finding::Violated(format!("{is}, expected {self}")))
        } else if decided.contains(&None) {
            Some(Finding::Undecided(format!("{is}, which does not decide {self}")))
        } else {
            None
        }
    }
}

impl<T: Ord + Copy> Bound<T> {
    /// Returns whether the values from `least` to `most` (without `most`, of any size) are within the bound.
    /// Returns nothing if only some of them are.
    fn decide(&self, least: T, most: Option<T>) -> Option<bool> {
        let low = least.cmp(&self.value);
        let high = most.map_or(Ordering::Greater, |most| most.cmp(&self.value));
        let between = if (low, high) == (Ordering::Less, Ordering::Greater) { Ordering::Equal } else { low };
        let held = [low, between, high].map(|ordering| self.operator.holds(Some(ordering)));
        (held[0] == held[1] && held[1] == held[2]).then_some(held[0])
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for Bounds<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bound = |part: &str| {
            let part = part.trim();
            let operator = Operator::ALL.iter().find(|(name, _)| part.starts_with(name));
            let (name, operator) = operator
                .ok_or_else(|| format!("`{part}` is not a bound: start it with <, <=, >, >= or =="))?;
            let value = part[name.len()..].trim_start().parse().map_err(|error: T::Err| error.to_string())?;
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

/// What an expectation demands of a quantity: bounds on its value, or on its percentage of the baseline's
/// value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limits<T> {
    /// Bounds on the value: `<= 300ms`.
    Absolute(Bounds<T>),
    /// Bounds on the percentage: `< 100%`.
    Relative(Bounds<Percentage>),
}

impl<T: FromStr<Err: fmt::Display>> FromStr for Limits<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('%') { text.parse().map(Self::Relative) } else { text.parse().map(Self::Absolute) }
    }
}

impl<T: fmt::Display> fmt::Display for Limits<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(bounds) => bounds.fmt(f),
            Self::Relative(bounds) => bounds.fmt(f),
        }
    }
}

impl<T: fmt::Display> Serialize for Limits<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Limits<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<T> JsonSchema for Limits<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Limits".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\s*(<|<=|>|>=|==|!=)\\s*[0-9]" })
    }
}

/// The bounds of one subject.
pub(super) enum SubjectBounds<'a> {
    Time(&'a Bounds<Span>),
    Data(&'a Bounds<Bytes>),
    Percentage(&'a Bounds<Percentage>),
}

impl<'a> SubjectBounds<'a> {
    pub(super) fn time(limits: Option<&'a Limits<Span>>) -> Option<Self> {
        limits.map(|limits| match limits {
            Limits::Absolute(bounds) => Self::Time(bounds),
            Limits::Relative(bounds) => Self::Percentage(bounds),
        })
    }

    pub(super) fn data(limits: Option<&'a Limits<Bytes>>) -> Option<Self> {
        limits.map(|limits| match limits {
            Limits::Absolute(bounds) => Self::Data(bounds),
            Limits::Relative(bounds) => Self::Percentage(bounds),
        })
    }

    /// Returns whether these are bounds on a percentage of the baseline.
    pub(super) const fn are_relative(&self) -> bool {
        matches!(self, Self::Percentage(_))
    }

    /// Checks a figure: milliseconds, bytes, or a fraction of the baseline. A figure that was not measured
    /// violates all bounds.
    pub(super) fn check(&self, subject: Subject, figure: Option<Interval>) -> Option<Finding> {
        let name = subject.name();
        match self {
            Self::Time(bounds) => {
                let span = |ms: f64| Span::from_nanos((ms * 1e6) as u64);
                bounds.check(name, figure, span, |ms| format!("{} ms", round(ms, 10.0)))
            }
            Self::Data(bounds) => {
                let bytes = |bytes: f64| Bytes::new(bytes as u64);
                bounds.check(name, figure, bytes, |figure| bytes(figure).to_string())
            }
            Self::Percentage(bounds) => {
                let show = |fraction| format!("{}%", round(fraction * 100.0, 100.0));
                bounds.check(name, figure, Percentage::from_fraction, show)
            }
        }
    }
}

impl fmt::Display for SubjectBounds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(bounds) => bounds.fmt(f),
            Self::Data(bounds) => bounds.fmt(f),
            Self::Percentage(bounds) => bounds.fmt(f),
        }
    }
}

/// Rounds to one part in `parts`, which is more exact than any figure.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
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
    fn a_percentage_is_one_of_the_baseline() {
        let limits = |text: &str| text.parse::<Limits<Bytes>>();
        let relative = limits(">= 70% AND <= 89.5 %").unwrap();
        assert!(matches!(relative, Limits::Relative(_)));
        assert_eq!(relative.to_string(), ">= 70% and <= 89.5%");
        assert_eq!(serde_json::to_value(&relative).unwrap(), ">= 70% and <= 89.5%");
        assert!(matches!(limits("<= 1GB").unwrap(), Limits::Absolute(_)));
        let both = limits(">= 70% and <= 5GB").unwrap_err();
        assert_eq!(both, "`5GB` is not a percentage: write it like `80%`");
    }

    #[test]
    fn a_fraction_of_the_baseline_is_checked_exactly() {
        let check = |text: &str, least: f64, most: Option<f64>| {
            let limits: Limits<Span> = text.parse().unwrap();
            let bounds = SubjectBounds::time(Some(&limits)).unwrap();
            bounds.check(Subject::TotalTime, Some(Interval { least, most }))
        };
        assert_eq!(check(">= 70% and <= 89%", 0.7, Some(0.7)), None);
        assert_eq!(check(">= 70% and <= 89%", 0.89, Some(0.89)), None);
        assert_eq!(
            check("< 100%", 1.0, Some(1.0)),
            Some(Finding::Violated("total_time is 100%, expected < 100%".into()))
        );
        assert_eq!(
            check("< 100%", 0.987_654, Some(1.25)),
            Some(Finding::Undecided(
                "total_time is between 98.77% and 125%, which does not decide < 100%".into()
            ))
        );
    }
}
