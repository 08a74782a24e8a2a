//! Runs of the real program with a real QEMU, watched from outside.
//!
//! Everything that a run starts carries a marker in its environment, by which it is found in `/proc`,
//! whatever it is called and whoever has become its parent.

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
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use testbed::{
    image::{self, Cache, KernelChoice},
    results::{record::Record, store},
};

/// The environment variable that marks a run's processes.
const MARKER: &str = "TESTBED_TEST_RUN";

/// How long anything may take that has to happen; a loaded machine is slow, and this is no measurement.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long after the end of a run something of it may be left.
pub(crate) const LEFTOVERS: Duration = Duration::from_secs(2);

/// How often is looked.
const TICK: Duration = Duration::from_millis(10);

/// Real runs are made one at a time: they share two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What real runs need.
pub(crate) struct Ready {
    /// The directory of the programs.
    pub(crate) bin: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// What real runs need, or nothing, and then it was said why.
pub(crate) fn ready() -> Option<Ready> {
    match find() {
        Ok(bin) => {
            let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Some(Ready { bin, _turn: turn })
        }
        Err(why) => skipped(&why),
    }
}

/// Says why a test is skipped.
pub(crate) fn skipped<T>(why: &str) -> Option<T> {
    println!("skipped: {why}");
    None
}

fn find() -> Result<PathBuf, String> {
    let bin =
        std::env::var_os("TESTBED_DIST").ok_or("TESTBED_DIST names no programs: run `cargo xtask test`")?;
    let bin = PathBuf::from(bin);
    let stressor = bin.join("stressor");
    if !bin.join("testbed").is_file() || image::check_static(&stressor).is_err() {
        return Err(format!("{} has no testbed with a static stressor", bin.display()));
    }
    testbed::host::qemu_version().map_err(|error| format!("there is no QEMU: {error}"))?;
    let cache = Cache::user().map_err(|error| error.to_string())?;
    image::find_kernel(&KernelChoice::Auto, &cache).map_err(|error| error.to_string())?;
    Ok(bin)
}

/// A directory of the test's own. Its runs' results are in `run`.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) testbed: PathBuf,
    marker: String,
    owner: Option<u32>,
    variables: Vec<(&'static str, OsString)>,
    options: Vec<String>,
}

impl Place {
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
        }
    }

    /// One whose runs belong to an ordinary user, with a home, a cache and copies of the programs of its own.
    pub(crate) fn of_user(uid: u32, ready: &Ready, matrix: &str) -> Self {
        let mut place = Self::below(&std::env::temp_dir(), ready, matrix);
        let root = place.dir.path().to_path_buf();
        for program in ["testbed", "stressor"] {
            fs::copy(ready.bin.join(program), root.join(program)).unwrap();
        }
        let cached = Cache::user().unwrap().path("kernels/current");
        if cached.exists() {
            copy(&cached, &root.join("kernel"));
            let option = |path: &str| root.join("kernel").join(path).display().to_string();
            place.options = vec!["--kernel".into(), option("vmlinuz"), "--modules".into(), option("modules")];
        }
        fs::create_dir(root.join("home")).unwrap();
        give_to(uid, &root);
        place.testbed = root.join("testbed");
        place.owner = Some(uid);
        place.set("HOME", root.join("home"));
        place.set("XDG_CACHE_HOME", root.join("home/cache"));
        place
    }

    /// Sets a variable of the environment of all that is started here.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.variables.push((name, value.into()));
    }

    /// A file of this name beside the matrix.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The variable that marks the run's processes, wherever they are.
    pub(crate) fn mark(&self) -> String {
        format!("{MARKER}={}", self.marker)
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The records on the disk; none before there is a folder.
    pub(crate) fn records(&self) -> Vec<Record> {
        store::read(&self.folder()).map(|(_, records)| records).unwrap_or_default()
    }

    pub(crate) fn environment(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.folder().join(store::ENVIRONMENT)).unwrap()).unwrap()
    }

    /// Whether the attempt has samples of a migration that is under way.
    pub(crate) fn migrates(&self, attempt: &str) -> bool {
        let samples = self.folder().join("attempts").join(attempt).join("samples.jsonl");
        let text = fs::read_to_string(samples).unwrap_or_default();
        text.lines().any(|line| line.contains(r#""status":"active""#) && !line.contains(r#""pass":0"#))
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

    /// Starts `testbed run`, its output going to files.
    pub(crate) fn start(&self, args: &[&str]) -> Running<'_> {
        let file = |name| File::create(self.dir.path().join(name)).unwrap();
        let child = self.command(args).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Running { place: self, child, terminal: None }
    }

    /// Starts `testbed run` on a terminal.
    pub(crate) fn start_on_terminal(&self, args: &[&str]) -> Running<'_> {
        let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let stdout = File::create(self.dir.path().join("stdout")).unwrap();
        let mut command = self.command(args);
        command.env("TERM", "xterm").stdout(stdout).stderr(pty.slave);
        let child = command.spawn().unwrap();
        Running {
            place: self,
            child,
            terminal: Some(Terminal { master: pty.master.into(), shown: Vec::new() }),
        }
    }

    /// Runs to the end.
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

    /// What another subcommand prints, and its exit code.
    pub(crate) fn ask(&self, subcommand: &str, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(&self.testbed);
        command.arg(subcommand).args(args).current_dir(self.dir.path()).env(MARKER, &self.marker);
        command.envs(self.variables.iter().cloned());
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What another subcommand comes to: exit code, standard output, standard error.
    pub(crate) fn ask_all(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.other(args).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Another subcommand, about to be started.
    pub(crate) fn other(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.testbed);
        command.args(args).current_dir(self.dir.path()).env(MARKER, &self.marker).stdin(Stdio::null());
        command
    }

    /// What a subcommand comes to on a terminal where this is typed: exit code, and what was shown. Nothing
    /// where no terminal can be made.
    pub(crate) fn typed(&self, args: &[&str], input: &str) -> Option<(i32, String)> {
        let words: Vec<String> = [self.testbed.display().to_string()]
            .into_iter()
            .chain(args.iter().map(|arg| format!("'{arg}'")))
            .collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        script.current_dir(self.dir.path()).env(MARKER, &self.marker);
        let Ok(mut child) = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            return skipped("there is no `script` (Debian's package bsdutils) to make a terminal");
        };
        child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The run's processes.
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
                let words =
                    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
                Some(Process { pid, words: words.filter(|word| !word.is_empty()).collect() })
            })
            .collect()
    }

    /// The network namespaces of the run's processes.
    pub(crate) fn networks(&self) -> BTreeSet<String> {
        let here = network("thread-self");
        let all = self.processes().into_iter().filter_map(|process| network(&process.pid.to_string()));
        all.filter(|network| Some(network) != here.as_ref()).collect()
    }

    /// Everything, for a failed test.
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

