//! What the QEMUs of a run may do on their host, and who may do something to them.

use crate::common::{
    real::{Process, RunningTestbed, SMALL, TestDir, ready, signal, skipped},
    write_script,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::{
        signal::Signal,
        socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getpeername, socket},
    },
    unistd::geteuid,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use testbed::outcome::Outcome;

/// Returns the small migration, over a slower link, so that there is more time to examine it.
fn small() -> String {
    SMALL.replace("300mbit", "200mbit")
}

/// A migration that takes more than half a minute.
const SLOW: &str = "
name: slow
guest: { memory: 192MiB, ballast: 64MiB }
link: { rate: 20mbit }
stress: { rate: 0, working_set: 4MB }
migrate: { downtime_limit: 300ms, timeout: 120s, stall_detection: false }
";

const RUN: [&str; 4] = ["-v", "matrix.yaml", "--out", "run"];

/// Waits until a migration runs, and returns the QEMUs at the source and the destination.
#[track_caller]
fn migrating(run: &mut RunningTestbed<'_>, attempt: &str) -> [Process; 2] {
    run.wait_for("a migration", |dir| dir.migrates(attempt).then_some(()));
    ["source", "destination"]
        .map(|end| run.wait_for(end, |dir| dir.processes().into_iter().find(|process| process.is_qemu(end))))
}

/// Makes `qemu-system-x86_64` in this directory's `PATH` a script. `{qemu}` in its text is the real program.
fn wrap_qemu(dir: &mut TestDir, text: &str) {
    let path = std::env::var_os("PATH").unwrap();
    let name = testbed::host::QEMU;
    let real = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    let folder = dir.path("bin");
    fs::create_dir(&folder).unwrap();
    write_script(&folder.join(name), &text.replace("{qemu}", &real.unwrap().display().to_string()));
    let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
    dir.set("PATH", std::env::join_paths(folders).unwrap());
}

/// A wrapper has QEMU as a child: in its process group, in another session, or without a parent.
#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_qemu_behind_a_wrapper_is_gone_after_its_attempt() {
    let Some(ready) = ready() else { return };
    for start in [
        "{qemu} \"$@\"",
        "setsid {qemu} \"$@\" & wait $!",
        "test $1 != --version || exec {qemu} \"$@\"\n(setsid {qemu} \"$@\" &)\nsleep 1000",
    ] {
        let mut dir = TestDir::new(&ready, &(small() + "repeat: 2\n"));
        // A wrapper that used `exec` would not be a wrapper.
        wrap_qemu(&mut dir, &format!("#!/bin/sh\n{start}\nexit\n"));
        let mut run = dir.start(&RUN);
        let ends = migrating(&mut run, "base.2");
        let roles = ["boot", "source", "destination", "trial"];
        let is_qemu = |process: &Process| roles.iter().any(|role| process.is_qemu(role));
        let running: Vec<Process> = dir.processes().into_iter().filter(is_qemu).collect();
        assert_eq!(running.len(), 2, "{start}: only {ends:?} should run\n{}", dir.shown());
        signal(run.pid(), Signal::SIGINT);
        assert_eq!(run.end(), 130, "{start}: {}", dir.shown());
        assert_eq!(dir.records()[0].outcome, Outcome::Converged, "{start}: {}", dir.shown());
    }
}

/// Runs some work in the network namespace of a process.
fn in_network_of<T: Send>(process: &Process, work: impl FnOnce() -> T + Send) -> T {
    let network = File::open(format!("/proc/{}/ns/net", process.pid)).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&network, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

/// Returns whether a TCP connection from one address to another is established within two seconds.
fn connects(from: Ipv4Addr, to: SocketAddrV4) -> bool {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
    // It is not refused immediately: the answer takes a while.
    let _ = connect(fd.as_raw_fd(), &SockaddrIn::from(to));
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::from(2000_u16)).unwrap();
    getpeername::<SockaddrIn>(fd.as_raw_fd()).is_ok()
}

