//! Labs of hosts that are reached by SSH: real SSH servers, in namespaces that stand for the hosts.

use crate::common::{
    hosts::{Hosts, with_hosts},
    real::{Place, ready, signal},
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};
use testbed::{outcome::Outcome, results::record::Clock};

const SMALL: &str = "
name: small
guest: { memory: 192MiB, ballast: 48MiB }
link: { rate: 300mbit }
stress: { rate: 0, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
expect: [{ outcome: converged }]
";

const SMOKE: &str = include_str!("../../../scenarios/smoke.yaml");

/// The folder of its second attempt, which takes a quarter of a minute.
const SECOND: &str = "link.rate=36mbit-stress.rate=36MBps-migrate.max_passes=4.1";

/// How long after the end of the orchestrator, or of the way to it, something of a run may be left on a host.
const LEFTOVERS: Duration = Duration::from_secs(10);

const INTERFACES: [&str; 3] = ["eth0 eth2 lo", "eth0 eth1 eth2 lo", "eth0 eth1 eth2 lo"];

/// Waits until no process of the run is left on any host.
#[track_caller]
fn assert_nothing_left(place: &Place, hosts: &Hosts) {
    let deadline = Instant::now() + LEFTOVERS;
    while !place.processes().is_empty() {
        assert!(Instant::now() < deadline, "left after {LEFTOVERS:?}: {:#?}", place.processes());
        thread::sleep(Duration::from_millis(50));
    }
    for (host, interfaces) in INTERFACES.iter().enumerate() {
        assert_eq!(hosts.interfaces(host), *interfaces);
    }
}

#[track_caller]
fn outcomes(place: &Place) -> Vec<Outcome> {
    place.records().iter().map(|record| record.outcome).collect()
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn the_smoke_scenario_holds_between_hosts() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, SMOKE);
    with_hosts(&place, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = place.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("a migration", |place| place.migrates(SECOND).then_some(()));
        a_run_is_looked_into(&place, &lab, &run.pid().to_string());
        assert_eq!(run.end(), 0, "{}", place.shown());
        assert_eq!(outcomes(&place), [Outcome::Converged, Outcome::NotConverged], "{}", place.shown());
        let environment = place.environment();
        assert_eq!(environment["lab"]["kind"], "ssh");
        let measured = &place.records()[0].measured;
        assert!(measured.downtime_ms.client.is_some());
        let round_trips = measured.round_trips.unwrap();
        assert_eq!(environment["lab"]["round_trips"], serde_json::to_value(round_trips).unwrap());
        for trip in [round_trips.controller, round_trips.source, round_trips.destination] {
            assert!(
                trip.least_ms > 0.0 && trip.least_ms <= trip.median_ms && trip.median_ms < 1e3,
                "{trip:?}"
            );
        }
        assert_eq!(measured.obtained["total_time_ms"].clock, Clock::Orchestrator);
        assert_nothing_left(&place, hosts);
    });
}

