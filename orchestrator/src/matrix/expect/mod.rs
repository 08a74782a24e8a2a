//! Expectations, which the attempts of a run must meet, and published figures to compare measurements with.

use super::{catalog, expression::Expression, settings::Settings};
use crate::outcome::Outcome;
use bounds::SubjectBounds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use units::{Bytes, Span, counted};

mod bounds;
mod interval;
mod percentage;

pub use bounds::{Bound, Bounds, Limits};
pub use interval::Interval;
pub use percentage::{Percentage, PercentageError};

/// An expectation about some cells. Every attempt of these cells must have the outcome and meet all bounds.
/// At least an outcome, one bound or `disagreements` is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// A condition that selects the cells, such as `stress.rate <= 96MB/s`. Default: all cells.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<Expression>,
    /// A condition that selects the baselines, such as `storage == block`. Each cell that `where` selects is
    /// compared with its baseline: the cell that meets this condition and has the same value of every setting
    /// that this condition does not name. All bounds are then percentages of the baseline's figure, such as
    /// `< 100%`. The figure of a cell is the median of its converged attempts. A cell that meets this
    /// condition itself is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_to: Option<Expression>,
    /// The outcome that every attempt must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Bounds on the downtime, such as `<= 300ms`: as a client saw it (`downtime.client`) or, without a
    /// probe, as QEMU reported it (`downtime.qemu`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Limits<Span>>,
    /// Bounds on the downtime as a client saw it, by the gaps between the probe's replies. What the probe
    /// measures is an interval: if a bound lies within it, the expectation is undecided.
    #[serde(default, rename = "downtime.client", skip_serializing_if = "Option::is_none")]
    pub downtime_client: Option<Limits<Span>>,
    /// Bounds on the downtime as the guest's clock measured it.
    #[serde(default, rename = "downtime.guest", skip_serializing_if = "Option::is_none")]
    pub downtime_guest: Option<Limits<Span>>,
    /// Bounds on the downtime as QEMU reported it.
    #[serde(default, rename = "downtime.qemu", skip_serializing_if = "Option::is_none")]
    pub downtime_qemu: Option<Limits<Span>>,
    /// Bounds on the total time, such as `<= 20s`: from the migrate command until the guest runs at the
    /// destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_time: Option<Limits<Span>>,
    /// Bounds on the data transferred, such as `>= 448MB and <= 496MB`: as QEMU reported it, without the
    /// headers of TCP, IP and Ethernet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred: Option<Limits<Bytes>>,
    /// Bounds on the time until the copy of the disk is up to date for the first time.
    #[serde(default, rename = "storage.bulk", skip_serializing_if = "Option::is_none")]
    pub storage_bulk: Option<Limits<Span>>,
    /// Bounds on the time in which memory migrates while the copy of the disk is kept up to date.
    #[serde(default, rename = "storage.memory", skip_serializing_if = "Option::is_none")]
    pub storage_memory: Option<Limits<Span>>,
    /// Bounds on the part of the downtime in which the copy of the disk is completed.
    #[serde(default, rename = "storage.switchover", skip_serializing_if = "Option::is_none")]
    pub storage_switchover: Option<Limits<Span>>,
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

/// Why a part of an expectation does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The measurement contradicts the expectation; the sentence says how.
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
    /// The time of the disk's bulk phase, see [`Expectation::storage_bulk`].
    StorageBulk,
    /// The time in which memory migrates alongside the disk, see [`Expectation::storage_memory`].
    StorageMemory,
    /// The part of the downtime that the disk takes, see [`Expectation::storage_switchover`].
    StorageSwitchover,
}

impl Subject {
    /// All subjects, in the order in which messages name them.
    pub const ALL: [Self; 9] = [
        Self::Downtime,
        Self::DowntimeClient,
        Self::DowntimeGuest,
        Self::DowntimeQemu,
        Self::TotalTime,
        Self::Transferred,
        Self::StorageBulk,
        Self::StorageMemory,
        Self::StorageSwitchover,
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
            Self::StorageBulk => "storage.bulk",
            Self::StorageMemory => "storage.memory",
            Self::StorageSwitchover => "storage.switchover",
        }
    }
}

