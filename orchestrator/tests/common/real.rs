//! Runs of the real program with a real QEMU, observed from outside.
//!
//! All processes of a run inherit a marker in their environment. It identifies them in `/proc`, whatever
//! their names and parents are.

use super::turn::Turn;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    mount::{MsFlags, mount},
    pty::{Winsize, openpty},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use testbed::{
    image::{self, Cache, KernelChoice},
    outcome::Outcome,
    results::{record::Record, store},
};

/// The environment variable that marks a run's processes.
const MARKER: &str = "TESTBED_TEST_RUN";

/// A small migration that takes some seconds, long enough to disturb it. The guest is idle, because on a busy
/// host a workload may not settle, and none of these tests is about the workload.
pub(crate) const SMALL: &str = "
name: small
guest: { memory: 192MiB, ballast: 48MiB }
link: { rate: 300mbit }
stress: { rate: 0, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 60s }
expect: [{ outcome: converged }]
";

/// How long tests wait for anything. It is long, because hosts may be busy and these tests measure nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long processes and namespaces of a run may exist after its end.
pub(crate) const LEFTOVERS: Duration = Duration::from_secs(10);

/// The interval of polling.
const TICK: Duration = Duration::from_millis(10);

/// The prerequisites of a real run, while it is this test's turn.
pub(crate) struct Ready {
    /// The directory of the programs.
    pub(crate) bin: PathBuf,
    _turn: Turn,
}

/// Waits for a [shared turn](Turn::shared) and returns the prerequisites of real runs. If any are missing,
/// prints why the test is skipped and returns `None`.
pub(crate) fn ready() -> Option<Ready> {
    ready_in(Turn::shared)
}

/// Does the same as [`ready`], for a test that takes a [light turn](Turn::light).
pub(crate) fn ready_light() -> Option<Ready> {
    ready_in(Turn::light)
}

/// Does the same as [`ready`], for a test that runs [alone](Turn::alone).
pub(crate) fn ready_alone() -> Option<Ready> {
    ready_in(Turn::alone)
}

fn ready_in(turn: fn() -> Turn) -> Option<Ready> {
    match find() {
        Ok(bin) => Some(Ready { bin, _turn: turn() }),
        Err(why) => skipped(&why),
    }
}

/// Prints why a test is skipped. Returns `None`.
pub(crate) fn skipped<T>(why: &str) -> Option<T> {
    println!("skipped: {why}");
    None
}

fn find() -> Result<PathBuf, String> {
    let bin = std::env::var_os("TESTBED_DIST").ok_or("TESTBED_DIST is not set: run `cargo xtask test`")?;
    let bin = PathBuf::from(bin);
    let stressor = bin.join("stressor");
    if !bin.join("testbed").is_file() || image::check_static(&stressor).is_err() {
        return Err(format!("{} does not contain testbed and a static stressor", bin.display()));
    }
    testbed::host::qemu_version().map_err(|error| format!("QEMU is not installed: {error}"))?;
    let cache = Cache::user().map_err(|error| error.to_string())?;
    image::find_kernel(&KernelChoice::Auto, &cache).map_err(|error| error.to_string())?;
    Ok(bin)
}

/// A temporary directory of a test. Its runs write their results to `run` in it.
pub(crate) struct TestDir {
    dir: TempDir,
    pub(crate) testbed: PathBuf,
    marker: String,
    owner: Option<u32>,
    variables: Vec<(&'static str, OsString)>,
    options: Vec<String>,
    /// The network namespaces that have been named. The kernel does not reuse the number of an open one.
    named: Mutex<BTreeMap<String, File>>,
}

impl TestDir {
    pub(crate) fn new(ready: &Ready, matrix: &str) -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")), ready, matrix)
    }

    fn below(parent: &Path, ready: &Ready, matrix: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir_in(parent).unwrap();
        fs::write(dir.path().join("matrix.yaml"), matrix).unwrap();
        Self {
            testbed: ready.bin.join("testbed"),
            dir,
            marker: format!("{}-{number}", std::process::id()),
            owner: None,
            variables: Vec::new(),
            options: Vec::new(),
            named: Mutex::default(),
        }
    }

