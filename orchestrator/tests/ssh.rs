//! Labs of hosts that are reached by SSH: real SSH servers, in namespaces that stand for the hosts.

mod common;

use common::{
    hosts::{Hosts, with_hosts},
    real::{Place, ready, signal},
};
use nix::sys::signal::Signal;
use std::{
    thread,
    time::{Duration, Instant},
};
use testbed::outcome::Outcome;

const SMALL: &str = "
name: small
guest: { memory: 192MiB, ballast: 48MiB }
link: { rate: 300mbit }
stress: { rate: 0, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
expect: [{ outcome: converged }]
";

const SMOKE: &str = include_str!("../../scenarios/smoke.yaml");

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
        assert_eq!(place.run(&["matrix.yaml", "--out", "run", "--lab", &lab]), 0, "{}", place.shown());
        assert_eq!(outcomes(&place), [Outcome::Converged, Outcome::NotConverged], "{}", place.shown());
        let environment = place.environment();
        assert_eq!(environment["lab"]["kind"], "ssh");
        assert!(place.records()[0].measured.downtime_ms.client.is_some());
        assert_nothing_left(&place, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_cut_connection_and_a_dead_node_fail_their_attempts_and_the_run_goes_on() {
    let Some(ready) = ready() else { return };
    let place = Place::new(&ready, &format!("{SMALL}repeat: 3\n"));
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
        assert_eq!(run.end(), 3, "{}", place.shown());
        assert_eq!(outcomes(&place)[2..], [Outcome::Converged], "{}", place.shown());
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
            std::fs::remove_dir_all(place.folder()).unwrap();
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
        let (code, said) = place.ask("doctor", &["--lab", &hosts.inventory(|text| text)]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("compute2 answers compute1"), "{said}");
        let (code, said) =
            place.ask("doctor", &["--lab", &hosts.inventory(|text| text.replacen("eth1", "eth7", 1))]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("missing  compute1 migration") && said.contains("eth7"), "{said}");
        let (code, said) =
            place.ask("doctor", &["--lab", &hosts.inventory(|text| text.replace("lab2", "lab9"))]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("missing  compute2 reach") && said.contains("`ssh lab9 true`"), "{said}");
        let (code, _) =
            place.ask("doctor", &["--lab", &hosts.inventory(|text| text.replace("host:", "hots:"))]);
        assert_eq!(code, 2);
        assert_nothing_left(&place, hosts);
    });
}
