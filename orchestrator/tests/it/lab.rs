//! `testbed lab` on this host, without QEMU: shells in temporary labs, and their status.
//!
//! Each test has its own PID namespace, so that it finds no other runs in `/proc`.

use crate::common::{
    real::{copy_program, shell_without_other_processes, skipped},
    wait_until,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, geteuid, getpgid},
};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    panic,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// The user `nobody`, an ordinary user that every system has.
const NOBODY: u32 = 65_534;

/// The environment variable that marks a test's processes.
const MARKER: &str = "TESTBED_TEST_LAB";

/// A PID namespace that contains only the processes that a test starts in it.
struct Sandbox {
    dir: TempDir,
    /// The value of [`MARKER`] in the environment of the test's processes.
    marker: String,
    /// The `unshare` process; the namespace ends with it.
    holder: Child,
    /// The PID of the namespace's first process, outside the namespace.
    first: i32,
}

/// Runs a test in a new sandbox, or prints why the test is skipped.
fn with_sandbox(test: impl FnOnce(&Sandbox)) {
    match Sandbox::new() {
        Ok(sandbox) => test(&sandbox),
        Err(why) => {
            skipped::<()>(&why);
        }
    }
}

impl Sandbox {
    fn new() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let marker = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        copy_program(env!("CARGO_BIN_EXE_testbed").as_ref(), dir.path());
        let mut unshare = shell_without_other_processes("echo there; read never");
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = unshare.spawn().map_err(|error| format!("cannot run unshare: {error}"))?;
        let mut there = [0; 6];
        if holder.stdout.take().unwrap().read_exact(&mut there).is_err() {
            let mut why = String::new();
            holder.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            holder.wait().unwrap();
            return Err(format!("cannot create a PID namespace: {}", why.trim()));
        }
        let id = holder.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let sandbox = Self { dir, marker, holder, first: children.trim().parse().unwrap() };
        // Check that nodes can create their namespaces inside this one.
        let lab = sandbox.testbed(&["lab", "shell", "compute1", "--", "true"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&lab.stderr);
        if stderr.contains("cannot create") { Err(stderr.into_owned()) } else { Ok(sandbox) }
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("testbed")
    }

    /// Returns a command that runs another command in this sandbox, with additional options for `nsenter`.
    fn enter(&self, options: &[String], command: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.first.to_string(), "--pid", "--mount"]);
        nsenter.arg(format!("--wd={}", self.dir.path().display()));
        if !geteuid().is_root() {
            nsenter.args(["--user", "--preserve-credentials"]);
        }
        nsenter.args(options).arg("--").args(command).env(MARKER, &self.marker).env("SHELL", "/bin/sh");
        // If `PATH` has a folder that the user may not read, the error for an unknown program is different.
        nsenter.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        nsenter.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        nsenter
    }

    fn testbed(&self, args: &[&str]) -> Command {
        self.testbed_as(None, args)
    }

    fn testbed_as(&self, user: Option<u32>, args: &[&str]) -> Command {
        let options: Vec<String> =
            user.map(|uid| vec![format!("--setuid={uid}"), format!("--setgid={uid}")]).unwrap_or_default();
        let program = self.program().display().to_string();
        self.enter(&options, &[&[program.as_str()], args].concat())
    }

    /// Starts `testbed` on a new terminal, with these arguments as a shell parses them. Returns `None` if
    /// `script`, which creates the terminal, is not installed.
    fn on_terminal(&self, args: &str) -> Option<Child> {
        let command = format!("{} {args}", self.program().display());
        let script = ["script", "--quiet", "--return", "--command", &command, "/dev/null"];
        if Command::new("script").arg("--version").output().is_err() {
            return skipped("there is no `script` (Debian's package bsdutils) to create a terminal");
        }
        Some(self.enter(&[], &script).stdin(Stdio::piped()).spawn().unwrap())
    }

    /// Runs `testbed` with these arguments. Returns its exit code, standard output and standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        exit_and_output(&self.testbed(args).output().unwrap())
    }

    /// Returns the processes that the test started in this sandbox: their PIDs outside the namespace and
    /// their command lines.
    fn processes(&self) -> Vec<(i32, String)> {
        let marker = format!("{MARKER}={}", self.marker);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
            environ.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes()).then_some(())?;
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&cmdline).replace('\0', " ").trim().to_string()))
        })
        .collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        wait_until("the end of all processes", || self.processes().is_empty().then_some(()));
    }

    /// Starts `testbed lab shell` with a command that keeps running, and waits until the command has started.
    #[track_caller]
    fn hold_shell(&self, user: Option<u32>, args: &[&str]) -> HeldShell<'_> {
        let args = [&["lab", "shell"], args, &["--", "sh", "-c", "echo there; sleep 600; true"]].concat();
        let mut command = self.testbed_as(user, &args);
        let mut child = command.process_group(0).spawn().unwrap();
        let mut there = [0; 6];
        let has_started = child.stdout.as_mut().unwrap().read_exact(&mut there).is_ok();
        let mut held = HeldShell { _sandbox: self, child };
        assert!(has_started, "{}", held.stderr());
        held
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A running `testbed lab shell`; it and its process group are killed when dropped.
struct HeldShell<'a> {
    _sandbox: &'a Sandbox,
    child: Child,
}

