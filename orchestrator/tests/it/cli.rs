//! The command line of `testbed`: exit codes, messages, help and JSON, all without QEMU.

use super::matrix_bad_inputs::TRACES;
use crate::common::{golden, mock, path_with, plan, real::skipped, write_script};
use nix::unistd::geteuid;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;
use testbed::{
    matrix::selection::Selection,
    outcome::Outcome,
    results::{
        record::Record,
        store::{self, Store},
    },
};
use units::{BitRate, ByteRate, Bytes, Span};

/// A small threshold matrix with published figures and expectations.
pub(crate) const THRESHOLD: &str = include_str!("../golden/threshold.yaml");

/// A working directory and a home directory for the program, both empty at first.
pub(crate) struct Sandbox {
    pub(crate) dir: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["here", "home"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// Returns a sandbox whose working directory has this `matrix.yaml`.
    pub(crate) fn with_matrix(text: &str) -> Self {
        let sandbox = Self::new();
        fs::write(sandbox.path("matrix.yaml"), text).unwrap();
        sandbox
    }

    /// Returns a sandbox with a results folder `run` that has these records.
    pub(crate) fn with_run(matrix: &str, records: impl IntoIterator<Item = Record>) -> Self {
        let sandbox = Self::new();
        sandbox.add_run("run", matrix, records);
        sandbox
    }

    /// Adds a results folder with this name and these records.
    pub(crate) fn add_run(&self, name: &str, matrix: &str, records: impl IntoIterator<Item = Record>) {
        // Not with a `Store`: a process that another test is just starting would hold its lock for a while.
        fs::create_dir(self.path(name)).unwrap();
        let lines = records.into_iter().map(|record| serde_json::to_string(&record).unwrap() + "\n");
        fs::write(self.path(name).join(store::CELLS), lines.collect::<String>()).unwrap();
        fs::write(self.path(name).join(store::MATRIX), matrix).unwrap();
    }

    /// Adds a results folder with this name: a part of [`THRESHOLD`], with the records that belong to that
    /// part, and the mock environment with this version of QEMU.
    pub(crate) fn add_part(&self, name: &str, shard: &str, qemu: &str, records: &[Record]) {
        self.add_part_of(THRESHOLD, name, shard, qemu, records);
    }

    /// Adds a part of a matrix as [`Sandbox::add_part`] does.
    fn add_part_of(&self, matrix: &str, name: &str, shard: &str, qemu: &str, records: &[Record]) {
        let part = plan(matrix).shard(shard.parse().unwrap());
        self.add_run(name, matrix, records.iter().filter(|r| part.cell(&r.cell).is_some()).cloned());
        let selection = Selection { shard: Some(shard.into()), ..Selection::default() };
        let mut environment = mock::environment();
        environment.lab.source.qemu = Some(qemu.into());
        environment.lab.destination.qemu = Some(qemu.into());
        let json = |value: Value| serde_json::to_string(&value).unwrap();
        let write = |file: &str, text| fs::write(self.path(name).join(file), text).unwrap();
        write(store::SELECTION, json(serde_json::to_value(&selection).unwrap()));
        write(store::ENVIRONMENT, json(serde_json::to_value(&environment).unwrap()));
    }

    /// Returns a sandbox with a complete run of [`THRESHOLD`] in three parts: `p1`, `p2` and `p3`.
    pub(crate) fn with_parts() -> Self {
        let sandbox = Self::new();
        for (name, shard) in [("p1", "1/3"), ("p2", "2/3"), ("p3", "3/3")] {
            sandbox.add_part(name, shard, "10.0.2", &threshold_records());
        }
        sandbox
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("here").join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Returns the names of all entries of the working directory and the home directory.
    pub(crate) fn entries(&self) -> Vec<String> {
        let mut entries = Vec::new();
        for folder in ["here", "home"] {
            let names = fs::read_dir(self.dir.path().join(folder)).unwrap();
            entries.extend(names.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        }
        entries.sort_unstable();
        entries
    }

    pub(crate) fn testbed(&self, args: &[&str]) -> Finished {
        let output = self.command(args).output().unwrap();
        Finished { command: args.join(" "), output }
    }

    /// Runs the program with a folder before the others in `PATH`.
    fn testbed_in(&self, programs: &Path, args: &[&str]) -> Finished {
        let output = self.command(args).env("PATH", path_with(programs)).output().unwrap();
        Finished { command: args.join(" "), output }
    }

    /// Returns the program with these arguments, ready to start in the working directory.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_testbed")), args)
    }

    /// Returns a copy of the program with these arguments, ready to start in the working directory.
    pub(crate) fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.dir.path().join("here"))
            .env("HOME", self.dir.path().join("home"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("COLUMNS")
            .env_remove("NO_COLOR")
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm")
            // Without a stressor, a test cannot start a guest by mistake.
            .env(testbed::image::STRESSOR_VARIABLE, "absent-stressor");
        command
    }
}

/// The result of a command. Failed assertions show all of its output.
pub(crate) struct Finished {
    pub(crate) command: String,
    pub(crate) output: Output,
}

impl Finished {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.shown());
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> &Self {
        assert!(self.stderr().contains(text), "expected: {text}\n{}", self.shown());
        self
    }

    #[track_caller]
    pub(crate) fn prints_nothing(&self) -> &Self {
        assert!(self.output.stdout.is_empty(), "{}", self.shown());
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout()).unwrap_or_else(|error| panic!("{error}\n{}", self.shown()))
    }

