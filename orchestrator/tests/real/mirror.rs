//! Guests with a disk: what of the disk arrives, and what remains of it when something goes wrong.

use crate::common::real::{Process, RunningTestbed, TestDir, ready, signal, with_small_disk};
use nix::sys::{signal::Signal, statvfs::statvfs};
use std::{fs::File, io::Write, thread, time::Duration};
use stressor::disk::BLOCK_BYTES;
use testbed::{
    outcome::Outcome,
    results::record::{Measured, Phase, Record},
};

/// A guest whose disk is copied in 3 s, and whose memory then migrates in 4 s. 64 MiB of the disk of 256 MiB
/// are written beforehand, and the guest writes to the disk.
const BLOCK: &str = "
name: block
guest: { memory: 192MiB, ballast: 16MiB }
storage: { kind: block, size: 256MiB, written: 64MiB, write_rate: 1MB/s, read_rate: 1MB/s, working_set: 8MiB }
link: { rate: 200mbit }
stress: { rate: 0, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
";

const RUN: [&str; 3] = ["matrix.yaml", "--out", "run"];

#[track_caller]
fn qemu(run: &mut RunningTestbed<'_>, end: &str) -> Process {
    run.wait_for(end, |dir| dir.processes().into_iter().find(|process| process.is_qemu(end)))
}

/// Checks that all of the guest's memory and disk was compared, and was as expected.
#[track_caller]
fn assert_whole(record: &Record) {
    let Measured { verified, storage, .. } = &record.measured;
    assert!(verified.as_ref().is_some_and(|v| v.pages_checked > 0 && v.pages_bad == 0), "{record:#?}");
    let disk = storage.verified.as_ref().unwrap();
    let blocks = record.settings.storage.size.get() / BLOCK_BYTES;
    assert_eq!((disk.blocks_checked, disk.blocks_bad, disk.reads_bad), (blocks, 0, 0), "{record:#?}");
    assert_eq!(disk.io_errors, 0, "{record:#?}");
}

/// Returns whether the link has carried what QEMU reports to have sent.
fn link_agrees(record: &Record) -> bool {
    !record.measured.disagreements.iter().any(|text| text.contains("the link counted"))
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_disk_is_copied_before_memory_and_completed_while_the_guest_is_stopped() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &format!("{BLOCK}axes: {{ storage.format: [raw, qcow2] }}\n"));
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    for record in dir.records() {
        let measured = &record.measured;
        let text = format!("{record:#?}");
        assert_eq!(record.outcome, Outcome::Converged, "{text}");
        assert_whole(&record);
        let (transferred, times) = (&measured.transferred, &measured.storage);
        let (memory, disk) = (transferred.memory_bytes.unwrap(), transferred.disk_bytes.unwrap());
        assert_eq!(transferred.qemu_bytes, Some(memory + disk), "{text}");
        assert!(memory > 20_000_000, "{text}");
        assert!(times.bulk_bytes.is_some_and(|bulk| (64 << 20..=disk).contains(&bulk)), "{text}");
        // Data written beforehand and data written by the guest in the meantime, but not the zeros.
        assert!((64 << 20..192 << 20).contains(&disk), "{text}");
        assert!(
            times.write_rate.is_some_and(|rate| rate > 0.0) && times.longest_write_ms.is_some(),
            "{text}"
        );
        assert!(link_agrees(&record), "the link has carried both: {text}");
        let total = measured.total_time_ms.unwrap();
        let parts = [times.bulk_ms, times.memory_ms, times.switchover_ms].map(Option::unwrap);
        // The end of the switchover and of the migration are reported by different ends, in any order.
        assert!(parts.iter().all(|ms| *ms > 0.0) && parts[..2].iter().sum::<f64>() < total, "{text}");
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn whatever_ends_a_copy_leaves_the_guest_whole_at_the_source() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &format!("{BLOCK}repeat: 3\n"));
    let mut run = dir.start(&RUN);
    for (attempt, status) in [(1, "mirroring"), (2, "active")] {
        run.wait_for(status, |dir| dir.has_reached(&format!("base.{attempt}"), status).then_some(()));
        signal(qemu(&mut run, "destination").pid, Signal::SIGKILL);
        let record = run.wait_for("its record", |dir| dir.records().get(attempt - 1).cloned());
        let reason = record.reason.clone().unwrap_or_default();
        assert_eq!(record.outcome, Outcome::Failed, "{reason}");
        assert!(reason.contains("QEMU at the destination ended (signal: 9 (SIGKILL)"), "{status}: {reason}");
        assert_whole(&record);
        assert!(record.measured.phases_ms.contains_key(&Phase::Verify), "{record:#?}");
    }
    assert_eq!(run.end(), 3, "{}", dir.shown());
    assert_eq!(dir.outcomes()[2..], [Outcome::Converged], "{}", dir.shown());
}

