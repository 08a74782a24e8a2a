//! `testbed lab` on this host, without QEMU: shells in temporary labs, and their status.
//!
//! Each test has its own PID namespace, so that it finds no other runs in `/proc`.

use crate::common::real::{copy_program, skipped};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, geteuid, getpgid},
};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    panic,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The user `nobody`, an ordinary user that every system has.
const NOBODY: u32 = 65_534;

/// How long to wait for something that must happen.
const TIMEOUT: Duration = Duration::from_secs(60);

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
        let mut unshare = Command::new("unshare");
        if !geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args([
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
            "sh",
            "-c",
            "echo there; read never",
        ]);
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
    /// there is no `script` to create the terminal.
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

#[track_caller]
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(10));
    }
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
            // In a nested PID namespace, where it finds no run and starts a lab.
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
        // Like a terminal at Ctrl-C: signal the whole process group, except `nsenter`.
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
        for victim in ["lab shell", "enter compute1 --pid", "enter compute1 --lifeline", "sh -c", "--inside"]
        {
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
        // Ctrl-Z, after which the program is resumed since no shell could do so, then Ctrl-C.
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
        // In that user's lab, root becomes that user: a forged command line in the process list must not give
        // anyone root's privileges.
        let secret_file = sandbox.dir.path().join("of-root");
        fs::write(&secret_file, "secret").unwrap();
        fs::set_permissions(&secret_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for (code, out, err) in [
            as_nobody(&["lab", "shell", "compute2", "--", "sh", "-c", "uname -n; cat of-root"]),
            sandbox.run(&["lab", "shell", "compute2", "--", "sh", "-c", "uname -n; cat of-root"]),
        ] {
            assert_eq!((code, out.as_str()), (1, "compute2\n"), "{err}");
            assert!(err.contains("Permission denied"), "{err}");
        }
        drop(theirs);
        sandbox.assert_nothing_left();
    });
}
