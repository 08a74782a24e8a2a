//! `testbed lab` on this machine, without QEMU: shells in labs of their own, and what is seen of them.
//!
//! Each test has a PID namespace of its own, so that no run of anybody else's is found in `/proc`.

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

/// An ordinary user that every system has: `nobody`.
const NOBODY: u32 = 65_534;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The environment variable that marks a test's processes.
const MARKER: &str = "TESTBED_TEST_LAB";

/// A PID namespace, where nothing is but what a test starts in it.
struct World {
    dir: TempDir,
    marker: String,
    holder: Child,
    /// The first process of the namespace.
    first: i32,
}

/// Does something in a world of its own, or says why not.
fn in_a_world(test: impl FnOnce(&World)) {
    match World::new() {
        Ok(world) => test(&world),
        Err(why) => {
            skipped::<()>(&why);
        }
    }
}

impl World {
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
            return Err(format!("cannot make a PID namespace: {}", why.trim()));
        }
        let id = holder.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let world = Self { dir, marker, holder, first: children.trim().parse().unwrap() };
        // Nodes need namespaces of their own.
        let lab = world.testbed(&["lab", "shell", "compute1", "--", "true"]).output().unwrap();
        let said = String::from_utf8_lossy(&lab.stderr);
        if said.contains("cannot make") { Err(said.into_owned()) } else { Ok(world) }
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("testbed")
    }

    /// A command that runs something in this world, with these words of `nsenter` besides.
    fn enter(&self, words: &[String], command: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.first.to_string(), "--pid", "--mount"]);
        nsenter.arg(format!("--wd={}", self.dir.path().display()));
        if !geteuid().is_root() {
            nsenter.args(["--user", "--preserve-credentials"]);
        }
        nsenter.args(words).arg("--").args(command).env(MARKER, &self.marker).env("SHELL", "/bin/sh");
        // A search path with a folder that the user may not look into changes what is said of unknown
        // programs.
        nsenter.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        nsenter.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        nsenter
    }

    fn testbed(&self, args: &[&str]) -> Command {
        self.testbed_as(None, args)
    }

    fn testbed_as(&self, user: Option<u32>, args: &[&str]) -> Command {
        let words: Vec<String> =
            user.map(|uid| vec![format!("--setuid={uid}"), format!("--setgid={uid}")]).unwrap_or_default();
        let program = self.program().display().to_string();
        self.enter(&words, &[&[program.as_str()], args].concat())
    }

    /// Starts this program on a terminal of its own, with these words of a shell's. Nothing where none can be
    /// made.
    fn on_terminal(&self, words: &str) -> Option<Child> {
        let words = format!("{} {words}", self.program().display());
        let script = ["script", "--quiet", "--return", "--command", &words, "/dev/null"];
        if Command::new("script").arg("--version").output().is_err() {
            return skipped("there is no `script` (Debian's package bsdutils) to make a terminal");
        }
        Some(self.enter(&[], &script).stdin(Stdio::piped()).spawn().unwrap())
    }

    /// What it came to: exit code, standard output, standard error.
    fn ask(&self, args: &[&str]) -> (i32, String, String) {
        said(&self.testbed(args).output().unwrap())
    }

    /// The processes of this world that the test started, by their numbers outside, with their words.
    fn processes(&self) -> Vec<(i32, String)> {
        let marker = format!("{MARKER}={}", self.marker);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
            environ.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes()).then_some(())?;
            let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&words).replace('\0', " ").trim().to_string()))
        })
        .collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        wait_until("the end of everything", || self.processes().is_empty().then_some(()));
    }

    /// Starts a shell whose command says that it is there and then stays; it waits for that.
    #[track_caller]
    fn stay(&self, user: Option<u32>, args: &[&str]) -> Staying<'_> {
        let args = [&["lab", "shell"], args, &["--", "sh", "-c", "echo there; sleep 600; true"]].concat();
        let mut command = self.testbed_as(user, &args);
        let mut child = command.process_group(0).spawn().unwrap();
        let mut there = [0; 6];
        let is_there = child.stdout.as_mut().unwrap().read_exact(&mut there).is_ok();
        let mut staying = Staying { _world: self, child };
        assert!(is_there, "{}", staying.last_words());
        staying
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Staying<'a> {
    _world: &'a World,
    child: Child,
}

impl Staying<'_> {
    fn last_words(&mut self) -> String {
        let mut words = String::new();
        let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut words));
        words
    }
}