/// Returns whether a process's network namespace has a TCP socket that listens.
fn listens(process: &Process) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", process.pid)).unwrap_or_default();
    sockets.lines().skip(1).any(|line| line.split_whitespace().nth(3) == Some("0A"))
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn only_the_source_can_connect_to_the_destination_and_not_before_the_guest_has_settled() {
    let Some(ready) = ready() else { return };
    if !geteuid().is_root() {
        skipped::<()>("needs root, to enter the network namespaces of the nodes");
        return;
    }
    let dir = TestDir::new(&ready, &small());
    let mut run = dir.start(&RUN);
    let waiting = run.wait_for("the destination", |dir| {
        dir.processes().into_iter().find(|process| process.is_qemu("destination"))
    });
    run.wait_for("a migration", |dir| {
        // In this order, because it may begin to listen in between.
        if listens(&waiting) {
            assert!(dir.stderr().contains("settling: "), "it listens too early\n{}", dir.shown());
        }
        dir.migrates("base.1").then_some(())
    });
    let [source, destination] = migrating(&mut run, "base.1");
    let (peer, stranger) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 77));
    let listener = in_network_of(&destination, || TcpListener::bind("192.0.2.2:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), port);
    let [from_peer, from_stranger] = in_network_of(&source, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let added = async { netem::Netlink::open().unwrap().add_address("migration", stranger, 24).await };
        runtime.block_on(added).unwrap();
        [connects(peer, to), connects(stranger, to)]
    });
    assert!(from_peer, "the source cannot connect\n{}", dir.shown());
    assert!(!from_stranger, "another address on the migration network can connect\n{}", dir.shown());
    assert_eq!(run.end(), 0, "{}", dir.shown());
    assert_eq!(dir.records()[0].outcome, Outcome::Converged, "{}", dir.shown());
}

