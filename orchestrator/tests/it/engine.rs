//! The engine with a mock bench, which needs neither QEMU nor root: which attempts are made and in which
//! order, what is recorded, and what happens when an interrupted run is continued.

use crate::common::{
    mock::{MockBench, RecordingSink, Scripted, outcomes},
    plan,
};
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use testbed::{
    matrix::{Cell, Plan, selection::Selection},
    outcome::Outcome,
    results::{
        record::Record,
        store::{self, Store},
        verdict,
    },
    run::RunOutcome,
};

/// A matrix with three cells.
const MATRIX: &str = "name: n\naxes: { stress.rate: [1MB/s, 2MB/s, 3MB/s] }\n";

/// A results folder that is removed after the test.
struct Folder {
    _parent: TempDir,
    path: PathBuf,
    plan: Plan,
}

impl Folder {
    fn new(matrix: &str) -> (Self, Store) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("results/run");
        let store = Store::create(&path, matrix, &Selection::default()).unwrap();
        (Self { _parent: parent, path, plan: plan(matrix) }, store)
    }

    fn cells(&self) -> PathBuf {
        self.path.join(store::CELLS)
    }

    /// Reads the records from the disk.
    fn records(&self) -> Vec<Record> {
        store::read(&self.path).unwrap().1
    }

    fn outcomes(&self) -> Vec<String> {
        outcomes(&self.records())
    }

    /// Opens the folder again, as `--resume` does.
    fn reopen(&self) -> Store {
        Store::open(&self.path).unwrap()
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Returns a script for the mock that depends only on the index of the cell.
fn by_cell(acts: impl Fn(usize) -> Scripted) -> impl FnMut(&Cell, u32) -> Scripted {
    move |cell, _| acts(cell.index)
}

#[tokio::test]
async fn every_attempt_is_recorded_in_order_with_its_outcome() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::new(by_cell(|i| match i {
        0 => Scripted::End(Outcome::Converged),
        1 => Scripted::Because(Outcome::NotConverged, "the deadline of 60s passed"),
        _ => Scripted::Because(Outcome::GuestLost, "it does not run"),
    }));
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), RunOutcome::Complete);
    assert_eq!(
        folder.outcomes(),
        [
            "stress.rate=1MBps #1: converged",
            "stress.rate=2MBps #1: not-converged",
            "stress.rate=3MBps #1: guest-lost"
        ]
    );
    let records = folder.records();
    assert_eq!(records, store.records(), "the disk has the same records as the store");
    assert_eq!(records[0].reason, None);
    assert_eq!(records[1].reason.as_deref(), Some("the deadline of 60s passed"));
    assert_eq!(records[1].axes["stress.rate"], "2MB/s");
    assert_eq!(records[1].settings, folder.plan.cells[1].settings);
    assert!(records.windows(2).all(|two| two[0].started_at <= two[1].started_at));
    assert_eq!(bench.prepared, 1);
}