impl HeldShell<'_> {
    fn stderr(&mut self) -> String {
        let mut text = String::new();
        let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut text));
        text
    }
}

impl Drop for HeldShell<'_> {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn is_nsenter(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nsenter")
}

/// Returns the exit code, or the negated number of the signal that killed the process, and the output.
fn exit_and_output(output: &Output) -> (i32, String, String) {
    let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap());
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (code, text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_shell_without_a_run_starts_a_temporary_lab() {
    with_sandbox(|sandbox| {
        let (code, out, err) = sandbox.run(&["lab", "status"]);
        assert_eq!((code, out.as_str()), (0, "no run is in progress on this host\n"), "{err}");

        let script = "uname -n; echo $TESTBED_NODE; id -u; pwd; cut -d: -f1 /proc/net/dev; \
                      ls -d /proc/[0-9]* | wc -l; exit 7";
        let (code, out, err) = sandbox.run(&["lab", "shell", "compute1", "--", "sh", "-c", script]);
        assert_eq!(code, 7, "{out}{err}");
        let lines: Vec<&str> = out.lines().map(str::trim).collect();
        assert_eq!(lines[..3], ["compute1", "compute1", "0"], "{out}");
        assert_eq!(lines[3], sandbox.dir.path().display().to_string(), "{out}");
        assert!(["migration", "guests", "lo"].iter().all(|name| lines.contains(name)), "{out}");
        // At most: the node's first process, `testbed enter`, the shell, and the `ls` and `wc` of its script.
        assert!(lines.last().unwrap().parse::<u32>().unwrap() <= 5, "{out}");
        assert!(err.contains("started a temporary lab") && err.contains("compute2 is 192.0.2.2"), "{err}");
        assert_eq!(sandbox.processes(), [], "the lab ends before `testbed lab shell` does");

        let (code, _, err) = sandbox.run(&["lab", "shell", "compute1", "--", "no-such-program"]);
        assert_eq!(code, 127, "{err}");
        assert!(err.contains("error: cannot run no-such-program"), "{err}");
        let (code, ..) = sandbox.run(&["lab", "shell", "controller", "--", "sh", "-c", "kill -TERM $$"]);
        assert_eq!(code, 128 + 15);
        sandbox.assert_nothing_left();
    });
}

#[test]
fn bad_input_is_refused_with_exit_code_2() {
    with_sandbox(|sandbox| {
        let refused = |args: &[&str], message: &str| {
            let (code, out, err) = sandbox.run(args);
            assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
            assert!(err.contains(message), "{args:?}: {err}");
        };
        refused(&["lab", "shell", "compute3"], "[possible values: controller, compute1, compute2]");
        refused(
            &["lab", "shell", "compute1", "--run", "99"],
            "no run 99 is in progress; `testbed lab status` lists",
        );
        refused(&["lab", "shell", "compute1", "--loss", "10%", "--loss-bursts", "1%,2%"], "loss");
        refused(&["lab", "status", "--lab", "nowhere.yaml"], "cannot read the inventory nowhere.yaml");
        refused(
            &["lab", "shell", "compute1", "--lab", "nowhere.yaml"],
            "cannot read the inventory nowhere.yaml",
        );
        let hosts = "controller: { host: lab0, guests: a }\n\
                     compute1: { host: lab1, guests: a, migration: b }\n\
                     compute2: { host: lab2, guests: a, migration: b }\n";
        let inventory = sandbox.dir.path().join("bad.yaml");
        for (line, message) in [
            ("images: images", "bad.yaml: images: \"images\" is a relative path"),
            ("images: ~other/img", "another user's home directory"),
            ("images: ''", "bad.yaml: images: it is empty"),
            ("ssh_config: nowhere", "bad.yaml: ssh_config: cannot use"),
            ("ssh_config: ~/no-such-file", "bad.yaml: ssh_config: cannot use"),
        ] {
            fs::write(&inventory, format!("{hosts}{line}\n")).unwrap();
            for command in [&["lab", "status"][..], &["doctor"], &["run", "m.yaml"]] {
                fs::write(sandbox.dir.path().join("m.yaml"), "name: m\n").unwrap();
                refused(&[command, &["--lab", "bad.yaml"]].concat(), message);
            }
        }
        assert!(!sandbox.dir.path().join("images").exists() && !sandbox.dir.path().join("~").exists());
        let nobody = "{ host: lab0, guests: a }\ncompute1: { host: lab1, guests: a, migration: b }\n";
        let text = format!("controller: {nobody}compute2: {{ host: lab2, guests: a, migration: b }}\n");
        fs::write(sandbox.dir.path().join("lab.yaml"), text).unwrap();
        refused(
            &["lab", "shell", "compute1", "--lab", "lab.yaml", "--rate", "1mbit"],
            "leave them out with hosts",
        );
        sandbox.assert_nothing_left();
    });
}

#[test]
fn other_commands_see_and_enter_the_lab_of_a_shell() {
    with_sandbox(|sandbox| {
        let first = sandbox.hold_shell(None, &["--rate", "100mbit", "compute1"]);
        let (code, out, err) = sandbox.run(&["lab", "status", "--json"]);
        assert_eq!(code, 0, "{err}");
        let status: Value = serde_json::from_str(&out).unwrap();
        let [run] = &status["runs"].as_array().unwrap()[..] else { panic!("{out}") };
        assert!(run["command"].as_str().unwrap().starts_with("testbed lab shell --rate 100mbit"), "{out}");
        let nodes = run["nodes"].as_array().unwrap();
        let names: Vec<&str> = nodes.iter().map(|node| node["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["controller", "compute1", "compute2"], "{out}");
        for node in &nodes[1..] {
            let migration = node["interfaces"]
                .as_array()
                .unwrap()
                .iter()
                .find(|interface| interface["name"] == "migration");
            let migration = migration.unwrap();
            assert_eq!(migration["up"], true, "{out}");
            assert!(migration["addresses"][0].as_str().unwrap().starts_with("192.0.2."), "{out}");
            assert_eq!(migration["shaping"]["sends"]["rate"], "100mbit", "{out}");
            assert_eq!(migration["shaping"]["qdiscs"][0]["kind"], "tbf", "{out}");
        }
        let (_, text, _) = sandbox.run(&["lab", "status"]);
        assert!(text.contains("    migration 192.0.2.1/24 up\n      sends:    {rate:100mbit}"), "{text}");

        let (code, out, err) = sandbox.run(&["lab", "shell", "compute2", "--", "uname", "-n"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "compute2\n", ""), "it is the same lab");
        let (code, _, err) = sandbox.run(&["lab", "shell", "--rate", "1mbit", "compute2", "--", "true"]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("a shell cannot change its link"), "{err}");

        // With two labs, `--run` has to choose one.
        let run = run["run"].as_str().unwrap();
        let second = {
            let script = "echo there; sleep 600";
            let program = sandbox.program().display().to_string();
            // In a nested PID namespace, the command finds no run and starts a lab.
            let nested = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", &program];
            let args = ["lab", "shell", "compute1", "--", "sh", "-c", script];
            let mut child =
                sandbox.enter(&[], &[&nested[..], &args[..]].concat()).process_group(0).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            HeldShell { _sandbox: sandbox, child }
        };
        let (_, out, _) = sandbox.run(&["lab", "status"]);
        assert_eq!(out.lines().filter(|line| line.starts_with("run ")).count(), 2, "{out}");
        let (code, _, err) = sandbox.run(&["lab", "shell", "compute1", "--", "true"]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("2 runs are in progress") && err.contains("choose one with --run"), "{err}");
        let (code, out, err) = sandbox.run(&["lab", "shell", "compute1", "--run", run, "--", "uname", "-n"]);
        assert_eq!((code, out.as_str()), (0, "compute1\n"), "{err}");
        drop((first, second));
        sandbox.assert_nothing_left();
    });
}

#[test]
fn a_starting_or_ending_lab_is_seen_complete_or_not_at_all() {
    with_sandbox(|sandbox| {
        // Start labs one after the other; every second one is killed while it starts.
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut is_killed = false;
                while !is_over.load(Ordering::Relaxed) {
                    let mut command = sandbox.testbed(&["lab", "shell", "compute2", "--", "true"]);
                    let mut child = command.process_group(0).spawn().unwrap();
                    if is_killed {
                        wait_until("a node", || {
                            let is_node = |command: &str| command.starts_with("testbed node --inside");
                            let mut processes = sandbox.processes().into_iter();
                            (processes.any(|(_, command)| is_node(&command))
                                || child.try_wait().unwrap().is_some())
                            .then_some(())
                        });
                        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
                    }
                    child.wait_with_output().unwrap();
                    is_killed = !is_killed;
                }
            });
            let looked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
                for _ in 0..12 {
                    let (code, out, err) = sandbox.run(&["lab", "status"]);
                    assert_eq!(code, 0, "{out}{err}");
                    assert!(!out.contains("cannot enter"), "{out}{err}");
                    // The shell enters the lab that it finds and may be killed with it; it is never refused.
                    let (code, out, err) = sandbox.run(&["lab", "shell", "compute1", "--", "uname", "-n"]);
                    let is_killed = code == 128 + 9 && err.contains("compute1 is gone");
                    assert!(is_killed || (code, out.as_str()) == (0, "compute1\n"), "{code}: {out}{err}");
                }
            }));
            is_over.store(true, Ordering::Relaxed);
            looked.unwrap_or_else(|panic| panic::resume_unwind(panic));
        });
        sandbox.assert_nothing_left();
    });
}

