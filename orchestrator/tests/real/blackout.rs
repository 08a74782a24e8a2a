//! Tests migrations that do not use the link, with real QEMU processes: through a file, and by handing the
//! guest's memory over. Each keeps memory intact; whatever goes wrong leaves a guest whole, and never leaves
//! a file.

use crate::common::real::{Process, Ready, RunningTestbed, TestDir, ready, signal, skipped, with_small_disk};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
    unistd::geteuid,
};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::PathBuf,
};
use testbed::{
    measure::samples::Sample,
    outcome::Outcome,
    results::{
        record::{FileMeasured, Measured, Record},
        samples,
    },
};

const RUN: [&str; 3] = ["matrix.yaml", "--out", "run"];

/// A guest of 192 MiB that dirties little memory.
const GUEST: &str = "
name: file
guest: { memory: 192MiB, ballast: 32MiB, accel: tcg }
link: { rate: 300mbit }
stress: { rate: 2MB/s, working_set: 2MB }
";

/// The ways through a file, including one that QEMU refuses.
const WAYS: &str = "
migrate: { mode: file, downtime_limit: 300ms, timeout: 60s }
include:
  - { migrate.timeout: 59s }
  - { migrate.mapped_ram: true }
  - { migrate.mapped_ram: true, migrate.multifd: true }
  - { migrate.mapped_ram: true, migrate.multifd: true, migrate.direct_io: true }
  - { migrate.save_live: true }
  - { migrate.save_live: true, migrate.xbzrle: true }
  - { migrate.save_live: true, migrate.auto_converge: true, migrate.mapped_ram: true, migrate.multifd: true }
  - { migrate.mapped_ram: true, migrate.save_live: true, migrate.xbzrle: true }
";

/// Runs a test with an empty folder for disks, which must be empty again afterwards. Without root, other
/// users' files in that folder do not concern the test.
fn leaves_nothing(test: impl FnOnce() + Send) {
    if !geteuid().is_root() {
        return test();
    }
    with_small_disk("/var/tmp", 1 << 30, || {
        test();
        assert_eq!(fs::read_dir("/var/tmp").unwrap().count(), 0);
    });
}

#[track_caller]
fn assert_intact(record: &Record) {
    let verified = record.measured.verified.as_ref().unwrap_or_else(|| panic!("{record:#?}"));
    assert!(verified.pages_checked > 8000 && verified.first_bad.is_none(), "{record:#?}");
}

/// The samples of an attempt distinguish saving and loading: the source's last figures are from the moment
/// when the file was complete, and the migration did not complete before the guest ran at the destination.
#[track_caller]
fn assert_saved_before_it_is_loaded(dir: &TestDir, record: &Record) {
    let samples = samples::read(&dir.folder(), &record.cell, record.attempt).unwrap().unwrap();
    let first = |status: &str| {
        let is_it = |sample: &&Sample| sample.status == status;
        samples.iter().find(is_it).unwrap_or_else(|| panic!("no {status}: {samples:#?}"))
    };
    let (saved, loading, completed) = (first("saved"), first("loading"), first("completed"));
    let Measured { file, total_time_ms, iterations, .. } = &record.measured;
    assert!(saved.memory.is_some() && loading.memory.is_none() && completed.memory.is_none(), "{samples:#?}");
    assert!(saved.at_ms <= file.save_ms.unwrap() && saved.at_ms <= loading.at_ms, "{file:?} {samples:#?}");
    assert!(completed.at_ms >= total_time_ms.unwrap(), "{total_time_ms:?} {samples:#?}");
    assert_eq!(iterations.is_empty(), !record.settings.migrate.save_live, "{iterations:?}");
    if let Some(last) = iterations.last() {
        // The sum may be rounded.
        assert!(last.started_at_ms + last.duration_ms <= saved.at_ms + 0.001, "{last:?} {saved:?}");
    }
}

/// Returns whether the last sample of an attempt has this state.
fn is(dir: &TestDir, attempt: &str, status: &str) -> bool {
    let samples = dir.folder().join("attempts").join(attempt).join("samples.jsonl");
    let text = fs::read_to_string(samples).unwrap_or_default();
    let last = text.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    last.is_some_and(|sample| sample["status"] == status)
}

