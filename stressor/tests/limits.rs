//! Tests of the program `stressor` under limits of the real kernel: control groups, resource limits, reserved
//! huge pages. A workload that does not fit is refused with the limit and its remedy, and the remedy works.
#![allow(clippy::print_stdout, reason = "the output of a test says what failed or why it was skipped")]

use rustix::process::geteuid;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use stressor::{
    Workload,
    engine::{Engine, HugePages},
    protocol::{Answer, Message, Request},
};

/// The environment variable with the path of the program `stressor`, for tests that have a guest to
/// themselves.
const PROGRAM: &str = "STRESSOR_PROGRAM";

/// The pool of huge pages of 2 MiB.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// How long to wait for the kernel to remove a process from its control group.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serializes the tests that change the system: huge pages, controllers, mounts.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn program() -> PathBuf {
    std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_stressor").into()).into()
}

/// Prints why a test is skipped. Returns `None`.
fn skipped<T>(why: &str) -> Option<T> {
    println!("skipped: {why}");
    None
}

/// Returns whether this is root. Prints why the test is skipped otherwise.
fn is_root() -> bool {
    geteuid().is_root() || skipped::<()>("needs root").is_some()
}

/// Runs the stressor through another program, such as `prlimit`. Prints why the test is skipped if that
/// program is not installed.
fn run_through(wrapper: &str, wrapper_args: &[&str], args: &str) -> Option<Output> {
    let mut command = Command::new(wrapper);
    command.args(wrapper_args).arg(program()).args(args.split_whitespace()).stdin(Stdio::null());
    match command.output() {
        Ok(output) => {
            // The test harness shows this only if the test fails.
            println!("{command:?}\n{output:?}");
            Some(output)
        }
        Err(error) => skipped(&format!("{wrapper}: {error}")),
    }
}

/// Runs the stressor. Returns its exit code and standard error.
fn run(args: &str) -> (Option<i32>, String) {
    let output = Command::new(program()).args(args.split_whitespace()).output().unwrap();
    (output.status.code(), stderr(&output))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that the stressor refused a workload with a message.
#[track_caller]
fn assert_refused(output: &Output, says: &str) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains(says), "{stderr}");
}

/// A control group, which is removed on drop.
struct Group {
    dir: PathBuf,
    /// Where the hierarchy is mounted.
    root: PathBuf,
    /// The file that enables controllers, and the controller to disable in the end.
    enabled: Option<(PathBuf, String)>,
}

impl Group {
    /// Makes a group with a controller, in the hierarchy of version 1 or 2 that has it. Prints why the test
    /// is skipped if that is not possible.
    fn new(controller: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        if std::env::var_os(PROGRAM).is_some() && !Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, None::<&str>)
                .unwrap();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = mounts.lines().find_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let at = PathBuf::from(mount.split(' ').nth(4)?);
            let has = |text: &str| text.split([',', ' ', '\n']).any(|word| word == controller);
            match file_system.split_once(' ')? {
                ("cgroup", options) if has(options) => Some((at, false)),
                ("cgroup2", _) if has(&fs::read_to_string(at.join("cgroup.controllers")).ok()?) => {
                    Some((at, true))
                }
                _ => None,
            }
        });
        let Some((root, v2)) = found else {
            return skipped(&format!("no control groups limit {controller} here"));
        };
        let mut enabled = None;
        let switch = root.join("cgroup.subtree_control");
        if v2 && !fs::read_to_string(&switch).unwrap().split_whitespace().any(|name| name == controller) {
            if let Err(error) = fs::write(&switch, format!("+{controller}")) {
                return skipped(&format!("the controller {controller} cannot be enabled: {error}"));
            }
            enabled = Some((switch, format!("-{controller}")));
        }
        let dir = root.join(format!("stressor-{controller}-{}", std::process::id()));
        let group = Self { dir, root, enabled };
        fs::create_dir(&group.dir).unwrap();
        Some(group)
    }

    /// Sets the limit of the first of these names that the group has. Returns the path of its file.
    fn limit(&self, names: &[&str], value: &str) -> String {
        let file = names.iter().map(|name| self.dir.join(name)).find(|file| file.exists());
        let file = file.unwrap_or_else(|| panic!("no {names:?} in {}", self.dir.display()));
        // The kernel refuses a limit below what a process that has just ended still seems to use.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = fs::write(&file, value) {
            assert!(Instant::now() < deadline, "{}: {error}", file.display());
            thread::sleep(Duration::from_millis(10));
        }
        file.display().to_string()
    }

    /// Runs the stressor in this group, with its requests on standard input.
    fn control(&self) -> Session {
        let mut session = Session::start();
        fs::write(self.dir.join("cgroup.procs"), session.0.0.id().to_string()).unwrap();
        // What it answers now, it answers in the group.
        assert_eq!(session.request(&stressor::protocol::Command::Stop), Answer::Done);
        session
    }

    /// Runs a program in this group, through a shell.
    fn run(&self, args: &str) -> Option<Output> {
        let procs = self.dir.join("cgroup.procs").display().to_string();
        run_through("sh", &["-c", "echo 0 >\"$0\" && exec \"$@\"", &procs], args)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.dir).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        if let Some((switch, controller)) = &self.enabled {
            let _ = fs::write(switch, controller);
        }
    }
}