impl Drop for Staying<'_> {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn is_nsenter(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nsenter")
}

fn said(output: &Output) -> (i32, String, String) {
    let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap());
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (code, text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_shell_without_a_run_has_a_lab_of_its_own() {
    in_a_world(|world| {
        let (code, out, err) = world.ask(&["lab", "status"]);
        assert_eq!((code, out.as_str()), (0, "no run is under way on this machine\n"), "{err}");

        let script = "uname -n; echo $TESTBED_NODE; id -u; pwd; cut -d: -f1 /proc/net/dev; \
                      ls -d /proc/[0-9]* | wc -l; exit 7";
        let (code, out, err) = world.ask(&["lab", "shell", "compute1", "--", "sh", "-c", script]);
        assert_eq!(code, 7, "{out}{err}");
        let lines: Vec<&str> = out.lines().map(str::trim).collect();
        assert_eq!(lines[..3], ["compute1", "compute1", "0"], "{out}");
        assert_eq!(lines[3], world.dir.path().display().to_string(), "{out}");
        assert!(["migration", "guests", "lo"].iter().all(|name| lines.contains(name)), "{out}");
        // The node's first process, the one that watches, the shell, and the programs of its last line.
        assert!(lines.last().unwrap().parse::<u32>().unwrap() <= 5, "{out}");
        assert!(err.contains("a lab of the shell's own") && err.contains("compute2 is 192.0.2.2"), "{err}");
        assert_eq!(world.processes(), [], "its lab ends before the shell does");

        let (code, _, err) = world.ask(&["lab", "shell", "compute1", "--", "no-such-program"]);
        assert_eq!(code, 127, "{err}");
        assert!(err.contains("cannot run no-such-program"), "{err}");
        let (code, ..) = world.ask(&["lab", "shell", "controller", "--", "sh", "-c", "kill -TERM $$"]);
        assert_eq!(code, 128 + 15);
        world.assert_nothing_left();
    });
}

#[test]
fn what_cannot_be_meant_is_bad_input() {
    in_a_world(|world| {
        let refused = |args: &[&str], words: &str| {
            let (code, out, err) = world.ask(args);
            assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
            assert!(err.contains(words), "{args:?}: {err}");
        };
        refused(&["lab", "shell", "compute3"], "[possible values: controller, compute1, compute2]");
        refused(
            &["lab", "shell", "compute1", "--run", "99"],
            "no run 99 is under way; `testbed lab status` lists",
        );
        refused(&["lab", "shell", "compute1", "--loss", "10%", "--loss-bursts", "1%,2%"], "loss");
        refused(&["lab", "status", "--lab", "nowhere.yaml"], "cannot read the inventory nowhere.yaml");
        refused(
            &["lab", "shell", "compute1", "--lab", "nowhere.yaml"],
            "cannot read the inventory nowhere.yaml",
        );
        let nobody = "{ host: lab0, guests: a }\ncompute1: { host: lab1, guests: a, migration: b }\n";
        let text = format!("controller: {nobody}compute2: {{ host: lab2, guests: a, migration: b }}\n");
        fs::write(world.dir.path().join("lab.yaml"), text).unwrap();
        refused(
            &["lab", "shell", "compute1", "--lab", "lab.yaml", "--rate", "1mbit"],
            "leave them out with hosts",
        );
        world.assert_nothing_left();
    });
}

#[test]
fn others_see_the_lab_of_a_shell_and_join_it() {
    in_a_world(|world| {
        let first = world.stay(None, &["--rate", "100mbit", "compute1"]);
        let (code, out, err) = world.ask(&["lab", "status", "--json"]);
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
        let (_, text, _) = world.ask(&["lab", "status"]);
        assert!(text.contains("    migration 192.0.2.1/24 up\n      sends:    {rate:100mbit}"), "{text}");

        let (code, out, err) = world.ask(&["lab", "shell", "compute2", "--", "uname", "-n"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "compute2\n", ""), "it is the same lab");
        let (code, _, err) = world.ask(&["lab", "shell", "--rate", "1mbit", "compute2", "--", "true"]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("its link is not for the shell to shape"), "{err}");

        // Two labs: which one is meant has to be said.
        let run = run["run"].as_str().unwrap();
        let second = {
            let script = "echo there; sleep 600";
            let program = world.program().display().to_string();
            // Where it finds no run: in a PID namespace further in.
            let words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", &program];
            let args = ["lab", "shell", "compute1", "--", "sh", "-c", script];
            let mut child =
                world.enter(&[], &[&words[..], &args[..]].concat()).process_group(0).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            Staying { _world: world, child }
        };
        let (_, out, _) = world.ask(&["lab", "status"]);
        assert_eq!(out.lines().filter(|line| line.starts_with("run ")).count(), 2, "{out}");
        let (code, _, err) = world.ask(&["lab", "shell", "compute1", "--", "true"]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("2 runs are under way") && err.contains("say which with --run"), "{err}");
        let (code, out, err) = world.ask(&["lab", "shell", "compute1", "--run", run, "--", "uname", "-n"]);
        assert_eq!((code, out.as_str()), (0, "compute1\n"), "{err}");
        drop((first, second));
        world.assert_nothing_left();
    });
}

#[test]
fn a_lab_that_starts_or_ends_is_seen_whole_or_not_at_all() {
    in_a_world(|world| {
        // Labs that come and go, in order and not.
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut is_killed = false;
                while !is_over.load(Ordering::Relaxed) {
                    let mut command = world.testbed(&["lab", "shell", "compute2", "--", "true"]);
                    let mut child = command.process_group(0).spawn().unwrap();
                    if is_killed {
                        wait_until("a node", || {
                            let is_node = |words: &str| words.starts_with("testbed node --inside");
                            let mut processes = world.processes().into_iter();
                            (processes.any(|(_, words)| is_node(&words))
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
                    let (code, out, err) = world.ask(&["lab", "status"]);
                    assert_eq!(code, 0, "{out}{err}");
                    assert!(!out.contains("cannot enter"), "{out}{err}");
                    // It is in whichever lab it has found, and may end with that; it is never turned away.
                    let (code, out, err) = world.ask(&["lab", "shell", "compute1", "--", "uname", "-n"]);
                    let is_ended = code == 128 + 9 && err.contains("compute1 is gone");
                    assert!(is_ended || (code, out.as_str()) == (0, "compute1\n"), "{code}: {out}{err}");
                }
            }));
            is_over.store(true, Ordering::Relaxed);
            looked.unwrap_or_else(|panic| panic::resume_unwind(panic));
        });
        world.assert_nothing_left();
    });
}