    pub(crate) fn shown(&self) -> String {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        let status = self.output.status;
        format!("$ testbed {}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.command)
    }
}

/// Returns the records of a run of [`THRESHOLD`]: two dirty rates at which both attempts converged, and one
/// at which neither did.
pub(crate) fn threshold_records() -> Vec<Record> {
    let plan = plan(THRESHOLD);
    let mut records = Vec::new();
    for attempt in [1, 2] {
        let extra_ms = f64::from(attempt - 1) * 250.0;
        records.push(mock::record(&plan, 0, attempt, Outcome::Converged, 4000.0 + extra_ms));
        records.push(mock::record(&plan, 1, attempt, Outcome::Converged, 6125.0 + extra_ms));
        let mut above = mock::record(&plan, 2, attempt, Outcome::NotConverged, 20_000.0);
        above.reason = Some("the deadline of 20s passed".into());
        records.push(above);
    }
    records
}

#[test]
fn bad_input_is_refused_by_run_and_plan_and_nothing_is_started() {
    let cases = include_str!("../matrix/bad-inputs.txt");
    let mut count = 0;
    for case in cases.split("#### ").skip(1) {
        let (title, case) = case.split_once('\n').unwrap();
        let (input, message) = case.split_once("----\n").unwrap();
        count += 1;
        for command in ["run", "plan"] {
            let sandbox = Sandbox::with_matrix(input);
            for (name, text) in TRACES {
                fs::write(sandbox.path(name), text).unwrap();
            }
            let before = sandbox.entries();
            let finished = sandbox.testbed(&[command, "matrix.yaml"]);
            finished.exits(2).prints_nothing();
            assert_eq!(finished.stderr().trim_end(), message.trim_end(), "{title}\n{}", finished.shown());
            assert_eq!(sandbox.entries(), before, "{title}\n{}", finished.shown());
        }
    }
    assert!(count >= 60, "only {count} cases");
}

#[test]
fn a_matrix_in_the_spellings_of_other_programs_is_planned_and_printed_in_ours() {
    let sandbox = Sandbox::with_matrix(
        "\u{feff}name: n\nguest: { memory: 512Mi, accel: TCG }\nlink: { delay: 20msec }\n\
         migrate: { mode: pre-copy, timeout: 1m30s, stall_detection: on }\n\
         axes: { link.rate: [None, 500Kbit], stress.rate: [8mb/s, Unlimited] }\n\
         stress: { working_set: 64Mi }\n",
    );
    let finished =
        sandbox.testbed(&["plan", "matrix.yaml", "--only", "link.rate == 0.5Mbit AND stress.rate < 9MBps"]);
    finished.exits(0);
    let printed = finished.stdout();
    let row: Vec<&str> = printed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], ["500kbit", "8MB/s"], "{printed}");
    assert!(!printed.contains("nlimited"), "{printed}");
}

#[test]
fn bad_arguments_are_refused_and_nothing_is_started() {
    for (args, message) in [
        ("", "FILE"),
        ("absent.yaml", "error: cannot read absent.yaml: No such file or directory"),
        (".", "error: cannot read .: Is a directory"),
        ("/dev/zero", "error: cannot read /dev/zero: the text is longer than 16 MiB"),
        ("matrix.yaml --only stress.rat==0", "error: --only: "),
        (
            "matrix.yaml --only stress.rate>99GB/s",
            "error: no cell of the matrix is left to run: check --only",
        ),
        ("matrix.yaml --shard 3/2", "error: --shard: "),
        ("matrix.yaml --shard 1", "error: --shard: "),
        ("matrix.yaml --repeat 0", "invalid value '0' for '--repeat <N>'"),
        ("matrix.yaml --repeat 4000000000", "4000000000 is not in 1..=1000"),
        ("matrix.yaml --shard 1/18446744073709551616", "error: --shard: "),
        ("matrix.yaml --shard 4/4", "error: no cell of the matrix is"),
        ("matrix.yaml --shard 1/99999999999", "error: --shard: `1/99999999999` is one of too many shards"),
        ("matrix.yaml --repeat many", "invalid value 'many' for '--repeat <N>'"),
        ("matrix.yaml --ouput x", "unexpected argument '--ouput'"),
        ("matrix.yaml other.yaml", "unexpected argument 'other.yaml'"),
    ] {
        for command in ["run", "plan"] {
            let sandbox = Sandbox::with_matrix(THRESHOLD);
            let args: Vec<&str> = [command].into_iter().chain(args.split_ascii_whitespace()).collect();
            sandbox.testbed(&args).exits(2).says(message).prints_nothing();
            assert_eq!(sandbox.entries(), ["matrix.yaml"], "{args:?}");
        }
    }
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    sandbox.testbed(&["run", "--out", "x", "--resume", "y"]).exits(2).says("cannot be used with");
    sandbox.testbed(&["rum", "matrix.yaml"]).exits(2).says("'run'");
    assert_eq!(sandbox.entries(), ["matrix.yaml"]);
}

#[test]
fn a_folder_with_files_is_not_written_to_and_an_empty_one_is_taken() {
    let sandbox = Sandbox::with_run(THRESHOLD, []);
    fs::write(sandbox.path("matrix.yaml"), THRESHOLD).unwrap();
    fs::create_dir_all(sandbox.path("notes")).unwrap();
    fs::write(sandbox.path("notes/todo"), "").unwrap();
    let run = |folder: &str| sandbox.testbed(&["run", "matrix.yaml", "--out", folder]);
    run("run")
        .exits(2)
        .says("error: the results folder run already exists: continue its run with --resume")
        .prints_nothing();
    run("notes")
        .exits(2)
        .says("error: the folder notes is not empty: choose a new or an empty")
        .prints_nothing();
    assert_eq!(fs::read_dir(sandbox.path("notes")).unwrap().count(), 1);

    // Without a stressor, the runs below fail after they have taken the folder, and leave it as it was.
    fs::create_dir(sandbox.path("empty")).unwrap();
    std::os::unix::fs::symlink("empty", sandbox.path("link")).unwrap();
    fs::create_dir_all(sandbox.path("mounted/lost+found")).unwrap();
    for (folder, entries) in [("empty", 0), ("empty/", 0), ("link", 0), ("mounted", 1)] {
        run(folder).exits(3).says("error: cannot read the stressor absent-stressor: ").prints_nothing();
        assert_eq!(fs::read_dir(sandbox.path(folder)).unwrap().count(), entries, "{folder}");
    }
}

/// A kill in the middle of writing the matrix leaves the first part of it, which is a valid matrix, but a
/// different one.
#[test]
fn a_run_killed_while_it_makes_its_folder_leaves_one_that_a_new_run_takes() {
    let text = format!("name: n\n#{}\naxes: {{ stress.rate: [1MB/s, 2MB/s] }}\n", "x".repeat(4096));
    let sandbox = Sandbox::with_matrix(&text);
    let args = ["run", "matrix.yaml", "--out", "run"];
    fs::create_dir(sandbox.path("run")).unwrap();
    for (name, content) in [(store::CELLS, ""), (store::SELECTION, "{}"), ("matrix.part", &text[..512])] {
        fs::write(sandbox.path("run").join(name), content).unwrap();
    }

    let message = "error: run is not a results folder: it has no matrix.yaml";
    sandbox.testbed(&["report", "run"]).exits(2).says(message);
    sandbox.testbed(&["run", "--resume", "run"]).exits(2).says(message);
    // Without a stressor, this run fails after it has taken the folder, and empties it.
    sandbox.testbed(&args).exits(3).says("error: cannot read the stressor absent-stressor: ");
    assert_eq!(fs::read_dir(sandbox.path("run")).unwrap().count(), 0);
}

