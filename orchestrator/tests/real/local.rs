//! Tests `testbed run` with real QEMU processes, in namespaces on this host, with interruptions and
//! failures of all kinds.
//!
//! `cargo xtask test` builds the programs and installs what is missing before it runs these tests. A test
//! that cannot run prints `skipped:` and why.

use crate::common::{
    full_pipe,
    real::{
        CTRL_Q, CTRL_S, LeftoverCheck, Process, RunningTestbed, SMALL, TestDir, isolated, ready, ready_alone,
        signal, skipped,
    },
    write_script,
};
use nix::{sys::signal::Signal, unistd::geteuid};
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Read,
    os::unix::process::CommandExt,
    process::Command,
};
use testbed::{
    outcome::Outcome,
    results::{
        record::{Phase, Record},
        store,
    },
};

const SMOKE: &str = include_str!("../../../scenarios/smoke.yaml");

/// The user ID of `nobody`, an ordinary user on every system.
const NOBODY: u32 = 65_534;

fn small(repeat: u32) -> String {
    format!("{SMALL}repeat: {repeat}\n")
}

/// Checks that a record has all its figures, in plausible ranges. `link` is part of its description of the
/// link.
#[track_caller]
fn assert_complete(record: &Record, link: &str) {
    let measured = &record.measured;
    let text = format!("{record:#?}");
    let converged = record.outcome == Outcome::Converged;
    assert_eq!(measured.total_time_ms.is_some(), converged, "{text}");
    let downtime = &measured.downtime_ms;
    for figure in [downtime.qemu, downtime.guest, downtime.client] {
        assert_eq!(figure.is_some(), converged, "{text}");
        assert!(figure.is_none_or(|ms| ms > 0.01), "{text}");
    }
    // The client may have waited longer at another time.
    for figure in [downtime.qemu, downtime.guest] {
        assert!(figure.is_none_or(|ms| Some(ms) < measured.total_time_ms), "{text}");
    }
    let (qemu, wire) = (measured.transferred.qemu_bytes.unwrap(), measured.transferred.wire_bytes.unwrap());
    assert!(qemu > 20_000_000 && wire > qemu && wire < qemu * 12 / 10, "{text}");
    assert!(!measured.iterations.is_empty(), "{text}");
    assert_eq!(measured.iterations[0].number, 1, "{text}");
    assert!(measured.iterations[0].sent_bytes > 0 && measured.iterations[0].duration_ms > 0.0, "{text}");
    assert!(measured.stress.requested.is_some(), "{text}");
    for rate in [measured.stress.before, measured.stress.during, measured.stress.after] {
        assert!(rate.is_some_and(|rate| rate > 0.0), "{text}");
    }
    let verified = measured.verified.as_ref().unwrap();
    assert!(verified.pages_checked > 0 && verified.first_bad.is_none(), "{text}");
    for phase in [Phase::Boot, Phase::Fill, Phase::Settle, Phase::Migrate, Phase::Observe, Phase::Verify] {
        assert!(measured.phases_ms.contains_key(&phase), "{text}");
    }
    assert!(measured.link.as_deref().is_some_and(|set| set.contains(link)), "{text}");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn verbose_progress_has_qemus_command_lines_and_the_phases() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMALL);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run", "--verbose"]), 0, "{}", dir.shown());
    let said = dir.stderr();
    for role in ["that boots the guest", "at the source", "at the destination"] {
        let start = format!("        QEMU {role}: qemu-system-x86_64 -nodefaults ");
        assert_eq!(said.matches(&start).count(), 1, "{}", dir.shown());
    }
    for phase in [Phase::Boot, Phase::Fill, Phase::Settle, Phase::Migrate, Phase::Observe, Phase::Verify] {
        let line = format!("        {}: ", phase.describe());
        assert_eq!(said.matches(&line).count(), 1, "{line}\n{}", dir.shown());
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn the_smoke_scenario_passes_with_complete_records() {
    let Some(ready) = ready_alone() else { return };
    let dir = TestDir::new(&ready, SMOKE);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let records = dir.records();
    assert_eq!(dir.outcomes(), [Outcome::Converged, Outcome::NotConverged], "{}", dir.shown());
    for record in &records {
        assert_complete(record, "kernel backend: tbf");
        assert_eq!(record.measured.link_lateness, None);
    }
    assert_eq!(records[1].reason.as_deref(), Some("not finished after 4 passes"));

    let privilege = if geteuid().is_root() { "root" } else { "user-namespace" };
    let environment = dir.environment();
    assert_eq!(environment["lab"]["source"]["privilege"], privilege);
    assert!(!environment["qemu"].as_str().unwrap().is_empty());
    assert_eq!(environment["guest_digest"].as_str().unwrap().len(), 64);
    let attempts =
        records.iter().map(|record| format!("{}.1", record.cell.replace(',', "-"))).collect::<Vec<_>>();
    for cell in &attempts {
        for file in ["samples.jsonl", "telemetry.jsonl", "probe.jsonl", "source.log", "destination.log"] {
            let file = dir.folder().join("attempts").join(cell).join(file);
            assert!(fs::metadata(&file).is_ok_and(|file| file.len() > 0), "{} is empty", file.display());
        }
    }
    let booted = |cell: &String| dir.folder().join("attempts").join(cell).join("boot.log").exists();
    assert!(booted(&attempts[0]) && !booted(&attempts[1]), "a guest configuration boots only once");
    assert_eq!(fs::read_to_string(dir.folder().join("summary.csv")).unwrap().lines().count(), 3);
    assert!(fs::read_to_string(dir.folder().join("report.html")).unwrap().contains("dirty rate achieved"));
    assert!(dir.stdout().contains("expected stress.rate == 36MB/s: not-converged: holds"), "{}", dir.shown());
}

/// A migration over a link without shaping that QEMU limits, and cells that QEMU, the guest's CPU or this
/// host cannot do.
const UNSHAPED: &str = "
name: unshaped
guest: { memory: 192MiB, ballast: 48MiB, accel: tcg }
stress: { rate: 0, working_set: 4MB }
migrate: { max_bandwidth: 40MB/s, downtime_limit: 300ms, timeout: 60s }
axes: { guest.cpu: [qemu64, z80, host] }
include:
  - { guest.memory: 2GiB, stress.page_size: 1GiB, stress.working_set: 1GiB }
  - { guest.memory: 3000TiB }
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn cells_that_cannot_be_attempted_are_skipped_as_the_plan_says() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, UNSHAPED);
    let (code, plan, _) = dir.run_subcommand(&["plan", "matrix.yaml", "--json"]);
    assert_eq!(code, 0, "{plan}");
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let planned: Vec<Option<&str>> =
        plan["cells"].as_array().unwrap().iter().map(|cell| cell["skipped"].as_str()).collect();
    assert_eq!(planned[0], None);
    for (reason, why) in planned[1..].iter().zip([
        "unable to find CPU model 'z80'",
        "CPU model 'host' requires KVM",
        "has no pages of 1GiB: it lacks pdpe1gb",
        "is larger than the memory of this host",
    ]) {
        assert!(reason.is_some_and(|reason| reason.contains(why)), "{reason:?} without {why}");
    }
    // An empty folder is accepted.
    fs::create_dir(dir.folder()).unwrap();
    dir.run(&["matrix.yaml", "--out", "run"]);
    let records = dir.records();
    let skipped: Vec<Option<&str>> = records.iter().map(|record| record.reason.as_deref()).collect();
    assert_eq!(skipped, planned, "{}", dir.shown());
    assert_eq!(records[0].outcome, Outcome::Converged);
    let data = &records[0].measured.transferred;
    let (qemu, wire) = (data.qemu_bytes.unwrap() as f64, data.wire_bytes.unwrap() as f64);
    assert!((1.035..1.06).contains(&(wire / qemu)), "{data:?}");
    let notes = &records[0].measured.disagreements;
    assert!(notes.iter().all(|note| !note.contains("the link counted")), "{notes:?}");
}