#[test]
fn an_interrupt_reaches_the_program_and_the_lab_stays() {
    with_sandbox(|sandbox| {
        let script = "trap 'echo caught' INT; echo there; sleep 600; \
                      cut -d: -f1 /proc/net/dev | grep migration; exit 5";
        let mut command = sandbox.testbed(&["lab", "shell", "compute1", "--", "sh", "-c", script]);
        let mut child = command.process_group(0).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        wait_until("the sleep", || {
            sandbox.processes().iter().any(|(_, command)| command == "sleep 600").then_some(())
        });
        // Like a terminal on Ctrl-C: signal the whole process group, except `nsenter`.
        let group = getpgid(Some(Pid::from_raw(child.id().cast_signed()))).unwrap();
        for (pid, _) in sandbox.processes().into_iter().filter(|(pid, _)| !is_nsenter(*pid)) {
            if getpgid(Some(Pid::from_raw(pid))) == Ok(group) {
                crate::common::real::signal(pid, Signal::SIGINT);
            }
        }
        let (code, out, err) = exit_and_output(&child.wait_with_output().unwrap());
        assert_eq!(code, 5, "{out}{err}");
        assert!(out.starts_with("caught\n") && out.contains("migration"), "{out}{err}");
        sandbox.assert_nothing_left();
    });
}