#[tokio::test]
async fn the_folder_has_the_documented_files() {
    let (folder, mut store) = Folder::new(MATRIX);
    MockBench::converging().run(&folder.plan, &mut store).await.unwrap();
    store.write_summary(&testbed::report::summary(store.records()).unwrap()).unwrap();
    assert_eq!(
        entries(&folder.path),
        ["attempts", "cells.jsonl", "environment.json", "matrix.yaml", "selection.json", "summary.csv"]
    );
    assert_eq!(
        entries(&folder.path.join("attempts")),
        ["stress.rate=1MBps.1", "stress.rate=2MBps.1", "stress.rate=3MBps.1"]
    );
    assert_eq!(fs::read_to_string(folder.path.join("matrix.yaml")).unwrap(), MATRIX);
    let environment = fs::read_to_string(folder.path.join("environment.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&environment).unwrap()["qemu"], "10.0.2");
    let summary = fs::read_to_string(folder.path.join("summary.csv")).unwrap();
    assert_eq!(summary.lines().count(), 1 + 3);
}

#[tokio::test]
async fn repeats_make_each_cell_once_before_any_a_second_time() {
    let (folder, mut store) = Folder::new("name: n\naxes: { stress.rate: [1MB/s, 2MB/s] }\nrepeat: 3\n");
    let mut bench = MockBench::new(|_, attempt| {
        Scripted::End(if attempt == 2 { Outcome::NotConverged } else { Outcome::Converged })
    });
    bench.run(&folder.plan, &mut store).await.unwrap();
    assert_eq!(
        folder.outcomes(),
        [
            "stress.rate=1MBps #1: converged",
            "stress.rate=2MBps #1: converged",
            "stress.rate=1MBps #2: not-converged",
            "stress.rate=2MBps #2: not-converged",
            "stress.rate=1MBps #3: converged",
            "stress.rate=2MBps #3: converged",
        ]
    );
    assert_eq!(bench.folders[2], folder.path.join("attempts/stress.rate=1MBps.2"));
}

#[tokio::test]
async fn the_order_depends_on_the_seed_only() {
    let shuffled = |seed: u64| {
        format!(
            "name: n\naxes: {{ stress.rate: [1MB/s, 2MB/s, 3MB/s, 4MB/s, 5MB/s, 6MB/s, 7MB/s, 8MB/s] }}\n\
             order: shuffled\nseed: {seed}\nrepeat: 2\n"
        )
    };
    let mut orders = Vec::new();
    for seed in [7, 7, 8] {
        let (folder, mut store) = Folder::new(&shuffled(seed));
        let mut bench = MockBench::converging();
        bench.run(&folder.plan, &mut store).await.unwrap();
        assert_eq!(bench.made, folder.records().iter().map(crate::common::mock::name).collect::<Vec<_>>());
        orders.push(bench.made.clone());
    }
    assert_eq!(orders[0], orders[1]);
    assert_ne!(orders[0], orders[2]);
    let mut sorted = orders[0].clone();
    sorted.sort_unstable();
    assert_ne!(sorted, orders[0], "the order is shuffled");
    let mut other = orders[2].clone();
    other.sort_unstable();
    assert_eq!(sorted, other, "both orders have the same attempts");
}

#[tokio::test]
async fn a_cell_that_cannot_be_attempted_is_skipped_with_the_reason() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::converging();
    bench.skip_reason = |cell| (cell.index == 1).then(|| "this link needs sch_netem".into());
    bench.run(&folder.plan, &mut store).await.unwrap();
    assert_eq!(bench.made, ["stress.rate=1MBps #1", "stress.rate=3MBps #1"]);
    let skipped = &folder.records()[1];
    assert_eq!(
        (skipped.outcome, skipped.reason.as_deref()),
        (Outcome::Skipped, Some("this link needs sch_netem"))
    );
    assert_eq!(skipped.cell, "stress.rate=2MBps");
    assert!(!folder.path.join("attempts/stress.rate=2MBps.1").exists(), "nothing was attempted");
}

#[tokio::test]
async fn a_failed_attempt_does_not_end_the_run() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::new(by_cell(|i| match i {
        0 => Scripted::Because(Outcome::Failed, "QEMU at the source ended (signal: 9 (SIGKILL))"),
        _ => Scripted::End(Outcome::Converged),
    }));
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), RunOutcome::Complete);
    assert_eq!(bench.made.len(), 3);
    assert_eq!(folder.records()[0].outcome, Outcome::Failed);
    assert_eq!(verdict::evaluate(&folder.plan, store.records()).exit_code(), verdict::EXIT_FAILED);
}

#[tokio::test]
async fn an_error_of_the_bench_ends_the_run_and_keeps_the_records() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::new(by_cell(|i| match i {
        1 => Scripted::BreakDown,
        _ => Scripted::End(Outcome::Converged),
    }));
    let error = bench.run(&folder.plan, &mut store).await.unwrap_err();
    assert_eq!(error.to_string(), "the bench broke down");
    assert_eq!(folder.outcomes(), ["stress.rate=1MBps #1: converged"]);
    assert_eq!(bench.made.len(), 2, "no attempt after it");

    drop(store);
    let mut again = MockBench::converging();
    again.run(&folder.plan, &mut folder.reopen()).await.unwrap();
    assert_eq!(again.made, ["stress.rate=2MBps #1", "stress.rate=3MBps #1"]);
}

#[tokio::test]
async fn no_attempt_is_made_if_the_bench_cannot_be_prepared() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::converging();
    bench.broken = true;
    assert!(bench.run(&folder.plan, &mut store).await.is_err());
    assert_eq!(bench.made, [""; 0]);
    assert_eq!(fs::read_to_string(folder.cells()).unwrap(), "");
}

