use super::*;
use crate::results::{
    fixtures::{NO, YES, plan, records},
    verdict::evaluate,
};

fn threshold_of(outcomes: [Option<Outcome>; 3]) -> Vec<String> {
    let plan = plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s, 4MB/s] }\n");
    evaluate(&plan, &records(&plan, &outcomes)).threshold
}

#[test]
fn the_threshold_is_one_sentence() {
    for (outcomes, sentence) in [
        (
            [YES, YES, NO],
            "Pre-copy converged at every dirty rate up to 2MB/s; at 4MB/s and above it never did.",
        ),
        ([YES, YES, YES], "Pre-copy converged at every dirty rate tried, up to 4MB/s."),
        ([NO, NO, NO], "Pre-copy did not converge even at 1MB/s."),
        (
            [YES, NO, YES],
            "Pre-copy converged at every dirty rate up to 1MB/s; at 2MB/s it did not; some higher rates did, \
             so repeat the run.",
        ),
        // Attempts without a result are ignored.
        (
            [YES, Some(Outcome::Skipped), NO],
            "Pre-copy converged at every dirty rate up to 1MB/s; at 4MB/s and above it never did.",
        ),
        (
            [YES, YES, Some(Outcome::Interrupted)],
            "Pre-copy converged at every dirty rate tried, up to 2MB/s.",
        ),
    ] {
        assert_eq!(threshold_of(outcomes), [sentence], "{outcomes:?}");
    }
    // A single rate says nothing about a threshold.
    for outcomes in [[None, None, None], [YES, None, None], [None, NO, Some(Outcome::Failed)]] {
        assert_eq!(threshold_of(outcomes), [""; 0], "{outcomes:?}");
    }
}

#[test]
fn rows_that_differ_in_more_than_the_rate_have_no_threshold() {
    let plan = plan(
        "name: n\ninclude:\n  - { stress.rate: 1MB/s, guest.vcpus: 1 }\n  \
         - { stress.rate: 2MB/s, guest.vcpus: 2 }\n  - { stress.rate: 4MB/s, guest.vcpus: 3 }\n",
    );
    assert_eq!(evaluate(&plan, &records(&plan, &[YES, YES, NO])).threshold, [""; 0]);
}

#[test]
fn a_sentence_names_the_mode() {
    let plan = plan("name: n\naxes: { migrate.mode: [precopy, postcopy], stress.rate: [1MB/s, 2MB/s] }\n");
    assert_eq!(
        evaluate(&plan, &records(&plan, &[YES, NO, YES, YES])).threshold,
        [
            "With migrate.mode precopy: pre-copy converged at every dirty rate up to 1MB/s; at 2MB/s and \
             above it never did.",
            "With migrate.mode postcopy: post-copy converged at every dirty rate tried, up to 2MB/s."
        ]
    );
}

#[test]
fn a_workload_with_phases_has_no_threshold() {
    let plan = plan(
        "name: n\nstress: { phases: [{ rate: 0, duration: 100s }] }\n\
         axes: { stress.rate: [1MB/s, 2MB/s, 4MB/s] }\n",
    );
    assert_eq!(evaluate(&plan, &records(&plan, &[YES, YES, NO])).threshold, [""; 0]);
}

#[test]
fn a_rate_counts_only_if_every_attempt_converged() {
    let plan = plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s] }\nrepeat: 2\n");
    let mut all = records(&plan, &[YES, YES]);
    all.extend(records(&plan, &[YES, NO]));
    assert_eq!(
        evaluate(&plan, &all).threshold,
        ["Pre-copy converged at every dirty rate up to 1MB/s; at 2MB/s only some attempts did."]
    );
}

/// Returns the sentence about a run of these outcomes, a list for each attempt, at 1, 2, 4 and 8 MB/s.
fn of_attempts(attempts: &[[Option<Outcome>; 4]]) -> String {
    let plan = plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s, 4MB/s, 8MB/s] }\nrepeat: 3\n");
    let records: Vec<_> = attempts.iter().flat_map(|outcomes| records(&plan, outcomes)).collect();
    evaluate(&plan, &records).threshold.concat()
}