    /// Creates a directory whose runs belong to an ordinary user, with a home, a cache and copies of the
    /// programs.
    pub(crate) fn of_user(uid: u32, ready: &Ready, matrix: &str) -> Self {
        let mut dir = Self::below(&std::env::temp_dir(), ready, matrix);
        let root = dir.dir.path().to_path_buf();
        for program in ["testbed", "stressor"] {
            copy_program(&ready.bin.join(program), &root.join(program));
        }
        let cached = Cache::user().unwrap().path("kernels/current");
        if cached.exists() {
            copy(&cached, &root.join("kernel"));
            let option = |path: &str| root.join("kernel").join(path).display().to_string();
            dir.options = vec!["--kernel".into(), option("vmlinuz"), "--modules".into(), option("modules")];
        }
        fs::create_dir(root.join("home")).unwrap();
        give_to(uid, &root);
        dir.testbed = root.join("testbed");
        dir.owner = Some(uid);
        dir.set("HOME", root.join("home"));
        dir.set("XDG_CACHE_HOME", root.join("home/cache"));
        dir
    }

    /// Sets an environment variable for everything that is started in this directory.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.variables.push((name, value.into()));
    }

    /// Returns the path of a file beside the matrix.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the environment variable that marks the run's processes, as `NAME=VALUE`.
    pub(crate) fn mark(&self) -> String {
        format!("{MARKER}={}", self.marker)
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Reads the records from the disk. Returns an empty list before the results folder exists.
    pub(crate) fn records(&self) -> Vec<Record> {
        store::read(&self.folder()).map(|(_, records)| records).unwrap_or_default()
    }

    pub(crate) fn environment(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.folder().join(store::ENVIRONMENT)).unwrap()).unwrap()
    }

    /// Returns whether the attempt has samples of a migration in progress.
    pub(crate) fn migrates(&self, attempt: &str) -> bool {
        let samples = self.folder().join("attempts").join(attempt).join("samples.jsonl");
        let text = fs::read_to_string(samples).unwrap_or_default();
        text.lines().any(|line| line.contains(r#""status":"active""#) && !line.contains(r#""pass":0"#))
    }

    /// Returns whether the attempt has a sample with this state of the migration.
    pub(crate) fn has_reached(&self, attempt: &str, status: &str) -> bool {
        let samples = self.folder().join("attempts").join(attempt).join("samples.jsonl");
        let text = fs::read_to_string(samples).unwrap_or_default();
        let is_there =
            |line: &str| serde_json::from_str(line).is_ok_and(|sample: Value| sample["status"] == status);
        text.lines().any(is_there)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.testbed);
        command.arg("run").args(args).args(&self.options).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env(MARKER, &self.marker).env_remove("TMPDIR").envs(self.variables.iter().cloned());
        if let Some(uid) = self.owner {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Starts `testbed run` with its output redirected to files.
    pub(crate) fn start(&self, args: &[&str]) -> RunningTestbed<'_> {
        let file = |name| File::create(self.dir.path().join(name)).unwrap();
        let child = self.command(args).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        RunningTestbed { dir: self, child, terminal: None }
    }

    /// Starts `testbed run` with this standard error.
    pub(crate) fn start_with_stderr(&self, args: &[&str], stderr: impl Into<Stdio>) -> RunningTestbed<'_> {
        self.start_with(args, File::create(self.dir.path().join("stdout")).unwrap(), stderr)
    }

    /// Starts `testbed run` with these outputs.
    pub(crate) fn start_with(
        &self,
        args: &[&str],
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> RunningTestbed<'_> {
        let child = self.command(args).stdout(stdout).stderr(stderr).spawn().unwrap();
        RunningTestbed { dir: self, child, terminal: None }
    }

    /// Starts `testbed run` with standard error on a pseudoterminal.
    pub(crate) fn start_on_terminal(&self, args: &[&str]) -> RunningTestbed<'_> {
        self.start_on_terminal_of_type(args, "xterm")
    }

    /// Does the same as [`start_on_terminal`](Self::start_on_terminal), with this value of `TERM`.
    pub(crate) fn start_on_terminal_of_type(&self, args: &[&str], term: &str) -> RunningTestbed<'_> {
        let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let stdout = File::create(self.dir.path().join("stdout")).unwrap();
        let mut command = self.command(args);
        command.env("TERM", term).stdout(stdout).stderr(pty.slave);
        let child = command.spawn().unwrap();
        RunningTestbed {
            dir: self,
            child,
            terminal: Some(Terminal { master: pty.master.into(), shown: Vec::new() }),
        }
    }

    /// Runs `testbed run` and returns its exit code.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> i32 {
        self.start(args).end()
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(self.dir.path().join("stdout")).unwrap_or_default()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// Runs another subcommand. Returns its exit code and standard output.
    pub(crate) fn ask(&self, subcommand: &str, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(&self.testbed);
        command.arg(subcommand).args(args).current_dir(self.dir.path()).env(MARKER, &self.marker);
        command.envs(self.variables.iter().cloned());
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs another subcommand. Returns its exit code, standard output and standard error.
    pub(crate) fn run_subcommand(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.other(args).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Returns a command for another subcommand, ready to be started.
    pub(crate) fn other(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.testbed);
        command.args(args).current_dir(self.dir.path()).env(MARKER, &self.marker).stdin(Stdio::null());
        command
    }

    /// Runs a subcommand on a terminal with `input` typed into it. Returns its exit code and what the
    /// terminal showed, or `None` if the program `script`, which creates the terminal, is not installed. A
    /// subcommand that does not end within [`PATIENCE`] is ended, with the exit code 124.
    pub(crate) fn on_terminal(&self, args: &[&str], input: &str) -> Option<(i32, String)> {
        let words: Vec<String> = [self.testbed.display().to_string()]
            .into_iter()
            .chain(args.iter().map(|arg| format!("'{arg}'")))
            .collect();
        let mut script = Command::new("timeout");
        script.args(["--foreground", &PATIENCE.as_secs().to_string(), "script"]);
        script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        script.current_dir(self.dir.path()).env(MARKER, &self.marker);
        if Command::new("script").arg("--version").output().is_err() {
            return skipped("`script` is not installed (Debian package bsdutils)");
        }
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Returns the outcomes of the recorded attempts.
    #[track_caller]
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.records().iter().map(|record| record.outcome).collect()
    }

    /// Waits until no process of the run is left, at most this long.
    #[track_caller]
    pub(crate) fn assert_no_processes(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "left after {limit:?}: {:#?}", self.processes());
            thread::sleep(TICK);
        }
    }

    /// Returns the processes of the run.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let marker = self.mark();
        all_pids()
            .filter_map(|pid| {
                let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
                environ
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == marker.as_bytes())
                    .then_some(())?;
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
                let words: Vec<_> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                // A process that has just ended has none.
                (!words.is_empty()).then_some(Process { pid, words })
            })
            .collect()
    }

    /// Returns the network namespaces of the run's processes, except that of this thread.
    pub(crate) fn networks(&self) -> BTreeSet<String> {
        let here = network("thread-self");
        let mut networks = BTreeSet::new();
        for process in self.processes() {
            // Opened first, so that the name is of what is open.
            let Ok(file) = File::open(format!("/proc/{}/ns/net", process.pid)) else { continue };
            if let Some(name) = network(&process.pid.to_string()).filter(|name| Some(name) != here.as_ref()) {
                self.named.lock().unwrap().insert(name.clone(), file);
                networks.insert(name);
            }
        }
        networks
    }

    /// Formats output, records and processes of the run, for the message of a failed test.
    pub(crate) fn shown(&self) -> String {
        let records: Vec<String> = self
            .records()
            .iter()
            .map(|r| format!("{} #{}: {} {:?}", r.cell, r.attempt, r.outcome, r.reason))
            .collect();
        let processes: Vec<String> =
            self.processes().iter().map(|p| format!("{} {}", p.pid, p.words.join(" "))).collect();
        format!(
            "--- stdout\n{}--- stderr\n{}--- records\n{}\n--- processes\n{}\n",
            self.stdout(),
            self.stderr(),
            records.join("\n"),
            processes.join("\n"),
        )
    }
}