#[test]
fn an_interrupt_is_the_shells_and_the_lab_stays() {
    in_a_world(|world| {
        let script = "trap 'echo caught' INT; echo there; sleep 600; cut -d: -f1 /proc/net/dev | grep migration; exit 5";
        let mut command = world.testbed(&["lab", "shell", "compute1", "--", "sh", "-c", script]);
        let mut child = command.process_group(0).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        wait_until("the sleep", || {
            world.processes().iter().any(|(_, words)| words == "sleep 600").then_some(())
        });
        // What a terminal does at Ctrl-C, to all in the foreground, but for the way into this world.
        let group = getpgid(Some(Pid::from_raw(child.id().cast_signed()))).unwrap();
        for (pid, _) in world.processes().into_iter().filter(|(pid, _)| !is_nsenter(*pid)) {
            if getpgid(Some(Pid::from_raw(pid))) == Ok(group) {
                crate::common::real::signal(pid, Signal::SIGINT);
            }
        }
        let (code, out, err) = said(&child.wait_with_output().unwrap());
        assert_eq!(code, 5, "{out}{err}");
        assert!(out.starts_with("caught\n") && out.contains("migration"), "{out}{err}");
        world.assert_nothing_left();
    });
}

#[test]
fn whatever_is_killed_nothing_is_left() {
    in_a_world(|world| {
        for victim in ["lab shell", "enter compute1 --pid", "enter compute1 --lifeline", "sh -c", "--inside"]
        {
            let staying = world.stay(None, &["compute1"]);
            let found = world.processes().into_iter().find(|(pid, words)| {
                let is_node = victim != "--inside" || words.contains("--name compute1");
                !is_nsenter(*pid)
                    && words.contains(victim)
                    && is_node
                    && (victim != "sh -c" || words.starts_with("sh -c"))
            });
            let (pid, _) = found.unwrap_or_else(|| panic!("no {victim} in {:#?}", world.processes()));
            crate::common::real::signal(pid, Signal::SIGKILL);
            wait_until(&format!("the end of everything after {victim} was killed"), || {
                world.processes().is_empty().then_some(())
            });
            drop(staying);
        }
        // What a program leaves in the background ends with it, though the lab goes on.
        let staying = world.stay(None, &["compute1"]);
        let (code, ..) =
            world.ask(&["lab", "shell", "compute1", "--", "sh", "-c", "setsid sleep 611 & exit 3"]);
        assert_eq!(code, 3);
        assert!(!world.processes().iter().any(|(_, words)| words == "sleep 611"), "{:#?}", world.processes());
        // So it does when the shell in front of it is killed.
        let mut child = world
            .testbed(&["lab", "shell", "compute1", "--", "sh", "-c", "sleep 612; true"])
            .spawn()
            .unwrap();
        let is_there = || world.processes().iter().any(|(_, words)| words == "sleep 612");
        wait_until("the program", || is_there().then_some(()));
        let shell = world.processes().into_iter().find(|(pid, words)| {
            words.contains("lab shell compute1 -- sh -c sleep 612") && !is_nsenter(*pid)
        });
        crate::common::real::signal(shell.unwrap().0, Signal::SIGKILL);
        child.wait().unwrap();
        wait_until("the program's end", || (!is_there()).then_some(()));
        drop(staying);
        world.assert_nothing_left();
    });
}