/// What `testbed lab` says of a run between hosts that is under way, and does in it.
#[track_caller]
fn a_run_is_looked_into(place: &Place, lab: &str, pid: &str) {
    let (code, out, err) = place.ask_all(&["lab", "status", "--lab", lab, "--json"]);
    assert_eq!(code, 0, "{err}");
    let status: Value = serde_json::from_str(&out).unwrap();
    let [run] = &status["runs"].as_array().unwrap()[..] else { panic!("{out}") };
    assert!(run["run"].as_str().unwrap().starts_with(&format!("{pid}@")), "{out}");
    let nodes = run["nodes"].as_array().unwrap();
    assert_eq!(
        nodes.iter().map(|node| &node["name"]).collect::<Vec<_>>(),
        ["controller", "compute1", "compute2"]
    );
    for (node, role) in nodes[1..].iter().zip(["source", "destination"]) {
        assert!(node["qemus"].as_array().unwrap().iter().any(|qemu| qemu["role"] == role), "{out}");
        let interfaces = node["interfaces"].as_array().unwrap();
        let migration = interfaces.iter().find(|interface| interface["name"] == "migration").unwrap();
        assert!(migration["shaping"]["sends"]["rate"].is_string(), "{out}");
    }
    // By the process's number alone, and into the node's own processes.
    let script = "uname -n; cat /proc/[0-9]*/comm | grep -c qemu; exit 4";
    let (code, out, err) =
        place.ask_all(&["lab", "shell", "--lab", lab, "--run", pid, "compute1", "--", "sh", "-c", script]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.starts_with("compute1\n") && !out.ends_with("\n0\n"), "{out}{err}");
    let (code, _, err) =
        place.ask_all(&["lab", "shell", "--lab", lab, "--run", "1@x", "compute1", "--", "true"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("no run 1@x is under way"), "{err}");
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn hosts_without_a_run_are_looked_at_and_have_a_shell() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, SMALL);
    with_hosts(&place, |hosts| {
        let lab = hosts.inventory(|text| text);
        let (code, out, err) = place.ask_all(&["lab", "status", "--lab", &lab]);
        assert_eq!(code, 0, "{err}");
        for words in ["compute2   lab2 answers: ", "eth1 up", "no run is under way on these hosts"] {
            assert!(out.contains(words), "{words} is not in:\n{out}");
        }
        let script = "uname -n; id -u; cut -d: -f1 /proc/net/dev; exit 7";
        let (code, out, err) =
            place.ask_all(&["lab", "shell", "--lab", &lab, "compute1", "--", "sh", "-c", script]);
        assert_eq!(code, 7, "{out}{err}");
        assert!(out.starts_with("compute1\n0\n") && out.contains("eth0"), "{out}");
        assert!(err.contains("this is the host lab1 itself, as root"), "{err}");

        let typed = "uname -n\nstty size > /dev/null && echo $((6 * 7))\nexit 9\n";
        if let Some((code, shown)) = place.typed(&["lab", "shell", "--lab", &lab, "compute2"], typed) {
            assert_eq!(code, 9, "{shown}");
            assert!(shown.contains("compute2") && shown.contains("42\r\n"), "{shown}");
            assert!(shown.contains("this is the host lab2 itself"), "{shown}");
            assert_nothing_left(&place, hosts);
        }

        // One that is killed ends what it runs there.
        let program = ["lab", "shell", "--lab", &lab, "compute1", "--", "sh", "-c", "sleep 613; true"];
        let mut shell = place.other(&program).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !place.processes().iter().any(|process| process.words == ["sleep", "613"]) {
            assert!(Instant::now() < deadline, "{}", place.shown());
            thread::sleep(Duration::from_millis(20));
        }
        let ssh = place.processes().into_iter().find(|process| process.words[0] == "ssh").unwrap();
        signal(ssh.pid, Signal::SIGKILL);
        assert_eq!(shell.wait().unwrap().code(), Some(128 + 9));
        assert_nothing_left(&place, hosts);

        let gone = hosts.inventory(|text| text.replace("lab2", "lab9"));
        let (code, out, err) = place.ask_all(&["lab", "status", "--lab", &gone]);
        assert_eq!(code, 3, "{err}");
        assert!(out.contains("compute2   lab9 does not answer: ") && out.contains("lab1 answers"), "{out}");
        let (code, _, err) = place.ask_all(&["lab", "shell", "--lab", &gone, "compute2", "--", "true"]);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains("cannot use host lab9"), "{err}");
        assert_nothing_left(&place, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_cut_connection_a_dead_node_and_a_reboot_fail_their_attempts_and_the_run_goes_on() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, &format!("{SMALL}repeat: 4\n"));
    with_hosts(&place, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = place.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("a migration", |place| place.migrates("base.1").then_some(()));
        hosts.connect(1, false);
        // The orchestrator is still there: it is the host that takes down what nobody looks after.
        let deadline = Instant::now() + LEFTOVERS;
        run.wait_for("the end of QEMU at the source", |place| {
            let left = place.processes().iter().any(|process| process.is_qemu("source"));
            assert!(!left || Instant::now() < deadline, "QEMU runs on\n{}", place.shown());
            (!left).then_some(())
        });
        let record = run.wait_for("its record", |place| place.records().first().cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", place.shown());
        assert!(record.reason.unwrap_or_default().contains("gone"), "{}", place.shown());
        hosts.connect(1, true);

        let node = run.wait_for("the second attempt", |place| {
            place.migrates("base.2").then_some(())?;
            let source = place.processes().into_iter().find(|process| process.is_qemu("source"))?;
            Some(source.parent())
        });
        signal(node, Signal::SIGKILL);
        let record = run.wait_for("its record", |place| place.records().get(1).cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", place.shown());

        run.wait_for("the third attempt", |place| place.migrates("base.3").then_some(()));
        hosts.reboot(2, &place);
        let record = run.wait_for("its record", |place| place.records().get(2).cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", place.shown());
        assert_eq!(run.end(), 3, "{}", place.shown());
        assert_eq!(outcomes(&place)[3..], [Outcome::Converged], "{}", place.shown());
        assert_nothing_left(&place, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_killed_orchestrator_leaves_nothing_on_the_hosts() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, SMALL);
    with_hosts(&place, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = place.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("a migration", |place| place.migrates("base.1").then_some(()));
        run.kill();
        drop(run);
        // At once, while the hosts may still be taking down what the first run left.
        assert_eq!(place.run(&["--resume", "run", "--lab", &lab]), 0, "{}", place.shown());
        let mut run = place.start(&["matrix.yaml", "--out", "again", "--lab", &lab]);
        run.wait_for("QEMU", |place| place.processes().iter().any(|p| p.is_qemu("boot")).then_some(()));
        run.kill();
        assert_nothing_left(&place, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_full_disk_fails_the_attempt_and_the_run_goes_on_when_there_is_room() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, &format!("{SMALL}repeat: 2\n"));
    with_hosts(&place, |hosts| {
        let lab = hosts.inventory(|text| text);
        let serving = |place: &Place, node: &str| {
            let is_it =
                |words: &[String]| ["--inside", node].iter().all(|word| words.iter().any(|w| w == word));
            place.processes().into_iter().find(|process| is_it(&process.words)).map(|process| process.pid)
        };
        // The node's own directory is where the guest is saved that has booted.
        let room = |size: &str| {
            let node = serving(&place, "compute1").unwrap().to_string();
            let mut mount = Command::new("nsenter");
            mount.args([
                "--target",
                &node,
                "--mount",
                "mount",
                "-o",
                &format!("remount,size={size}"),
                "/run",
            ]);
            assert!(mount.status().unwrap().success());
        };
        let mut run = place.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("the nodes", |place| serving(place, "compute1").and(serving(place, "compute2")));
        // It must not boot the guest before.
        signal(run.pid(), Signal::SIGSTOP);
        room("64k");
        signal(run.pid(), Signal::SIGCONT);
        let record = run.wait_for("its record", |place| place.records().first().cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", place.shown());
        assert!(record.reason.unwrap_or_default().contains("No space left"), "{}", place.shown());
        room("1g");
        assert_eq!(run.end(), 3, "{}", place.shown());
        assert_eq!(outcomes(&place)[1..], [Outcome::Converged], "{}", place.shown());
        assert_nothing_left(&place, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn two_runs_on_the_same_hosts_do_not_mix() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, &format!("{SMALL}repeat: 4\n"));
    let other = Place::new(&ready, SMALL);
    with_hosts(&place, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = place.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("QEMU", |place| place.processes().iter().any(|p| p.is_qemu("boot")).then_some(()));
        assert_eq!(other.run(&["matrix.yaml", "--out", "run", "--lab", &lab]), 3, "{}", other.shown());
        let said = other.stderr();
        assert!(said.contains("another run may be using eth2"), "{said}");
        assert_eq!(run.end(), 0, "{}", place.shown());
        assert_nothing_left(&place, hosts);
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn a_lab_that_cannot_be_used_is_refused_with_the_reason() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, SMALL);
    with_hosts(&place, |hosts| {
        let refused = |lab: &str, words: &[&str]| {
            let args = ["matrix.yaml", "--out", "run", "--lab", lab];
            let code = place.run(&args);
            assert_eq!(code, 3, "{}", place.shown());
            let said = place.stderr();
            assert!(words.iter().all(|word| said.contains(word)), "{words:?} is not all in:\n{said}");
            assert_nothing_left(&place, hosts);
            assert!(!place.folder().exists(), "a run that did not begin leaves no results");
        };
        refused(
            &hosts.inventory(|text| text.replacen("migration: eth1", "migration: eth0", 1)),
            &["eth0 carries the SSH session"],
        );
        refused(&hosts.inventory(|text| text.replace("eth1", "eth7")), &["compute1", "eth7"]);
        refused(&hosts.inventory(|text| text.replace("become: none", "become: sudo")), &["lab0", "sudo"]);
        refused(&hosts.inventory(|text| text.replace("lab2", "lab9")), &["lab9"]);
        hosts.trust("user.pub");
        refused(&hosts.inventory(|text| text), &["lab0", "Host key verification failed"]);
        hosts.trust("host.pub");
        hosts.fill_disk(1);
        let images = format!("images: {}/images\n", hosts.cache(1).display());
        refused(&hosts.inventory(|text| text + &images), &["lab1", "No space left"]);
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn the_doctor_finds_what_hosts_lack() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, SMALL);
    with_hosts(&place, |hosts| {
        let images = format!("images: {}\n", place.path("images").display());
        let (code, said) = place.ask("doctor", &["--lab", &hosts.inventory(|text| text + &images)]);
        assert_eq!(code, 0, "{said}");
        for words in [
            "compute2 answers compute1",
            "ok       shared images",
            "both computes see one",
            "ok       CPU model",
            "ms there and back",
            "ok       controller space",
        ] {
            assert!(said.contains(words), "{words} is not in:\n{said}");
        }
        let wrong = |text: String| text.replacen("eth1", "eth7", 1).replace("lab2", "lab9");
        let (code, said) = place.ask("doctor", &["--lab", &hosts.inventory(wrong)]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("missing  compute1 migration") && said.contains("eth7"), "{said}");
        assert!(said.contains("missing  compute2 reach") && said.contains("`ssh lab9 true`"), "{said}");
        let by_sudo = hosts.inventory(|text| text.replace("become: none", "become: sudo"));
        let (code, said) = place.ask("doctor", &["--lab", &by_sudo]);
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains("missing  controller root") && said.contains("run sudo without a password"),
            "{said}"
        );
        let (code, _) =
            place.ask("doctor", &["--lab", &hosts.inventory(|text| text.replace("host:", "hots:"))]);
        assert_eq!(code, 2);
        // A path that is another directory on each host, and no room but for what is there already.
        hosts.fill_disk(1);
        let (code, said) =
            place.ask("doctor", &["--lab", &hosts.inventory(|text| text + "images: /run/images\n")]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("warning  shared images") && said.contains("mount it on both"), "{said}");
        assert!(said.contains("tmpfs of run"), "{said}");
        assert!(said.contains("warning  compute1 space") && said.contains("make room there"), "{said}");
        assert_nothing_left(&place, hosts);
    });
}