/// Copies a program and makes it executable for all users. Another process copies it, so that it can be run
/// immediately: see [`write_script`](super::write_script).
pub(crate) fn copy_program(program: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert!(Command::new("cp").arg(program).arg(to).status().unwrap().success());
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn give_to(uid: u32, path: &Path) {
    std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_to(uid, &entry.unwrap().path());
        }
    }
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn network(pid: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    Some(link.display().to_string())
}

/// A process of a run.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) words: Vec<String>,
}

impl Process {
    /// Returns whether the process is the QEMU of this role: `boot`, `source` or `destination`.
    pub(crate) fn is_qemu(&self, end: &str) -> bool {
        self.words.first().is_some_and(|name| name.contains("qemu-system"))
            && self.words.contains(&format!("testbed-{end}"))
    }

    /// Returns the PID of the parent.
    pub(crate) fn parent(&self) -> i32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// The key that stops a terminal's output, and the one that restarts it.
pub(crate) const CTRL_S: u8 = 0x13;
pub(crate) const CTRL_Q: u8 = 0x11;

struct Terminal {
    master: File,
    shown: Vec<u8>,
}

/// A `testbed run` in progress. It is killed when this value is dropped.
pub(crate) struct RunningTestbed<'a> {
    dir: &'a TestDir,
    child: Child,
    terminal: Option<Terminal>,
}