#[track_caller]
fn qemu(run: &mut RunningTestbed<'_>, end: &str) -> Process {
    run.wait_for(end, |dir| dir.processes().into_iter().find(|process| process.is_qemu(end)))
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn every_way_through_a_file_keeps_memory_intact_or_is_skipped_with_qemus_words() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &format!("{GUEST}{WAYS}"));
    let (code, plan, _) = dir.run_subcommand(&["plan", "matrix.yaml", "--json"]);
    assert_eq!(code, 0, "{plan}");
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let cells = plan["cells"].as_array().unwrap();
    assert!(cells.iter().all(|cell| cell["predicted"].is_null()), "{plan:#}");
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    let records = dir.records();
    let (made, refused) = records.split_at(7);
    for record in made {
        let said = format!("{record:#?}");
        assert_eq!(record.outcome, Outcome::Converged, "{said}");
        assert_intact(record);
        let Measured { file, downtime_ms, transferred, .. } = &record.measured;
        let (bytes, save, load) = (file.bytes.unwrap(), file.save_ms.unwrap(), file.load_ms.unwrap());
        assert!(bytes > 32 << 20 && file.allocated_bytes.is_some_and(|space| space > 32 << 20), "{said}");
        assert!(save > 0.0 && load > 0.0, "{said}");
        assert!(transferred.qemu_bytes.is_some_and(|bytes| bytes > 32 << 20), "{said}");
        assert_eq!((transferred.wire_bytes, downtime_ms.qemu), (None, None), "nobody measured it: {said}");
        assert!(downtime_ms.guest.unwrap() > 0.0 && downtime_ms.client.is_some(), "{said}");
        assert_saved_before_it_is_loaded(&dir, record);
    }
    // Each page of the memory has its own place.
    assert!(made[1].measured.file.bytes > Some(192 << 20), "{:#?}", made[1]);
    assert!(made[1].measured.file.allocated_bytes < made[1].measured.file.bytes, "{:#?}", made[1]);
    let [refused] = refused else { panic!("{}", dir.shown()) };
    let reason = refused.reason.as_deref().unwrap_or_default();
    let words = "QEMU on this host refuses it: Mapped-ram migration is incompatible with xbzrle";
    assert_eq!((refused.outcome, reason), (Outcome::Skipped, words));
    assert_eq!(cells[7]["skipped"], reason);
}

/// A guest with a disk that both ends open and that both write.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_shared_disk_goes_with_a_guest_that_does_not_use_the_link() {
    let Some(ready) = ready() else { return };
    let disk =
        "storage: { kind: shared, size: 64MiB, written: 8MiB, write_rate: 1MB/s, working_set: 4MiB }\n";
    let ways = "axes: { migrate.mode: [file, cpr-transfer] }\n";
    let dir = TestDir::new(&ready, &format!("{GUEST}{disk}{ways}"));
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    for record in dir.records() {
        if record.outcome == Outcome::Skipped {
            return skipped(record.reason.as_deref().unwrap_or_default()).unwrap_or(());
        }
        assert_eq!(record.outcome, Outcome::Converged, "{record:#?}");
        assert_intact(&record);
        let disk = record.measured.storage.verified.as_ref().unwrap();
        assert_eq!((disk.blocks_bad, disk.reads_bad, disk.io_errors), (0, 0, 0), "{record:#?}");
    }
}

/// A save that is slow enough to be disturbed: QEMU writes at most 8 MB/s.
const SLOW: &str = "
migrate: { mode: file, max_bandwidth: 8MB/s }
repeat: 2
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_qemu_that_is_killed_while_a_guest_is_saved_ends_the_attempt_and_leaves_no_file() {
    let Some(ready) = ready() else { return };
    leaves_nothing(|| {
        let dir = TestDir::new(&ready, &format!("{GUEST}{SLOW}"));
        let mut run = dir.start(&RUN);
        for (attempt, end) in [(1, "destination"), (2, "source")] {
            run.wait_for("saving", |dir| is(dir, &format!("base.{attempt}"), "active").then_some(()));
            signal(qemu(&mut run, end).pid, Signal::SIGKILL);
            let record = run.wait_for("its record", |dir| dir.records().get(attempt - 1).cloned());
            let reason = record.reason.clone().unwrap_or_default();
            assert_eq!(record.outcome, Outcome::Failed, "{reason}");
            assert!(reason.contains(&format!("QEMU at the {end} ended (signal: 9 (SIGKILL)")), "{reason}");
        }
        assert_eq!(run.end(), 3, "{}", dir.shown());
    });
}