/// Runs a matrix of two cells, and checks that the first was given up while the disk was copied, and the
/// second while memory was sent, at these deadlines, with the guest whole at the source.
#[track_caller]
fn assert_given_up(matrix: &str, deadlines: [&str; 2]) {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, matrix);
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    let records = dir.records();
    assert_eq!(records.len(), 2);
    let expected = deadlines.into_iter().zip(["mirroring", "active"]);
    for (record, (deadline, status)) in records.iter().zip(expected) {
        assert_eq!(record.outcome, Outcome::NotConverged, "{record:#?}");
        let given = record.reason.as_deref().unwrap();
        let reason = format!("the deadline of {deadline} passed");
        assert!(given.starts_with(&reason) && given.contains(status), "{given}");
        assert_whole(record);
    }
}

/// The deadline passes while the disk is copied, or while memory is sent.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_copy_that_takes_too_long_is_given_up() {
    let matrix = format!("{BLOCK}axes: {{ migrate.timeout: [2s, 7s] }}\n");
    let busy = matrix.replace("rate: 0,", "rate: 60MB/s,").replace("4MB", "60MB");
    assert_given_up(&busy, ["2s", "7s"]);
}

/// The link loses everything while the disk is copied, or while memory is sent.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_copy_over_a_link_that_is_cut_is_given_up_and_the_guest_continues() {
    let cut = "
include:
  - { timeline: [{ at: 1s, link: { loss: 100% } }], migrate.timeout: 3s }
  - { guest.ballast: 64MiB, timeline: [{ at: 6s, link: { loss: 100% } }], migrate.timeout: 9s }
";
    assert_given_up(&format!("{BLOCK}{cut}"), ["3s", "9s"]);
}

/// Returns how much of a file system is used, in bytes.
fn used(folder: &str) -> u64 {
    let space = statvfs(folder).unwrap();
    (space.blocks() - space.blocks_free()) * space.fragment_size()
}

/// The destination's file system is full by the time that the disk is copied to it.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_destination_whose_disk_is_full_leaves_the_guest_whole_at_the_source() {
    let Some(ready) = ready() else { return };
    with_small_disk("/var/tmp", 192 << 20, || {
        let dir = TestDir::new(&ready, BLOCK);
        let mut run = dir.start(&RUN);
        // The guest writes only to that part of the source's disk.
        run.wait_for("the source's disk", |_| (used("/var/tmp") >= 64 << 20).then_some(()));
        let mut filler = File::create("/var/tmp/filler").unwrap();
        while filler.write_all(&[1; 1 << 14]).is_ok() {}
        assert_eq!(run.end(), 3, "{}", dir.shown());
        let records = dir.records();
        let reason = records[0].reason.clone().unwrap_or_default();
        assert_eq!(records[0].outcome, Outcome::Failed, "{reason}");
        assert!(reason.contains("the disk could not be copied: "), "{reason}");
        assert!(reason.ends_with("No space left on device"), "{reason}");
        assert_whole(&records[0]);
    });
}

