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

/// Two cells, each with a baseline.
const COMPARED: &str = "name: n\naxes: { stress.rate: [1MB/s, 2MB/s], link.delay: [0, 20ms] }\nexpect:\n\
                        - { relative_to: link.delay == 20ms, total_time: < 100%, \
                        transferred: '>= 70% and <= 89%' }\n";

/// Returns a record of every cell, with these total times and with 80 bytes in a cell, 100 in a baseline.
fn timed(plan: &Plan, total_ms: [f64; 4]) -> Vec<Record> {
    let mut all = records(plan, &[YES; 4]);
    for (i, record) in all.iter_mut().enumerate() {
        record.measured.total_time_ms = Some(total_ms[i]);
        record.measured.transferred.qemu_bytes = Some(if i % 2 == 0 { 80 } else { 100 });
    }
    all
}

#[test]
fn a_cell_is_compared_with_the_cell_that_differs_only_in_the_named_setting() {
    let plan = plan(COMPARED);
    let verdict = evaluate(&plan, &timed(&plan, [500.0, 1000.0, 1999.0, 2000.0]));
    let compared = &verdict.expectations[0];
    assert_eq!(compared.words(), "holds");
    assert_eq!((compared.cells, compared.attempts, compared.attempts_planned), (2, 4, 4));
    assert_eq!(verdict.exit_code(), 0);
    assert_eq!(
        compared.expectation,
        "every cell relative to link.delay == 20ms: total_time < 100%, transferred >= 70% and <= 89%"
    );
    // The second cell is faster than the first baseline, but not faster than its own.
    let mut all = timed(&plan, [500.0, 1000.0, 900.0, 800.0]);
    all[0].measured.transferred.qemu_bytes = Some(90);
    let verdict = evaluate(&plan, &all);
    assert_eq!(verdict.expectations[0].words(), "DOES NOT HOLD");
    assert_eq!(
        verdict.expectations[0].violations,
        [
            "stress.rate=1MBps,link.delay=0 relative to stress.rate=1MBps,link.delay=20ms: \
             transferred is 90%, expected >= 70% and <= 89%",
            "stress.rate=2MBps,link.delay=0 relative to stress.rate=2MBps,link.delay=20ms: \
             total_time is 112.5%, expected < 100%",
        ]
    );
    assert_eq!(verdict.exit_code(), EXIT_UNEXPECTED);
}

#[test]
fn the_medians_of_the_converged_attempts_are_compared() {
    let mut plan = plan(COMPARED);
    plan.repeat = 3;
    let mut all = Vec::new();
    for (attempt, own) in [(1, 900.0), (2, 5000.0), (3, 950.0)] {
        let mut round = timed(&plan, [own, 1000.0, 1.0, 2.0]);
        for record in &mut round {
            record.attempt = attempt;
        }
        all.extend(round);
    }
    assert_eq!(evaluate(&plan, &all).expectations[0].words(), "holds");
    // Without its fastest attempt, the median of the first cell is (5000 + 950) / 2.
    all[0].outcome = Outcome::NotConverged;
    let violations = &evaluate(&plan, &all).expectations[0].violations;
    assert!(violations.len() == 1 && violations[0].contains("total_time is 297.5%"), "{violations:?}");
    // Until all attempts have been made, a median may still change.
    all.truncate(8);
    let so_far = &evaluate(&plan, &all).expectations[0];
    assert_eq!(so_far.words(), "UNDECIDED");
    assert!(so_far.undecided[0].ends_with("so far, total_time is 500%, expected < 100%"), "{so_far:?}");
    all.truncate(4);
    all[0].outcome = Outcome::Converged;
    assert_eq!(evaluate(&plan, &all).expectations[0].words(), "holds so far (4 of 12 attempts)");
}

#[test]
fn without_the_attempts_of_a_baseline_nothing_is_compared_yet() {
    let plan = plan(COMPARED);
    let all = timed(&plan, [500.0, 1000.0, 500.0, 1000.0]);
    let words = |records: &[Record]| evaluate(&plan, records).expectations[0].words();
    assert_eq!(words(&all[..1]), "not tried");
    assert_eq!(words(&all[..3]), "holds so far (1 of 2 cells)");
    // A run without the baselines does not compare anything, and its verdict does not suffer from that.
    let part = plan.clone().only(&"link.delay == 0".parse().unwrap());
    let verdict = evaluate(&part, &all);
    assert_eq!((verdict.expectations[0].words().as_str(), verdict.exit_code()), ("not tried", 0));
    let shard = plan.clone().shard("1/2".parse().unwrap());
    assert_eq!(evaluate(&shard, &all).expectations[0].words(), "not tried");
}

#[test]
fn figures_that_cannot_be_compared_do_not_decide() {
    let plan = plan(
        "name: n\naxes: { link.delay: [0, 20ms] }\nexpect: \n\
         - { relative_to: link.delay == 20ms, downtime: < 50% }\n",
    );
    let finding = |own: [Option<f64>; 3], baseline: [Option<f64>; 3]| {
        let mut all = records(&plan, &[YES, YES]);
        for (record, [qemu, least, most]) in all.iter_mut().zip([own, baseline]) {
            let downtime = &mut record.measured.downtime_ms;
            (downtime.qemu, downtime.client_at_least, downtime.client) = (qemu, least, most);
        }
        let verdict = &evaluate(&plan, &all).expectations[0];
        let found = verdict.violations.iter().chain(&verdict.undecided).next();
        let text = found.map(|text| text.trim_start_matches("link.delay=0 relative to link.delay=20ms: "));
        format!("{} {}", verdict.words(), text.unwrap_or_default())
    };
    let (qemu, none) = ([Some(40.0), None, None], [None; 3]);
    let client = |least, most| [Some(40.0), Some(least), most];
    assert_eq!(finding(client(90.0, Some(100.0)), client(201.0, Some(210.0))), "holds ");
    assert_eq!(
        finding(client(90.0, Some(100.0)), client(190.0, Some(200.0))),
        "UNDECIDED downtime is between 45% and 52.63%, which does not decide < 50%"
    );
    assert_eq!(
        finding(client(90.0, None), client(190.0, Some(200.0))),
        "UNDECIDED downtime is at least 45%, which does not decide < 50%"
    );
    // Both have QEMU's figure, which is compared if the client's is missing in one of them.
    assert_eq!(finding(client(1.0, Some(2.0)), qemu), "DOES NOT HOLD downtime is 100%, expected < 50%");
    assert_eq!(
        finding([None, Some(1.0), Some(2.0)], qemu),
        "UNDECIDED downtime of the baseline was measured in another way"
    );
    assert_eq!(finding(qemu, none), "UNDECIDED downtime of the baseline was not measured");
    assert_eq!(finding(none, qemu), "DOES NOT HOLD downtime was not measured, expected < 50%");
    assert_eq!(finding(qemu, [Some(0.0), None, None]), "UNDECIDED downtime of the baseline is 0");
}
