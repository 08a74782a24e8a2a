use super::*;
use crate::results::fixtures::{NO, YES, plan, records};

#[test]
fn expectations_are_checked_against_attempts_that_were_made() {
    let plan = plan(
        "name: n\naxes: { stress.rate: [1MB/s, 2MB/s, 4MB/s] }\nexpect:\n\
         - { where: stress.rate <= 2MB/s, outcome: converged, downtime: <= 100ms, transferred: < 1GB }\n\
         - { where: stress.rate == 4MB/s, outcome: not-converged }\n\
         - { outcome: converged }\n",
    );
    let mut all = records(&plan, &[YES, YES, Some(Outcome::Skipped)]);
    for record in &mut all {
        record.measured.transferred.qemu_bytes = Some(999_999_999);
        record.measured.downtime_ms.qemu = Some(100.0);
    }
    // If a client measured the downtime, its figure is checked rather than QEMU's.
    all[1].measured.downtime_ms.client = Some(100.5);
    let verdict = evaluate(&plan, &all);
    assert_eq!(verdict.expectations.iter().map(|e| e.attempts).collect::<Vec<_>>(), [2, 0, 2]);
    assert_eq!(
        verdict.expectations[0].violations,
        ["stress.rate=2MBps #1: downtime is 100.5 ms, expected <= 100ms"]
    );
    assert_eq!(verdict.expectations[0].expectation, plan.expect[0].to_string());
    assert_eq!(verdict.exit_code(), EXIT_UNEXPECTED);
    all[1].measured.downtime_ms.client = Some(100.0);
    let verdict = evaluate(&plan, &all);
    let words: Vec<String> = verdict.expectations.iter().map(ExpectationVerdict::words).collect();
    assert_eq!(words, ["holds", "not tried", "holds so far (2 of 3 cells)"]);
    assert_eq!(verdict.exit_code(), EXIT_UNEXPECTED);
}

#[test]
fn what_was_not_tried_as_a_whole_does_not_hold_yet() {
    let plan =
        plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s] }\nrepeat: 2\nexpect: [{ outcome: converged }]\n");
    let mut all = records(&plan, &[YES, YES]);
    let verdict = evaluate(&plan, &all);
    assert_eq!(verdict.expectations[0].words(), "holds so far (2 of 4 attempts)");
    assert_eq!(verdict.exit_code(), EXIT_UNEXPECTED);
    let mut again = all.clone();
    for record in &mut again {
        record.attempt = 2;
    }
    all.extend(again);
    assert_eq!(evaluate(&plan, &all).exit_code(), 0);
}

#[test]
fn a_run_in_which_everything_was_skipped_has_failed() {
    let plan = plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s] }\n");
    let skipped = Some(Outcome::Skipped);
    let code = |outcomes: &[Option<Outcome>]| evaluate(&plan, &records(&plan, outcomes)).exit_code();
    assert_eq!(code(&[skipped, skipped]), EXIT_FAILED);
    assert_eq!(code(&[skipped, YES]), 0);
}

#[test]
fn a_bound_within_what_is_possible_is_undecided() {
    let plan = plan("name: n\nexpect: [{ downtime: <= 100ms }]\n");
    let mut all = records(&plan, &[YES]);
    all[0].measured.downtime_ms.client = Some(105.0);
    all[0].measured.downtime_ms.client_at_least = Some(95.0);
    let verdict = evaluate(&plan, &all);
    assert_eq!(verdict.expectations[0].words(), "UNDECIDED");
    assert_eq!(
        verdict.expectations[0].undecided,
        ["base #1: downtime is between 95 ms and 105 ms, which does not decide <= 100ms"]
    );
    assert_eq!(verdict.exit_code(), EXIT_UNEXPECTED);
}

#[test]
fn a_failure_takes_precedence_over_a_violated_expectation() {
    let plan = plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s] }\nexpect: [{ outcome: converged }]\n");
    let code = |outcomes| evaluate(&plan, &records(&plan, outcomes)).exit_code();
    assert_eq!(code(&[YES, YES]), 0);
    assert_eq!(code(&[YES, NO]), EXIT_UNEXPECTED);
    assert_eq!(code(&[Some(Outcome::Failed), NO]), EXIT_FAILED);
}

#[test]
fn records_of_cells_that_the_plan_does_not_have_are_not_checked() {
    let whole = plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s] }\nexpect: [{ outcome: converged }]\n");
    let all = records(&whole, &[YES, NO]);
    let part = whole.only(&"stress.rate == 1MB/s".parse().unwrap());
    let verdict = evaluate(&part, &all);
    assert_eq!((verdict.expectations[0].attempts, verdict.exit_code()), (1, 0));
}