/// Both hosts have the data written before the guest started, and only the rest is copied.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn an_incremental_copy_has_only_what_the_guest_has_written() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &BLOCK.replace("kind: block", "kind: block, sync: top, format: qcow2"));
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    let record = &dir.records()[0];
    assert_eq!(record.outcome, Outcome::Converged, "{record:#?}");
    assert_whole(record);
    let disk = record.measured.transferred.disk_bytes.unwrap();
    assert!((1 << 20..48 << 20).contains(&disk), "{record:#?}");
}

/// A guest whose disk both ends open from the controller.
const SHARED: &str = "
name: shared
guest: { memory: 192MiB, ballast: 16MiB }
storage: { kind: shared, size: 64MiB, written: 16MiB, write_rate: 1MB/s, read_rate: 1MB/s, working_set: 8MiB }
storage_link: { rate: 1gbit }
link: { rate: 200mbit }
stress: { rate: 0, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
";

/// Returns whether the records are of attempts that could be made. If not, prints why.
fn are_possible(records: &[Record]) -> bool {
    let skipped = records.iter().find(|record| record.outcome == Outcome::Skipped);
    skipped.is_none_or(|record| {
        println!("skipped: {}", record.reason.as_deref().unwrap_or_default());
        false
    })
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_shared_disk_is_not_copied() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &format!("{SHARED}axes: {{ storage.format: [raw, qcow2] }}\n"));
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    if !are_possible(&dir.records()) {
        return;
    }
    for record in dir.records() {
        assert_eq!(record.outcome, Outcome::Converged, "{record:#?}");
        assert_whole(&record);
        let Measured { transferred, storage, .. } = &record.measured;
        assert_eq!((transferred.disk_bytes, storage.bulk_ms), (None, None), "{record:#?}");
        let traffic = transferred.storage.unwrap();
        assert!(traffic.source_bytes > 1 << 20, "the guest has used its disk: {record:#?}");
        assert!(storage.link_setting.is_some());
        assert!(link_agrees(&record), "{record:#?}");
    }
}

/// Sends these signals, two seconds apart, to the server of a shared disk: in the first attempt before the
/// migration, in the second while memory is sent, in the third after the migration. Checks that all is well
/// nonetheless, and returns the records; an empty list if no disk can be shared.
#[track_caller]
fn disturb_server(signals: &[Signal]) -> Vec<Record> {
    let Some(ready) = ready() else { return Vec::new() };
    let dir = TestDir::new(&ready, &format!("{SHARED}repeat: 3\n"));
    let mut run = dir.start_on_terminal(&RUN);
    for (attempt, status) in [(1, None), (2, Some("active")), (3, Some("completed"))] {
        if status.is_none() {
            run.wait_for_shown("settling");
        }
        let server = run.wait_for("the server", |dir| {
            if !are_possible(&dir.records()) {
                return Some(None);
            }
            let name = format!("base.{attempt}");
            status.is_none_or(|status| dir.has_reached(&name, status)).then_some(())?;
            let is_server = |process: &Process| process.words.get(1).is_some_and(|word| word == "nfs");
            dir.processes().into_iter().find(is_server).map(Some)
        });
        let Some(server) = server else { return Vec::new() };
        for (index, each) in signals.iter().enumerate() {
            if index > 0 {
                thread::sleep(Duration::from_secs(2));
            }
            signal(server.pid, *each);
        }
    }
    assert_eq!(run.end(), 0, "{}", dir.shown());
    for record in dir.records() {
        assert_eq!(record.outcome, Outcome::Converged, "{record:#?}");
        assert_whole(&record);
    }
    dir.records()
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn the_server_of_a_shared_disk_is_started_again_and_nothing_is_lost() {
    for record in disturb_server(&[Signal::SIGKILL]) {
        assert_eq!(record.measured.storage.server_failures, ["signal: 9 (SIGKILL)"], "{record:#?}");
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_server_that_stands_still_delays_the_guest_and_nothing_is_lost() {
    for record in disturb_server(&[Signal::SIGSTOP, Signal::SIGCONT]) {
        assert_eq!(record.measured.storage.server_failures, [""; 0], "{record:#?}");
    }
}