/// A workload that exceeds the link's rate until it is removed; then the link's rate is increased.
const RELIEVED: &str = "
name: relieved
guest: { memory: 192MiB, ballast: 8MiB }
link: { rate: 200mbit }
stress: { rate: 40MB/s, working_set: 24MB, catch_up: burst }
migrate: { downtime_limit: 100ms, timeout: 60s }
timeline:
  - { at: 7s, stress: { rate: 0 } }
  - { at: 7100ms, link: { rate: 400mbit } }
  - { at: 50s, stress: { rate: 40MB/s } }
expect: [{ outcome: converged, total_time: '> 7s' }]
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_migration_that_cannot_converge_does_once_its_load_is_removed() {
    let Some(ready) = ready_alone() else { return };
    let dir = TestDir::new(&ready, RELIEVED);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let record = &dir.records()[0];
    let measured = &record.measured;
    let text = format!("{record:#?}");
    assert_eq!(record.outcome, Outcome::Converged, "{text}");
    assert_eq!(record.settings.timeline.len(), 3, "{text}");
    let [load, link] = &measured.timeline[..] else {
        panic!("there must be two entries, without the one after the end: {text}")
    };
    assert_eq!((load.due_ms, link.due_ms), (7_000.0, 7_100.0));
    for entry in [load, link] {
        assert!(entry.due_ms <= entry.began_ms && entry.began_ms < entry.done_ms, "{text}");
    }
    assert_eq!((load.by, link.by), (Some(testbed::measure::End::Source), None), "{text}");
    assert!(link.link.as_deref().is_some_and(|link| link.contains("rate 400mbit")), "{text}");
    let [loaded, idle] = &measured.stress.stretches[..] else {
        panic!("there must be a stretch for each of the two rates: {text}")
    };
    assert_eq!((loaded.requested, idle.requested), (Some(40_000_000), Some(0)));
    assert!(loaded.achieved.is_some_and(|rate| rate > 10e6), "{text}");
    assert!(idle.achieved.is_none_or(|rate| rate == 0.0), "{text}");
    assert_eq!(measured.stress.after, Some(0.0), "{text}");
    let stuck =
        measured.iterations.iter().filter(|pass| pass.started_at_ms < load.began_ms && pass.number > 1);
    assert!(stuck.map(|pass| pass.remaining_bytes).min() > Some(10_000_000), "{text}");
    let verified = measured.verified.as_ref().unwrap();
    assert!(verified.pages_checked > 0 && verified.first_bad.is_none(), "{text}");
}

