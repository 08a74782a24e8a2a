//! Labs on hosts reached through SSH: real SSH servers, in namespaces that represent the hosts.

use crate::common::{
    hosts::{Hosts, with_hosts},
    real::{Process, SMALL, TestDir, ready, ready_light, signal},
    words, write_script,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};
use testbed::{node::alive::MOST_PATIENCE, outcome::Outcome, results::record::Clock};

const SMOKE: &str = include_str!("../../../scenarios/smoke.yaml");

/// The folder of the smoke scenario's second attempt, which takes a quarter of a minute.
const SECOND_ATTEMPT: &str = "link.rate=36mbit-stress.rate=36MBps-migrate.max_passes=4.1";

/// How long a host may take to end a run's processes after the connection has been closed.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

/// How long a host may take to end a run's processes if nothing reports that the connection is cut. It takes
/// up to ten seconds on a host that is not busy, but these tests keep theirs busy.
const SILENCE_LIMIT: Duration = MOST_PATIENCE.saturating_add(CLEANUP_LIMIT);

/// The interfaces that each host has without a run.
const INTERFACES: [&str; 3] = ["eth0 eth2 lo", "eth0 eth1 eth2 lo", "eth0 eth1 eth2 lo"];

/// Returns whether a host has the same interfaces as without a run, and none is in use.
fn is_free(hosts: &Hosts, host: usize) -> bool {
    let wires = INTERFACES[host].split(' ').filter(|name| !["lo", "eth0"].contains(name));
    hosts.interfaces(host) == INTERFACES[host] && wires.into_iter().all(|wire| hosts.is_free(host, wire))
}

/// Returns whether this is a process of a node on a host, rather than the `ssh` that leads there.
fn is_of_node(process: &Process, node: &str) -> bool {
    process.words[0] != "ssh" && ["node", node].iter().all(|word| process.words.iter().any(|w| w == word))
}

/// Waits until no process of the run is left on any host, then checks that the hosts' interfaces are back.
#[track_caller]
fn assert_nothing_left(dir: &TestDir, hosts: &Hosts) {
    dir.assert_no_processes(CLEANUP_LIMIT);
    for (host, interfaces) in INTERFACES.iter().enumerate() {
        assert_eq!(hosts.interfaces(host), *interfaces);
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn the_smoke_scenario_holds_between_hosts() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMOKE);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("the second migration", |dir| dir.migrates(SECOND_ATTEMPT).then_some(()));
        assert_run_can_be_inspected(&dir, &lab, &run.pid().to_string());
        assert_eq!(run.end(), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged, Outcome::NotConverged], "{}", dir.shown());
        let environment = dir.environment();
        assert_eq!(environment["lab"]["kind"], "ssh");
        let measured = &dir.records()[0].measured;
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
        assert_nothing_left(&dir, hosts);
    });
}

