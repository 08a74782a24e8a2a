//! Tests workloads and links whose rates change during the migration, and content that suits XBZRLE, with
//! real QEMU processes.

use crate::common::real::{TestDir, ready, ready_alone};
use std::fs;
use stressor::workload::Rate;
use testbed::{
    outcome::Outcome,
    results::record::{AppliedChange, RateInterval, Record},
};
use units::ByteRate;

const LOW: u64 = 1_000_000;
const HIGH: u64 = 8_000_000;

/// A wave and a trace with the same rates, over a link of 14 MB/s, which takes seven seconds for the memory
/// and can carry the workload at any time.
const LOADS: &str = "
name: loads
guest: { memory: 192MiB, ballast: 32MiB, accel: tcg }
link: { rate: 120mbit }
stress: { working_set: 16MB, write: word }
migrate: { downtime_limit: 300ms, timeout: 120s }
include:
  - { stress.wave: { period: 3s, low: 1MB/s, high: 8MB/s } }
  - { stress.trace: load.trace }
expect: [{ outcome: converged }]
";

fn assert_intact(record: &Record) {
    assert_eq!(record.outcome, Outcome::Converged, "{record:#?}");
    let verified = record.measured.verified.as_ref().unwrap();
    assert!(verified.pages_checked > 8000 && verified.first_bad.is_none(), "{record:#?}");
}

/// Returns the numbers of the changes, one of which is due in each period. On a busy host one may be missing,
/// since the next one is due already.
#[track_caller]
fn numbers(changes: &[AppliedChange], period_ms: f64) -> Vec<usize> {
    let numbers: Vec<_> = changes.iter().map(|change| change.due_ms / period_ms).collect();
    assert!(numbers.iter().all(|number| number.fract() == 0.0 && *number >= 1.0), "{changes:#?}");
    assert!(numbers.is_sorted_by(|one, next| one < next), "{changes:#?}");
    numbers.into_iter().map(|number| number as usize).collect()
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_guest_follows_a_wave_and_a_trace() {
    let Some(ready) = ready_alone() else { return };
    let dir = TestDir::new(&ready, LOADS);
    fs::write(dir.path("load.trace"), "0s 1MB/s\n1500ms 8MB/s\n3s end\n").unwrap();
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    for record in dir.records() {
        assert_intact(&record);
        let (measured, said) = (&record.measured, format!("{record:#?}"));
        assert_eq!(measured.stress.requested, Some(LOW), "{said}");
        let rates = [HIGH, LOW].map(|rate| Some(Rate::Limited(ByteRate::new(rate))));
        for (number, change) in numbers(&measured.timeline, 1500.0).into_iter().zip(&measured.timeline) {
            assert_eq!(change.rate, rates[(number - 1) % 2], "{said}");
        }
        let parts = &measured.stress.stretches;
        let achieved = |asked: u64| {
            let of = move |part: &RateInterval| part.achieved.filter(|_| part.requested == Some(asked));
            parts.iter().filter_map(of)
        };
        assert!(achieved(HIGH).count() >= 2 && achieved(LOW).count() >= 2, "{said}");
        // A busy host reduces only the high rate.
        let high = achieved(HIGH).fold(0.0, f64::max);
        assert!(achieved(LOW).all(|rate| rate < 1.2 * LOW as f64), "{said}");
        assert!(high > 3.0 * LOW as f64 && high < 1.2 * HIGH as f64, "{said}");
    }
}

/// Links that follow traces of both formats, for an idle guest.
const LINKS: &str = "
name: links
guest: { memory: 192MiB, ballast: 32MiB, accel: tcg }
migrate: { downtime_limit: 300ms, timeout: 120s }
include:
  - { link.trace: link.trace }
  - { link.trace: link.mahimahi, link.repeat_trace: false }
expect: [{ outcome: converged }]
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_link_follows_its_trace_and_a_run_needs_the_file_only_once() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, LINKS);
    fs::write(dir.path("link.trace"), "0s 240mbit\n500ms 120mbit\n1s end\n").unwrap();
    // In windows of 100 ms, first 1400 packets and then 1600.
    let packets = (0..1000).step_by(100).map(|ms| format!("{}\n", ms + 1).repeat(1400));
    let rest = (1000..2000).step_by(100).map(|ms| format!("{}\n", ms + 100).repeat(1600));
    fs::write(dir.path("link.mahimahi"), packets.chain(rest).collect::<String>()).unwrap();
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run", "--only", "link.trace == link.trace"]), 0);
    let [record] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    assert_intact(record);
    let said = format!("{record:#?}");
    assert!(record.measured.link.as_ref().unwrap().contains("240mbit"), "{said}");
    let changes = &record.measured.timeline;
    assert!(changes.len() >= 4, "{said}");
    for (number, change) in numbers(changes, 500.0).into_iter().zip(changes) {
        let (bits, text) = if number % 2 == 1 { (120_000_000, "120mbit") } else { (240_000_000, "240mbit") };
        assert_eq!(change.link_bits_per_s, Some(bits), "{said}");
        assert!(change.link.as_ref().unwrap().contains(text), "read back from the kernel: {said}");
        assert!(change.due_ms <= change.began_ms && change.rate.is_none(), "{said}");
    }

    // A folder has everything needed to continue.
    fs::rename(dir.folder(), dir.path("first")).unwrap();
    let mut run = dir.start(&["matrix.yaml", "--out", "run", "--only", "link.repeat_trace == false"]);
    run.wait_for("QEMU", |dir| dir.processes().iter().any(|p| p.is_qemu("boot")).then_some(()));
    run.kill();
    fs::remove_file(dir.path("link.trace")).unwrap();
    fs::remove_file(dir.path("link.mahimahi")).unwrap();
    assert_eq!(dir.run(&["--resume", "run"]), 0, "{}", dir.shown());
    let [held] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    assert_intact(held);
    let rates: Vec<_> = held.measured.timeline.iter().map(|change| change.link_bits_per_s).collect();
    assert_eq!(rates, [Some(193_792_000)], "once, and then it stays: {held:#?}");
}