#[tokio::test]
async fn an_attempt_with_a_result_is_not_repeated() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::new(by_cell(|i| match i {
        0 => Scripted::End(Outcome::Failed),
        1 => Scripted::End(Outcome::NotConverged),
        _ => Scripted::End(Outcome::Converged),
    }));
    bench.run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let before = fs::read(folder.cells()).unwrap();

    let mut again = MockBench::converging();
    assert_eq!(again.run(&folder.plan, &mut folder.reopen()).await.unwrap(), RunOutcome::Complete);
    assert_eq!((again.prepared, again.made.len()), (0, 0), "not even the bench is prepared");
    assert_eq!(fs::read(folder.cells()).unwrap(), before);
}

#[tokio::test]
async fn an_attempt_that_lacked_disk_is_made_again_and_then_counts_once() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::new(by_cell(|i| match i {
        0 => Scripted::Because(Outcome::Failed, "cannot write x: No space left on device (os error 28)"),
        1 => Scripted::Because(Outcome::Failed, "the guest panicked: Kernel panic - not syncing: x"),
        _ => Scripted::End(Outcome::Converged),
    }));
    bench.run(&folder.plan, &mut store).await.unwrap();
    assert_eq!(verdict::evaluate(&folder.plan, store.records()).failed, 2);
    drop(store);
    let mut again = MockBench::converging();
    let mut store = folder.reopen();
    again.run(&folder.plan, &mut store).await.unwrap();
    assert_eq!(again.made, ["stress.rate=1MBps #1"]);
    let verdict = verdict::evaluate(&folder.plan, store.records());
    assert_eq!((verdict.failed, store.records().len()), (1, 3), "{verdict:?}");
    assert_eq!(
        folder.outcomes(),
        [
            "stress.rate=2MBps #1: failed",
            "stress.rate=3MBps #1: converged",
            "stress.rate=1MBps #1: converged"
        ]
    );
}

#[tokio::test]
async fn a_skipped_cell_is_not_attempted_when_the_run_is_continued() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::converging();
    bench.skip_reason = |_| Some("no".into());
    bench.run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let mut again = MockBench::converging();
    again.run(&folder.plan, &mut folder.reopen()).await.unwrap();
    assert_eq!(again.made, [""; 0]);
    assert_eq!(folder.records().len(), 3);
}

#[tokio::test]
async fn an_interrupted_attempt_ends_the_run_and_is_repeated_when_it_is_continued() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::new(by_cell(|i| match i {
        1 => Scripted::Interrupted,
        _ => Scripted::End(Outcome::Converged),
    }));
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), RunOutcome::Interrupted);
    assert_eq!(folder.outcomes(), ["stress.rate=1MBps #1: converged", "stress.rate=2MBps #1: interrupted"]);
    drop(store);

    // The attempt's folder still has files of the interrupted attempt; the mock checks that it gets an empty
    // one.
    let mut again = MockBench::converging();
    let mut store = folder.reopen();
    assert_eq!(again.run(&folder.plan, &mut store).await.unwrap(), RunOutcome::Complete);
    assert_eq!(again.made, ["stress.rate=2MBps #1", "stress.rate=3MBps #1"]);
    assert_eq!(
        folder.outcomes(),
        [
            "stress.rate=1MBps #1: converged",
            "stress.rate=2MBps #1: interrupted",
            "stress.rate=2MBps #1: converged",
            "stress.rate=3MBps #1: converged",
        ]
    );
}

#[tokio::test]
async fn an_interruption_just_as_an_attempt_ends_keeps_its_result() {
    let (folder, mut store) = Folder::new(MATRIX);
    let (interrupter, interrupt) = testbed::run::interrupt::Interrupt::new();
    let mut bench = MockBench::new(|_, _| {
        interrupter.interrupt();
        Scripted::End(Outcome::Converged)
    });
    let sink = testbed::event::FanOut::default();
    let outcome = testbed::run::run(&folder.plan, &mut store, &mut bench, &sink, &interrupt).await;
    assert_eq!(outcome.unwrap(), RunOutcome::Interrupted);
    assert_eq!(folder.outcomes(), ["stress.rate=1MBps #1: converged"]);
}

#[tokio::test]
async fn no_attempt_is_made_after_an_interruption_before_the_first() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::converging();
    bench.interrupt();
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), RunOutcome::Interrupted);
    assert_eq!(bench.made, [""; 0]);
    assert_eq!(folder.records(), []);
}

