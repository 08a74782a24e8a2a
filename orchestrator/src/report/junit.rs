//! The report as JUnit XML, for the test pages of continuous integration.
//!
//! Each run is a test suite. Expectations are its test cases, and so are the attempts, since a lost guest
//! counts even without expectations. A suite without failures and errors is a run with exit code 0: an
//! expectation that is undecided, or was not tried, is a failure.

use super::{FinishedRun, Format, RenderedReport, composition};
use crate::{
    outcome::Outcome,
    results::{
        parts::Run,
        record::Record,
        verdict::{ExpectationVerdict, RunVerdict},
    },
};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::{io, time::Duration};

/// The format `junit`.
pub(super) struct Junit;

impl Format for Junit {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let suite = suite(&run.plan.name, run.records, run.verdict);
        let notes = vec![format!("results: {}", run.folder.display())];
        Ok(RenderedReport { text: xml([suite])?.into(), notes })
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        let suites = runs.iter().map(|run| suite(&run.title(), &run.records, &run.verdict));
        let notes = runs.iter().flat_map(|run| composition::sentences(&run.composition)).collect();
        Ok(RenderedReport { text: xml(suites)?.into(), notes })
    }
}

fn xml(suites: impl IntoIterator<Item = TestSuite>) -> io::Result<String> {
    let mut report = Report::new("testbed");
    report.add_test_suites(suites);
    report.to_string().map_err(io::Error::other)
}

fn suite(name: &str, records: &[Record], verdict: &RunVerdict) -> TestSuite {
    let mut suite = TestSuite::new(name);
    suite.add_test_cases(verdict.expectations.iter().map(expectation));
    suite.add_test_cases(records.iter().map(attempt));
    if verdict.nothing_made {
        let status = failure(NonSuccessKind::Error, "skipped", "every attempt was skipped");
        suite.add_test_case(case("run", "something is measured", status));
    }
    suite
}

fn expectation(verdict: &ExpectationVerdict) -> TestCase {
    let words = verdict.words();
    let mut status = if verdict.holds() {
        TestCaseStatus::success()
    } else if verdict.violations.is_empty() {
        failure(NonSuccessKind::Failure, "undecided", &words)
    } else {
        failure(NonSuccessKind::Failure, "violated", &words)
    };
    let sentences: Vec<&str> =
        verdict.violations.iter().chain(&verdict.undecided).map(String::as_str).collect();
    if !sentences.is_empty() {
        status.set_description(sentences.join("\n"));
    }
    case("expectation", &verdict.expectation, status)
}

fn attempt(record: &Record) -> TestCase {
    let reason = record.reason.as_deref().unwrap_or_default();
    let outcome = record.outcome.as_str();
    let status = match record.outcome {
        Outcome::Converged | Outcome::NotConverged => TestCaseStatus::success(),
        Outcome::Failed | Outcome::GuestLost | Outcome::Corrupted => {
            failure(NonSuccessKind::Error, outcome, reason)
        }
        Outcome::Skipped | Outcome::Interrupted => {
            let mut status = TestCaseStatus::skipped();
            status.set_type(outcome).set_message(reason);
            status
        }
    };
    let mut case = case("attempt", &format!("{} #{}", record.cell, record.attempt), status);
    // A record from elsewhere may contain any number.
    let time = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).ok();
    if let Some(time) = record.measured.wall_time_ms.and_then(time) {
        case.set_time(time);
    }
    let is_result = matches!(record.outcome, Outcome::Converged | Outcome::NotConverged);
    if let (true, notes) = (is_result, &record.measured.disagreements) {
        let words = [outcome, reason].into_iter().filter(|text| !text.is_empty());
        let lines = words.map(str::to_owned).chain(notes.iter().map(|note| format!("note: {note}")));
        case.set_system_out(lines.collect::<Vec<_>>().join("\n"));
    }
    case
}

fn case(kind: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(kind);
    case
}

fn failure(kind: NonSuccessKind, name: &str, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(name).set_message(message);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::File,
        results::{builder::RecordBuilder, verdict::evaluate},
    };

    fn text(matrix: &str, outcomes: &[(Outcome, Option<&str>)]) -> String {
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let records: Vec<Record> = plan
            .cells
            .iter()
            .zip(outcomes)
            .map(|(cell, (outcome, reason))| {
                RecordBuilder::start().freeze(cell, 1, *outcome, reason.map(Into::into))
            })
            .collect();
        xml([suite(&plan.name, &records, &evaluate(&plan, &records))]).unwrap()
    }

    const MATRIX: &str = "name: n\naxes: { guest.vcpus: [1, 2, 3] }\nexpect:\n  \
                          - { where: guest.vcpus == 1, outcome: converged }\n  \
                          - { where: guest.vcpus == 2, outcome: converged }\n  \
                          - { where: guest.vcpus == 3, outcome: converged }\n";

    #[test]
    fn expectations_and_attempts_are_test_cases() {
        let outcomes = [
            (Outcome::Converged, None),
            (Outcome::NotConverged, Some("the deadline passed")),
            (Outcome::Skipped, Some("no KVM")),
        ];
        let text = text(MATRIX, &outcomes);
        assert!(
            text.contains(r#"<testsuites name="testbed" tests="6" skipped="1" failures="2" errors="0">"#),
            "{text}"
        );
        for part in [
            r#"<testcase name="guest.vcpus == 1: converged" classname="expectation"/>"#,
            r#"<failure message="DOES NOT HOLD" type="violated">"#,
            r#"<failure message="not tried" type="undecided"/>"#,
            r#"<skipped message="no KVM" type="skipped"/>"#,
            r"<system-out>not-converged",
        ] {
            let text = text.replace(" time=\"0.000\"", "");
            assert!(text.contains(part), "{part}\n{text}");
        }
        let times = text.split("<testcase ").filter(|case| case.contains(" time=")).count();
        assert_eq!(times, 2, "an attempt that was skipped has no time: {text}");
    }

    #[test]
    fn lost_guests_are_errors_without_any_expectation() {
        let matrix = "name: n\naxes: { guest.vcpus: [1, 2] }\n";
        let lost = text(matrix, &[(Outcome::GuestLost, Some("no answer")), (Outcome::Converged, None)]);
        assert!(lost.contains(r#"failures="0" errors="1""#), "{lost}");
        let skipped = text(matrix, &[(Outcome::Skipped, None), (Outcome::Skipped, None)]);
        assert!(skipped.contains(r#"failures="0" errors="1""#), "{skipped}");
    }

    #[test]
    fn text_cannot_become_markup() {
        let reason = "]]> <b>&\"'\u{1b}[31m\u{0}";
        let text = text("name: n\n", &[(Outcome::Failed, Some(reason))]);
        assert!(!text.contains("<b>") && !text.contains('\u{1b}') && !text.contains('\0'), "{text}");
        assert!(text.contains("&lt;b&gt;&amp;&quot;"), "{text}");
    }
}