/// A limit of one block on the size of files.
#[test]
fn a_file_that_becomes_too_large_is_an_error() {
    let text = format!("name: n\n#{}\n", "x".repeat(4096));
    let sandbox = Sandbox::with_matrix(&text);
    let limited = |args: &[&str]| {
        let script = r#"ulimit -f 1 && exec "$0" "$@" > out"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_testbed")]).args(args);
        let output = command.current_dir(sandbox.path("")).output().unwrap();
        Finished { command: format!("{command:?}"), output }
    };
    limited(&["schema"]).exits(3).says("error: cannot write to standard output: File too large");
    limited(&["--help"]).exits(3).says("error: cannot write to standard output: File too large");
    let run = limited(&["run", "matrix.yaml", "--out", "run"]);
    run.exits(2).says("error: cannot write run/matrix.yaml: File too large");
    assert!(!sandbox.path("run").exists());
}

/// A disk that is full when the run ends: the results are shown, and the summary is missing.
#[test]
fn results_are_shown_although_the_summary_cannot_be_written() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    fs::create_dir(sandbox.path("run").join(store::SUMMARY)).unwrap();
    let finished = sandbox.testbed(&["run", "--resume", "run"]);
    finished.exits(3);
    golden("run.txt", &finished.stdout());
    finished
        .says("error: cannot write run/summary.csv: Is a directory")
        .says("`testbed report run --format csv` prints the summary");
    let json = sandbox.testbed(&["run", "--resume", "run", "--json"]).exits(3).json();
    assert_eq!(json["complete"], true);
    sandbox.testbed(&["report", "run"]).exits(0);
}

/// The run cannot continue, because there is no stressor; the results so far are shown.
#[test]
fn the_results_so_far_are_shown_when_a_run_cannot_continue() {
    let mut records = threshold_records();
    records[4].outcome = Outcome::Failed;
    records[4].reason = Some("cannot write samples.jsonl: No space left on device (os error 28)".into());
    let sandbox = Sandbox::with_run(THRESHOLD, records);
    let finished = sandbox.testbed(&["run", "--resume", "run"]);
    finished.exits(3).says("error: cannot read the stressor absent-stressor: ");
    finished.says("The run is not complete. Continue with: testbed run --resume run\n");
    assert!(finished.stdout().contains("64MB/s"), "{}", finished.shown());

    // A report says that the attempt is missing, and once it has been repeated, it is an attempt like the
    // others.
    let report = sandbox.testbed(&["report", "run"]).exits(3).stdout();
    assert!(report.contains("missing: 1 attempt"), "{report}");
    let mut cells = sandbox.read("run/cells.jsonl");
    cells += &(serde_json::to_string(&threshold_records()[4]).unwrap() + "\n");
    fs::write(sandbox.path("run/cells.jsonl"), cells).unwrap();
    let finished = sandbox.testbed(&["run", "--resume", "run", "--json"]);
    let json = finished.exits(0).json();
    assert_eq!((&json["failed"], json["records"].as_array().unwrap().len()), (&Value::from(0), 6));
}

#[test]
fn a_folder_that_is_not_a_results_folder_is_refused() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    fs::create_dir(sandbox.path("out")).unwrap();
    for folder in ["out", "absent"] {
        let message = format!("error: {folder} is not a results folder: it has no matrix.yaml");
        sandbox.testbed(&["run", "--resume", folder]).exits(2).says(&message);
        sandbox.testbed(&["report", folder]).exits(2).says(&message).prints_nothing();
    }
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 0);
    assert_eq!(sandbox.entries(), ["matrix.yaml", "out"]);
}

#[test]
fn a_run_is_not_continued_with_a_changed_matrix_and_the_changes_are_listed() {
    let records = threshold_records();
    let sandbox = Sandbox::with_run(THRESHOLD, records.into_iter().take(1));
    let before = sandbox.read("run/cells.jsonl");
    let changed = THRESHOLD.replace("timeout: 20s", "timeout: 30s").replace("128MB/s]", "160MB/s]");
    fs::write(sandbox.path("other.yaml"), changed).unwrap();
    let finished = sandbox.testbed(&["run", "other.yaml", "--resume", "run"]);
    finished.exits(2).prints_nothing();
    assert_eq!(
        finished.stderr(),
        "error: other.yaml differs from the matrix of this run; leave it out to continue with the \
         original, or start a new run:\n    migrate.timeout: 20s -> 30s in stress.rate=0, \
         stress.rate=64MBps\n    removed: stress.rate=128MBps\n    added: stress.rate=160MBps\n"
    );
    let changed = THRESHOLD.replace("outcome: converged", "outcome: failed");
    fs::write(sandbox.path("other.yaml"), changed).unwrap();
    sandbox.testbed(&["run", "other.yaml", "--resume", "run"]).exits(2).says("expect changed");
    assert_eq!(sandbox.read("run/cells.jsonl"), before);
    assert_eq!(sandbox.read("run/matrix.yaml"), THRESHOLD);
    assert!(!sandbox.path("run/environment.json").exists(), "nothing was started");
}

#[test]
fn a_folder_in_use_by_another_run_is_refused() {
    let sandbox = Sandbox::new();
    let _other = Store::create(&sandbox.path("run"), THRESHOLD, &Selection::default()).unwrap();
    sandbox.testbed(&["run", "--resume", "run"]).exits(2).says("error: another run is writing to run");
    assert!(!sandbox.path("run/summary.csv").exists());
}