#[test]
fn killing_any_process_of_a_shell_leaves_nothing() {
    with_sandbox(|sandbox| {
        let victims = [
            "lab shell",
            "enter compute1 --pid",
            "enter compute1 --joining",
            "enter compute1 --lifeline",
            "sh -c",
            "--inside",
        ];
        for victim in victims {
            let held = sandbox.hold_shell(None, &["compute1"]);
            let found = sandbox.processes().into_iter().find(|(pid, command)| {
                let is_node = victim != "--inside" || command.contains("--name compute1");
                !is_nsenter(*pid)
                    && command.contains(victim)
                    && is_node
                    && (victim != "sh -c" || command.starts_with("sh -c"))
            });
            let (pid, _) = found.unwrap_or_else(|| panic!("no {victim} in {:#?}", sandbox.processes()));
            crate::common::real::signal(pid, Signal::SIGKILL);
            wait_until(&format!("the end of all processes after {victim} was killed"), || {
                sandbox.processes().is_empty().then_some(())
            });
            drop(held);
        }
        // A background process ends with the program that started it, although the lab continues.
        let held = sandbox.hold_shell(None, &["compute1"]);
        let (code, ..) =
            sandbox.run(&["lab", "shell", "compute1", "--", "sh", "-c", "setsid sleep 611 & exit 3"]);
        assert_eq!(code, 3);
        let left = sandbox.processes();
        assert!(!left.iter().any(|(_, command)| command == "sleep 611"), "{left:#?}");
        // The program also ends when its `testbed lab shell` is killed.
        let mut child = sandbox
            .testbed(&["lab", "shell", "compute1", "--", "sh", "-c", "sleep 612; true"])
            .spawn()
            .unwrap();
        let is_running = || sandbox.processes().iter().any(|(_, command)| command == "sleep 612");
        wait_until("the program", || is_running().then_some(()));
        let shell = sandbox.processes().into_iter().find(|(pid, command)| {
            command.contains("lab shell compute1 -- sh -c sleep 612") && !is_nsenter(*pid)
        });
        crate::common::real::signal(shell.unwrap().0, Signal::SIGKILL);
        child.wait().unwrap();
        wait_until("the program's end", || (!is_running()).then_some(()));
        drop(held);
        sandbox.assert_nothing_left();
    });
}

#[test]
fn the_prompt_shows_the_node() {
    with_sandbox(|sandbox| {
        let Some(mut child) = sandbox.on_terminal("lab shell compute2") else { return };
        child.stdin.as_mut().unwrap().write_all(b"echo $((6 * 7))\nexit 9\n").unwrap();
        let (code, out, err) = exit_and_output(&child.wait_with_output().unwrap());
        assert_eq!(code, 9, "{out}{err}");
        assert!(out.contains("compute2# ") && out.contains("42\r\n"), "{out}{err}");
        sandbox.assert_nothing_left();
    });
}

#[test]
fn terminal_keys_reach_the_program() {
    with_sandbox(|sandbox| {
        let script = "trap \"echo caught\" INT; echo there; sleep 600; echo after; exit 6";
        let Some(mut child) = sandbox.on_terminal(&format!("lab shell compute1 -- sh -c '{script}'")) else {
            return;
        };
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains("there") {
            let mut byte = [0];
            let more = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert!(more > 0, "{}", String::from_utf8_lossy(&shown));
            shown.extend_from_slice(&byte);
        }
        wait_until("the sleep", || {
            sandbox.processes().iter().any(|(_, command)| command == "sleep 600").then_some(())
        });
        // Ctrl-Z, after which the program is resumed, since no shell could resume it; then Ctrl-C.
        child.stdin.as_mut().unwrap().write_all(b"\x1a").unwrap();
        thread::sleep(Duration::from_millis(200));
        child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
        let (code, out, err) = exit_and_output(&child.wait_with_output().unwrap());
        assert_eq!(code, 6, "{out}{err}");
        assert!(out.contains("caught\r\nafter"), "{out}{err}");
        sandbox.assert_nothing_left();
    });
}