/// A process, which is killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `stressor --control`.
struct Session(Process);

impl Session {
    fn start() -> Self {
        let mut command = Command::new(program());
        let child = command.arg("--control").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self(Process(child))
    }

    fn request(&mut self, command: &stressor::protocol::Command) -> Answer {
        let request = Request { id: 1, command: command.clone() };
        let line = serde_json::to_string(&request).unwrap();
        writeln!(self.0.0.stdin.as_mut().unwrap(), "{line}").unwrap();
        // The lines in between are short, so that no reply waits in the buffer of an earlier reader.
        let mut output = BufReader::with_capacity(1, self.0.0.stdout.as_mut().unwrap());
        loop {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            if let Message::Reply { answer, .. } = serde_json::from_str(&line).unwrap() {
                return answer;
            }
        }
    }

    fn set(&mut self, settings: &str) -> Answer {
        self.request(&stressor::protocol::Command::Set(serde_yaml::from_str(settings).unwrap()))
    }

    /// Returns the message with which the stressor refuses a workload.
    #[track_caller]
    fn refused(&mut self, settings: &str) -> String {
        match self.set(settings) {
            Answer::Failed(why) => why,
            other => panic!("{settings}: {other:?}"),
        }
    }
}

/// The pool of huge pages of 2 MiB during a test. Its previous size is restored on drop.
struct Pool {
    before: Vec<(&'static str, String)>,
}

impl Pool {
    /// Reserves some pages. Prints why the test is skipped if that is not possible.
    fn reserve(pages: u64) -> Option<Self> {
        if !is_root() {
            return None;
        }
        if !Path::new(POOL).exists() {
            return skipped("no huge pages of 2 MiB");
        }
        let before = ["nr_overcommit_hugepages", "nr_hugepages"]
            .map(|name| (name, fs::read_to_string(format!("{POOL}/{name}")).unwrap()));
        let pool = Self { before: before.into() };
        if Self::number("nr_hugepages") != Self::number("free_hugepages") {
            return skipped("other programs use huge pages");
        }
        pool.resize(pages);
        if Self::number("free_hugepages") < pages {
            return skipped(&format!("the kernel cannot reserve {pages} huge pages"));
        }
        Some(pool)
    }

    fn number(name: &str) -> u64 {
        fs::read_to_string(format!("{POOL}/{name}")).unwrap().trim().parse().unwrap()
    }

    #[expect(clippy::unused_self, reason = "whoever resizes the pool has to restore it")]
    fn resize(&self, pages: u64) {
        fs::write(format!("{POOL}/nr_hugepages"), pages.to_string()).unwrap();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (name, value) in &self.before {
            let _ = fs::write(format!("{POOL}/{name}"), value);
        }
    }
}

/// Follows the advice in a message: `echo NUMBER > FILE`.
#[track_caller]
fn follow(message: &str) {
    let command = message.split('`').nth(1).unwrap_or_else(|| panic!("no command: {message}"));
    let (number, file) = command.strip_prefix("echo ").and_then(|rest| rest.split_once(" > ")).unwrap();
    fs::write(file, number).unwrap();
}

#[test]
fn the_advice_for_huge_pages_leaves_what_is_in_use() {
    let _turn = turn();
    let Some(pool) = Pool::reserve(10) else { return };
    let mut holder = Session::start();
    let held = "{ working_set: 8MiB, page_size: 2MiB }";
    assert_eq!(holder.set(held), Answer::Done);
    let args = "--working-set 20MiB --page-size 2MiB --duration 1ms";
    let (code, message) = run(args);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("10 huge pages of 2MiB, but only 6 are free"), "{message}");
    follow(&message);
    let (code, message) = run(args);
    assert_eq!(code, Some(0), "the advice does not help: {message}");

