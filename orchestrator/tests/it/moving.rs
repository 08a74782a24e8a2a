//! Traces that a matrix names: where they are found, the messages about bad ones, and what a results folder
//! keeps of them.

use super::cli::Sandbox;
use crate::common::mock;
use std::fs;
use testbed::{
    matrix::{File, Plan, Traces, selection::Selection},
    outcome::Outcome,
    results::{
        record::{AppliedChange, Phase, Record},
        store::{self, Store},
    },
};

const MATRIX: &str = "name: n\nlink: { trace: traces/link.trace }\nstress: { working_set: 4MB }\n\
                      migrate: { timeout: 10s }\naxes: { stress.trace: [none, load.trace] }\n";
const LINK: &str = "0s 40mbit\n2s 12mbit\n6s end\n";
const LOAD: &str = "0s 8MB/s\n1s 2MB/s\n3s end\n";

/// Returns a sandbox with the matrix and its traces in the folder `matrices`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("matrices/traces")).unwrap();
    fs::write(sandbox.path("matrices/n.yaml"), MATRIX).unwrap();
    fs::write(sandbox.path("matrices/traces/link.trace"), LINK).unwrap();
    fs::write(sandbox.path("matrices/load.trace"), LOAD).unwrap();
    sandbox
}

fn resolved(sandbox: &Sandbox) -> (Plan, Traces) {
    let mut traces = Traces::beside(&sandbox.path("matrices/n.yaml"));
    let plan = File::parse(MATRIX, "n").and_then(|file| file.expand_with(&mut traces));
    (plan.unwrap_or_else(|error| panic!("{error}")), traces)
}

#[test]
fn a_trace_is_found_beside_the_matrix_and_its_name_is_a_setting() {
    let sandbox = sandbox();
    let plan = sandbox.testbed(&["plan", "matrices/n.yaml", "--json"]).exits(0).json();
    assert_eq!(plan["cells"][1]["axes"]["stress.trace"], "load.trace");
    assert_eq!(plan["cells"][0]["settings"]["link"]["trace"], "traces/link.trace");
    let only =
        ["plan", "matrices/n.yaml", "--only", "stress.trace == load.trace and link.trace != none", "--json"];
    let plan = sandbox.testbed(&only).exits(0).json();
    assert_eq!(plan["cells"].as_array().unwrap().len(), 1);
}

#[test]
fn a_bad_trace_is_named_with_its_line_and_nothing_is_started() {
    let sandbox = sandbox();
    fs::write(sandbox.path("matrices/load.trace"), "0s 8MB/s\n\n1s 2\n3s end\n").unwrap();
    for command in ["plan", "run"] {
        let finished = sandbox.testbed(&[command, "matrices/n.yaml"]);
        finished.exits(2).prints_nothing();
        finished.says("error: load.trace, line 3: `2` has no unit");
        finished.says("  --> matrices/n.yaml:5:30\n").says("help: correct this line of the trace");
    }
    fs::remove_file(sandbox.path("matrices/traces/link.trace")).unwrap();
    fs::write(sandbox.path("matrices/load.trace"), LOAD).unwrap();
    let finished = sandbox.testbed(&["run", "matrices/n.yaml"]);
    finished.exits(2).prints_nothing();
    finished.says("cannot read the trace traces/link.trace: No such file or directory");
    assert_eq!(sandbox.entries(), ["matrices"], "no results folder");
}

/// Makes a results folder `run` with this plan and these records.
fn add_run(sandbox: &Sandbox, traces: &Traces, records: Vec<Record>) {
    let selection = Selection::default();
    let mut store = Store::create_with(&sandbox.path("run"), MATRIX, traces.texts(), &selection).unwrap();
    for record in records {
        store.append(record).unwrap();
    }
}

#[test]
fn a_results_folder_keeps_the_traces() {
    let sandbox = sandbox();
    let (plan, traces) = resolved(&sandbox);
    let mut records: Vec<Record> =
        (0..2).map(|cell| mock::record(&plan, cell, 1, Outcome::Converged, 5_000.0)).collect();
    let change = |ms: u32| AppliedChange {
        due_ms: ms.into(),
        began_ms: ms.into(),
        done_ms: f64::from(ms) + 1.0,
        link: Some("kernel backend: tbf".into()),
        link_bits_per_s: Some(if ms.is_multiple_of(400) { 40_000_000 } else { 12_000_000 }),
        ..AppliedChange::default()
    };
    records[0].measured.phases_ms = [(Phase::Boot, 500.0), (Phase::Migrate, 5_000.0)].into_iter().collect();
    records[0].measured.timeline = (1..=50).map(|number| change(number * 20)).collect();
    add_run(&sandbox, &traces, records);
    fs::remove_dir_all(sandbox.path("matrices")).unwrap();

    let report = sandbox.testbed(&["report", "run", "--json"]).exits(0).json();
    assert_eq!(report["records"].as_array().map(Vec::len), Some(2), "{report:#}");
    let page = sandbox.testbed(&["report", "run", "--format", "html"]).exits(0).stdout();
    assert!(page.contains("0s 40mbit") && page.contains("load.trace"), "the page has the traces");
    assert!(page.contains("data-name=\"link\""), "the link's rate is a curve");
    assert!(!page.contains("link: kernel backend: tbf"), "and not fifty events");
    // Every attempt has a result, so nothing is started.
    let kept = fs::read_to_string(sandbox.path("run").join(store::TRACES)).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    assert_eq!((&kept["traces/link.trace"], &kept["load.trace"]), (&LINK.into(), &LOAD.into()));

    fs::remove_file(sandbox.path("run").join(store::TRACES)).unwrap();
    let finished = sandbox.testbed(&["report", "run"]);
    finished.exits(2).says("cannot read the trace traces/link.trace: the results folder has not kept it");
}

#[test]
fn a_run_is_not_continued_with_another_trace_of_the_same_name() {
    let sandbox = sandbox();
    let (_, traces) = resolved(&sandbox);
    add_run(&sandbox, &traces, Vec::new());
    fs::write(sandbox.path("matrices/load.trace"), LOAD.replace("1s", "2s")).unwrap();
    let finished = sandbox.testbed(&["run", "matrices/n.yaml", "--resume", "run"]);
    finished.exits(2).says("stress.trace: the content of load.trace has changed in stress.trace=load.trace");
}