#[test]
fn continuing_a_complete_run_reports_its_results() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let finished = sandbox.testbed(&["run", "--resume", "run"]);
    finished.exits(0);
    golden("run.txt", &finished.stdout());
    golden("summary.csv", &sandbox.read("run/summary.csv"));
    assert_eq!(sandbox.read("run/cells.jsonl").lines().count(), 6, "nothing was attempted");

    // A file with a different spelling is the same matrix.
    fs::write(sandbox.path("same.yaml"), format!("# a comment\n{THRESHOLD}")).unwrap();
    sandbox.testbed(&["run", "same.yaml", "--resume", "run"]).exits(0);
    assert_eq!(sandbox.read("run/matrix.yaml"), THRESHOLD, "the folder keeps its own matrix");
}

#[test]
fn a_run_of_a_selection_is_continued_with_that_selection() {
    let records = threshold_records().into_iter().filter(|record| record.cell == "stress.rate=64MBps");
    let sandbox = Sandbox::with_run(THRESHOLD, records);
    let selection = r#"{ "only": "stress.rate == 64MB/s", "repeat": null, "shard": null }"#;
    fs::write(sandbox.path("run").join(store::SELECTION), selection).unwrap();
    let finished = sandbox.testbed(&["run", "--resume", "run"]);
    finished.exits(0);
    assert!(!finished.stdout().contains("128MB/s  "), "{}", finished.shown());
    assert!(!sandbox.path("run/environment.json").exists(), "nothing was attempted");
    sandbox
        .testbed(&["run", "--resume", "run", "--only", "stress.rate == 0"])
        .exits(2)
        .says("cannot be used with");
}

#[test]
fn json_has_the_records_and_the_verdict() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let finished = sandbox.testbed(&["run", "--resume", "run", "--json"]);
    let json = finished.exits(0).json();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["results", "complete", "records", "expectations", "failed", "nothing_made", "threshold"]
    );
    assert_eq!((&json["results"], &json["complete"]), (&Value::from("run"), &Value::from(true)));
    let records: Vec<Record> = serde_json::from_value(json["records"].clone()).unwrap();
    assert_eq!(records, threshold_records());
    assert_eq!(json["expectations"][1]["attempts"], 2);
    assert_eq!(
        json["threshold"][0],
        "Pre-copy converged at every dirty rate up to 64MB/s; at 128MB/s and above it never did."
    );
}

/// Checks that no text in a JSON value is a quantity, except in settings as the matrix has them.
#[track_caller]
fn assert_quantities_are_numbers(name: &str, value: &Value) {
    match value {
        Value::String(text) => {
            let is_quantity = text.parse::<Span>().is_ok()
                || text.parse::<Bytes>().is_ok()
                || text.parse::<ByteRate>().is_ok()
                || text.parse::<BitRate>().is_ok();
            assert!(!is_quantity, "{name}: {text}");
        }
        Value::Array(items) => items.iter().for_each(|item| assert_quantities_are_numbers(name, item)),
        Value::Object(fields) => {
            for (key, field) in fields.iter().filter(|(key, _)| !["axes", "settings"].contains(&key.as_str()))
            {
                assert_quantities_are_numbers(key, field);
            }
        }
        _ => {}
    }
}

#[test]
fn quantities_in_json_are_numbers_and_have_their_unit_in_the_name() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    fs::write(sandbox.path("matrix.yaml"), THRESHOLD).unwrap();
    let plan = sandbox.testbed(&["plan", "matrix.yaml", "--json"]).exits(0).json();
    let report = sandbox.testbed(&["report", "run", "--json"]).exits(0).json();
    let run = sandbox.testbed(&["run", "--resume", "run", "--json"]).exits(0).json();
    for (json, list) in [(&plan, "cells"), (&report, "records"), (&run, "records")] {
        assert_quantities_are_numbers(list, json);
        let second = &json[list][1];
        assert_eq!(second["axes"]["stress.rate"], "64MB/s");
        assert_eq!(second["axes_as_numbers"]["stress.rate_bytes_per_s"], 64_000_000);
        assert_eq!(second["settings_as_numbers"]["guest.memory_bytes"], 1_u64 << 30);
    }
    assert!(plan["migrating_ms"].is_f64());
    let predicted = plan["cells"][1]["predicted"].as_object().unwrap();
    for name in ["total_time_ms", "downtime_ms", "transferred_bytes", "passes"] {
        assert!(predicted[name].is_number(), "{name}: {predicted:?}");
    }
}

#[test]
fn exit_codes_depend_on_the_outcomes() {
    let cases =
        [(Outcome::NotConverged, 0), (Outcome::Converged, 1), (Outcome::GuestLost, 3), (Outcome::Failed, 3)];
    for (outcome, code) in cases {
        let mut records = threshold_records();
        records[2].outcome = outcome;
        let sandbox = Sandbox::with_run(THRESHOLD, records);
        let finished = sandbox.testbed(&["run", "--resume", "run"]);
        finished.exits(code);
        let violated = format!("    stress.rate=128MBps #1: outcome is {outcome}, expected not-converged\n");
        assert_eq!(finished.stdout().contains(&violated), code != 0, "{}", finished.shown());
        assert_eq!(finished.stdout().contains("DOES NOT HOLD"), code != 0, "{}", finished.shown());
    }
}

#[test]
fn a_run_on_a_host_that_is_not_set_up_fails_and_leaves_no_folder() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    let message = "error: cannot read the stressor absent-stressor: ";
    for _ in 0..2 {
        let finished = sandbox.testbed(&["run", "matrix.yaml", "--out", "run"]);
        finished.exits(3).says(message).says("`testbed doctor` lists what is missing").prints_nothing();
        assert!(!sandbox.path("run").exists());
    }
    // The folder of a run that is continued is kept.
    let sandbox = Sandbox::with_run(THRESHOLD, []);
    sandbox.testbed(&["run", "--resume", "run"]).exits(3).says(message);
    assert_eq!(sandbox.read("run/summary.csv").lines().count(), 1);
}

#[test]
fn a_cache_in_the_folder_of_another_user_is_refused_and_nothing_is_created() {
    if !geteuid().is_root() {
        skipped::<()>("needs root, for a folder of another user");
        return;
    }
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    let home = sandbox.dir.path().join("home");
    chown(&home, Some(4711), Some(4711)).unwrap();
    let message = format!("{} belongs to the user with the ID 4711; set XDG_CACHE_HOME", home.display());
    for args in [&["run", "matrix.yaml"][..], &["doctor"], &["setup", "--dry-run"]] {
        sandbox.testbed(args).exits(2).says("error: cannot trust the cache ").says(&message).prints_nothing();
    }
    assert_eq!(sandbox.entries(), ["matrix.yaml"]);
}