/// Makes an attempt whose destination is stopped before it can load the guest, and then disturbed. Returns
/// the reason of the attempt, whose guest continues at the source.
fn fails_to_load(ready: &Ready, matrix: &str, disturb: impl FnOnce(i32)) -> String {
    let dir = TestDir::new(ready, &format!("{GUEST}{matrix}"));
    let mut run = dir.start(&RUN);
    run.wait_for("saving", |dir| is(dir, "base.1", "active").then_some(()));
    let destination = qemu(&mut run, "destination").pid;
    signal(destination, Signal::SIGSTOP);
    // It cannot answer, so this remains the last state.
    run.wait_for("saved", |dir| is(dir, "base.1", "saved").then_some(()));
    disturb(destination);
    assert_eq!(run.end(), 3, "{}", dir.shown());
    let record = &dir.records()[0];
    let reason = record.reason.clone().unwrap_or_default();
    assert_eq!(record.outcome, Outcome::Failed, "{reason}");
    assert!(reason.ends_with(" and continues at the source"), "{reason}");
    assert_intact(record);
    if let Some(disk) = &record.measured.storage.verified {
        assert_eq!((disk.blocks_bad, disk.reads_bad, disk.io_errors), (0, 0, 0), "{record:#?}");
    }
    reason
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_destination_that_is_killed_while_it_loads_fails_the_attempt() {
    let Some(ready) = ready() else { return };
    let disk =
        "storage: { kind: shared, size: 64MiB, written: 8MiB, write_rate: 1MB/s, working_set: 4MiB }\n";
    let slow = SLOW.replace("repeat: 2\n", disk);
    for matrix in [slow.clone(), slow.replace("mode: file", "mode: file, save_live: true")] {
        leaves_nothing(|| {
            let reason = fails_to_load(&ready, &matrix, |destination| signal(destination, Signal::SIGKILL));
            assert!(reason.contains("QEMU at the destination ended (signal: 9 (SIGKILL)"), "{reason}");
        });
    }
}

/// The file is cut off before it is read, through a descriptor of the destination.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_file_that_cannot_be_loaded_leaves_the_guest_whole_at_the_source() {
    let Some(ready) = ready() else { return };
    let reason = fails_to_load(&ready, &SLOW.replace("repeat: 2\n", ""), |destination| {
        let files = fs::read_dir(format!("/proc/{destination}/fd")).unwrap().flatten().map(|fd| fd.path());
        let is_saved =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 1 << 20);
        let saved: Vec<PathBuf> = files.filter(is_saved).collect();
        assert_eq!(saved.len(), 1, "{saved:?}");
        File::options().write(true).open(&saved[0]).unwrap().set_len(1 << 20).unwrap();
        signal(destination, Signal::SIGCONT);
    });
    assert!(reason.contains("QEMU at the destination ended (exit status: 1)"), "{reason}");
}

/// A stopped destination goes unnoticed until it has been stopped for long enough.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_destination_that_stands_still_leaves_the_guest_whole_at_the_source() {
    let Some(ready) = ready() else { return };
    let reason = fails_to_load(&ready, &SLOW.replace("repeat: 2\n", ""), |_| ());
    let words = "no data has been saved, loaded or handed over for 20 s in the state `saved`";
    assert!(reason.starts_with(words), "{reason}");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_full_disk_leaves_the_guest_whole_at_the_source() {
    let Some(ready) = ready() else { return };
    with_small_disk("/var/tmp", 24 << 20, || {
        let ways = "
migrate: { mode: file }
include:
  - { migrate.timeout: 59s }
  - { migrate.save_live: true }
  - { migrate.mapped_ram: true, migrate.multifd: true }
";
        let dir = TestDir::new(&ready, &format!("{GUEST}{ways}"));
        assert_eq!(dir.run(&RUN), 3, "{}", dir.shown());
        for record in dir.records() {
            let reason = record.reason.as_deref().unwrap_or_default();
            assert_eq!(record.outcome, Outcome::Failed, "{reason}");
            assert!(reason.contains("No space left on device"), "{reason}");
            assert_intact(&record);
        }
        assert_eq!(fs::read_dir("/var/tmp").unwrap().count(), 0);
    });
}