impl RunningTestbed<'_> {
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits until `look` finds something, and returns it. Fails if the run ends first.
    #[track_caller]
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&TestDir) -> Option<T>) -> T {
        let dir = self.dir;
        self.poll(what, |_| look(dir))
    }

    /// Waits until the terminal has shown a text. Fails if the run ends first.
    #[track_caller]
    pub(crate) fn wait_for_shown(&mut self, text: &str) {
        self.poll(&format!("`{text}` on the terminal"), |shown| shown.contains(text).then_some(()));
    }

    /// Presses a key on the terminal.
    pub(crate) fn press(&mut self, key: u8) {
        self.terminal.as_mut().expect("a terminal").master.write_all(&[key]).unwrap();
    }

    #[track_caller]
    fn poll<T>(&mut self, what: &str, mut look: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap();
            let shown = self.shown();
            if let Some(found) = look(&shown) {
                return found;
            }
            assert!(ended.is_none(), "the run ended before {what}: {ended:?}\n{shown}\n{}", self.dir.shown());
            assert!(Instant::now() < deadline, "timed out waiting for {what}\n{shown}\n{}", self.dir.shown());
            thread::sleep(TICK);
        }
    }

    /// Returns what the terminal has shown so far.
    pub(crate) fn shown(&mut self) -> String {
        let Some(terminal) = &mut self.terminal else { return String::new() };
        let mut buffer = [0; 4096];
        // The read fails when there is currently no more output, or when the other side has been closed.
        while let Ok(count @ 1..) = terminal.master.read(&mut buffer) {
            terminal.shown.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&terminal.shown).into_owned()
    }

    /// Returns the exit status if the run has ended.
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the run to end. Returns its exit status.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown();
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the run does not end\n{shown}\n{}", self.dir.shown());
            thread::sleep(TICK);
        }
    }

    /// Waits for the run to end. Returns its exit code, and fails if a signal ended it.
    #[track_caller]
    pub(crate) fn end(mut self) -> i32 {
        let status = self.ended();
        status.code().unwrap_or_else(|| panic!("the run was ended by {status}\n{}", self.dir.shown()))
    }
}

impl Drop for RunningTestbed<'_> {
    fn drop(&mut self) {
        // Both fail if the process has already ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The state of the host that runs must not change: mounts, links, and the files in `/tmp` and `/run`, as
/// the calling thread sees them.
#[derive(Debug, PartialEq)]
struct HostState {
    mounts: String,
    links: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl HostState {
    fn now() -> Self {
        let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let mut files = BTreeSet::new();
        for folder in ["/tmp", "/run"] {
            files.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        }
        Self {
            mounts: fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
            links: links
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0.trim().to_string()))
                .collect(),
            files,
        }
    }
}

