//! Post-copy over a link that fails after the guest has moved.

use crate::common::real::{LEFTOVERS, LeftoverCheck, Ready, TestDir, isolated, ready, signal, skipped};
use nix::{sys::signal::Signal, unistd::geteuid};
use std::{collections::BTreeSet, fs};
use testbed::outcome::Outcome;

/// A migration by post-copy that is far from its end when the link fails, with these further settings.
fn moved(migrate: &str, timeline: &str) -> String {
    format!(
        "
name: recovery
guest: {{ memory: 192MiB, ballast: 80MiB, accel: tcg }}
link: {{ rate: 160mbit }}
stress: {{ rate: 2MB/s, working_set: 8MB }}
migrate: {{ mode: postcopy, postcopy_after: 100ms, {migrate} }}
timeline: [{timeline}]
"
    )
}

/// A link that starts to lose everything once the guest has moved, which takes two seconds.
const FAILS: &str = "{ at: 5s, link: { loss: 100% } }";

/// The same, but the link works again later.
const RETURNS: &str = "{ at: 5s, link: { loss: 100% } }, { at: 13s, link: { loss: 0% } }";

/// Returns the prerequisites of the tests, if this host has them.
fn ready_for_postcopy() -> Option<Ready> {
    let ready = ready()?;
    if geteuid().is_root() {
        return Some(ready);
    }
    skipped("post-copy needs userfaultfd, which root alone can give QEMU")
}

/// Makes an attempt in which the link fails and works again.
fn recovers(migrate: &str) {
    let Some(ready) = ready_for_postcopy() else { return };
    let dir = TestDir::new(&ready, &moved(migrate, RETURNS));
    let code = dir.run(&["matrix.yaml", "--out", "run"]);
    let [record] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    let (measured, said) = (&record.measured, format!("{record:#?}"));
    if record.outcome == Outcome::Skipped {
        let reason = record.reason.as_deref().unwrap();
        assert!(record.settings.migrate.multifd && reason.contains("multifd"), "{said}");
        return;
    }
    assert_eq!((code, record.outcome), (0, Outcome::Converged), "{said}");
    let verified = measured.verified.as_ref().unwrap();
    assert!(verified.pages_checked > 20_000 && verified.first_bad.is_none(), "{said}");
    assert_eq!((measured.postcopy.recoveries, measured.timeline.len()), (Some(1), 2), "{said}");
    let paused = measured.postcopy.paused_ms.unwrap();
    assert!(paused >= 5_000.0 && measured.postcopy.duration_ms.unwrap() > paused, "{said}");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn post_copy_recovers_when_the_link_works_again() {
    recovers("timeout: 100s");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn post_copy_with_preemption_recovers() {
    recovers("timeout: 100s, postcopy_preempt: true");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn encrypted_post_copy_recovers() {
    recovers("timeout: 100s, tls: true");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn post_copy_over_several_connections_recovers_or_is_skipped() {
    recovers("timeout: 100s, tls: true, multifd: true");
}

/// Makes an attempt in which the link fails for good. Checks that the guest is lost for this reason, and that
/// nothing is left.
fn loses(migrate: &str, reason: &str) {
    let Some(ready) = ready_for_postcopy() else { return };
    isolated(&ready, || {
        let check = LeftoverCheck::from_now();
        let dir = TestDir::new(&ready, &moved(migrate, FAILS));
        assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 3, "{}", dir.shown());
        let [record] = &dir.records()[..] else { panic!("{}", dir.shown()) };
        assert_eq!(record.outcome, Outcome::GuestLost, "{record:#?}");
        let lost = "the guest is lost: it moved without all of its memory, and the rest cannot follow: ";
        assert_eq!(record.reason.as_deref(), Some(format!("{lost}{reason}").as_str()), "{record:#?}");
        check.assert_nothing_left(&dir, &BTreeSet::new());
    });
}

/// The message about a link that has failed.
const FAILED: &str = "nothing has passed the link for 5 s, and the migration has not recovered";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_link_that_does_not_work_by_the_deadline_loses_the_guest_and_leaves_nothing() {
    loses("timeout: 15s", &format!("{FAILED} by its deadline in the state `postcopy-paused`"));
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_link_that_does_not_work_again_in_time_loses_the_guest_and_leaves_nothing() {
    loses("postcopy_recovery: 2s", &format!("{FAILED} within 2 s in the state `postcopy-paused`"));
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_link_that_fails_without_recovery_loses_the_guest_and_leaves_nothing() {
    loses("postcopy_recovery: 0", "nothing has been sent for 20 s in the state `postcopy-active`");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_destination_that_is_killed_while_the_migration_is_paused_ends_the_attempt() {
    let Some(ready) = ready_for_postcopy() else { return };
    let dir = TestDir::new(&ready, &moved("timeout: 100s", FAILS));
    let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
    let destination = run.wait_for("a paused migration", |dir| {
        let destination = dir.processes().into_iter().find(|process| process.is_qemu("destination"));
        destination.filter(|_| is_paused(dir))
    });
    signal(destination.pid, Signal::SIGKILL);
    assert_eq!(run.end(), 3, "{}", dir.shown());
    let [record] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    assert_eq!(record.outcome, Outcome::Failed, "{record:#?}");
    let reason = record.reason.as_deref().unwrap();
    assert!(reason.starts_with("the QEMU at the destination ended (signal: 9 (SIGKILL)"), "{reason}");
    dir.assert_no_processes(LEFTOVERS);
}

/// Returns whether an attempt of the run has a sample of a migration that is paused.
fn is_paused(dir: &TestDir) -> bool {
    let attempts = fs::read_dir(dir.folder().join("attempts")).into_iter().flatten().flatten();
    let samples = attempts.map(|attempt| fs::read_to_string(attempt.path().join("samples.jsonl")));
    samples.flatten().any(|text| text.contains(r#""status":"postcopy-paused""#))
}
