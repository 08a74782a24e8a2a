//! The engine against a bench that needs neither QEMU nor root: what is attempted, in which order, what is
//! kept, and what a run that was cut short does when it is continued.

use crate::common::{
    mock::{Act, Mock, Noted, outcomes},
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
    run::Ending,
};

/// Three cells.
const MATRIX: &str = "name: n\naxes: { stress.rate: [1MB/s, 2MB/s, 3MB/s] }\n";

/// A results folder that is gone after the test.
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

    /// The records as they are on the disk.
    fn records(&self) -> Vec<Record> {
        store::read(&self.path).unwrap().1
    }

    fn outcomes(&self) -> Vec<String> {
        outcomes(&self.records())
    }

    /// Opens it again, as `--resume` does.
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

/// Ends attempts by their cell's place in the matrix.
fn by_cell(acts: impl Fn(usize) -> Act) -> impl FnMut(&Cell, u32) -> Act {
    move |cell, _| acts(cell.index)
}

#[tokio::test]
async fn every_attempt_is_recorded_in_order_with_its_outcome() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = Mock::new(by_cell(|i| match i {
        0 => Act::End(Outcome::Converged),
        1 => Act::Because(Outcome::NotConverged, "the deadline of 60s passed"),
        _ => Act::Because(Outcome::GuestLost, "it does not run"),
    }));
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), Ending::Complete);
    assert_eq!(
        folder.outcomes(),
        [
            "stress.rate=1MBps #1: converged",
            "stress.rate=2MBps #1: not-converged",
            "stress.rate=3MBps #1: guest-lost"
        ]
    );
    let records = folder.records();
    assert_eq!(records, store.records(), "the disk has what the run knows");
    assert_eq!(records[0].reason, None);
    assert_eq!(records[1].reason.as_deref(), Some("the deadline of 60s passed"));
    assert_eq!(records[1].axes["stress.rate"], "2MB/s");
    assert_eq!(records[1].settings, folder.plan.cells[1].settings);
    assert!(records.windows(2).all(|two| two[0].started_at <= two[1].started_at));
    assert_eq!(bench.prepared, 1);
}

#[tokio::test]
async fn the_folder_has_what_it_promises() {
    let (folder, mut store) = Folder::new(MATRIX);
    Mock::converging().run(&folder.plan, &mut store).await.unwrap();
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
    let mut bench = Mock::new(|_, attempt| {
        Act::End(if attempt == 2 { Outcome::NotConverged } else { Outcome::Converged })
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
async fn a_seed_shuffles_the_same_way_again_and_another_otherwise() {
    let shuffled = |seed: u64| {
        format!(
            "name: n\naxes: {{ stress.rate: [1MB/s, 2MB/s, 3MB/s, 4MB/s, 5MB/s, 6MB/s, 7MB/s, 8MB/s] }}\norder: shuffled\nseed: {seed}\nrepeat: 2\n"
        )
    };
    let mut orders = Vec::new();
    for seed in [7, 7, 8] {
        let (folder, mut store) = Folder::new(&shuffled(seed));
        let mut bench = Mock::converging();
        bench.run(&folder.plan, &mut store).await.unwrap();
        assert_eq!(bench.made, folder.records().iter().map(crate::common::mock::name).collect::<Vec<_>>());
        orders.push(bench.made.clone());
    }
    assert_eq!(orders[0], orders[1]);
    assert_ne!(orders[0], orders[2]);
    let mut sorted = orders[0].clone();
    sorted.sort_unstable();
    assert_ne!(sorted, orders[0], "it is shuffled");
    let mut other = orders[2].clone();
    other.sort_unstable();
    assert_eq!(sorted, other, "and the same attempts are made");
}

#[tokio::test]
async fn a_cell_that_this_machine_cannot_do_is_skipped_with_the_reason() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = Mock::converging();
    bench.lacks = |cell| (cell.index == 1).then(|| "this link needs sch_netem".into());
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
    let mut bench = Mock::new(by_cell(|i| match i {
        0 => Act::Because(Outcome::Failed, "QEMU at the source ended (signal: 9 (SIGKILL))"),
        _ => Act::End(Outcome::Converged),
    }));
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), Ending::Complete);
    assert_eq!(bench.made.len(), 3);
    assert_eq!(folder.records()[0].outcome, Outcome::Failed);
    assert_eq!(verdict::judge(&folder.plan, store.records()).exit_code(), verdict::EXIT_FAILED);
}