#[test]
fn stored_results_are_reported() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let finished = sandbox.testbed(&["report", "run"]);
    finished.exits(0);
    let table = finished.stdout();
    golden("report.txt", &table);
    assert!(finished.stderr().is_empty(), "{}", finished.shown());
    let csv = sandbox.testbed(&["report", "run", "--csv"]);
    golden("summary.csv", &csv.exits(0).stdout());

    let two = sandbox.testbed(&["report", "run", "run/"]);
    assert_eq!(two.exits(0).stdout(), format!("run\n\n{table}\nrun/\n\n{table}"));
    assert!(!sandbox.path("run/summary.csv").exists(), "a report writes nothing");
}

#[test]
fn the_options_csv_and_json_are_short_for_format() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let printed = |args: &[&str]| {
        let finished = sandbox.testbed(args);
        (finished.exits(0).stdout(), finished.stderr())
    };
    assert_eq!(printed(&["report", "run", "--format", "table"]), printed(&["report", "run"]));
    assert_eq!(printed(&["report", "run", "--format", "csv"]), printed(&["report", "run", "--csv"]));
    assert_eq!(printed(&["report", "run", "--format", "json"]), printed(&["report", "run", "--json"]));
    golden("report.md", &printed(&["report", "run", "--format", "markdown"]).0);

    let resume = ["run", "--resume", "run"];
    let run = |options: &[&str]| printed(&[&resume[..], options].concat());
    assert_eq!(run(&["--format", "table"]), run(&[]));
    assert_eq!(run(&["--format", "json"]), run(&["--json"]));
    let (rows, notes) = run(&["--format", "csv"]);
    golden("summary.csv", &rows);
    assert!(notes.contains("note: results: run\n"), "{notes}");
    let report = printed(&["report", "run", "--format", "markdown"]).0;
    assert_eq!(run(&["--format", "markdown"]).0, format!("{report}\nResults: `run`\n"));

    for command in [&["report", "run"][..], &resume] {
        let with = |options: &[&'static str]| [command, options].concat();
        sandbox
            .testbed(&with(&["--format", "xml"]))
            .exits(2)
            .says("[possible values: table, csv, json, markdown, html, junit, svg]");
        sandbox.testbed(&with(&["--format", "json", "--json"])).exits(2).says("cannot be used with");
    }
    sandbox.testbed(&["report", "run", "--format", "csv", "--csv"]).exits(2).says("cannot be used with");
}

#[test]
fn texts_of_the_matrix_do_not_become_links_in_markdown() {
    let matrix = "name: n\naxes: { guest.cpu: [\"max|HTTPS://a.example\", www.b.example, \"@someone\", \"c_d\"] }\n\
                  reference: { source: \"see https://e.example\", rows: [{ where: guest.vcpus == 1, total_time: 1s }] }\n";
    let printed =
        Sandbox::with_run(matrix, []).testbed(&["report", "run", "--format", "markdown"]).exits(0).stdout();
    let cells: Vec<&str> =
        printed.lines().skip(2).take(4).map(|row| row.split(" | ").next().unwrap()).collect();
    let expected = [
        "| <code>max&#124;HTTPS&#58;&#47;&#47;a&#46;example</code>",
        "| <code>www&#46;b&#46;example</code>",
        "| <code>&#64;someone</code>",
        r"| c\_d",
    ];
    assert_eq!(cells, expected);
    assert!(
        printed.contains("\nPublished: <code>see https&#58;&#47;&#47;e&#46;example</code>\n"),
        "{printed}"
    );
}

#[test]
fn missing_parts_and_differences_are_listed_in_markdown() {
    let sandbox = Sandbox::new();
    let records = threshold_records();
    sandbox.add_part("p1", "1/3", "10.0.2", &records);
    sandbox.add_part("p3", "3/3", "7.2.0", &records[..3]);
    sandbox.add_run("whole", THRESHOLD, threshold_records());
    let text = sandbox.testbed(&["report", "p1", "p3", "whole", "--format", "markdown"]).exits(1).stdout();
    golden("report-parts-lacking.md", &text);
}

#[test]
fn the_parts_of_a_run_are_reported_as_one() {
    let sandbox = Sandbox::with_parts();
    let table = sandbox.testbed(&["report", "p1", "p2", "p3"]).exits(0).stdout();
    golden("report-parts.txt", &table);
    // The table is exactly that of a run in one folder.
    sandbox.add_run("run", THRESHOLD, threshold_records());
    let whole = sandbox.testbed(&["report", "run"]).exits(0).stdout();
    assert_eq!(table, format!("{whole}\nparts: 1/3 in p1, 2/3 in p2, 3/3 in p3\n"));
    let other_order = sandbox.testbed(&["report", "p3", "p1", "p2"]).exits(0).stdout();
    assert_eq!(other_order, format!("{whole}\nparts: 3/3 in p3, 1/3 in p1, 2/3 in p2\n"));
    // A whole run of the same matrix is a separate run, to be compared.
    let compared = sandbox.testbed(&["report", "p1", "run", "p2", "p3"]).exits(0).stdout();
    assert_eq!(compared, format!("p1, p2, p3\n\n{table}\nrun\n\n{whole}"));
}