/// Checks `testbed lab status` and `testbed lab shell` with a run in progress on hosts.
#[track_caller]
fn assert_run_can_be_inspected(dir: &TestDir, lab: &str, pid: &str) {
    let (code, out, err) = dir.run_subcommand(&["lab", "status", "--lab", lab, "--json"]);
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
    // `--run` takes the PID without the host name; the shell sees the node's processes.
    let script = "uname -n; cat /proc/[0-9]*/comm | grep -c qemu; exit 4";
    let shell = ["lab", "shell", "--lab", lab, "--run", pid, "compute1", "--", "sh", "-c", script];
    let (code, out, err) = dir.run_subcommand(&shell);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.starts_with("compute1\n") && !out.ends_with("\n0\n"), "{out}{err}");
    let (code, _, err) =
        dir.run_subcommand(&["lab", "shell", "--lab", lab, "--run", "1@x", "compute1", "--", "true"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("no run 1@x is in progress"), "{err}");
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn lab_status_and_shell_work_on_hosts_without_a_run() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let (code, out, err) = dir.run_subcommand(&["lab", "status", "--lab", &lab]);
        assert_eq!(code, 0, "{err}");
        for words in ["compute2   lab2 answers: ", "eth1 up", "no run is in progress on these hosts"] {
            assert!(out.contains(words), "{words} is not in:\n{out}");
        }
        let script = "uname -n; id -u; cut -d: -f1 /proc/net/dev; exit 7";
        let (code, out, err) =
            dir.run_subcommand(&["lab", "shell", "--lab", &lab, "compute1", "--", "sh", "-c", script]);
        assert_eq!(code, 7, "{out}{err}");
        assert!(out.starts_with("compute1\n0\n") && out.contains("eth0"), "{out}");
        assert!(err.contains("on the host lab1 itself, as root"), "{err}");

        let typed = "uname -n\nstty size > /dev/null && echo $((6 * 7))\nexit 9\n";
        if let Some((code, shown)) = dir.on_terminal(&["lab", "shell", "--lab", &lab, "compute2"], typed) {
            assert_eq!(code, 9, "{shown}");
            assert!(shown.contains("compute2") && shown.contains("42\r\n"), "{shown}");
            assert!(shown.contains("on the host lab2 itself"), "{shown}");
            assert_nothing_left(&dir, hosts);
        }

        // Killing the `ssh` of a shell ends the program on the host.
        let program = ["lab", "shell", "--lab", &lab, "compute1", "--", "sh", "-c", "sleep 613; true"];
        let mut shell = dir.other(&program).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !dir.processes().iter().any(|process| process.words == ["sleep", "613"]) {
            assert!(Instant::now() < deadline, "{}", dir.shown());
            thread::sleep(Duration::from_millis(20));
        }
        let ssh = dir.processes().into_iter().find(|process| process.words[0] == "ssh").unwrap();
        signal(ssh.pid, Signal::SIGKILL);
        assert_eq!(shell.wait().unwrap().code(), Some(128 + 9));
        assert_nothing_left(&dir, hosts);

        let gone = hosts.inventory(|text| text.replace("lab2", "lab9"));
        let (code, out, err) = dir.run_subcommand(&["lab", "status", "--lab", &gone]);
        assert_eq!(code, 3, "{err}");
        assert!(out.contains("compute2   lab9 does not answer: ") && out.contains("lab1 answers"), "{out}");
        let (code, _, err) = dir.run_subcommand(&["lab", "shell", "--lab", &gone, "compute2", "--", "true"]);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains("cannot use host lab9"), "{err}");
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_run_continues_after_a_cut_connection_a_dead_node_and_a_reboot() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &format!("{SMALL}repeat: 4\n"));
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
        hosts.connect(1, false);
        // The orchestrator still runs, so it must be the host that ends the processes.
        let deadline = Instant::now() + SILENCE_LIMIT;
        run.wait_for("the end of QEMU at the source", |dir| {
            let left = dir.processes().iter().any(|process| process.is_qemu("source"));
            assert!(!left || Instant::now() < deadline, "QEMU runs on\n{}", dir.shown());
            (!left).then_some(())
        });
        // The host's SSH server does not know that the connection is dead, so the node's input is open.
        run.wait_for("the end of the node", |dir| {
            let left = dir.processes().iter().any(|process| is_of_node(process, "compute1"));
            assert!(!left || Instant::now() < deadline, "the node lives on\n{}", dir.shown());
            (!left).then_some(())
        });
        assert!(is_free(hosts, 1), "the host does not have its interfaces back");
        let record = run.wait_for("its record", |dir| dir.records().first().cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", dir.shown());
        assert!(record.reason.unwrap_or_default().contains("gone"), "{}", dir.shown());
        hosts.connect(1, true);

        let node = run.wait_for("the second attempt", |dir| {
            dir.migrates("base.2").then_some(())?;
            let source = dir.processes().into_iter().find(|process| process.is_qemu("source"))?;
            Some(source.parent())
        });
        signal(node, Signal::SIGKILL);
        let record = run.wait_for("its record", |dir| dir.records().get(1).cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", dir.shown());

        run.wait_for("the third attempt", |dir| dir.migrates("base.3").then_some(()));
        hosts.reboot(2, &dir);
        let record = run.wait_for("its record", |dir| dir.records().get(2).cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", dir.shown());
        assert_eq!(run.end(), 3, "{}", dir.shown());
        assert_eq!(dir.outcomes()[3..], [Outcome::Converged], "{}", dir.shown());
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_run_whose_testbed_was_stopped_says_so_and_continues_in_a_new_lab() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, &format!("{SMALL}repeat: 2\n"));
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
        signal(run.pid(), Signal::SIGSTOP);
        run.wait_for("the end of the nodes", |dir| {
            let left = |node| dir.processes().iter().any(|process| is_of_node(process, node));
            (!["controller", "compute1", "compute2"].into_iter().any(left)).then_some(())
        });
        assert!((0..3).all(|host| is_free(hosts, host)), "a host does not have its interfaces back");
        signal(run.pid(), Signal::SIGCONT);
        assert_eq!(run.end(), 3, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Failed, Outcome::Converged], "{}", dir.shown());
        let reason = dir.records()[0].reason.clone().unwrap_or_default();
        assert!(reason.contains("is gone: it heard nothing from testbed for "), "{reason}");
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_node_that_stood_still_on_a_host_that_answers_is_not_lost() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        let node = run.wait_for("the guest", |dir| {
            let guest = dir.processes().into_iter().find(|process| process.is_qemu("boot"))?;
            Some(guest.parent())
        });
        signal(node, Signal::SIGSTOP);
        // Longer than the shortest patience of either side.
        thread::sleep(Duration::from_secs(12));
        signal(node, Signal::SIGCONT);
        assert_eq!(run.end(), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged], "{}", dir.shown());
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_killed_orchestrator_leaves_nothing_on_the_hosts() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("a migration", |dir| dir.migrates("base.1").then_some(()));
        run.kill();
        drop(run);
        // Resume immediately, while the hosts may still be cleaning up after the first run.
        assert_eq!(dir.run(&["--resume", "run", "--lab", &lab]), 0, "{}", dir.shown());
        let mut run = dir.start(&["matrix.yaml", "--out", "again", "--lab", &lab]);
        run.wait_for("QEMU", |dir| dir.processes().iter().any(|p| p.is_qemu("boot")).then_some(()));
        run.kill();
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_full_disk_fails_the_attempt_and_the_run_continues_with_free_space() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &format!("{SMALL}repeat: 2\n"));
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let serving_pid = |dir: &TestDir, node: &str| {
            let is_serving =
                |words: &[String]| ["--inside", node].iter().all(|word| words.iter().any(|w| w == word));
            dir.processes().into_iter().find(|process| is_serving(&process.words)).map(|process| process.pid)
        };
        // The booted guest is saved in the node's private directory.
        let resize_run_dir = |size: &str| {
            let node = serving_pid(&dir, "compute1").unwrap().to_string();
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
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("the nodes", |dir| serving_pid(dir, "compute1").and(serving_pid(dir, "compute2")));
        // Pause the orchestrator, so that it does not boot the guest before the directory is full.
        signal(run.pid(), Signal::SIGSTOP);
        resize_run_dir("64k");
        signal(run.pid(), Signal::SIGCONT);
        let record = run.wait_for("its record", |dir| dir.records().first().cloned());
        assert_eq!(record.outcome, Outcome::Failed, "{}", dir.shown());
        assert!(record.reason.unwrap_or_default().contains("No space left"), "{}", dir.shown());
        resize_run_dir("1g");
        assert_eq!(run.end(), 3, "{}", dir.shown());
        assert_eq!(dir.outcomes()[1..], [Outcome::Converged], "{}", dir.shown());
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_guest_migrates_through_a_file_in_the_folder_that_the_hosts_share() {
    let Some(ready) = ready() else { return };
    let modes = "axes: { migrate.mode: [file, cpr-transfer] }\n";
    let dir =
        TestDir::new(&ready, &format!("{SMALL}{modes}").replace("expect: [{ outcome: converged }]", ""));
    with_hosts(&dir, |hosts| {
        let images = dir.path("images");
        fs::create_dir(&images).unwrap();
        let lab = hosts.inventory(|text| format!("{text}images: {}\n", images.display()));
        assert_eq!(dir.run(&["matrix.yaml", "--out", "run", "--lab", &lab]), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged, Outcome::Skipped], "{}", dir.shown());
        let [file, cpr] = &dir.records()[..] else { panic!("{}", dir.shown()) };
        assert!(file.measured.file.bytes > Some(48 << 20), "{file:#?}");
        assert!(file.measured.verified.as_ref().is_some_and(|v| v.first_bad.is_none()), "{file:#?}");
        let reason = cpr.reason.as_deref().unwrap_or_default();
        assert!(reason.ends_with("can only be handed over to a QEMU on the same host"), "{reason}");
        assert_nothing_left(&dir, hosts);
        let kept: Vec<_> = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(kept.iter().all(|name| name.len() == 64), "uploads only: {kept:?}");

        let lab = hosts.inventory(|text| format!("{text}images: /mnt\n"));
        dir.run(&["matrix.yaml", "--out", "apart", "--lab", &lab]);
        let stdout = dir.stdout();
        assert!(stdout.contains("cannot open the file /mnt/"), "{stdout}");
        assert!(stdout.contains("all hosts have to share /mnt, the folder `images`"), "{stdout}");
        let lab = hosts.inventory(|text| text);
        dir.run(&["matrix.yaml", "--out", "none", "--lab", &lab]);
        let reason = "a migration through a file needs a folder that all hosts share";
        assert!(dir.stdout().contains(reason), "{}", dir.shown());
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_shared_disk_is_in_the_folder_that_the_hosts_share() {
    let Some(ready) = ready() else { return };
    let storage =
        "storage: { kind: shared, size: 64MiB, written: 16MiB, write_rate: 1MB/s, working_set: 8MiB }";
    let dir = TestDir::new(&ready, &format!("{SMALL}{storage}\naxes: {{ storage.format: [raw, qcow2] }}\n"));
    with_hosts(&dir, |hosts| {
        // This file system is that of all three hosts, but each has mounted a /mnt of its own.
        let images = dir.path("images");
        fs::create_dir(&images).unwrap();
        let with_images = |folder: &str| hosts.inventory(|text| format!("{text}images: {folder}\n"));
        let lab = with_images(&images.display().to_string());
        assert_eq!(dir.run(&["matrix.yaml", "--out", "run", "--lab", &lab]), 0, "{}", dir.shown());
        for record in dir.records() {
            let disk = record.measured.storage.verified.as_ref().unwrap();
            assert_eq!((disk.blocks_checked, disk.blocks_bad, disk.io_errors), (16_384, 0, 0), "{record:#?}");
            assert_eq!(record.measured.transferred.disk_bytes, None, "{record:#?}");
        }
        assert_nothing_left(&dir, hosts);
        let kept: Vec<_> = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(kept.iter().all(|name| name.len() == 64), "uploads only: {kept:?}");

        let lab = with_images("/mnt");
        assert_eq!(dir.run(&["matrix.yaml", "--out", "apart", "--lab", &lab]), 3, "{}", dir.shown());
        let (stdout, reason) = (dir.stdout(), "all hosts have to share /mnt, the folder `images`");
        assert!(stdout.contains(reason), "{stdout}");
        let lab = hosts.inventory(|text| text);
        assert_eq!(dir.run(&["matrix.yaml", "--out", "none", "--lab", &lab]), 3, "{}", dir.shown());
        assert!(
            dir.stdout().contains("a shared disk needs a folder that all hosts share"),
            "{}",
            dir.stdout()
        );
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn two_runs_on_the_same_hosts_do_not_mix() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &format!("{SMALL}repeat: 4\n"));
    let other = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let lab = hosts.inventory(|text| text);
        let mut run = dir.start(&["matrix.yaml", "--out", "run", "--lab", &lab]);
        run.wait_for("QEMU", |dir| dir.processes().iter().any(|p| p.is_qemu("boot")).then_some(()));
        assert_eq!(other.run(&["matrix.yaml", "--out", "run", "--lab", &lab]), 3, "{}", other.shown());
        let stderr = other.stderr();
        assert!(stderr.contains("another run may be using eth2"), "{stderr}");
        assert_eq!(run.end(), 0, "{}", dir.shown());
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "needs SSH servers: cargo xtask test"]
fn an_unusable_lab_is_refused_with_the_reason() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let refused = |lab: &str, words: &[&str]| {
            let args = ["matrix.yaml", "--out", "run", "--lab", lab];
            let code = dir.run(&args);
            assert_eq!(code, 3, "{}", dir.shown());
            let stderr = dir.stderr();
            assert!(words.iter().all(|word| stderr.contains(word)), "{words:?} is not all in:\n{stderr}");
            assert_nothing_left(&dir, hosts);
            assert!(!dir.folder().exists(), "a run that did not begin leaves no results");
        };
        refused(
            &hosts.inventory(|text| text.replacen("migration: eth1", "migration: eth0", 1)),
            &["eth0 carries the SSH session: it has the address 10.77.1.2"],
        );
        if hosts.add_inner_address(1) {
            let by_inner = |text: String| text.replace("host: lab1", "host: inner1");
            refused(
                &hosts.inventory(|text| by_inner(text).replacen("migration: eth1", "migration: eth0", 1)),
                &["eth0 carries the SSH session: the route to 10.77.1.1 leaves through it"],
            );
        }
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
fn doctor_finds_problems_of_hosts() {
    let Some(ready) = ready_light() else { return };
    let dir = TestDir::new(&ready, SMALL);
    // Lines are wrapped, so only the words of doctor's report are compared.
    let ask = |lab: &str| {
        let (code, out) = dir.ask("doctor", &["--lab", lab]);
        (code, words(&out))
    };
    with_hosts(&dir, |hosts| {
        let images = format!("images: {}\n", dir.path("images").display());
        let (code, out) = ask(&hosts.inventory(|text| text + &images));
        assert_eq!(code, 0, "{out}");
        for words in [
            "compute2 answers compute1",
            "ok shared images",
            "both compute nodes share",
            "ok CPU model",
            "round trip ",
            "ok controller space",
        ] {
            assert!(out.contains(words), "{words} is not in:\n{out}");
        }
        let wrong = |text: String| text.replacen("eth1", "eth7", 1).replace("lab2", "lab9");
        let (code, out) = ask(&hosts.inventory(wrong));
        assert_eq!(code, 1, "{out}");
        assert!(out.contains("missing compute1 migration") && out.contains("eth7"), "{out}");
        assert!(out.contains("failed compute2 reach") && out.contains("correct `host` in"), "{out}");
        assert!(out.contains("`ssh -F ") && out.contains(" lab9 true` has to work"), "{out}");
        // The message of a sudo that would prompt.
        write_script(
            &hosts.programs(0).join("sudo"),
            "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n",
        );
        let by_sudo = hosts.inventory(|text| text.replace("become: none", "become: sudo"));
        let (code, out) = ask(&by_sudo);
        assert_eq!(code, 1, "{out}");
        assert!(
            out.contains("missing controller root") && out.contains("run sudo without a password"),
            "{out}"
        );
        let (code, _) = ask(&hosts.inventory(|text| text.replace("host:", "hots:")));
        assert_eq!(code, 2);
        // `images` is a different directory on each host, and one host has no free space.
        hosts.fill_disk(1);
        let (code, out) = ask(&hosts.inventory(|text| text + "images: /run/images\n"));
        assert_eq!(code, 0, "{out}");
        assert!(out.contains("warning shared images") && out.contains("mount it on both"), "{out}");
        assert!(out.contains("tmpfs of run"), "{out}");
        assert!(out.contains("warning compute1 space") && out.contains("free space there"), "{out}");
        assert_nothing_left(&dir, hosts);
    });
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_host_boots_and_runs_what_was_uploaded_and_old_uploads_go() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, SMALL);
    with_hosts(&dir, |hosts| {
        let images = dir.path("images");
        let line = format!("images: {}\n", images.display());
        let lab = hosts.inventory(|text| text + &line);
        assert_eq!(dir.run(&["matrix.yaml", "--out", "first", "--lab", &lab]), 0, "{}", dir.shown());
        let files: Vec<_> = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2, "the kernel and the initramfs: {files:?}");
        let contents: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
        for path in &files {
            fs::write(path, "not what the name says").unwrap();
        }
        let old = images.join("0".repeat(64));
        fs::write(&old, "of an earlier version").unwrap();
        let last_year = SystemTime::now() - Duration::from_secs(365 * 24 * 3600);
        fs::File::options().write(true).open(&old).unwrap().set_modified(last_year).unwrap();

        assert_eq!(dir.run(&["matrix.yaml", "--out", "second", "--lab", &lab]), 0, "{}", dir.shown());
        for (path, content) in files.iter().zip(&contents) {
            assert!(fs::read(path).unwrap() == *content, "{} is not uploaded again", path.display());
        }
        assert!(!old.exists(), "an old upload is kept");
        assert_nothing_left(&dir, hosts);
    });
}