/// A guest that is idle in its first phase, and a link on which QEMU never connects.
const DEAF: &str = "
name: deaf
guest: { memory: 192MiB }
link: { loss: 100% }
stress: { rate: 16MB/s, working_set: 4MB, phases: [{ rate: 0, duration: 100s }] }
migrate: { timeout: 2s }
expect: [{ outcome: not-converged }]
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_migration_that_never_connects_is_given_up_at_its_deadline() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, DEAF);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let record = &dir.records()[0];
    let text = format!("{record:#?}");
    assert_eq!(record.reason.as_deref(), Some("the deadline of 2s passed in the state `setup`"), "{text}");
    let stress = &record.measured.stress;
    assert_eq!((stress.requested, stress.before, stress.after), (Some(0), Some(0.0), Some(0.0)), "{text}");
}

/// Returns why an ordinary user cannot create namespaces on this host, or `None` if it can.
fn no_user_namespaces(uid: u32) -> Option<String> {
    let output = Command::new("unshare").args(["--user", "--net", "true"]).uid(uid).gid(uid).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(error) => Some(format!("cannot run unshare: {error}")),
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn an_ordinary_user_runs_the_smoke_scenario_and_leaves_nothing_when_killed() {
    let Some(ready) = ready() else { return };
    if !geteuid().is_root() {
        skipped::<()>("not root: the test of the smoke scenario covers ordinary users already");
        return;
    }
    if let Some(why) = no_user_namespaces(NOBODY) {
        skipped::<()>(&format!("ordinary users cannot create namespaces on this host: {why}"));
        return;
    }
    isolated(&ready, || {
        let dir = TestDir::of_user(NOBODY, &ready, SMOKE);
        let watch = LeftoverCheck::from_now();
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--only", "stress.rate < 10MB/s"]);
        run.wait_for("a migration", |dir| {
            dir.migrates("link.rate=400mbit-stress.rate=1MBps.1").then_some(())
        });
        let networks = dir.networks();
        assert!(networks.len() >= 3, "{networks:?}");
        run.kill();
        watch.assert_nothing_left(&dir, &networks);

        assert_eq!(dir.run(&["--resume", "run"]), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged], "{}", dir.shown());
        assert_complete(&dir.records()[0], "kernel backend: tbf");
        assert_eq!(dir.environment()["lab"]["source"]["privilege"], "user-namespace");
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_run_in_progress_can_be_inspected() {
    let Some(ready) = ready() else { return };
    // The migration outlasts all that is asked.
    let dir = TestDir::new(&ready, &SMALL.replace("300mbit", "100mbit"));
    let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
    run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
    let name = run.pid().to_string();
    let (code, out, err) = dir.run_subcommand(&["lab", "status", "--json"]);
    assert_eq!(code, 0, "{err}");
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    let ours = status["runs"].as_array().unwrap().iter().find(|run| run["run"] == name.as_str());
    let ours = ours.unwrap_or_else(|| panic!("{out}"));
    assert_eq!(ours["command"], "testbed run matrix.yaml --out run", "{out}");
    let qemus = |node: usize| ours["nodes"][node]["qemus"].as_array().unwrap();
    assert!(qemus(0).is_empty(), "{out}");
    for (node, role) in [(1, "source"), (2, "destination")] {
        let [qemu] = &qemus(node)[..] else { panic!("{out}") };
        assert_eq!(qemu["role"], role, "{out}");
        let pid = i32::try_from(qemu["pid"].as_i64().unwrap()).unwrap();
        assert!(dir.processes().iter().any(|process| process.pid == pid && process.is_qemu(role)), "{out}");
    }
    let shaping =
        &ours["nodes"][1]["interfaces"].as_array().unwrap().iter().find(|i| i["name"] == "migration");
    assert_eq!(shaping.unwrap()["shaping"]["sends"]["rate"], "100mbit", "{out}");

    let shell = |node: &str, script: &str| {
        dir.run_subcommand(&["lab", "shell", "--run", &name, node, "--", "sh", "-c", script])
    };
    // /proc in the shell shows the node's PIDs: a PID found there can be signalled.
    let script = "uname -n; for p in /proc/[0-9]*; do \
                  if grep -q qemu $p/comm; then kill -0 ${p#/proc/} && echo found; fi; done; exit 6";
    let (code, out, err) = shell("compute1", script);
    assert_eq!((code, out.as_str()), (6, "compute1\nfound\n"), "{err}");
    let (code, out, err) = shell("controller", "kill -9 $$");
    assert_eq!((code, out.as_str()), (128 + 9, ""), "{err}");
    assert_eq!(run.end(), 0, "{}", dir.shown());
    assert!(dir.records()[0].measured.obtained.contains_key("downtime_ms.guest"));
}

/// The guest's network is cut during the migration and is never restored.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_client_that_never_hears_of_the_guest_again_has_no_longest_downtime() {
    let Some(ready) = ready() else { return };
    let expecting =
        SMALL.replace("[{ outcome: converged }]", r#"[{ downtime: <= 1s }, { downtime: ">= 1min" }]"#);
    let dir = TestDir::new(&ready, &expecting);
    let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
    run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
    let name = run.pid().to_string();
    let cut =
        ["lab", "shell", "--run", &name, "controller", "--", "ip", "link", "set", "dev", "guests", "down"];
    let (code, _, err) = dir.run_subcommand(&cut);
    assert_eq!(code, 0, "{err}");
    assert_eq!(run.end(), 1, "{}", dir.shown());
    let downtime = dir.records()[0].measured.downtime_ms;
    assert_eq!(downtime.client, None, "{}", dir.shown());
    // The migration continues for some time, and the probe waits 5 s for a last reply.
    assert!(downtime.client_at_least.is_some_and(|ms| ms > 5000.0), "{downtime:?}");
    let shown = dir.shown();
    assert!(shown.contains("downtime <= 1s: DOES NOT HOLD") && shown.contains(" is at least "), "{shown}");
    assert!(shown.contains("downtime >= 60s: UNDECIDED"), "{shown}");
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn two_runs_at_once_do_not_disturb_each_other() {
    let Some(ready) = ready_alone() else { return };
    let dirs = [TestDir::new(&ready, SMALL), TestDir::new(&ready, SMALL)];
    let mut runs = dirs.each_ref().map(|dir| dir.start(&["matrix.yaml", "--out", "run"]));
    let mut networks = Vec::new();
    for run in &mut runs {
        // Both run simultaneously: neither ends before the other migrates.
        networks.push(run.wait_for("its migration", |dir| dir.migrates("base.1").then(|| dir.networks())));
    }
    assert!(networks[0].len() >= 3 && networks[0].is_disjoint(&networks[1]), "{networks:?}");
    for (run, dir) in runs.into_iter().zip(&dirs) {
        assert_eq!(run.end(), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged], "{}", dir.shown());
        let measured = &dir.records()[0].measured;
        assert!(
            measured.verified.as_ref().is_some_and(|verified| verified.pages_checked > 12_000),
            "{measured:#?}"
        );
        let (qemu, wire) =
            (measured.transferred.qemu_bytes.unwrap(), measured.transferred.wire_bytes.unwrap());
        assert!(wire > qemu && wire < qemu * 12 / 10, "each run counts only its own bytes: {qemu}, {wire}");
    }
}

/// A moment at which a run is killed: its name, and a function that waits for it.
type Moment = (&'static str, fn(&mut RunningTestbed));

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_killed_run_leaves_nothing_behind_and_can_be_continued() {
    let Some(ready) = ready() else { return };
    isolated(&ready, || {
        let dir = TestDir::new(&ready, SMALL);
        let watch = LeftoverCheck::from_now();
        let moments: [Moment; 5] = [
            ("starting", |run| {
                run.wait_for("a folder", |dir| dir.folder().join(store::MATRIX).exists().then_some(()));
            }),
            ("starting its nodes", |run| {
                let is_node = |process: &Process| process.words.get(1).is_some_and(|word| word == "node");
                run.wait_for("a node", |dir| dir.processes().iter().any(is_node).then_some(()));
            }),
            ("booting", |run| {
                let is_qemu = |process: &Process| process.is_qemu("source");
                run.wait_for("QEMU", |dir| dir.processes().iter().any(is_qemu).then_some(()));
            }),
            ("migrating", |run| run.wait_for_shown("migrating")),
            // The guest is then being observed, and verified.
            ("checking the guest", |run| {
                run.wait_for("the end of the migration", |dir| {
                    dir.has_reached("base.1", "completed").then_some(())
                });
            }),
        ];
        for (i, (moment, reached)) in moments.into_iter().enumerate() {
            let args: &[&str] = if i == 0 { &["matrix.yaml", "--out", "run"] } else { &["--resume", "run"] };
            let mut run = dir.start_on_terminal(args);
            reached(&mut run);
            let networks = dir.networks();
            assert!(i < 2 || networks.len() >= 3, "{moment}: {networks:?}");
            run.kill();
            println!("killed while {moment}");
            watch.assert_nothing_left(&dir, &networks);
            assert!(dir.records().is_empty(), "{moment}: the attempt had ended\n{}", dir.shown());
        }
        let run = dir.start_on_terminal(&["--resume", "run"]);
        assert_eq!(run.end(), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged], "{}", dir.shown());
        watch.assert_nothing_left(&dir, &BTreeSet::new());
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn an_interrupt_ends_the_attempt_and_the_run() {
    let Some(ready) = ready() else { return };
    isolated(&ready, || {
        let dir = TestDir::new(&ready, SMALL);
        let watch = LeftoverCheck::from_now();
        let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
        run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
        let networks = dir.networks();
        // The summary cannot be written in its place.
        fs::create_dir(dir.folder().join("summary.csv")).unwrap();
        signal(run.pid(), Signal::SIGINT);
        assert_eq!(run.end(), 130, "{}", dir.shown());
        watch.assert_nothing_left(&dir, &networks);
        let records = dir.records();
        assert_eq!(dir.outcomes(), [Outcome::Interrupted], "{}", dir.shown());
        assert_eq!(records[0].reason.as_deref(), Some("interrupted by the user"));
        assert!(records[0].measured.phases_ms.contains_key(&Phase::TearDown));
        assert!(dir.stderr().contains("Continue with: testbed run --resume run"), "{}", dir.shown());
        assert!(
            dir.stderr().contains("error: cannot write run/summary.csv: Is a directory"),
            "{}",
            dir.shown()
        );
    });
}

/// Interrupts a run of two attempts in the second one, which must be recorded, and nothing left.
#[track_caller]
fn interrupt_second_attempt(dir: &TestDir, mut run: RunningTestbed<'_>, watch: &LeftoverCheck) {
    run.wait_for("the second migration", |dir| dir.migrates("base.2").then_some(()));
    let networks = dir.networks();
    signal(run.pid(), Signal::SIGINT);
    assert_eq!(run.end(), 130, "{}", dir.shown());
    watch.assert_nothing_left(dir, &networks);
    assert_eq!(dir.outcomes(), [Outcome::Converged, Outcome::Interrupted], "{}", dir.shown());
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_run_whose_standard_error_is_full_is_recorded_and_can_be_interrupted() {
    let Some(ready) = ready() else { return };
    isolated(&ready, || {
        let dir = TestDir::new(&ready, &small(2));
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        let watch = LeftoverCheck::from_now();
        let run = dir.start_with_stderr(&["matrix.yaml", "--out", "run"], full());
        interrupt_second_attempt(&dir, run, &watch);
        let run = dir.start_with_stderr(&["--resume", "run"], full());
        assert_eq!(run.end(), 0, "{}", dir.shown());
    });
}

/// A reader that has stopped reading, such as a pager.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_run_whose_output_nobody_reads_goes_on_and_can_be_interrupted() {
    let Some(ready) = ready() else { return };
    isolated(&ready, || {
        let dir = TestDir::new(&ready, &small(2));
        let watch = LeftoverCheck::from_now();
        let (_unread, output) = full_pipe();
        let arguments = ["-v", "matrix.yaml", "--out", "run"];
        let run = dir.start_with(&arguments, output.try_clone().unwrap(), output);
        interrupt_second_attempt(&dir, run, &watch);

        // A run that is complete waits for the reader.
        let (mut reader, errors) = full_pipe();
        let mut run = dir.start_with_stderr(&["--resume", "run"], errors);
        run.wait_for("a result", |dir| (dir.outcomes().last() == Some(&Outcome::Converged)).then_some(()));
        let mut shown = String::new();
        reader.read_to_string(&mut shown).unwrap();
        assert!(shown.contains("[1/1] base") && shown.contains("base #2: converged in "), "{shown}");
        assert_eq!(run.end(), 0, "{}", dir.shown());
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_stopped_terminal_holds_up_no_run() {
    let Some(ready) = ready() else { return };
    isolated(&ready, || {
        let dir = TestDir::new(&ready, &small(2));
        let mut run = dir.start_on_terminal(&["matrix.yaml", "--out", "run"]);
        run.wait_for_shown("accelerator");
        run.press(CTRL_S);
        run.wait_for("both attempts", |dir| (dir.outcomes().len() == 2).then_some(()));
        assert!(!run.shown().contains("base #2"), "{}", run.shown());
        run.press(CTRL_Q);
        run.wait_for_shown("base #2: converged in ");
        assert!(run.ended().success(), "{}", dir.shown());
        assert!(run.shown().contains("base #1: converged in "), "{}", run.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged; 2], "{}", dir.shown());

        let mut run = dir.start_on_terminal(&["matrix.yaml", "--out", "stopped"]);
        run.wait_for_shown("accelerator");
        run.press(CTRL_S);
        run.wait_for("QEMU", |p| p.processes().iter().any(|p| p.is_qemu("destination")).then_some(()));
        signal(run.pid(), Signal::SIGTERM);
        assert_eq!(run.end(), 130, "{}", dir.shown());
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn signals_that_are_ignored_from_the_start_stay_ignored() {
    let Some(ready) = ready() else { return };
    isolated(&ready, || {
        let mut dir = TestDir::new(&ready, SMALL);
        // This is how nohup starts a program, and how a shell without job control starts a background job.
        let script = format!("#!/bin/sh\ntrap '' HUP INT\nexec '{}' \"$@\"\n", dir.testbed.display());
        dir.testbed = dir.path("in-background");
        write_script(&dir.testbed, &script);
        let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
        run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
        signal(run.pid(), Signal::SIGHUP);
        signal(run.pid(), Signal::SIGINT);
        assert_eq!(run.end(), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged], "{}", dir.shown());
        let mut run = dir.start(&["matrix.yaml", "--out", "other"]);
        run.wait_for("QEMU", |p| p.processes().iter().any(|p| p.is_qemu("destination")).then_some(()));
        signal(run.pid(), Signal::SIGTERM);
        assert_eq!(run.end(), 130, "{}", dir.shown());
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_terminal_that_cannot_redraw_gets_plain_lines() {
    let Some(ready) = ready() else { return };
    for term in ["dumb", ""] {
        let dir = TestDir::new(&ready, SMALL);
        let mut run = dir.start_on_terminal_of_type(&["matrix.yaml", "--out", "run"], term);
        assert!(run.ended().success(), "{}", dir.shown());
        let shown = run.shown().replace("\r\n", "\n");
        assert!(shown.contains("[1/1] base") && shown.contains("base #1: converged in "), "{term}: {shown}");
        assert!(shown.contains("accelerator"), "{term}: {shown}");
        assert!(!shown.contains(['\x1b', '\r']), "{term}: {shown:?}");
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_second_interrupt_quits_immediately() {
    let Some(ready) = ready() else { return };
    isolated(&ready, || {
        let dir = TestDir::new(&ready, SMALL);
        let watch = LeftoverCheck::from_now();
        let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
        run.wait_for("QEMU", |p| p.processes().iter().any(|p| p.is_qemu("destination")).then_some(()));
        let networks = dir.networks();
        // The process is stopped in the meantime, so that both signals are pending before it can handle the
        // first one.
        signal(run.pid(), Signal::SIGSTOP);
        signal(run.pid(), Signal::SIGINT);
        signal(run.pid(), Signal::SIGTERM);
        signal(run.pid(), Signal::SIGCONT);
        assert_eq!(run.end(), 130, "{}", dir.shown());
        watch.assert_nothing_left(&dir, &networks);
        assert!(dir.records().is_empty(), "it quit without waiting for the attempt\n{}", dir.shown());
        assert!(dir.folder().join("matrix.yaml").exists());
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_qemu_that_dies_fails_its_attempt_and_the_run_continues() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &small(6));
    let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
    let mut attempt = 0;
    for (end, which, migrating) in [
        ("boot", "that boots the guest", false),
        ("source", "at the source", false),
        ("destination", "at the destination", false),
        ("source", "at the source", true),
        ("destination", "at the destination", true),
    ] {
        attempt += 1;
        let victim = run.wait_for(&format!("attempt {attempt}"), |dir| {
            let ready = dir.records().len() == attempt - 1
                && (!migrating || dir.migrates(&format!("base.{attempt}")));
            let processes = if ready { dir.processes() } else { Vec::new() };
            processes.into_iter().find(|process| process.is_qemu(end))
        });
        signal(victim.pid, Signal::SIGKILL);
        let record = run.wait_for("its record", |dir| dir.records().get(attempt - 1).cloned());
        let reason = record.reason.unwrap_or_default();
        assert_eq!(record.outcome, Outcome::Failed, "{reason}\n{}", dir.shown());
        let words = format!("QEMU {which} ended (signal: 9 (SIGKILL)");
        assert!(reason.contains(&words), "migrating: {migrating}: {reason}");
        let phase = if migrating { Phase::Migrate } else { Phase::Boot };
        assert!(record.measured.phases_ms.contains_key(&phase), "{:?}", record.measured.phases_ms);
        assert_eq!(record.measured.phases_ms.contains_key(&Phase::Migrate), migrating);
        let log = dir.folder().join("attempts").join(format!("base.{attempt}/{end}.log"));
        assert!(fs::read_to_string(log).unwrap().contains("[ended: signal: 9 (SIGKILL)]"));
    }
    assert_eq!(run.end(), 3, "{}", dir.shown());
    assert_eq!(dir.outcomes()[5..], [Outcome::Converged], "{}", dir.shown());
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_node_that_dies_fails_its_attempt_and_the_next_one_gets_a_new_lab() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &small(3));
    let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
    let source = |dir: &TestDir| dir.processes().into_iter().find(|process| process.is_qemu("source"));

    // Killing the first process inside the source's namespaces kills everything in there.
    let inside = run.wait_for("a migration", |dir| {
        let qemu = dir.migrates("base.1").then(|| source(dir)).flatten()?;
        Some(qemu.parent())
    });
    let old = dir.networks();
    signal(inside, Signal::SIGKILL);
    let record = run.wait_for("its record", |dir| dir.records().first().cloned());
    assert_eq!(record.outcome, Outcome::Failed, "{}", dir.shown());
    let reason = record.reason.unwrap_or_default();
    assert!(reason.contains("gone"), "{reason}");

    // Then the controller, on which no QEMU runs.
    let controller = run.wait_for("the second attempt", |dir| {
        source(dir)?;
        let has = |words: &[String], wanted| words.iter().any(|word| word == wanted);
        let is_controller =
            |words: &[String]| has(words, "node") && has(words, "controller") && !has(words, "--inside");
        dir.processes().into_iter().find(|process| is_controller(&process.words))
    });
    let new = dir.networks();
    assert!(new.is_disjoint(&old), "a new lab has new namespaces: {old:?}, {new:?}\n{}", dir.shown());
    signal(controller.pid, Signal::SIGKILL);
    let record = run.wait_for("its record", |dir| dir.records().get(1).cloned());
    assert_eq!(record.outcome, Outcome::Failed, "{}", dir.shown());
    let reason = record.reason.unwrap_or_default();
    assert!(reason.contains("controller is gone"), "{reason}");

    assert_eq!(run.end(), 3, "{}", dir.shown());
    assert_eq!(dir.outcomes()[2..], [Outcome::Converged], "{}", dir.shown());
}

/// A migration over a link whose delay is longer than any downtime in the other tests.
const DELAYED: &str = "
name: delayed
guest: { memory: 192MiB, ballast: 48MiB }
link: { rate: 300mbit, delay: 200ms }
stress: { rate: 4MB/s, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
expect: [{ outcome: converged }]
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_link_with_a_delay_is_emulated_without_sch_netem_and_leaves_nothing_behind() {
    let Some(ready) = ready_alone() else { return };
    if let Err(error) = netem::userspace::supported() {
        skipped::<()>(&error.to_string());
        return;
    }
    isolated(&ready, || {
        let dir = TestDir::new(&ready, DELAYED);
        let watch = LeftoverCheck::from_now();
        let mut run = dir.start(&["matrix.yaml", "--out", "run"]);
        run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
        let networks = dir.networks();
        assert!(networks.len() >= 3, "{networks:?}");
        run.kill();
        watch.assert_nothing_left(&dir, &networks);

        assert_eq!(dir.run(&["--resume", "run"]), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged], "{}", dir.shown());
        watch.assert_nothing_left(&dir, &BTreeSet::new());
        let record = &dir.records()[0];
        let features = dir.environment()["lab"]["source"]["features"].to_string();
        if features.contains("sch_netem") {
            assert_complete(record, "kernel backend: ");
            assert_eq!(record.measured.link_lateness, None);
        } else {
            assert_complete(record, r#"userspace backend: {"rate":"300mbit","delay":"200ms"}"#);
            let late = record.measured.link_lateness.unwrap();
            // At least one delivery for each 64 KiB, plus acknowledgements.
            assert!(late.deliveries > record.measured.transferred.qemu_bytes.unwrap() / 65_536, "{late:?}");
            assert!(late.late_worst_ms >= late.late_mean_ms && late.late_mean_ms > 0.0, "{late:?}");
        }
        // Connecting takes two trips, and the last byte one.
        assert!(record.measured.total_time_ms.unwrap() > 600.0, "{record:#?}");
        // The guest's final state is sent after the guest has stopped. The guest's clock is accurate to a few
        // milliseconds.
        let downtime = &record.measured.downtime_ms;
        assert!(downtime.guest.unwrap() > 190.0 && downtime.client.unwrap() > 190.0, "{record:#?}");
    });
}