#[test]
fn an_ordinary_user_has_a_lab_and_does_not_see_others() {
    with_sandbox(|sandbox| {
        if !geteuid().is_root() {
            skipped::<()>("this is an ordinary user already");
            return;
        }
        let as_nobody =
            |args: &[&str]| exit_and_output(&sandbox.testbed_as(Some(NOBODY), args).output().unwrap());
        let (code, out, err) = as_nobody(&["lab", "shell", "compute1", "--", "sh", "-c", "id -u; uname -n"]);
        if err.contains("cannot create a user namespace") {
            skipped::<()>(&format!("ordinary users cannot create namespaces here: {err}"));
            return;
        }
        assert_eq!((code, out.as_str()), (0, "0\ncompute1\n"), "{err}");

        let roots = sandbox.hold_shell(None, &["compute1"]);
        let (code, out, err) = as_nobody(&["lab", "status"]);
        assert_eq!((code, out.as_str()), (0, "none of your runs is in progress on this host\n"), "{err}");
        drop(roots);
        sandbox.assert_nothing_left();

        let theirs = sandbox.hold_shell(Some(NOBODY), &["--rate", "50mbit", "compute1"]);
        for (code, out, err) in [as_nobody(&["lab", "status"]), sandbox.run(&["lab", "status"])] {
            assert_eq!(code, 0, "{err}");
            assert!(out.contains("compute2") && out.contains("rate:50mbit"), "{out}{err}");
        }
        let (_, out, _) = sandbox.run(&["lab", "status"]);
        assert!(out.contains(" of user nobody (testbed lab shell --rate 50mbit"), "{out}");
        // Without the option, root does not enter that lab, and it is not assumed to want another one either.
        let (code, out, err) = sandbox.run(&["lab", "shell", "compute2", "--", "true"]);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains("belongs to user nobody") && err.contains("add `--user nobody`"), "{err}");
        assert!(err.contains("`--user root` for a temporary lab"), "{err}");
        let own = ["lab", "shell", "--user", "root", "compute2", "--", "uname", "-n"];
        let (code, out, err) = sandbox.run(&own);
        assert_eq!((code, out.as_str()), (0, "compute2\n"), "{err}");
        assert!(err.contains("started a temporary lab"), "{err}");
        for (user, message) in [("no-such-user", "there is no user no-such-user"), ("4711", "of user 4711")] {
            let (code, _, err) = sandbox.run(&["lab", "shell", "--user", user, "compute2", "--", "true"]);
            assert_eq!(code, 2, "{err}");
            assert!(err.contains(message), "{err}");
        }
        let (code, _, err) = as_nobody(&["lab", "shell", "--user", "root", "compute2", "--", "true"]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("only root enters the runs of other users"), "{err}");

        // In that user's lab, root becomes that user: a forged command line in the process list must not give
        // anyone root's privileges.
        let secret_file = sandbox.dir.path().join("of-root");
        fs::write(&secret_file, "secret").unwrap();
        fs::set_permissions(&secret_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        // Root's shell starts in `/` there, not in a folder that the user might not have reached.
        let as_root = format!("pwd | grep -qx / && uname -n; cat {}", secret_file.display());
        for (code, out, err) in [
            as_nobody(&["lab", "shell", "compute2", "--", "sh", "-c", "uname -n; cat of-root"]),
            sandbox.run(&["lab", "shell", "--user", "nobody", "compute2", "--", "sh", "-c", &as_root]),
        ] {
            assert_eq!((code, out.as_str()), (1, "compute2\n"), "{err}");
            assert!(err.contains("Permission denied"), "{err}");
        }
        drop(theirs);
        sandbox.assert_nothing_left();
    });
}

/// Runs a test in a sandbox, with an ordinary user who may create namespaces, or skips it.
fn with_another_user(test: impl FnOnce(&Sandbox)) {
    with_sandbox(|sandbox| {
        if !geteuid().is_root() {
            skipped::<()>("needs root and another user");
            return;
        }
        let lab = sandbox.testbed_as(Some(NOBODY), &["lab", "shell", "compute1", "--", "true"]);
        let (_, _, err) = exit_and_output(&{ lab }.output().unwrap());
        if err.contains("cannot create a user namespace") {
            skipped::<()>(&format!("ordinary users cannot create namespaces here: {err}"));
            return;
        }
        test(sandbox);
    });
}

/// The options for `testbed lab shell` that enter a node of the other user.
const THEIRS: [&str; 4] = ["lab", "shell", "--user", "nobody"];