#[test]
fn missing_parts_and_differences_are_listed_below_the_table() {
    let sandbox = Sandbox::new();
    let records = threshold_records();
    // The second part is missing. The third was cut short, and then repeated on another host.
    sandbox.add_part("p1", "1/3", "10.0.2", &records);
    sandbox.add_part("cut", "3/3", "10.0.2", &records[..3]);
    let mut again = records.clone();
    for record in &mut again {
        record.started_at = "2026-01-03T03:04:05Z".parse().unwrap();
    }
    again[2].outcome = Outcome::Converged;
    again.pop();
    sandbox.add_part("again", "3/3", "7.2.0", &again);
    let table = sandbox.testbed(&["report", "p1", "again", "cut"]).exits(1).stdout();
    golden("report-parts-lacking.txt", &table);

    // With CSV, the notes go to standard error, and no row appears twice.
    let csv = sandbox.testbed(&["report", "p1", "again", "cut", "--csv"]);
    let rows: Vec<String> = csv.exits(1).stdout().lines().map(|row| row.chars().take(24).collect()).collect();
    assert_eq!(
        rows,
        [
            "results,cell,stress.rate",
            "p1,stress.rate=0,0,0,1,c",
            "cut,stress.rate=128MBps,",
            "p1,stress.rate=0,0,0,2,c"
        ]
    );
    csv.says("note: missing: part 2/3, with 2 attempts\n").says("note: differs between parts: QEMU: ");

    let finished = sandbox.testbed(&["report", "p1", "again", "cut", "--json"]);
    let json = finished.exits(1).json();
    assert_eq!(json["complete"], false);
    assert_eq!(json["missing_parts"], serde_json::json!([{ "shard": "2/3", "attempts": 2 }]));
    assert_eq!(json["missing_attempts"], serde_json::json!(["stress.rate=128MBps #2"]));
    let repeated = serde_json::json!([{
        "attempt": "stress.rate=128MBps #1", "counts": "cut", "outcome": "not-converged",
        "left_out": "again", "left_out_outcome": "converged",
    }]);
    assert_eq!(json["repeated"], repeated);
    let differences = serde_json::json!([
        { "what": "QEMU", "values": { "10.0.2": ["p1", "cut"], "7.2.0": ["again"] } }
    ]);
    assert_eq!(json["differences"], differences);
}

#[test]
fn a_cell_is_compared_with_its_baseline_in_another_part() {
    let matrix = "name: n\naxes: { stress.rate: [0, 1MB/s], link.delay: [0, 20ms] }\nexpect:\n  \
                  - { relative_to: link.delay == 20ms, total_time: < 100% }\n";
    let plan = plan(matrix);
    let records = |total_ms: [f64; 4]| -> Vec<Record> {
        let record = |(cell, ms)| mock::record(&plan, cell, 1, Outcome::Converged, ms);
        total_ms.into_iter().enumerate().map(record).collect()
    };
    let sandbox = Sandbox::new();
    let faster = records([1000.0, 2000.0, 3000.0, 4000.0]);
    for (name, shard) in [("cells", "1/2"), ("baselines", "2/2")] {
        sandbox.add_part_of(matrix, name, shard, "10.0.2", &faster);
    }
    let line = |verdict: &str| {
        format!("expected every cell relative to link.delay == 20ms: total_time < 100%: {verdict}\n")
    };
    let alone = sandbox.testbed(&["report", "cells"]).exits(1).stdout();
    assert!(alone.contains(&line("not tried")), "{alone}");
    let together = sandbox.testbed(&["report", "cells", "baselines"]).exits(0).stdout();
    assert!(together.contains(&line("holds")), "{together}");
    sandbox.add_run("run", matrix, records([1000.0, 2000.0, 6000.0, 4000.0]));
    for command in [&["report", "run"][..], &["run", "--resume", "run"]] {
        let slower = sandbox.testbed(command).exits(1).stdout();
        let violation = "    stress.rate=1MBps,link.delay=0 relative to stress.rate=1MBps,link.delay=20ms: \
                         total_time is 150%, expected < 100%\n";
        assert!(slower.contains(&line("DOES NOT HOLD")) && slower.contains(violation), "{slower}");
    }
}

#[test]
fn a_single_part_is_reported_as_part_of_the_whole_run() {
    let sandbox = Sandbox::with_parts();
    let table = sandbox.testbed(&["report", "p2"]).exits(1).stdout();
    assert!(table.contains(" 128MB/s      not tried"), "{table}");
    let notes =
        "\nparts: 2/3 in p2\nmissing: part 1/3, with 2 attempts\nmissing: part 3/3, with 2 attempts\n";
    assert!(table.ends_with(notes), "{table}");
    let json = sandbox.testbed(&["report", "p2", "--json"]).exits(1).json();
    assert_eq!((&json["results"], &json["complete"]), (&Value::from("p2"), &Value::from(false)));
}

#[test]
fn many_missing_parts_are_counted() {
    let sandbox = Sandbox::new();
    let rates = (1..=1_000).map(|kb| format!("{kb}kB/s")).collect::<Vec<_>>().join(", ");
    let matrix = format!("name: n\nrepeat: 3\naxes: {{ stress.rate: [{rates}] }}\n");
    for (shard, notes) in [
        (
            "1/400",
            "parts: 1/400 in p\nmissing: part 2/400, with 9 attempts\nmissing: part 3/400, with 9 attempts\n\
             missing: part 4/400, with 9 attempts\nmissing: 396 more parts, with 2964 attempts\n",
        ),
        (
            "1/4",
            "parts: 1/4 in p\nmissing: part 2/4, with 750 attempts\nmissing: part 3/4, with 750 attempts\n\
             missing: part 4/4, with 750 attempts\n",
        ),
    ] {
        sandbox.add_part_of(&matrix, "p", shard, "10.0.2", &[]);
        let table = sandbox.testbed(&["report", "p"]).exits(0).stdout();
        assert!(table.contains(&format!("\n{notes}")), "{table:.2000}");
        fs::remove_dir_all(sandbox.path("p")).unwrap();
    }
}

#[test]
fn parts_of_different_runs_are_not_mixed() {
    let sandbox = Sandbox::with_parts();
    let changed = THRESHOLD.replace("timeout: 20s", "timeout: 30s");
    fs::write(sandbox.path("p2").join(store::MATRIX), changed).unwrap();
    let shown = sandbox.testbed(&["report", "p1", "p2", "p3"]).exits(1).stdout();
    assert!(shown.starts_with("p1, p3\n\n"), "{shown}");
    assert!(shown.contains("missing: part 2/3, with 2 attempts\n\np2\n\n"), "{shown}");
    let why = "not merged: p1 and p2 are not parts of the same run: migrate.timeout: 20s -> 30s in every \
               cell\n";
    assert!(shown.ends_with(why), "{shown}");

    // There is one header for all runs.
    let csv = sandbox.testbed(&["report", "p1", "p2", "p3", "--csv"]).exits(1).stdout();
    let first: Vec<&str> = csv.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(first, ["results", "p1", "p3", "p1", "p3", "p2", "p2"]);
    let json = sandbox.testbed(&["report", "p1", "p2", "p3", "--json"]).exits(1).stdout();
    let runs: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((runs.len(), &runs[1]["results"]), (2, &Value::from("p2")));
}

