//! Expectations, which the attempts of a run must meet, and published figures to compare measurements with.

use super::{
    expression::{Expression, Operator},
    settings::Settings,
};
use crate::outcome::Outcome;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};
use units::{Bytes, ParseError, Span, counted};

/// An expectation about some cells. Every attempt of these cells must have the outcome and meet all bounds.
/// At least an outcome, one bound or `disagreements` is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// A condition that selects the cells, such as `stress.rate <= 96MB/s`. Default: all cells.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<Expression>,
    /// The outcome that every attempt must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Bounds on the downtime, such as `<= 300ms`: as a client saw it (`downtime.client`) or, without a
    /// probe, as QEMU reported it (`downtime.qemu`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Bounds<Span>>,
    /// Bounds on the downtime as a client saw it, by the gaps between the probe's replies. What the probe
    /// measures is an interval: if a bound lies within it, the expectation is undecided.
    #[serde(default, rename = "downtime.client", skip_serializing_if = "Option::is_none")]
    pub downtime_client: Option<Bounds<Span>>,
    /// Bounds on the downtime as the guest's clock measured it.
    #[serde(default, rename = "downtime.guest", skip_serializing_if = "Option::is_none")]
    pub downtime_guest: Option<Bounds<Span>>,
    /// Bounds on the downtime as QEMU reported it.
    #[serde(default, rename = "downtime.qemu", skip_serializing_if = "Option::is_none")]
    pub downtime_qemu: Option<Bounds<Span>>,
    /// Bounds on the total time, such as `<= 20s`: from the migrate command until the guest runs at the
    /// destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_time: Option<Bounds<Span>>,
    /// Bounds on the data transferred, such as `>= 448MB and <= 496MB`: as QEMU reported it, without the
    /// headers of TCP, IP and Ethernet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred: Option<Bounds<Bytes>>,
    /// `none`: two measurements of one quantity must not disagree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreements: Option<NoDisagreements>,
}

/// How many disagreements between measurements are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoDisagreements {
    /// All figures that are measured twice agree.
    None,
}

/// The bounds of what was measured, in milliseconds or bytes: what is certain and what is possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// What is certain.
    pub least: f64,
    /// What is possible; absent if there is no upper bound.
    pub most: Option<f64>,
}

impl Interval {
    /// Returns the interval of a figure that is known exactly.
    pub const fn exactly(value: f64) -> Self {
        Self { least: value, most: Some(value) }
    }
}

/// Why a part of an expectation does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// What was measured is against it; the sentence says how.
    Violated(String),
    /// The measurement is not precise enough to decide; the sentence says why.
    Undecided(String),
}

/// A quantity that expectations bound and references publish. The list of figures, `results::figures`, says
/// which figure of a record measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The time without service, see [`Expectation::downtime`].
    Downtime,
    /// The time without service for a client, see [`Expectation::downtime_client`].
    DowntimeClient,
    /// The time without service by the guest's clock, see [`Expectation::downtime_guest`].
    DowntimeGuest,
    /// The time without service by QEMU's report, see [`Expectation::downtime_qemu`].
    DowntimeQemu,
    /// The duration of the migration, see [`Expectation::total_time`].
    TotalTime,
    /// The size of the migration stream, see [`Expectation::transferred`].
    Transferred,
}

impl Subject {
    /// All subjects, in the order in which messages name them.
    pub const ALL: [Self; 6] = [
        Self::Downtime,
        Self::DowntimeClient,
        Self::DowntimeGuest,
        Self::DowntimeQemu,
        Self::TotalTime,
        Self::Transferred,
    ];