#[test]
fn another_users_node_runs_nothing_as_root() {
    with_another_user(|sandbox| {
        let theirs = sandbox.hold_shell(Some(NOBODY), &["compute2"]);
        // This script runs if anyone starts `/proc/self/exe` in compute1's mounts.
        let dir = sandbox.dir.path();
        let (caught, exe) = (dir.join("caught"), dir.join("proc/self/exe"));
        fs::create_dir_all(exe.parent().unwrap()).unwrap();
        let script = format!("#!/bin/sh\nenv > {0}; id -u >> {0}\n", caught.display());
        crate::common::write_script(&exe, &script);
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let node = sandbox.processes().into_iter().find(|(_, command)| {
            command.starts_with("testbed node --inside") && command.contains("--name compute1")
        });
        let target = format!("--target={}", node.unwrap().0);
        let mut mount = Command::new("nsenter");
        mount
            .args([&target, "--user", "--preserve-credentials", "--mount", "--", "mount", "--bind"])
            .arg(dir.join("proc"))
            .arg("/proc");
        let mounted = mount.uid(NOBODY).gid(NOBODY).output().unwrap();
        assert!(mounted.status.success(), "{mounted:?}");

        let enter = |options: &[&str]| {
            let args = [options, &["compute1", "--", "sh", "-c", "echo there; exit 7"]].concat();
            let output = sandbox.testbed(&args).env("SECRET", "of-root").output().unwrap();
            let caught = fs::read_to_string(&caught).unwrap_or_default();
            assert!(!caught.contains("of-root") && !caught.ends_with("\n0\n"), "{caught}");
            (exit_and_output(&output), caught)
        };
        let ((code, _, err), caught) = enter(&THEIRS[..2]);
        assert_eq!((code, caught.as_str()), (2, ""), "{err}");
        assert!(err.contains("add `--user nobody`"), "{err}");
        let ((code, out, err), caught) = enter(&THEIRS);
        assert_eq!((code, out.as_str(), caught.as_str()), (7, "there\n", ""), "{err}");
        let (code, out, err) = sandbox.run(&["lab", "status"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("migration 192.0.2.1/24 up"), "{out}");
        assert!(!dir.join("caught").exists());
        drop(theirs);
        sandbox.assert_nothing_left();
    });
}

#[test]
fn root_is_not_told_to_run_another_users_program() {
    with_another_user(|sandbox| {
        let folder = sandbox.dir.path().join("theirs");
        fs::create_dir(&folder).unwrap();
        copy_program(&sandbox.program(), &folder);
        let program = folder.join("testbed");
        File::options().append(true).open(&program).unwrap().write_all(b"\n").unwrap();
        let user = [format!("--setuid={NOBODY}"), format!("--setgid={NOBODY}")];
        let program = program.display().to_string();
        let args = [&program, "lab", "shell", "compute1", "--", "sh", "-c", "echo there; sleep 600; true"];
        let mut child = sandbox.enter(&user, &args).process_group(0).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let theirs = HeldShell { _sandbox: sandbox, child };
        let (code, out, err) = sandbox.run(&[&THEIRS[..], &["compute1", "--", "true"]].concat());
        assert_eq!((code, out.as_str()), (3, ""), "{err}");
        let said = "a process with that user's rights says: compute1 runs a different testbed program, ";
        assert!(err.contains(said) && err.contains("; only that user can, "), "{err}");
        assert!(!err.contains("lab shell --run"), "{err}");
        drop(theirs);
        sandbox.assert_nothing_left();
    });
}

#[test]
fn a_shell_in_another_users_node_has_nothing_of_the_callers() {
    with_another_user(|sandbox| {
        let theirs = sandbox.hold_shell(Some(NOBODY), &["compute1"]);
        let shell = [&THEIRS[..], &["compute1", "--"]].concat();
        let mut environment = sandbox.testbed(&[&shell[..], &["env"]].concat());
        environment.env("SECRET", "of-root").env("LC_TIME", "C").env("HOME", "/root");
        let (code, out, err) = exit_and_output(&environment.output().unwrap());
        assert_eq!(code, 0, "{err}");
        let known =
            ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "TESTBED_NODE", "PS1", "PWD"];
        for line in out.lines() {
            let (name, _) = line.split_once('=').unwrap();
            assert!(known.contains(&name) || name.starts_with("LC_"), "{out}");
        }
        assert!(out.contains("USER=nobody\n") && out.contains("LC_TIME=C\n"), "{out}");
        assert!(!out.contains("HOME=/root\n"), "{out}");
        // One's own node has the caller's environment.
        let mut own = sandbox.testbed(&["lab", "shell", "--user", "root", "compute1", "--", "env"]);
        let (_, out, err) = exit_and_output(&own.env("SECRET", "of-root").output().unwrap());
        assert!(out.contains("SECRET=of-root\n"), "{out}{err}");

        // Descriptor 7 is open in the caller.
        let secret = sandbox.dir.path().join("of-root");
        fs::write(&secret, "secret").unwrap();
        let line = format!("exec 7<{}; exec \"$@\"", secret.display());
        let program = sandbox.program().display().to_string();
        let listed =
            [&["sh", "-c", &line, "sh", &program], &shell[..], &["ls", "-l", "/proc/self/fd"]].concat();
        let (code, out, err) = exit_and_output(&sandbox.enter(&[], &listed).output().unwrap());
        assert_eq!(code, 0, "{err}");
        assert!(!out.contains("of-root") && !out.contains(" 7 -> "), "{out}");
        drop(theirs);
        sandbox.assert_nothing_left();
    });
}

#[test]
fn another_users_node_shows_a_limited_number_of_interfaces() {
    with_another_user(|sandbox| {
        let script =
            "for i in $(seq 40); do ip link add type veth || exit; done; echo there; sleep 600; true";
        let args = ["lab", "shell", "compute1", "--", "sh", "-c", script];
        let mut child = sandbox.testbed_as(Some(NOBODY), &args).process_group(0).spawn().unwrap();
        let has_started = child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).is_ok();
        let mut theirs = HeldShell { _sandbox: sandbox, child };
        if !has_started {
            skipped::<()>(&format!("no interfaces can be added here: {}", theirs.stderr()));
            return;
        }
        let (code, out, err) = sandbox.run(&["lab", "status", "--json"]);
        assert_eq!(code, 0, "{err}");
        let status: Value = serde_json::from_str(&out).unwrap();
        let nodes = status["runs"][0]["nodes"].as_array().unwrap();
        let node = |name| nodes.iter().find(|node| node["name"] == name).unwrap();
        let problem = node("compute1")["problem"].as_str().unwrap_or_default();
        assert!(problem.starts_with("it has 8") && problem.ends_with(", and shows at most 64"), "{out}");
        assert_eq!(node("compute1")["interfaces"], serde_json::json!([]), "{out}");
        assert!(!node("compute2")["interfaces"].as_array().unwrap().is_empty(), "{out}");
        drop(theirs);
        sandbox.assert_nothing_left();
    });
}