#[test]
fn json_reports_have_all_fields_that_a_run_prints() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records());
    let run = sandbox.testbed(&["run", "--resume", "run", "--json"]).exits(0).json();
    let report = sandbox.testbed(&["report", "run", "--json"]).exits(0).json();
    for (key, value) in run.as_object().unwrap() {
        assert_eq!(report[key], *value, "{key}");
    }
    assert_eq!(report["parts"], serde_json::json!([{ "results": "run", "shard": null }]));

    let sandbox = Sandbox::with_parts();
    let parts = sandbox.testbed(&["report", "p1", "p2", "p3", "--json"]).exits(0).json();
    assert!(parts.get("results").is_none(), "the run has several folders");
    for key in ["complete", "expectations", "failed", "threshold"] {
        assert_eq!(parts[key], run[key], "{key}");
    }
    let folders: Vec<&str> =
        parts["records"].as_array().unwrap().iter().map(|r| r["results"].as_str().unwrap()).collect();
    assert_eq!(folders, ["p1", "p2", "p3", "p1", "p2", "p3"]);
    let records: Vec<Record> = serde_json::from_value(parts["records"].clone()).unwrap();
    assert_eq!(records, threshold_records());
}

/// A function that damages the folder `p2`.
type Damage<'a> = &'a dyn Fn(&Sandbox);