    // Pages in use survive when a pool is emptied. They are not part of any number that root has written.
    pool.resize(0);
    let (code, message) = run(args);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("10 huge pages of 2MiB, but none is free"), "{message}");
    follow(&message);
    let (code, message) = run(args);
    assert_eq!(code, Some(0), "the advice does not help: {message}");
}

#[test]
fn huge_pages_that_are_mapped_but_not_touched_are_not_free() {
    if !cfg!(target_arch = "x86_64") {
        skipped::<()>("the system call is that of x86-64");
        return;
    }
    let _turn = turn();
    let Some(_pool) = Pool::reserve(10) else { return };
    // Five pages of private anonymous memory, with the constants of mmap(2) on x86-64.
    let script = "$|=1; syscall(9, 0, 5 << 21, 3, 0x40022, -1, 0) > 0 or die; print \"mapped\\n\"; <STDIN>";
    let mut command = Command::new("perl");
    command.args(["-e", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut mapper = match command.spawn() {
        Ok(child) => Process(child),
        Err(error) => {
            skipped::<()>(&format!("perl: {error}"));
            return;
        }
    };
    let mut line = String::new();
    BufReader::new(mapper.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mapped\n");
    assert_eq!((Pool::number("free_hugepages"), Pool::number("resv_hugepages")), (10, 5));
    let args = "--working-set 20MiB --page-size 2MiB --duration 1ms";
    let (code, message) = run(args);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("10 huge pages of 2MiB, but only 5 are free"), "{message}");
    follow(&message);
    let (code, message) = run(args);
    assert_eq!(code, Some(0), "the advice does not help: {message}");
}

#[test]
fn huge_pages_that_the_kernel_adds_by_itself_count() {
    let _turn = turn();
    let Some(_pool) = Pool::reserve(2) else { return };
    fs::write(format!("{POOL}/nr_overcommit_hugepages"), "8").unwrap();
    let (code, message) = run("--working-set 20MiB --page-size 2MiB --duration 1ms");
    assert_eq!(code, Some(0), "{message}");
    let (code, message) = run("--working-set 22MiB --page-size 2MiB --duration 1ms");
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("11 huge pages of 2MiB, but only 10 are free"), "{message}");
}

#[test]
fn a_control_groups_limit_on_huge_pages_is_named() {
    let _turn = turn();
    let Some(_pool) = Pool::reserve(12) else { return };
    let Some(group) = Group::new("hugetlb") else { return };
    let ten = "{ working_set: 20MiB, page_size: 2MiB }";
    // On pages in use, and on pages that are promised.
    for names in [
        ["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"],
        ["hugetlb.2MB.rsvd.max", "hugetlb.2MB.rsvd.limit_in_bytes"],
    ] {
        let file = group.limit(&names, &(8 << 20).to_string());
        let mut session = group.control();
        let says = "10 huge pages of 2MiB, but this control group may use only 4 more: make";
        let message = session.refused(ten);
        assert!(message.contains(says) && message.ends_with(&file), "{message}");
        assert_eq!(session.set("{ working_set: 8MiB, page_size: 2MiB }"), Answer::Done);
        // A workload's pages are available to its successor.
        assert_eq!(session.set("{ working_set: 8MiB, page_size: 2MiB, content: increment }"), Answer::Done);
        // The remedy is to raise the limit.
        fs::write(file, (20 << 20).to_string()).unwrap();
        assert_eq!(session.set(ten), Answer::Done);
        assert!(session.refused("{ working_set: 22MiB, page_size: 2MiB }").contains("may use only 10 more"));
    }
}

/// Runs its arguments on a kernel whose `madvise` does not know `MADV_POPULATE_WRITE`, 23, like one before
/// 5.14: a filter of system calls answers `EINVAL`.
const OLD_KERNEL: &str = r#"
my $filter = join "", map { pack "SCCL", @$_ }
    [0x20, 0, 0, 0], [0x15, 0, 3, 28], [0x20, 0, 0, 32], [0x15, 0, 1, 23],
    [6, 0, 0, 0x50016], [6, 0, 0, 0x7fff0000];
my $program = pack "Sx6P", 6, $filter;
syscall(157, 38, 1, 0, 0, 0) == 0 && syscall(157, 22, 2, $program) == 0 or die "seccomp: $!";
exec @ARGV or die "exec: $!";
"#;

#[test]
fn a_page_that_the_kernel_withholds_is_an_error_and_not_a_signal() {
    let _turn = turn();
    let Some(_pool) = Pool::reserve(12) else { return };
    let Some(group) = Group::new("hugetlb") else { return };
    group.limit(&["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"], &(8 << 20).to_string());
    // The limit cannot be read if the hierarchy is not mounted.
    let script = format!(
        "echo 0 >{}/cgroup.procs && exec unshare -m sh -c 'umount -l {} && exec \"$@\"' sh \"$@\"",
        group.dir.display(),
        group.root.display()
    );
    let mut kernels = vec![vec!["-c", &script, "sh"]];
    if cfg!(target_arch = "x86_64") {
        kernels.push(vec!["-c", &script, "sh", "perl", "-e", OLD_KERNEL]);
    }
    for through in kernels {
        let args = "--working-set 20MiB --page-size 2MiB --duration 1ms";
        let Some(output) = run_through("sh", &through, args) else { return };
        let message = stderr(&output);
        if ["unshare: ", "umount: ", "perl: ", "seccomp: "].iter().any(|word| message.contains(word)) {
            skipped::<()>(&message);
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("a limit on huge pages"), "{message}");
    }
}

#[test]
fn a_control_groups_limits_on_memory_are_named() {
    let _turn = turn();
    let Some(group) = Group::new("memory") else { return };
    let sixty = "{ rate: 1MB/s, working_set: 60MiB }";
    // A group above memory.high is not killed; it hardly runs.
    let high = group.dir.join("memory.high").exists().then_some("memory.high");
    if high.is_none() {
        skipped::<()>("memory.high: the memory controller is of version 1");
    }
    for names in [Some("memory.max"), high].into_iter().flatten() {
        let file = group.limit(&[names, "memory.limit_in_bytes"], &(40 << 20).to_string());
        let mut session = group.control();
        let message = session.refused(sixty);
        assert!(message.contains("available in this control group: make the working set"), "{message}");
        assert!(message.ends_with(&format!("or raise the limit in {file}")), "{message}");
        fs::write(file, (200 << 20).to_string()).unwrap();
        assert_eq!(session.set(sixty), Answer::Done);
    }
}

#[test]
fn a_control_groups_limit_on_threads_is_named() {
    let _turn = turn();
    let Some(group) = Group::new("pids") else { return };
    let file = group.limit(&["pids.max"], "3");
    let Some(output) = group.run("--rate 1MB/s --working-set 1MiB --threads 4") else { return };
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: cannot start a thread: "), "{message}");
    assert!(message.ends_with(&format!("; raise the limit in {file}\n")), "{message}");
    // A session needs a second thread from the beginning.
    group.limit(&["pids.max"], "1");
    let Some(output) = group.run("--control") else { return };
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: cannot start a thread: "), "{message}");
    assert!(message.ends_with(&format!("; raise the limit in {file}\n")), "{message}");
}

#[test]
fn a_session_without_room_for_a_thread_is_an_error() {
    // The limit applies only to ordinary users, and this one has no other processes.
    let through = ["--nproc=1", "setpriv", "--reuid=54322", "--clear-groups"];
    let Some(output) = run_through("prlimit", &through, "--control") else { return };
    let message = stderr(&output);
    if message.contains("setpriv: ") || message.contains("Permission denied") {
        skipped::<()>(&format!("not as root, or not where everybody may run programs: {message}"));
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: cannot start a thread: "), "{message}");
    assert!(message.ends_with("(`ulimit -u`)\n"), "{message}");
}

#[test]
fn limits_of_the_process_are_named() {
    for (limit, remedy) in [("--as=70000000", "`ulimit -v`"), ("--data=70000000", "`ulimit -d`")] {
        let args = "--rate 1MB/s --working-set 64MiB --duration 1ms";
        let Some(output) = run_through("prlimit", &[limit], args) else { return };
        assert_refused(&output, "are available to this process: make the working set");
        assert_refused(&output, remedy);
        // Threads take address space too.
        let args = "--rate 1MB/s --working-set 32MiB --threads 16 --duration 1ms";
        let Some(output) = run_through("prlimit", &[limit], args) else { return };
        assert_refused(&output, remedy);
        let args = "--rate 1MB/s --working-set 32MiB --duration 1ms";
        let Some(output) = run_through("prlimit", &[limit], args) else { return };
        assert_eq!(output.status.code(), Some(0), "{limit}: {}", stderr(&output));
    }
    // Nothing is locked, and no file is written.
    let args = "--rate 1MB/s --working-set 1MiB --duration 1ms";
    let Some(output) = run_through("prlimit", &["--memlock=0", "--fsize=0"], args) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_guest_keeps_no_huge_pages_for_a_workload_that_it_refuses() {
    if std::env::var_os(PROGRAM).is_none() {
        skipped::<()>("takes all memory for a moment: runs in a guest only");
        return;
    }
    let _turn = turn();
    let mut engine = Engine::new(HugePages::ReserveMissing);
    let workload = |working_set: &str| -> Workload {
        serde_yaml::from_str(&format!("{{ working_set: {working_set}, page_size: 2MiB }}")).unwrap()
    };
    engine.set(workload("20MiB")).unwrap();
    assert_eq!(Pool::number("nr_hugepages"), 10);
    let message = engine.set(workload("2GiB")).unwrap_err().to_string();
    assert!(message.contains("1024 huge pages of 2MiB, but only "), "{message}");
    assert!(message.contains("are free: the kernel can reserve no more; make"), "{message}");
    assert_eq!(Pool::number("nr_hugepages"), 10);
    engine.set(Workload::default()).unwrap();
    assert_eq!(Pool::number("nr_hugepages"), 0);
}

#[test]
fn a_kernel_that_does_not_overcommit_is_named() {
    if std::env::var_os(PROGRAM).is_none() {
        skipped::<()>("changes how the kernel gives memory to everybody: runs in a guest only");
        return;
    }
    let _turn = turn();
    let [mode, ratio] = ["/proc/sys/vm/overcommit_memory", "/proc/sys/vm/overcommit_kbytes"];
    let before = fs::read_to_string(mode).unwrap();
    fs::write(mode, "2").unwrap();
    let with = |mib: u64| {
        fs::write(ratio, (mib << 10).to_string()).unwrap();
        run("--rate 1MB/s --working-set 100MiB --duration 1ms")
    };
    let (code, message) = with(120);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("vm.overcommit_memory is 2"), "{message}");
    let (code, message) = with(400);
    assert_eq!(code, Some(0), "{message}");
    fs::write(mode, before).unwrap();
}

#[test]
fn a_system_without_proc_or_sys_is_named() {
    for (folder, args, says) in [
        ("/proc", "--working-set 1MiB", "cannot read /proc/meminfo: "),
        ("/proc", "--working-set 1MiB", "(is /proc mounted?)"),
        ("/sys", "--working-set 2MiB --page-size 2MiB", "cannot be counted: /sys is not mounted"),
    ] {
        let script = format!("umount -l {folder} && exec \"$0\" \"$@\"");
        let Some(output) = run_through("unshare", &["-m", "sh", "-c", &script], args) else { return };
        let message = stderr(&output);
        if message.contains("unshare: ") || message.contains("umount: ") {
            skipped::<()>(&message);
            return;
        }
        assert!(message.contains(says), "{message}");
        assert_eq!(output.status.code(), Some(if folder == "/sys" { 2 } else { 1 }), "{message}");
    }
}