/// Copies this program to a folder that anybody can look into, and that nobody has to build. Another process
/// copies it, so that it can be run at once: see [`write_script`](super::write_script).
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
    /// Whether it is the QEMU at this end of the migration.
    pub(crate) fn is_qemu(&self, end: &str) -> bool {
        self.words.first().is_some_and(|name| name.contains("qemu-system"))
            && self.words.contains(&format!("testbed-{end}"))
    }

    /// Its parent's number.
    pub(crate) fn parent(&self) -> i32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

struct Terminal {
    master: File,
    shown: Vec<u8>,
}

/// A run that goes on; it is killed when this is dropped.
pub(crate) struct Running<'a> {
    place: &'a Place,
    child: Child,
    terminal: Option<Terminal>,
}

impl Running<'_> {
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits until `look` finds something; the run must not end before.
    #[track_caller]
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&Place) -> Option<T>) -> T {
        let place = self.place;
        self.poll(what, |_| look(place))
    }

    /// Waits until the terminal has shown a text.
    #[track_caller]
    pub(crate) fn wait_for_shown(&mut self, text: &str) {
        self.poll(&format!("`{text}` on the terminal"), |shown| shown.contains(text).then_some(()));
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
            assert!(ended.is_none(), "it ended before {what}: {ended:?}\n{shown}\n{}", self.place.shown());
            assert!(Instant::now() < deadline, "waited in vain for {what}\n{shown}\n{}", self.place.shown());
            thread::sleep(TICK);
        }
    }

    /// What the terminal has shown so far.
    pub(crate) fn shown(&mut self) -> String {
        let Some(terminal) = &mut self.terminal else { return String::new() };
        let mut buffer = [0; 4096];
        // Ends with an error: nothing more for now, or nobody has the other side open any more.
        while let Ok(count @ 1..) = terminal.master.read(&mut buffer) {
            terminal.shown.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&terminal.shown).into_owned()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for it to end; its status.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown();
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{shown}\n{}", self.place.shown());
            thread::sleep(TICK);
        }
    }

    /// Waits for it to end; its exit code.
    #[track_caller]
    pub(crate) fn end(mut self) -> i32 {
        let status = self.ended();
        status.code().unwrap_or_else(|| panic!("it ended by {status}\n{}", self.place.shown()))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a run must leave as it found it: the mounts, the links, `/tmp` and `/run` as the calling thread sees
/// them.
#[derive(Debug, PartialEq)]
struct Surroundings {
    mounts: String,
    links: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Surroundings {
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

/// Makes sure that runs leave nothing behind.
pub(crate) struct Watch {
    before: Surroundings,
}

impl Watch {
    /// Runs must leave everything as it is now.
    pub(crate) fn from_now() -> Self {
        Self { before: Surroundings::now() }
    }

    /// Waits until nothing of the run is left, for [`LEFTOVERS`] at most. `networks` are the namespaces that
    /// it had.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, place: &Place, networks: &BTreeSet<String>) {
        let deadline = Instant::now() + LEFTOVERS;
        loop {
            let processes = place.processes();
            let held = |network: &String| {
                all_pids().any(|pid| self::network(&pid.to_string()).as_ref() == Some(network))
            };
            let held: Vec<&String> = networks.iter().filter(|network| held(network)).collect();
            let now = Surroundings::now();
            if processes.is_empty() && held.is_empty() && now == self.before {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left after {LEFTOVERS:?}: {processes:#?}, {held:?}\nbefore: {:#?}\nnow: {now:#?}",
                self.before,
            );
            thread::sleep(TICK);
        }
    }
}

/// Does something where nothing else on this machine can make a mount, a link or a file: in a mount and a
/// network namespace of its own, with an empty `/tmp` and `/run`; see [`Watch`]. Only root can; the test is
/// skipped otherwise.
pub(crate) fn watched(ready: &Ready, test: impl FnOnce() + Send) {
    if !geteuid().is_root() {
        skipped::<()>("needs root, for a /tmp, a /run and a network of its own to watch");
        return;
    }
    thread::scope(|scope| {
        let watched = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
            empty_tmp_and_run(&[
                &ready.bin,
                Path::new(env!("CARGO_TARGET_TMPDIR")),
                Cache::user().unwrap().root(),
            ]);
            test();
        });
        if let Err(panic) = watched.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Puts an empty file system on `/tmp` and on `/run`, for this thread and what it starts, except for `keep`.
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