#[test]
fn a_damaged_folder_is_named_and_nothing_is_reported() {
    let replace = |file: &'static str, text: &'static str| {
        move |sandbox: &Sandbox| fs::write(sandbox.path("p2").join(file), text).unwrap()
    };
    let cut = |sandbox: &Sandbox| {
        let cells = sandbox.read("p2/cells.jsonl").replacen("\"outcome\":", "\"outcom\":", 2);
        fs::write(sandbox.path("p2/cells.jsonl"), cells.replacen("\"outcom\":", "\"outcome\":", 1)).unwrap();
    };
    let gone = |sandbox: &Sandbox| fs::remove_file(sandbox.path("p2/cells.jsonl")).unwrap();
    let cases: [(Damage<'_>, &str); 7] = [
        (&cut, "error: p2/cells.jsonl, line 2: missing field `outcome`"),
        (&gone, "error: cannot read p2/cells.jsonl: No such file or directory"),
        (&replace(store::MATRIX, "name: n\naxis: {}\n"), "p2/matrix.yaml"),
        (&replace(store::SELECTION, "{"), "error: cannot read p2/selection.json: "),
        (
            &replace(store::SELECTION, r#"{ "only": null, "repeat": null, "shard": "4/3" }"#),
            "error: p2/selection.json: --shard: `4/3` is not a shard: write it like `2/3`, the second of \
             three",
        ),
        (
            &replace(store::SELECTION, r#"{ "only": null, "repeat": 4000000000, "shard": "2/3" }"#),
            "error: p2/selection.json: --repeat: a cell cannot be measured 4000000000 times; use a number \
             from 1 to 1000",
        ),
        (
            &replace(store::SELECTION, r#"{ "only": "x == 1", "repeat": null, "shard": null }"#),
            "error: p2/selection.json: --only: ",
        ),
    ];
    for (damage, message) in cases {
        let sandbox = Sandbox::with_parts();
        damage(&sandbox);
        for options in [&[][..], &["--csv"], &["--json"]] {
            let args = [&["report", "p1", "p2", "p3"], options].concat();
            sandbox.testbed(&args).exits(2).says(message).prints_nothing();
        }
    }
    Sandbox::with_parts().testbed(&["report", "p1", "--csv", "--json"]).exits(2).says("cannot be used with");

    // A part without an environment is reported, with a note.
    let sandbox = Sandbox::with_parts();
    fs::write(sandbox.path("p2").join(store::ENVIRONMENT), "{").unwrap();
    fs::remove_file(sandbox.path("p3").join(store::ENVIRONMENT)).unwrap();
    let table = sandbox.testbed(&["report", "p1", "p2", "p3"]).exits(0).stdout();
    assert!(table.contains("environment not compared: cannot read p2/environment.json: "), "{table}");
    assert!(table.ends_with("environment not compared: p3 has no environment.json\n"), "{table}");
}

#[test]
fn a_run_of_a_selection_is_reported_with_its_cells_only() {
    let sandbox = Sandbox::with_run(THRESHOLD, threshold_records().into_iter().take(2));
    let selection = r#"{ "only": "stress.rate <= 64MB/s", "repeat": 1, "shard": null }"#;
    fs::write(sandbox.path("run").join(store::SELECTION), selection).unwrap();
    let table = sandbox.testbed(&["report", "run"]).exits(0).stdout();
    let run = sandbox.testbed(&["run", "--resume", "run"]).exits(0).stdout();
    assert_eq!(format!("{table}\nresults: run\n"), run);
}

#[test]
fn a_run_in_progress_is_reported_with_the_results_so_far() {
    let sandbox = Sandbox::new();
    let mut store = Store::create(&sandbox.path("run"), THRESHOLD, &Selection::default()).unwrap();
    store.append(threshold_records().remove(0)).unwrap();
    let cells = fs::OpenOptions::new().append(true).open(sandbox.path("run").join(store::CELLS)).unwrap();
    std::io::Write::write_all(&mut &cells, b"{\"cell\":\"stress.r").unwrap();
    let table = sandbox.testbed(&["report", "run"]).exits(1).stdout();
    assert!(table.contains(" 64MB/s       not tried"), "{table}");
    assert!(!table.contains("dirty rate"), "a threshold at a single rate: {table}");
    assert!(table.contains("stress.rate >= 128MB/s: not-converged: not tried"), "{table}");
    let missing =
        "\nmissing: 5 attempts: stress.rate=64MBps #1, stress.rate=128MBps #1, stress.rate=0 #2 and 2 more\n";
    assert!(table.ends_with(missing), "{table}");
}

#[test]
fn both_schemas_are_printed_as_json_schema() {
    let json = Sandbox::new().testbed(&["schema"]).exits(0).json();
    assert_eq!(json["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(json["properties"]["axes"].is_object());
    let json = Sandbox::new().testbed(&["schema", "--records"]).exits(0).json();
    assert_eq!(json["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(json["properties"]["outcome"].is_object());
}

#[test]
fn a_plan_is_printed_as_a_table_or_as_json_and_writes_nothing() {
    let sandbox = Sandbox::with_matrix(THRESHOLD);
    let table = sandbox.testbed(&["plan", "matrix.yaml"]).exits(0).stdout();
    assert!(table.contains("3 cells, 2 times each: 6 migrations"), "{table}");
    let args = [
        "plan",
        "matrix.yaml",
        "--json",
        "--repeat",
        "3",
        "--only",
        "stress.rate <= 64MB/s",
        "--shard",
        "2/2",
    ];
    let json = sandbox.testbed(&args).exits(0).json();
    assert_eq!(json["repeat"], 3);
    let cells: Vec<&str> =
        json["cells"].as_array().unwrap().iter().map(|cell| cell["id"].as_str().unwrap()).collect();
    assert_eq!(cells, ["stress.rate=64MBps"]);
    assert_eq!(sandbox.entries(), ["matrix.yaml"]);
}

/// A QEMU that has no KVM and does not know the CPU model `z80`. For any other machine, it is killed, which
/// says nothing about that machine.
const STUB_OF_QEMU: &str = r#"#!/bin/sh
case "$*" in
*--version*) echo "QEMU emulator version 10.0.2" ;;
*accel=kvm*)
    echo "Could not access KVM kernel module: No such file or directory" >&2
    echo "qemu-system-x86_64: failed to initialize kvm: No such file or directory" >&2
    exit 1 ;;
*z80*)
    echo "qemu-system-x86_64: warning: the weather is bad" >&2
    echo "qemu-system-x86_64: unable to find CPU model 'z80'" >&2
    exit 1 ;;
*) kill -9 $$ ;;
esac
"#;

#[test]
fn a_plan_shows_what_this_host_and_its_qemu_cannot_do() {
    let matrix = "name: n\naxes: { guest.accel: [tcg, kvm, auto], guest.cpu: [qemu64, z80] }\n\
                  include:\n  - guest.memory: 3000TiB\n  \
                  - { storage: shared, storage.size: 127TiB, storage.written: 127TiB }\n  \
                  - { storage: block, storage.size: 100TiB, storage.written: 100TiB }\n";
    let sandbox = Sandbox::with_matrix(matrix);
    let programs = sandbox.dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    write_script(&programs.join("qemu-system-x86_64"), STUB_OF_QEMU);
    let finished = sandbox.testbed_in(&programs, &["plan", "matrix.yaml", "--json"]);
    if finished.stderr().contains("cannot tell which cells") {
        println!("skipped: {}", finished.stderr());
        return;
    }
    let json = finished.exits(0).json();
    let cells = json["cells"].as_array().unwrap();
    let skipped: Vec<(&str, &str)> = cells
        .iter()
        .map(|cell| (cell["id"].as_str().unwrap(), cell["skipped"].as_str().unwrap_or("attempted")))
        .collect();
    let no_kvm = "KVM does not work here: Could not access KVM kernel module: No such file or directory; \
                  failed to initialize kvm: No such file or directory; `guest.accel: auto` uses TCG instead";
    let no_z80 =
        "QEMU on this host refuses this guest with the accelerator tcg: unable to find CPU model 'z80'";
    assert_eq!(
        skipped[..6],
        [
            ("guest.accel=tcg,guest.cpu=qemu64", "attempted"),
            ("guest.accel=tcg,guest.cpu=z80", no_z80),
            ("guest.accel=kvm,guest.cpu=qemu64", no_kvm),
            ("guest.accel=kvm,guest.cpu=z80", no_kvm),
            ("guest.accel=auto,guest.cpu=qemu64", "attempted"),
            ("guest.accel=auto,guest.cpu=z80", no_z80),
        ]
    );
    let (_, memory) = skipped[6];
    assert!(memory.starts_with("a guest of 3000TiB is larger than the memory of this host, "), "{memory}");
    for ((_, space), need) in skipped[7..].iter().zip(["127TiB", "200TiB"]) {
        let begins =
            format!("the data on the disk takes at least {need} in /var/tmp, but this host has only ");
        assert!(space.starts_with(&begins), "{space}");
    }
    assert_eq!((skipped.len(), json["migrations"].as_u64()), (9, Some(2)));
    assert_eq!(sandbox.entries(), ["matrix.yaml"], "nothing is written");
}

#[test]
fn a_plan_says_why_qemu_does_not_run() {
    let sandbox = Sandbox::with_matrix("name: n\n");
    let programs = sandbox.dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    write_script(&programs.join("qemu-system-x86_64"), "#!/bin/sh\necho no libfdt >&2\nexit 127\n");
    let finished = sandbox.testbed_in(&programs, &["plan", "matrix.yaml"]);
    if finished.stderr().contains("cannot tell which cells") {
        println!("skipped: {}", finished.stderr());
        return;
    }
    finished.exits(0).says(
        "note: `qemu-system-x86_64 --version` fails (exit status: 127): no libfdt; neither accelerators nor",
    );
}

#[test]
fn every_command_explains_itself() {
    let sandbox = Sandbox::new();
    let help = |args: &[&str], name: &str| {
        let finished = sandbox.testbed(args);
        let text = finished.exits(0).stdout();
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        golden(&format!("help/{name}.txt"), &text);
    };
    help(&["--help"], "testbed");
    let command = testbed::cli::command();
    let mut shown = 0;
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = subcommand.get_name();
        help(&[name, "--help"], name);
        shown += 1;
        for further in subcommand.get_subcommands() {
            help(&[name, further.get_name(), "--help"], &format!("{name}-{}", further.get_name()));
            shown += 1;
        }
    }
    assert!(shown >= 6, "only {shown} commands");
    let golden_files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let golden_files = fs::read_dir(golden_files).unwrap().count();
    assert_eq!(golden_files, shown + 1, "a golden file belongs to no command");
}

#[test]
fn the_version_is_the_crates() {
    let finished = Sandbox::new().testbed(&["--version"]);
    let shown = finished.exits(0).stdout();
    let commit = shown.strip_prefix(concat!("testbed ", env!("CARGO_PKG_VERSION"), " ("));
    let commit = commit.and_then(|rest| rest.strip_suffix(")\n")).unwrap_or_else(|| panic!("{shown}"));
    let hash = commit.strip_suffix("-modified").unwrap_or(commit);
    assert!(
        hash == "unknown commit" || hash.len() >= 10 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
        "{shown}"
    );
}