#[tokio::test]
async fn a_line_that_was_cut_off_is_dropped_and_its_attempt_repeated() {
    let (folder, mut store) = Folder::new(MATRIX);
    MockBench::converging().run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let whole = fs::read_to_string(folder.cells()).unwrap();
    let last = whole.trim_end().rfind('\n').unwrap() + 1;
    // Cut after the first byte of the record, inside it, and just before its line end.
    for end in [last + 1, last + 40, whole.len() - 1] {
        fs::write(folder.cells(), &whole[..end]).unwrap();
        let (_, readable) = store::read(&folder.path).unwrap();
        assert_eq!(readable.len(), 2, "a report reads the complete lines");
        let mut again = MockBench::converging();
        again.run(&folder.plan, &mut folder.reopen()).await.unwrap();
        assert_eq!(again.made, ["stress.rate=3MBps #1"], "cut at {end} of {}", whole.len());
        let text = fs::read_to_string(folder.cells()).unwrap();
        assert_eq!(text[..last], whole[..last]);
        assert_eq!(folder.records().len(), 3, "{text}");
    }
}

#[test]
fn an_invalid_complete_line_is_reported_with_its_number() {
    let (folder, store) = Folder::new(MATRIX);
    drop(store);
    OpenOptions::new().append(true).open(folder.cells()).unwrap().write_all(b"{}\n").unwrap();
    let error = Store::open(&folder.path).unwrap_err().to_string();
    assert!(error.contains("cells.jsonl, line 1: missing field"), "{error}");
}

#[test]
fn only_one_run_at_a_time_can_use_a_folder() {
    let (folder, store) = Folder::new(MATRIX);
    let error = Store::open(&folder.path).unwrap_err().to_string();
    assert_eq!(error, format!("another run is writing to {}", folder.path.display()));
    let error = Store::create(&folder.path, MATRIX, &Selection::default()).unwrap_err().to_string();
    assert!(error.contains("already exists: continue its run with --resume"), "{error}");
    drop(store);
    folder.reopen();
}

#[test]
fn a_folder_without_a_matrix_is_refused_and_left_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("is not a results folder: it has no matrix.yaml"), "{error}");
    assert_eq!(entries(folder.path()), [""; 0], "nothing is written to the folder");
}

#[tokio::test]
async fn a_sink_receives_the_events_in_order() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = MockBench::converging();
    bench.skip_reason = |cell| (cell.index == 1).then(|| "no".into());
    let noted = RecordingSink::default();
    bench.run_watched(&folder.plan, &mut store, &noted).await.unwrap();
    assert_eq!(
        noted.lines(),
        [
            "ready",
            "1/3 stress.rate=1MBps",
            "booting",
            "stress.rate=1MBps #1: converged",
            "2/3 stress.rate=2MBps",
            "stress.rate=2MBps #1: skipped",
            "3/3 stress.rate=3MBps",
            "booting",
            "stress.rate=3MBps #1: converged",
        ]
    );
    assert!(noted.left().windows(2).all(|two| two[1] < two[0]), "{:?}", noted.left());
}

#[tokio::test]
async fn a_continued_run_numbers_its_remaining_attempts() {
    let (folder, mut store) = Folder::new("name: n\nrepeat: 3\n");
    let mut bench = MockBench::new(|_, n| match n {
        2 => Scripted::Interrupted,
        _ => Scripted::End(Outcome::Converged),
    });
    bench.run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let noted = RecordingSink::default();
    MockBench::converging().run_watched(&folder.plan, &mut folder.reopen(), &noted).await.unwrap();
    let starts: Vec<String> = noted.lines().into_iter().filter(|line| line.contains('/')).collect();
    assert_eq!(starts, ["1/2 base #2", "2/2 base #3"]);
}

#[tokio::test]
async fn the_exit_code_depends_on_the_outcomes_and_expectations() {
    let expecting = format!("{MATRIX}expect:\n  - {{ where: stress.rate <= 2MB/s, outcome: converged }}\n");
    let cases: [(Outcome, u8); 7] = [
        (Outcome::Converged, 0),
        (Outcome::NotConverged, 1),
        (Outcome::Corrupted, 3),
        (Outcome::GuestLost, 3),
        (Outcome::Failed, 3),
        // Neither of these is checked against the expectation, so it is undecided.
        (Outcome::Skipped, 1),
        (Outcome::Interrupted, 1),
    ];
    for (outcome, code) in cases {
        let (folder, mut store) = Folder::new(&expecting);
        let mut bench = MockBench::new(by_cell(move |i| match i {
            1 => Scripted::End(outcome),
            _ => Scripted::End(Outcome::Converged),
        }));
        bench.run(&folder.plan, &mut store).await.unwrap();
        let verdict = verdict::evaluate(&folder.plan, store.records());
        assert_eq!(verdict.exit_code(), code, "{outcome}: {verdict:?}");
    }
}