#[test]
fn a_rate_at_which_some_attempts_converged_is_told_from_one_at_which_none_did() {
    for (attempts, sentence) in [
        (
            [[YES, YES, YES, NO], [YES, NO, YES, NO]],
            "Pre-copy converged at every dirty rate up to 1MB/s; at 2MB/s only some attempts did; some \
             higher rates did, so repeat the run.",
        ),
        (
            [[YES, NO, YES, NO], [YES, YES, NO, NO]],
            "Pre-copy converged at every dirty rate up to 1MB/s; at 2MB/s and 4MB/s only some attempts did; \
             at 8MB/s and above it never did.",
        ),
        (
            [[YES, NO, YES, NO], [YES, NO, NO, NO]],
            "Pre-copy converged at every dirty rate up to 1MB/s; at 2MB/s it did not; at 4MB/s some attempts \
             did, so repeat the run.",
        ),
        (
            [[YES, NO, NO, NO], [NO, NO, NO, NO]],
            "Pre-copy converged in only some attempts even at 1MB/s; at 2MB/s and above it never did.",
        ),
        (
            [[NO, NO, YES, NO], [NO, NO, YES, NO]],
            "Pre-copy did not converge even at 1MB/s; some higher rates did, so repeat the run.",
        ),
    ] {
        assert_eq!(of_attempts(&attempts), sentence, "{attempts:?}");
    }
}

#[test]
fn an_attempt_that_failed_is_named_and_did_not_converge() {
    let [lost, failed, bad] = [Outcome::GuestLost, Outcome::Failed, Outcome::Corrupted].map(Some);
    for (attempts, sentence) in [
        (
            vec![[lost, YES, YES, None]],
            "Pre-copy converged at every other dirty rate tried, up to 4MB/s. Other outcomes: guest-lost 1 \
             at 1MB/s.",
        ),
        (
            vec![[YES, YES, YES, NO], [YES, YES, bad, NO], [YES, YES, bad, failed]],
            "Pre-copy converged at every dirty rate up to 2MB/s; at 4MB/s only some attempts did; at 8MB/s \
             and above it never did. Other outcomes: corrupted 2 at 4MB/s; failed 1 at 8MB/s.",
        ),
        (
            vec![[YES, failed, YES, NO]],
            "Pre-copy converged at every other dirty rate up to 4MB/s; at 8MB/s and above it never did. \
             Other outcomes: failed 1 at 2MB/s.",
        ),
    ] {
        assert_eq!(of_attempts(&attempts), sentence, "{attempts:?}");
    }
}

#[test]
fn the_edge_is_not_above_a_rate_at_which_an_attempt_failed() {
    let plan = plan("name: n\naxes: { stress.rate: [1MB/s, 2MB/s, 4MB/s] }\n");
    let mut all = records(&plan, &[YES, YES, YES]);
    all.extend(records(&plan, &[YES, Some(Outcome::Corrupted), YES]));
    let group = &groups(&plan, &all)[0];
    assert_eq!(group.highest_converged().map(|level| level.text.as_str()), Some("1MB/s"));
    assert_eq!(group.lowest_given_up().map(|level| level.text.as_str()), Some("2MB/s"));
}

#[test]
fn rates_are_sorted_independently_of_their_order_in_the_file() {
    let plan = plan("name: n\naxes: { stress.rate: [4MB/s, 1MB/s, 900kB/s] }\n");
    let sentence = "Pre-copy converged at every dirty rate up to 1MB/s; at 4MB/s and above it never did.";
    assert_eq!(evaluate(&plan, &records(&plan, &[NO, YES, YES])).threshold, [sentence]);
}

#[test]
fn each_combination_of_the_other_axes_has_its_own_threshold() {
    let plan = plan(
        "name: n\naxes: { link.rate: [400mbit, 1gbit], stress.rate: [1MB/s, 2MB/s] }\n\
         probe: { interval: 0 }\n",
    );
    assert_eq!(
        evaluate(&plan, &records(&plan, &[YES, NO, YES, YES])).threshold,
        [
            "With link.rate 400mbit: pre-copy converged at every dirty rate up to 1MB/s; at 2MB/s and above \
             it never did.",
            "With link.rate 1gbit: pre-copy converged at every dirty rate tried, up to 2MB/s.",
        ]
    );
}

#[test]
fn without_an_axis_of_dirty_rates_there_is_no_threshold() {
    let plan = plan("name: n\naxes: { guest.vcpus: [1, 2] }\n");
    assert_eq!(evaluate(&plan, &records(&plan, &[YES, NO])).threshold, [""; 0]);
}