/// A Perl program that puts a line into the input of each terminal that it can reach, as if it had been typed
/// (`TIOCSTI`).
const TYPE_FOR_OTHERS: &str = r"
    open(my $tty, '+<', '/dev/tty');
    for my $to (*STDIN, *STDOUT, *STDERR, $tty) { ioctl($to, 0x5412, $_) for split(//, qq(typed\n)); }
";

#[test]
fn a_shell_in_another_users_node_cannot_type_for_the_caller() {
    with_another_user(|sandbox| {
        let theirs = sandbox.hold_shell(Some(NOBODY), &["compute1"]);
        let typist = sandbox.dir.path().join("type.pl");
        fs::write(&typist, TYPE_FOR_OTHERS).unwrap();
        let enters = format!("{} {} compute1 --", sandbox.program().display(), THEIRS.join(" "));
        // Afterwards, `cat` shows what is in the caller's terminal.
        let typist = typist.display();
        let outer = [
            "echo outer $(tty) $(stty -g)",
            &format!(r#"{enters} sh -c "echo inner \$(tty)""#),
            &format!("{enters} perl {typist}"),
            "echo after $(stty -g); cat",
        ]
        .join("\n");
        fs::write(sandbox.dir.path().join("outer.sh"), outer).unwrap();
        let script = ["script", "--quiet", "--return", "--command", "sh outer.sh", "/dev/null"];
        if Command::new("script").arg("--version").output().is_err() {
            skipped::<()>("there is no `script` (Debian's package bsdutils) to create a terminal");
            return;
        }
        let mut child = sandbox.enter(&[], &script).stdin(Stdio::piped()).spawn().unwrap();
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains("after ") {
            let mut byte = [0];
            let more = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert!(more > 0, "{}", String::from_utf8_lossy(&shown));
            shown.extend_from_slice(&byte);
        }
        // `cat` ends with its input.
        let output = child.wait_with_output().unwrap();
        shown.extend_from_slice(&output.stdout);
        let shown = String::from_utf8_lossy(&shown);
        let words = |name: &str| -> Vec<String> {
            let line = shown.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().map(ToString::to_string).collect()
        };
        let (outer, inner, after) = (words("outer "), words("inner "), words("after "));
        assert!(outer[0].starts_with("/dev/") && inner[0].starts_with("/dev/"), "{shown}");
        assert_ne!(outer[0], inner[0], "{shown}");
        assert_eq!(outer[1], after[0], "the terminal is restored: {shown}");
        let (_, rest) = shown.split_once("after ").unwrap();
        assert!(!rest.contains("typed"), "{shown}");
        drop(theirs);
        sandbox.assert_nothing_left();
    });
}

#[test]
fn a_set_uid_program_with_the_arguments_of_a_node_is_no_node() {
    with_another_user(|sandbox| {
        let dir = sandbox.dir.path();
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let folder = dir.join("set-uid");
        fs::create_dir(&folder).unwrap();
        copy_program(&sandbox.program(), &folder);
        let program = folder.join("testbed");
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
        // A script named `node` passes for the process above a node, and its parent for the orchestrator.
        let script = format!(
            "PATH={}:$PATH
            for name in controller compute1 compute2; do
                sleep 600 | testbed node --inside root --name $name --run $PPID &
            done
            echo there
            wait",
            folder.display()
        );
        fs::write(dir.join("node"), script).unwrap();
        let user = [format!("--setuid={NOBODY}"), format!("--setgid={NOBODY}")];
        let mut claimant =
            sandbox.enter(&user, &["sh", "-c", "sh node; true"]).process_group(0).spawn().unwrap();
        claimant.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let claimant = HeldShell { _sandbox: sandbox, child: claimant };
        let claims = wait_until("the forged nodes", || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
            let claims: Vec<i32> = all
                .filter(|pid| {
                    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    let words = String::from_utf8_lossy(&words).replace('\0', " ");
                    words.starts_with("testbed node --inside root --name")
                        && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
                })
                .collect();
            (claims.len() == 3).then_some(claims)
        });
        let status = fs::read_to_string(format!("/proc/{}/status", claims[0])).unwrap();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let uids: Vec<&str> = uids.split_whitespace().collect();
        if uids[1] != "0" {
            skipped::<()>("set-uid programs have no effect in this folder");
            return;
        }
        assert_eq!(uids[0], NOBODY.to_string());

        let (code, out, err) = sandbox.run(&["lab", "status"]);
        assert_eq!((code, out.as_str()), (0, "no run is in progress on this host\n"), "{err}");
        let network = fs::read_link(format!("/proc/{}/ns/net", sandbox.first)).unwrap();
        let (code, out, err) =
            sandbox.run(&["lab", "shell", "compute1", "--", "readlink", "/proc/self/ns/net"]);
        assert_eq!(code, 0, "{err}");
        assert_ne!(out.trim(), network.display().to_string(), "the shell is on the host");
        assert!(err.contains("started a temporary lab"), "{err}");
        drop(claimant);
        for pid in claims {
            wait_until("the end of the forged nodes", || {
                (!PathBuf::from(format!("/proc/{pid}/exe")).exists()).then_some(())
            });
        }
    });
}

#[test]
fn a_node_of_another_program_file_is_refused_with_the_program_to_use() {
    with_sandbox(|sandbox| {
        let dir = sandbox.dir.path();
        let folder = dir.join("other");
        fs::create_dir(&folder).unwrap();
        copy_program(&sandbox.program(), &folder);
        let other = folder.join("testbed");
        let start_lab = || {
            let program = other.display().to_string();
            let args =
                [&program, "lab", "shell", "compute1", "--", "sh", "-c", "echo there; sleep 600; true"];
            let mut child = sandbox.enter(&[], &args).process_group(0).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            HeldShell { _sandbox: sandbox, child }
        };
        let enter = |program: &str| {
            let args = [program, "lab", "shell", "compute1", "--", "uname", "-n"];
            exit_and_output(&sandbox.enter(&[], &args).output().unwrap())
        };
        let ours = sandbox.program().display().to_string();
        // A copy is the same program.
        let held = start_lab();
        let (code, out, err) = enter(&ours);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "compute1\n", ""));
        drop(held);
        sandbox.assert_nothing_left();

        // A different build, which is replaced while its lab exists.
        let mut grow = Command::new("sh");
        grow.args(["-c", "echo >> \"$0\""]).arg(&other).stderr(Stdio::null());
        // While the last thread of a process of the first lab is exiting, its program cannot be written.
        wait_until("the program file", || grow.status().unwrap().success().then_some(()));
        let held = start_lab();
        fs::remove_file(&other).unwrap();
        let (code, out, err) = enter(&ours);
        assert_eq!((code, out.as_str()), (3, ""), "{err}");
        assert!(
            err.contains("compute1 runs a different testbed program, ") && err.contains("(deleted)"),
            "{err}"
        );
        let (_, remedy) = err.split_once("use that one: ").unwrap();
        let (program, arguments) = remedy.split_once(' ').unwrap();
        assert!(arguments.starts_with("lab shell --run "), "{err}");
        let (code, out, err) = enter(program);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "compute1\n", ""));
        drop(held);
        sandbox.assert_nothing_left();
    });
}