/// A guest that changes 40 bytes of each page, faster than the link carries whole pages.
const SPARSE: &str = "
name: sparse
guest: { memory: 192MiB, ballast: 16MiB, accel: tcg }
link: { rate: 160mbit }
stress: { rate: 32MB/s, working_set: 16MB, content: sparse:1% }
migrate: { downtime_limit: 30ms, timeout: 120s, max_passes: 5, xbzrle_cache_size: 64MiB, xbzrle: true }
axes:
  aid:
    - { migrate.xbzrle: true }
    - { migrate.xbzrle: false, migrate.xbzrle_cache_size: none }
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn xbzrle_saves_bytes_where_a_write_changes_few_of_a_page() {
    let Some(ready) = ready_alone() else { return };
    let dir = TestDir::new(&ready, SPARSE);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let [with, without] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    for record in [with, without] {
        assert!(matches!(record.outcome, Outcome::Converged | Outcome::NotConverged), "{record:#?}");
        let verified = record.measured.verified.as_ref().unwrap();
        assert!(verified.pages_checked > 8000 && verified.first_bad.is_none(), "{record:#?}");
    }
    let aids = &with.measured.aids;
    let (pages, bytes) = (aids.xbzrle_deltas.unwrap(), aids.xbzrle_delta_bytes.unwrap());
    assert!(pages > 1000, "pages that were in the cache: {with:#?}");
    assert!(bytes < pages * 4096 / 4, "they became small: {with:#?}");
    let sent = |record: &Record| record.measured.transferred.qemu_bytes.unwrap();
    assert!(sent(with) + 10_000_000 < sent(without), "{} and {}", sent(with), sent(without));
}