impl Expectation {
    fn bounds(&self, subject: Subject) -> Option<SubjectBounds<'_>> {
        match subject {
            Subject::Downtime => SubjectBounds::time(self.downtime.as_ref()),
            Subject::DowntimeClient => SubjectBounds::time(self.downtime_client.as_ref()),
            Subject::DowntimeGuest => SubjectBounds::time(self.downtime_guest.as_ref()),
            Subject::DowntimeQemu => SubjectBounds::time(self.downtime_qemu.as_ref()),
            Subject::TotalTime => SubjectBounds::time(self.total_time.as_ref()),
            Subject::Transferred => SubjectBounds::data(self.transferred.as_ref()),
            Subject::StorageBulk => SubjectBounds::time(self.storage_bulk.as_ref()),
            Subject::StorageMemory => SubjectBounds::time(self.storage_memory.as_ref()),
            Subject::StorageSwitchover => SubjectBounds::time(self.storage_switchover.as_ref()),
        }
    }

    /// Returns the subjects with bounds on their value (`relative` is false) or on their percentage of the
    /// baseline.
    pub fn subjects(&self, relative: bool) -> impl Iterator<Item = Subject> {
        let bounded = move |subject: &Subject| {
            self.bounds(*subject).is_some_and(|bounds| bounds.are_relative() == relative)
        };
        Subject::ALL.into_iter().filter(bounded)
    }

    /// Returns whether the expectation is about cells with these settings. The baselines of a comparison are
    /// excluded.
    pub fn applies_to(&self, settings: &Settings) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.matches(settings))
            && self.relative_to.as_ref().is_none_or(|baseline| !baseline.matches(settings))
    }

    /// Returns the settings with those that `relative_to` names reset to their defaults. The results are
    /// equal for a cell and its baseline.
    pub(super) fn shared_with_baseline(&self, settings: &Settings) -> Settings {
        let mut shared = settings.clone();
        let named = self.relative_to.iter().flat_map(Expression::paths).filter_map(catalog::find);
        named.for_each(|setting| setting.copy(&Settings::default(), &mut shared));
        shared
    }

    /// Checks an attempt against each part of the expectation, except percentages of a baseline. `figure`
    /// returns what the attempt measured of a subject, in milliseconds or bytes. `disagreements` is the
    /// number of pairs of measurements that disagree. Returns the findings that keep the expectation from
    /// holding.
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
        let bounds =
            self.subjects(false).filter_map(|subject| self.bounds(subject)?.check(subject, figure(subject)));
        let disagree = self.disagreements.filter(|_| disagreements > 0).map(|_| {
            let found = counted(disagreements, "disagreement");
            Finding::Violated(format!("{found} between measurements, expected none"))
        });
        wrong_outcome.into_iter().chain(bounds).chain(disagree).collect()
    }

    /// Checks a subject of a cell against the bounds on its percentage of the baseline's. `fraction` is 1 if
    /// both are equal. Returns the finding that keeps the expectation from holding.
    pub fn check_fraction(&self, subject: Subject, fraction: Option<Interval>) -> Option<Finding> {
        self.bounds(subject)?.check(subject, fraction)
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
            Some(condition) => write!(f, "{condition}")?,
            None => f.write_str("every cell")?,
        }
        if let Some(baseline) = &self.relative_to {
            write!(f, " relative to {baseline}")?;
        }
        f.write_str(": ")?;
        let bounds = Subject::ALL
            .into_iter()
            .filter_map(|subject| Some(format!("{} {}", subject.name(), self.bounds(subject)?)));
        let outcome = self.outcome.map(|outcome| outcome.to_string());
        let disagreements = self.disagreements.map(|_| "disagreements none".to_owned());
        let parts = outcome.into_iter().chain(bounds).chain(disagreements);
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
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
            // Publications do not have these figures.
            Subject::DowntimeGuest
            | Subject::DowntimeQemu
            | Subject::StorageBulk
            | Subject::StorageMemory
            | Subject::StorageSwitchover => None,
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

    fn expectation(json: serde_json::Value) -> Expectation {
        serde_json::from_value(json).unwrap()
    }

    /// Returns the figures of an attempt: a downtime with these bounds, and the data transferred.
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