#[test]
fn the_prompt_says_which_node_it_is() {
    in_a_world(|world| {
        let Some(mut child) = world.on_terminal("lab shell compute2") else { return };
        child.stdin.as_mut().unwrap().write_all(b"echo $((6 * 7))\nexit 9\n").unwrap();
        let (code, out, err) = said(&child.wait_with_output().unwrap());
        assert_eq!(code, 9, "{out}{err}");
        assert!(out.contains("compute2# ") && out.contains("42\r\n"), "{out}{err}");
        world.assert_nothing_left();
    });
}

#[test]
fn the_terminals_keys_reach_the_program() {
    in_a_world(|world| {
        let script = "trap \"echo caught\" INT; echo there; sleep 600; echo after; exit 6";
        let Some(mut child) = world.on_terminal(&format!("lab shell compute1 -- sh -c '{script}'")) else {
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
            world.processes().iter().any(|(_, words)| words == "sleep 600").then_some(())
        });
        // Ctrl-Z, which nobody could take back, then Ctrl-C.
        child.stdin.as_mut().unwrap().write_all(b"\x1a").unwrap();
        thread::sleep(Duration::from_millis(200));
        child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
        let (code, out, err) = said(&child.wait_with_output().unwrap());
        assert_eq!(code, 6, "{out}{err}");
        assert!(out.contains("caught\r\nafter"), "{out}{err}");
        world.assert_nothing_left();
    });
}

#[test]
fn an_ordinary_user_has_a_lab_and_sees_no_other() {
    in_a_world(|world| {
        if !geteuid().is_root() {
            skipped::<()>("this is an ordinary user already");
            return;
        }
        let as_nobody = |args: &[&str]| said(&world.testbed_as(Some(NOBODY), args).output().unwrap());
        let (code, out, err) = as_nobody(&["lab", "shell", "compute1", "--", "sh", "-c", "id -u; uname -n"]);
        if err.contains("cannot make a user namespace") {
            skipped::<()>(&format!("ordinary users cannot make namespaces here: {err}"));
            return;
        }
        assert_eq!((code, out.as_str()), (0, "0\ncompute1\n"), "{err}");

        let roots = world.stay(None, &["compute1"]);
        let (code, out, err) = as_nobody(&["lab", "status"]);
        assert_eq!((code, out.as_str()), (0, "no run of yours is under way on this machine\n"), "{err}");
        drop(roots);
        world.assert_nothing_left();

        let theirs = world.stay(Some(NOBODY), &["--rate", "50mbit", "compute1"]);
        for (code, out, err) in [as_nobody(&["lab", "status"]), world.ask(&["lab", "status"])] {
            assert_eq!(code, 0, "{err}");
            assert!(out.contains("compute2") && out.contains("rate:50mbit"), "{out}{err}");
        }
        // Root becomes that user in there: what an ordinary user says in a list of processes gives nobody
        // root's power.
        let kept = world.dir.path().join("of-root");
        fs::write(&kept, "secret").unwrap();
        fs::set_permissions(&kept, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for (code, out, err) in [
            as_nobody(&["lab", "shell", "compute2", "--", "sh", "-c", "uname -n; cat of-root"]),
            world.ask(&["lab", "shell", "compute2", "--", "sh", "-c", "uname -n; cat of-root"]),
        ] {
            assert_eq!((code, out.as_str()), (1, "compute2\n"), "{err}");
            assert!(err.contains("Permission denied"), "{err}");
        }
        drop(theirs);
        world.assert_nothing_left();
    });
}