/// A check that runs leave nothing behind.
pub(crate) struct LeftoverCheck {
    before: HostState,
}

impl LeftoverCheck {
    /// Starts the check with the current state, which runs must restore.
    pub(crate) fn from_now() -> Self {
        Self { before: HostState::now() }
    }

    /// Waits, for at most [`LEFTOVERS`], until nothing of the run is left. `networks` are the network
    /// namespaces that the run had.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, dir: &TestDir, networks: &BTreeSet<String>) {
        self.wait(dir, networks, LEFTOVERS).unwrap_or_else(|left| panic!("{left}"));
    }

    /// Waits, for at most `limit`, until nothing of the run is left. Fails with a list of what remains.
    pub(crate) fn wait(
        &self,
        dir: &TestDir,
        networks: &BTreeSet<String>,
        limit: Duration,
    ) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            let processes = dir.processes();
            let held = |network: &String| {
                all_pids().any(|pid| self::network(&pid.to_string()).as_ref() == Some(network))
            };
            let held: Vec<&String> = networks.iter().filter(|network| held(network)).collect();
            let now = HostState::now();
            if processes.is_empty() && held.is_empty() && now == self.before {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "left after {limit:?}: processes {processes:#?}, networks {held:?}\n\
                     before: {:#?}\nnow: {now:#?}",
                    self.before,
                ));
            }
            thread::sleep(TICK);
        }
    }
}

/// Runs a test on a thread with its own mount and network namespace and an empty `/tmp` and `/run`, so that
/// no other process on this host can interfere with [`LeftoverCheck`]. Skips the test if this process is
/// not root.
pub(crate) fn isolated(ready: &Ready, test: impl FnOnce() + Send) {
    if !geteuid().is_root() {
        skipped::<()>("needs root, for its own /tmp, /run and network");
        return;
    }
    in_own_namespaces(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET, || {
        empty_tmp_and_run(&[
            &ready.bin,
            Path::new(env!("CARGO_TARGET_TMPDIR")),
            Cache::user().unwrap().root(),
        ]);
        test();
    });
}

/// Runs a test with a file system of this size, in bytes, on a folder. Prints why the test is skipped if that
/// needs rights that it does not have.
pub(crate) fn with_small_disk(folder: &str, bytes: u64, test: impl FnOnce() + Send) {
    if !geteuid().is_root() {
        skipped::<()>("needs root, for a file system of its own");
        return;
    }
    in_own_namespaces(CloneFlags::CLONE_NEWNS, || {
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let size = format!("mode=1777,size={bytes}");
        mount(Some("test"), folder, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        test();
    });
}

/// Returns a shell that runs a script in a PID namespace of its own, so that the script and what it starts
/// find no other processes, and no other runs, in `/proc`.
pub(crate) fn shell_without_other_processes(script: &str) -> Command {
    let mut unshare = Command::new("unshare");
    if !geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child=KILL", "sh", "-c", script]);
    unshare
}

/// Runs a test in a thread that has new namespaces of these kinds.
fn in_own_namespaces(kinds: CloneFlags, test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let watched = scope.spawn(|| {
            unshare(kinds).unwrap();
            test();
        });
        if let Err(panic) = watched.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Mounts an empty file system on `/tmp` and on `/run` for this thread and the processes it starts. The
/// paths in `keep` stay accessible.
fn empty_tmp_and_run(keep: &[&Path]) {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let folders = ["/tmp", "/run"];
    let kept: Vec<(&Path, File)> = keep
        .iter()
        .filter(|path| folders.iter().any(|folder| path.starts_with(folder)))
        .map(|path| (*path, File::open(path).unwrap()))
        .collect();
    for folder in folders {
        mount(Some("test"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=1777")).unwrap();
    }
    for (path, was) in &kept {
        use std::os::fd::AsRawFd;
        fs::create_dir_all(path).unwrap();
        let was = format!("/proc/thread-self/fd/{}", was.as_raw_fd());
        mount(Some(was.as_str()), *path, none, MsFlags::MS_BIND, none).unwrap();
    }
}