#[tokio::test]
async fn a_bench_that_breaks_down_ends_the_run_and_what_was_recorded_stays() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench =
        Mock::new(by_cell(|i| if i == 1 { Act::BreakDown } else { Act::End(Outcome::Converged) }));
    let error = bench.run(&folder.plan, &mut store).await.unwrap_err();
    assert_eq!(error.to_string(), "the bench broke down");
    assert_eq!(folder.outcomes(), ["stress.rate=1MBps #1: converged"]);
    assert_eq!(bench.made.len(), 2, "no attempt after it");

    drop(store);
    let mut again = Mock::converging();
    again.run(&folder.plan, &mut folder.reopen()).await.unwrap();
    assert_eq!(again.made, ["stress.rate=2MBps #1", "stress.rate=3MBps #1"]);
}

#[tokio::test]
async fn a_bench_that_cannot_be_made_ready_attempts_nothing() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = Mock::converging();
    bench.broken = true;
    assert!(bench.run(&folder.plan, &mut store).await.is_err());
    assert_eq!(bench.made, [""; 0]);
    assert_eq!(fs::read_to_string(folder.cells()).unwrap(), "");
}

#[tokio::test]
async fn what_has_a_result_is_not_attempted_again() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = Mock::new(by_cell(|i| match i {
        0 => Act::End(Outcome::Failed),
        1 => Act::End(Outcome::NotConverged),
        _ => Act::End(Outcome::Converged),
    }));
    bench.run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let before = fs::read(folder.cells()).unwrap();

    let mut again = Mock::converging();
    assert_eq!(again.run(&folder.plan, &mut folder.reopen()).await.unwrap(), Ending::Complete);
    assert_eq!((again.prepared, again.made.len()), (0, 0), "nothing is even made ready");
    assert_eq!(fs::read(folder.cells()).unwrap(), before);
}

#[tokio::test]
async fn a_skipped_cell_is_not_attempted_again_either() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = Mock::converging();
    bench.lacks = |_| Some("no".into());
    bench.run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let mut again = Mock::converging();
    again.run(&folder.plan, &mut folder.reopen()).await.unwrap();
    assert_eq!(again.made, [""; 0]);
    assert_eq!(folder.records().len(), 3);
}

#[tokio::test]
async fn an_interrupted_attempt_is_recorded_ends_the_run_and_is_made_again() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench =
        Mock::new(by_cell(|i| if i == 1 { Act::Interrupted } else { Act::End(Outcome::Converged) }));
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), Ending::Interrupted);
    assert_eq!(folder.outcomes(), ["stress.rate=1MBps #1: converged", "stress.rate=2MBps #1: interrupted"]);
    drop(store);

    // Its folder still has the first attempt's files; the mock checks that it gets an empty one.
    let mut again = Mock::converging();
    let mut store = folder.reopen();
    assert_eq!(again.run(&folder.plan, &mut store).await.unwrap(), Ending::Complete);
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
async fn an_interruption_that_comes_as_an_attempt_ends_keeps_its_result() {
    let (folder, mut store) = Folder::new(MATRIX);
    let (interrupter, interrupt) = testbed::run::interrupt::Interrupt::new();
    let mut bench = Mock::new(|_, _| {
        interrupter.interrupt();
        Act::End(Outcome::Converged)
    });
    let ending =
        testbed::run::run(&folder.plan, &mut store, &mut bench, &testbed::event::Fan::default(), &interrupt)
            .await;
    assert_eq!(ending.unwrap(), Ending::Interrupted);
    assert_eq!(folder.outcomes(), ["stress.rate=1MBps #1: converged"]);
}

#[tokio::test]
async fn an_interruption_before_the_first_attempt_attempts_nothing() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = Mock::converging();
    bench.interrupt();
    assert_eq!(bench.run(&folder.plan, &mut store).await.unwrap(), Ending::Interrupted);
    assert_eq!(bench.made, [""; 0]);
    assert_eq!(folder.records(), []);
}