    /// Returns the subject's name, which is its key in a matrix file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Downtime => "downtime",
            Self::DowntimeClient => "downtime.client",
            Self::DowntimeGuest => "downtime.guest",
            Self::DowntimeQemu => "downtime.qemu",
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
    /// Checks a figure, in milliseconds or bytes. A figure that was not measured violates all bounds.
    fn check(&self, subject: Subject, figure: Option<Interval>) -> Option<Finding> {
        let name = subject.name();
        match self {
            Self::Time(bounds) => {
                let span = |ms: f64| Span::from_nanos((ms * 1e6) as u64);
                bounds.check(name, figure, span, |ms| format!("{} ms", round_tenths(ms)))
            }
            Self::Data(bounds) => {
                let bytes = |bytes: f64| Bytes::new(bytes as u64);
                bounds.check(name, figure, bytes, |figure| bytes(figure).to_string())
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
            Subject::DowntimeClient => self.downtime_client.as_ref().map(SubjectBounds::Time),
            Subject::DowntimeGuest => self.downtime_guest.as_ref().map(SubjectBounds::Time),
            Subject::DowntimeQemu => self.downtime_qemu.as_ref().map(SubjectBounds::Time),
            Subject::TotalTime => self.total_time.as_ref().map(SubjectBounds::Time),
            Subject::Transferred => self.transferred.as_ref().map(SubjectBounds::Data),
        }
    }

    /// Returns whether the expectation is about cells with these settings.
    pub fn applies_to(&self, settings: &Settings) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.matches(settings))
    }

    /// Checks an attempt against each part of the expectation. `figure` returns what the attempt measured of
    /// a subject, in milliseconds or bytes. `disagreements` is the number of pairs of measurements that
    /// disagree. Returns the findings that keep the expectation from holding.
    pub fn check(
        &self,
        outcome: Outcome,
        figure: impl Fn(Subject) -> Option<Interval>,
        disagreements: usize,
    ) -> Vec<Finding> {
        let wrong_outcome = self
            .outcome
            .filter(|expected| *expected != outcome)
            .map(|expected| Finding::Violated(format!("outcome is {outcome}, expected {expected}")));
        let bounds = Subject::ALL
            .into_iter()
            .filter_map(|subject| self.bounds(subject)?.check(subject, figure(subject)));
        let disagree = self.disagreements.filter(|_| disagreements > 0).map(|_| {
            let found = counted(disagreements, "disagreement");
            Finding::Violated(format!("{found} between measurements, expected none"))
        });
        wrong_outcome.into_iter().chain(bounds).chain(disagree).collect()
    }

    /// Returns whether the expectation has no outcome, no bounds and no `disagreements`.
    pub(crate) fn is_empty(&self) -> bool {
        self.outcome.is_none()
            && self.disagreements.is_none()
            && Subject::ALL.into_iter().all(|subject| self.bounds(subject).is_none())
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
        let disagreements = self.disagreements.map(|_| "disagreements none".to_owned());
        let parts = outcome.into_iter().chain(bounds).chain(disagreements);
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
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

/// Rounds to tenths, which is more than any figure is accurate to.
fn round_tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl<T: Ord + Copy> Bound<T> {
    /// Returns whether the values from `least` to `most` (without one, to any size) are within the bound.
    /// Returns nothing if only some of them are.
    fn decide(&self, least: T, most: Option<T>) -> Option<bool> {
        let low = least.cmp(&self.value);
        let high = most.map_or(Ordering::Greater, |most| most.cmp(&self.value));
        let between = if (low, high) == (Ordering::Less, Ordering::Greater) { Ordering::Equal } else { low };
        let held = [low, between, high].map(|ordering| self.operator.holds(Some(ordering)));
        (held[0] == held[1] && held[1] == held[2]).then_some(held[0])
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
    /// The published downtime of the guest, if the publication does not say who measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Span>,
    /// The published downtime of the guest, as a client saw it.
    #[serde(default, rename = "downtime.client", skip_serializing_if = "Option::is_none")]
    pub downtime_client: Option<Span>,
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
            Subject::DowntimeClient => Some(self.downtime_client?.as_millis_f64()),
            // Only the testbed measures these.
            Subject::DowntimeGuest | Subject::DowntimeQemu => None,
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

    fn expectation(json: serde_json::Value) -> Expectation {
        serde_json::from_value(json).unwrap()
    }

    /// Returns what an attempt measured: a downtime between two ends, and the data transferred.
    fn figures(
        least: f64,
        most: Option<f64>,
        transferred: Option<f64>,
    ) -> impl Fn(Subject) -> Option<Interval> {
        move |subject| match subject {
            Subject::Downtime | Subject::DowntimeClient => Some(Interval { least, most }),
            Subject::Transferred => transferred.map(Interval::exactly),
            _ => None,
        }
    }

    #[test]
    fn a_violation_states_the_actual_and_the_expected_figure() {
        let expectation = expectation(serde_json::json!({
            "where": "stress.rate == 0", "outcome": "converged",
            "downtime": "<= 300ms", "transferred": "< 1GB",
        }));
        let exactly = |ms| figures(ms, Some(ms), Some(1.0));
        assert_eq!(expectation.check(Outcome::Converged, exactly(300.0), 0), []);
        let violated = |text: &str| Finding::Violated(text.into());
        assert_eq!(
            expectation.check(Outcome::Failed, figures(301.0, Some(301.0), None), 0),
            [
                violated("outcome is failed, expected converged"),
                violated("downtime is 301 ms, expected <= 300ms"),
                violated("transferred was not measured, expected < 1GB"),
            ]
        );
        assert_eq!(
            expectation.to_string(),
            "stress.rate == 0: converged, downtime <= 300ms, transferred < 1GB"
        );
    }

    #[test]
    fn an_interval_decides_a_bound_only_if_all_of_it_is_on_one_side() {
        let check = |bounds: &str, least: f64, most: Option<f64>| {
            let expectation = expectation(serde_json::json!({ "downtime.client": bounds }));
            match expectation.check(Outcome::Converged, figures(least, most, None), 0).pop() {
                None => "holds".to_owned(),
                Some(Finding::Undecided(text)) => format!("undecided: {text}"),
                Some(Finding::Violated(text)) => format!("violated: {text}"),
            }
        };
        assert_eq!(check("<= 1s", 990.0, Some(1000.0)), "holds");
        assert_eq!(
            check("<= 1s", 995.0, Some(1005.0)),
            "undecided: downtime.client is between 995 ms and 1005 ms, which does not decide <= 1s"
        );
        assert_eq!(
            check("<= 1s", 1001.0, Some(1011.0)),
            "violated: downtime.client is between 1001 ms and 1011 ms, expected <= 1s"
        );
        // A gap that never ended.
        assert_eq!(
            check("<= 1s", 5000.0, None),
            "violated: downtime.client is at least 5000 ms, expected <= 1s"
        );
        assert!(check("<= 10s", 5000.0, None).starts_with("undecided: downtime.client is at least 5000 ms"));
        assert_eq!(check(">= 5s", 5000.0, None), "holds");
        assert!(check("< 5s", 5000.0, None).starts_with("violated"));
        assert!(check(">= 1s and <= 2s", 1500.0, None).starts_with("undecided"));
        assert!(check("== 1s", 990.0, Some(1010.0)).starts_with("undecided"));
        assert!(check("!= 1s", 990.0, Some(1010.0)).starts_with("undecided"));
    }

    #[test]
    fn disagreements_can_be_refused() {
        let expectation = expectation(serde_json::json!({ "disagreements": "none" }));
        assert_eq!(expectation.check(Outcome::Converged, |_| None, 0), []);
        assert_eq!(
            expectation.check(Outcome::Converged, |_| None, 2),
            [Finding::Violated("2 disagreements between measurements, expected none".into())]
        );
        assert_eq!(expectation.to_string(), "every cell: disagreements none");
    }
}