/// Files in memory (ramfs) do not support direct I/O.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_file_system_without_direct_io_skips_the_cells_that_want_it() {
    let Some(ready) = ready() else { return };
    with_small_disk("/var/tmp", 1 << 20, || {
        let none: Option<&str> = None;
        mount(Some("test"), "/var/tmp", Some("ramfs"), MsFlags::empty(), none).unwrap();
        let ways = "
migrate: { mode: file, mapped_ram: true, multifd: true }
axes: { migrate.direct_io: [true, false] }
";
        let dir = TestDir::new(&ready, &format!("{GUEST}{ways}"));
        assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
        let [directly, cached] = &dir.records()[..] else { panic!("{}", dir.shown()) };
        let reason = directly.reason.as_deref().unwrap_or_default();
        assert_eq!(directly.outcome, Outcome::Skipped, "{reason}");
        assert_eq!(reason, "the file system of /var/tmp does not support direct I/O: Invalid argument");
        assert_eq!(cached.outcome, Outcome::Converged, "{cached:#?}");
    });
}

/// A guest that dirties its memory faster than QEMU writes it is given up, and continues at the source.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_guest_that_is_never_saved_while_it_runs_continues_at_the_source() {
    let Some(ready) = ready() else { return };
    let matrix =
        "migrate: { mode: file, save_live: true, max_bandwidth: 4MB/s, downtime_limit: 10ms, timeout: 3s }\n";
    let dir = TestDir::new(&ready, &format!("{GUEST}{matrix}"));
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    let record = &dir.records()[0];
    let reason = record.reason.as_deref().unwrap_or_default();
    assert_eq!(
        (record.outcome, reason),
        (Outcome::NotConverged, "the deadline of 3s passed in the state `active`")
    );
    assert_intact(record);
    assert_eq!(record.measured.file, FileMeasured::default(), "{record:#?}");
}

/// Memory of three sizes is handed over, without a copy.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn memory_is_handed_over_to_another_qemu_on_the_host() {
    let Some(ready) = ready() else { return };
    leaves_nothing(|| {
        let ways = "
migrate: { mode: cpr-transfer }
include:
  - { guest.memory: 192MiB }
  - { guest.memory: 256MiB, guest.vcpus: 2 }
  - { migrate.mode: precopy, migrate.downtime_limit: 300ms }
";
        let dir = TestDir::new(&ready, &format!("{GUEST}{ways}"));
        assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
        let records = dir.records();
        for record in &records[..2] {
            let said = format!("{record:#?}");
            if record.outcome == Outcome::Skipped {
                return skipped(record.reason.as_deref().unwrap_or_default()).unwrap_or(());
            }
            assert_eq!(record.outcome, Outcome::Converged, "{said}");
            assert_intact(record);
            let Measured { transferred, downtime_ms, cpu, .. } = &record.measured;
            assert!(
                transferred.qemu_bytes.is_some_and(|bytes| bytes < 16 << 20),
                "memory is not copied: {said}"
            );
            assert_eq!((transferred.wire_bytes, cpu.source_ms_per_gb), (None, None), "{said}");
            assert!(downtime_ms.guest.is_some() && downtime_ms.client.is_some(), "{said}");
        }
        assert_eq!(records[2].outcome, Outcome::Converged, "{:#?}", records[2]);
        assert!(records[2].measured.transferred.wire_bytes.is_some());
    });
}

/// The nodes are killed with `testbed`, so nothing else removes what they have made.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_killed_run_leaves_no_sockets_over_which_memory_is_handed_over() {
    let Some(ready) = ready() else { return };
    leaves_nothing(|| {
        let dir = TestDir::new(&ready, &format!("{GUEST}migrate: {{ mode: cpr-transfer }}\nrepeat: 2\n"));
        let mut run = dir.start(&RUN);
        let first = run.wait_for("a record", |dir| dir.records().first().cloned());
        if first.outcome == Outcome::Skipped {
            return skipped(first.reason.as_deref().unwrap_or_default()).unwrap_or(());
        }
        qemu(&mut run, "destination");
        run.kill();
    });
}