#[tokio::test]
async fn a_line_that_was_cut_off_is_dropped_and_its_attempt_made_again() {
    let (folder, mut store) = Folder::new(MATRIX);
    Mock::converging().run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let whole = fs::read_to_string(folder.cells()).unwrap();
    let last = whole.trim_end().rfind('\n').unwrap() + 1;
    // Cut in the record, after its first byte, and just before its line end.
    for end in [last + 1, last + 40, whole.len() - 1] {
        fs::write(folder.cells(), &whole[..end]).unwrap();
        let (_, readable) = store::read(&folder.path).unwrap();
        assert_eq!(readable.len(), 2, "a report reads what is whole");
        let mut again = Mock::converging();
        again.run(&folder.plan, &mut folder.reopen()).await.unwrap();
        assert_eq!(again.made, ["stress.rate=3MBps #1"], "cut at {end} of {}", whole.len());
        let text = fs::read_to_string(folder.cells()).unwrap();
        assert_eq!(text[..last], whole[..last]);
        assert_eq!(folder.records().len(), 3, "{text}");
    }
}

#[test]
fn a_line_in_the_middle_that_is_no_record_is_refused_with_its_number() {
    let (folder, store) = Folder::new(MATRIX);
    drop(store);
    OpenOptions::new().append(true).open(folder.cells()).unwrap().write_all(b"{}\n").unwrap();
    let error = Store::open(&folder.path).unwrap_err().to_string();
    assert!(error.contains("cells.jsonl, line 1: missing field"), "{error}");
}

#[test]
fn a_folder_belongs_to_one_run_at_a_time() {
    let (folder, store) = Folder::new(MATRIX);
    let error = Store::open(&folder.path).unwrap_err().to_string();
    assert_eq!(error, format!("another run is writing to {}", folder.path.display()));
    let error = Store::create(&folder.path, MATRIX, &Selection::default()).unwrap_err().to_string();
    assert!(error.contains("exists already: continue that run with --resume"), "{error}");
    drop(store);
    folder.reopen();
}

#[test]
fn a_folder_without_a_matrix_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("is not a results folder: it has no matrix.yaml"), "{error}");
    assert_eq!(entries(folder.path()), [""; 0], "and nothing is written to it");
}

#[tokio::test]
async fn a_watcher_sees_the_run_as_it_goes() {
    let (folder, mut store) = Folder::new(MATRIX);
    let mut bench = Mock::converging();
    bench.lacks = |cell| (cell.index == 1).then(|| "no".into());
    let noted = Noted::default();
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
async fn a_continued_run_counts_what_is_left_and_names_repetitions() {
    let (folder, mut store) = Folder::new("name: n\nrepeat: 3\n");
    let mut bench = Mock::new(|_, n| if n == 2 { Act::Interrupted } else { Act::End(Outcome::Converged) });
    bench.run(&folder.plan, &mut store).await.unwrap();
    drop(store);
    let noted = Noted::default();
    Mock::converging().run_watched(&folder.plan, &mut folder.reopen(), &noted).await.unwrap();
    let starts: Vec<String> = noted.lines().into_iter().filter(|line| line.contains('/')).collect();
    assert_eq!(starts, ["1/2 base #2", "2/2 base #3"]);
}

#[tokio::test]
async fn the_exit_code_says_whether_all_went_as_expected() {
    let expecting = format!("{MATRIX}expect:\n  - {{ where: stress.rate <= 2MB/s, outcome: converged }}\n");
    let cases: [(Outcome, u8); 7] = [
        (Outcome::Converged, 0),
        (Outcome::NotConverged, 1),
        (Outcome::Corrupted, 3),
        (Outcome::GuestLost, 3),
        (Outcome::Failed, 3),
        // Neither says anything about the expectation.
        (Outcome::Skipped, 0),
        (Outcome::Interrupted, 0),
    ];
    for (outcome, code) in cases {
        let (folder, mut store) = Folder::new(&expecting);
        let mut bench =
            Mock::new(by_cell(move |i| Act::End(if i == 1 { outcome } else { Outcome::Converged })));
        bench.run(&folder.plan, &mut store).await.unwrap();
        let judgement = verdict::judge(&folder.plan, store.records());
        assert_eq!(judgement.exit_code(), code, "{outcome}: {judgement:?}");
    }
}