/// Returns the fields of a process's status.
fn status(process: &Process) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.into(), value.trim().into()))
        .collect()
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn qemu_runs_in_a_sandbox_as_an_unprivileged_user() {
    let Some(ready) = ready() else { return };
    let dir = TestDir::new(&ready, &small());
    let mut run = dir.start(&RUN);
    let ends = migrating(&mut run, "base.1");
    let statuses = ends.each_ref().map(status);
    assert_eq!(run.end(), 0, "{}", dir.shown());
    let confinement = &dir.environment()["confinement"];
    if confinement["lacks"].is_array() {
        skipped::<()>(&format!("QEMU here cannot be confined: {}", confinement["lacks"]));
        return;
    }
    assert_eq!(confinement["sandbox"], true);
    for status in statuses {
        assert_eq!(status["Seccomp"], "2", "a filter of system calls: {status:?}");
        assert_eq!(status["NoNewPrivs"], "1", "{status:?}");
        if geteuid().is_root() {
            assert_eq!(confinement["user"], "65534:65534");
            for ids in [&status["Uid"], &status["Gid"]] {
                assert!(ids.split_whitespace().all(|id| id == "65534"), "{status:?}");
            }
            assert!(status["CapEff"].chars().all(|digit| digit == '0'), "{status:?}");
        }
    }
    assert!(!dir.stderr().contains("note: QEMU runs"), "{}", dir.shown());
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_qemu_that_cannot_be_confined_runs_as_it_is_and_the_run_says_so() {
    let Some(ready) = ready() else { return };
    let mut dir = TestDir::new(&ready, &small());
    wrap_qemu(
        &mut dir,
        "#!/bin/sh\nfor word; do case $word in\n-sandbox) echo no seccomp in this build >&2; exit 1;;\n\
         -run-with|-runas) echo no such option >&2; exit 1;;\nesac; done\nexec {qemu} \"$@\"\n",
    );
    assert_eq!(dir.run(&RUN), 0, "{}", dir.shown());
    let said = dir.stderr();
    assert!(said.contains("note: QEMU runs without a sandbox, because it refuses one: no seccomp"), "{said}");
    let confinement = &dir.environment()["confinement"];
    assert_eq!((&confinement["sandbox"], &confinement["user"]), (&false.into(), &().into()));
    assert!(confinement["lacks"][0].as_str().unwrap().contains("no seccomp in this build"), "{confinement}");
    let of_root = "note: QEMU runs as root, because it cannot become another user: no such option";
    assert_eq!(said.contains(of_root), geteuid().is_root(), "{said}");
}

/// A control group with a limit of memory. It is removed when this value is dropped.
struct MemoryGroup {
    dir: PathBuf,
    limit: &'static str,
    used: &'static str,
}

impl MemoryGroup {
    /// Makes a group. Prints why the test is skipped if that is not possible.
    fn new() -> Option<Self> {
        let name = format!("testbed-test-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (parent, limit, used) = if v1.join("memory.limit_in_bytes").exists() {
            (v1, "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max", "memory.current")
        };
        let group = Self { dir: parent.join(name), limit, used };
        if let Err(error) = fs::create_dir(&group.dir) {
            return skipped(&format!("no control group can be made: {error}"));
        }
        if !group.dir.join(limit).exists() {
            return skipped("the memory controller is not enabled in /sys/fs/cgroup");
        }
        Some(group)
    }

    fn set_limit(&self, bytes: u64) -> std::io::Result<()> {
        fs::write(self.dir.join(self.limit), bytes.to_string())
    }

    /// Sets the lowest limit that leaves the group `left` bytes, apart from what the kernel can reclaim.
    fn leave(&self, left: u64) {
        let used = || fs::read_to_string(self.dir.join(self.used)).unwrap().trim().parse::<u64>().unwrap();
        let stat = fs::read_to_string(self.dir.join("memory.stat")).unwrap();
        let field = |name: &str| {
            let of_line = |line: &str| line.strip_prefix(name)?.trim().parse::<u64>().ok();
            stat.lines().find_map(of_line).unwrap_or(0)
        };
        // The names are those of version 1 and of version 2.
        let cached = |total: &str, plain: &str| field(total).max(field(plain));
        let inactive = cached("total_inactive_file ", "inactive_file ");
        let active = cached("total_active_file ", "active_file ");
        let mut limit = used().saturating_sub(inactive + active) + left;
        // Version 1 refuses a limit that it cannot reach by reclaiming memory.
        while self.set_limit(limit).is_err() {
            limit += 1 << 20;
        }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The group can be removed once the last process in it is gone.
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::remove_dir(&self.dir).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn the_memory_of_a_cgroup_is_what_counts_and_its_end_is_named() {
    let Some(ready) = ready() else { return };
    if !geteuid().is_root() {
        skipped::<()>("needs root, to make a control group");
        return;
    }
    let Some(group) = MemoryGroup::new() else { return };
    let mut dir = TestDir::new(&ready, SLOW);
    let inside = dir.path("inside");
    let (testbed, procs) = (dir.testbed.display(), group.dir.join("cgroup.procs"));
    write_script(&inside, &format!("#!/bin/sh\necho $$ >{}\nexec {testbed} \"$@\"\n", procs.display()));
    dir.testbed = inside;

    group.set_limit(300 << 20).unwrap();
    let (code, out, _) = dir.run_subcommand(&["doctor"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("MiB free in this cgroup"), "{out}");
    let (_, out, _) = dir.run_subcommand(&["plan", "matrix.yaml"]);
    assert!(out.contains("the cgroup on this host has only"), "{out}");

    group.set_limit(400 << 20).unwrap();
    let mut run = dir.start(&RUN);
    migrating(&mut run, "base.1");
    group.leave(8 << 20);
    assert_eq!(run.end(), 3, "{}", dir.shown());
    let record = &dir.records()[0];
    let reason = record.reason.clone().unwrap_or_default();
    assert_eq!(record.outcome, Outcome::Failed, "{reason}");
    assert!(reason.contains("killed by the kernel because the memory of its cgroup ran out"), "{reason}");
    assert!(dir.stderr().contains("note: two guests take up to 444 MiB of memory"), "{}", dir.shown());
}