#[test]
fn a_shell_waits_for_a_lab_that_lacks_its_node_to_end() {
    with_sandbox(|sandbox| {
        let held = sandbox.hold_shell(None, &["compute2"]);
        let node = || {
            sandbox.processes().into_iter().find(|(_, command)| {
                command.starts_with("testbed node --inside") && command.contains("--name compute1")
            })
        };
        crate::common::real::signal(node().unwrap().0, Signal::SIGKILL);
        wait_until("the node's end", || node().is_none().then_some(()));
        let shell = sandbox.testbed(&["lab", "shell", "compute1", "--", "uname", "-n"]).spawn().unwrap();
        let (code, out, err) = sandbox.run(&["lab", "status"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains(", incomplete\n") && !out.contains("compute1,"), "{out}");
        assert!(!out.contains("cannot"), "{out}");
        // The rest of the lab ends some time later.
        thread::sleep(Duration::from_secs(2));
        drop(held);
        let (code, out, err) = exit_and_output(&shell.wait_with_output().unwrap());
        assert_eq!((code, out.as_str()), (0, "compute1\n"), "{err}");
        assert!(err.contains("started a temporary lab"), "{err}");
        sandbox.assert_nothing_left();
    });
}

#[test]
fn a_signal_that_ends_a_shell_restores_the_terminal() {
    with_sandbox(|sandbox| {
        for victim in ["lab shell", "enter compute1 --pid"] {
            // The outer shell checks the terminal's settings before and after.
            let line = format!(
                "echo before $(stty -g)\n{} lab shell compute1 -- sleep 600\necho after $(stty -g)",
                sandbox.program().display()
            );
            fs::write(sandbox.dir.path().join("outer.sh"), line).unwrap();
            let script = ["script", "--quiet", "--return", "--command", "sh outer.sh", "/dev/null"];
            if Command::new("script").arg("--version").output().is_err() {
                skipped::<()>("there is no `script` (Debian's package bsdutils) to create a terminal");
                return;
            }
            let child = sandbox.enter(&[], &script).stdin(Stdio::piped()).spawn().unwrap();
            wait_until("the sleep", || {
                sandbox.processes().iter().any(|(_, command)| command == "sleep 600").then_some(())
            });
            let found = sandbox.processes().into_iter().find(|(_, command)| {
                command.contains(victim) && command.split(' ').next().unwrap().ends_with("testbed")
            });
            crate::common::real::signal(found.unwrap().0, Signal::SIGTERM);
            let (_, out, err) = exit_and_output(&child.wait_with_output().unwrap());
            let settings = |name: &str| {
                let (_, rest) = out.split_once(name).unwrap_or_else(|| panic!("{out}{err}"));
                rest.split_whitespace().next().unwrap().to_string()
            };
            assert_eq!(settings("before "), settings("after "), "{out}{err}");
            sandbox.assert_nothing_left();
        }
    });
}
