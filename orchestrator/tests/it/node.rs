//! A node process, connected in the same way as to the orchestrator.

use crate::common::{
    path_with,
    real::{signal, skipped},
    write_script,
};
use data_encoding::HEXLOWER;
use netem::{Namespace, Netlink};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sched::{CloneFlags, setns},
    sys::signal::Signal,
    unistd::geteuid,
};
use rustix::io::ioctl_fionread;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};
use testbed::node::{
    Node,
    alive::Carrier,
    protocol::{Call, FromNode, Privilege, ProcessSpec, ToNode, UploadedFile, file_path},
    server::probe::ProbeReport,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    process::{Child, Command},
    time,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The user `nobody`, an ordinary user that every system has.
const NOBODY: u32 = 65_534;

/// Starts a node. Skips the test if namespaces cannot be created.
async fn start() -> Option<(Node, Child)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["node", "--name", "compute1", "--run", "1"]).kill_on_drop(true);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let node = Node::from_streams("compute1", process.stdout.take()?, process.stdin.take()?);
    if node.facts().await.is_err() {
        return skipped("namespaces cannot be created here");
    }
    Some((node, process))
}

/// A host for a remote node: a network namespace with an interface `eth1`, whose other end is `far`.
struct Host {
    network: Namespace,
    netlink: Netlink,
}

impl Host {
    /// Creates a host. Skips the test if this process is not root.
    async fn new() -> Option<Self> {
        if !geteuid().is_root() {
            return skipped("needs root, for a node that takes over an interface of its host");
        }
        let network = Namespace::new().unwrap();
        let netlink = Netlink::open_in(network.as_fd()).unwrap();
        netlink.add_veth("eth1", "far", None).await.unwrap();
        netlink.set_up("eth1").await.unwrap();
        Some(Self { network, netlink })
    }

    /// Starts a node that serves an orchestrator on another host. The orchestrator sends no keep-alives yet.
    async fn start_node(&self) -> (Node, Child) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
        command.args(["node", "--name", "compute1", "--run", "1@h", "--remote", "192.0.2.9 1 192.0.2.1 22"]);
        command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("SECRET_TOKEN", "of-root").env("TESTBED_TEST", "kept");
        // The process is in the namespace of the thread that starts it. That is this thread rather than a
        // separate one, because a node dies with the thread that started it.
        let here = Namespace::current().unwrap();
        setns(&self.network, CloneFlags::CLONE_NEWNET).unwrap();
        let spawned = command.spawn();
        setns(&here, CloneFlags::CLONE_NEWNET).unwrap();
        let mut process = spawned.unwrap();
        let streams = (process.stdout.take().unwrap(), process.stdin.take().unwrap());
        let node = Node::from_streams("compute1", streams.0, streams.1);
        node.facts().await.unwrap();
        (node, process)
    }
}

/// Returns the PID of the serving process of a node, the only child of the process that was started.
fn serving_pid(node: &Child) -> i32 {
    let outside = node.id().unwrap();
    let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).unwrap();
    children.trim().parse().unwrap()
}

/// A control group that limits the number of processes and threads.
struct PidsGroup(PathBuf);

impl PidsGroup {
    /// Makes a group. Prints why the test is skipped if that is not possible.
    fn new() -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/pids");
        let parent = if v1.exists() { v1 } else { Path::new("/sys/fs/cgroup") };
        let group = Self(parent.join(format!("testbed-test-node-{}", std::process::id())));
        if let Err(error) = fs::create_dir(&group.0) {
            return skipped(&format!("no control group can be made: {error}"));
        }
        if !group.0.join("pids.max").exists() {
            return skipped("the pids controller is not enabled in /sys/fs/cgroup");
        }
        Some(group)
    }

    /// Takes a process with all of its threads, and grants no more of them.
    fn close_around(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        let current = fs::read_to_string(self.0.join("pids.current")).unwrap();
        fs::write(self.0.join("pids.max"), current.trim()).unwrap();
    }
}

impl Drop for PidsGroup {
    fn drop(&mut self) {
        // The group can be removed once the last process in it is gone.
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn a_call_for_which_the_system_grants_no_thread_is_answered() {
    let Some(group) = PidsGroup::new() else { return };
    let Some((node, mut process)) = start().await else { return };
    group.close_around(serving_pid(&process));
    let answered = time::timeout(PATIENCE, node.facts()).await.expect("the call is answered");
    let error = answered.unwrap_err().to_string();
    assert!(error.contains("Resource temporarily unavailable"), "{error}");
    process.kill().await.unwrap();
}

#[tokio::test]
async fn a_remote_node_that_hears_nothing_ends_although_its_input_stays_open() {
    let Some(host) = Host::new().await else { return };
    let (node, mut process) = host.start_node().await;
    node.attach("eth1", "migration").await.unwrap();
    let spec = ProcessSpec { program: "sleep".into(), args: vec!["600".into()], ..ProcessSpec::default() };
    let mut sleep = node.spawn(spec).await.unwrap();
    let taken = host.netlink.add_macvlan("second", "eth1", None).await;
    assert!(taken.is_err(), "the node has not taken over the interface");

    let status = time::timeout(PATIENCE, process.wait()).await.expect("the node lives on").unwrap();
    assert!(status.success(), "{status}");
    host.netlink.add_macvlan("second", "eth1", None).await.expect("the host has its interface back");
    assert_eq!(sleep.events.recv().await, None, "all that the node has started is gone with it");
    let error = node.facts().await.unwrap_err().to_string();
    let heard_nothing = "node compute1 is gone: it heard nothing from testbed for ";
    let seconds = error.strip_prefix(heard_nothing).and_then(|rest| rest.strip_suffix(" s, and ended"));
    // A host that stood still adds to it.
    assert!(seconds.and_then(|seconds| seconds.parse().ok()) >= Some(8), "{error}");
}

#[tokio::test]
async fn a_remote_node_does_not_count_the_time_for_which_it_stood_still() {
    let Some(host) = Host::new().await else { return };
    let (node, process) = host.start_node().await;
    let pid = serving_pid(&process);
    signal(pid, Signal::SIGSTOP);
    time::sleep(Duration::from_secs(9)).await;
    signal(pid, Signal::SIGCONT);
    // The node must not use this time to end.
    time::sleep(Duration::from_secs(1)).await;
    node.round_trip().await.expect("the node lives on");
}

#[tokio::test]
async fn what_a_node_starts_has_neither_the_callers_secrets_nor_the_hosts_network() {
    let Some(host) = Host::new().await else { return };
    let (node, _process) = host.start_node().await;
    let output = async |program: &str, args: &[&str]| {
        let args = args.iter().map(ToString::to_string).collect();
        let spec = ProcessSpec { program: program.into(), args, ..ProcessSpec::default() };
        let (lines, status) = node.spawn(spec).await.unwrap().end().await.unwrap();
        assert!(status.is_success(), "{lines:?}");
        lines
    };
    let variables = output("env", &[]).await;
    let known = ["PATH", "HOME", "LC_ALL", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR"];
    for variable in &variables {
        let (name, _) = variable.split_once('=').unwrap();
        assert!(known.contains(&name) || name.starts_with("TESTBED_"), "{variables:?}");
    }
    assert!(variables.contains(&"TESTBED_TEST=kept".into()), "{variables:?}");
    assert!(variables.contains(&"LC_ALL=C".into()), "{variables:?}");
    let descriptors = output("ls", &["-l", "/proc/self/fd"]).await;
    assert!(descriptors.iter().any(|line| line.contains(" 1 -> pipe:")), "{descriptors:?}");
    assert!(!descriptors.iter().any(|line| line.contains("net:[")), "{descriptors:?}");
}

/// Runs a program as the user `nobody`, with a folder as its standard input, and returns whether it succeeds.
async fn as_nobody(folder: &File, program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).uid(NOBODY).gid(NOBODY).stdin(folder.try_clone().unwrap()).stderr(Stdio::null());
    command.status().await.unwrap().success()
}

#[tokio::test]
async fn only_a_socket_of_the_node_is_opened_to_others() {
    if !geteuid().is_root() {
        skipped::<()>("needs root and another user");
        return;
    }
    let Some((node, _process)) = start().await else { return };
    let folder = node.create_folder().await.unwrap();
    let opened = File::open(folder.path()).unwrap();
    assert!(!as_nobody(&opened, "ls", &[folder.path()]).await, "who has not inherited it cannot reach it");
    let [cpr, secret] = ["/proc/self/fd/0/cpr", "/proc/self/fd/0/secret"];
    let own = |name: &str| format!("{}/{name}", folder.path());
    fs::write(own("secret"), "secret").unwrap();
    fs::set_permissions(own("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!folder.open_socket("cpr").await.unwrap(), "there is none");

    // What another process of QEMU's user puts there.
    let listening = std::os::unix::net::UnixListener::bind(own("secret.socket")).unwrap();
    let before = |name: &str| fs::symlink_metadata(own(name)).map(|it| (it.mode(), it.uid())).unwrap();
    let (file, socket) = (before("secret"), before("secret.socket"));
    for target in ["secret", "secret.socket"] {
        assert!(as_nobody(&opened, "ln", &["-s", target, cpr]).await);
        assert!(!folder.open_socket("cpr").await.unwrap(), "a link");
        assert!(as_nobody(&opened, "rm", &[cpr]).await);
    }
    let bind = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])) or die";
    assert!(as_nobody(&opened, "perl", &["-e", bind, cpr]).await);
    assert!(!folder.open_socket("cpr").await.unwrap(), "the socket of another user");
    assert!(as_nobody(&opened, "rm", &[cpr]).await);
    assert_eq!((before("secret"), before("secret.socket")), (file, socket));
    drop(listening);

    let _own = std::os::unix::net::UnixListener::bind(own("cpr")).unwrap();
    fs::set_permissions(own("cpr"), fs::Permissions::from_mode(0o700)).unwrap();
    let connect = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or die";
    assert!(!as_nobody(&opened, "perl", &["-e", connect, cpr]).await, "it is not open yet");
    assert!(folder.open_socket("cpr").await.unwrap());
    assert!(as_nobody(&opened, "perl", &["-e", connect, cpr]).await);
    // Neither the socket nor what belongs to the node can be exchanged.
    for name in [cpr, secret] {
        assert!(!as_nobody(&opened, "rm", &["-f", name]).await);
    }
    let path = folder.path().to_owned();
    folder.close().await.unwrap();
    assert!(!fs::exists(&path).unwrap());
}

/// Describes a file with this content as if it had been uploaded.
fn uploaded(path: &Path, content: &[u8]) -> UploadedFile {
    let sha256 = HEXLOWER.encode(&Sha256::digest(content));
    UploadedFile { path: path.display().to_string(), bytes: content.len() as u64, sha256 }
}

#[tokio::test]
async fn an_endless_line_from_a_socket_closes_its_channel_with_the_reason() {
    let Some((node, _process)) = start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("monitor");
    let listener = UnixListener::bind(&socket).unwrap();
    let spec = ProcessSpec { program: "sleep".into(), args: vec!["600".into()], ..ProcessSpec::default() };
    let process = node.spawn(spec).await.unwrap();
    let mut channel = node.connect(&process, socket.to_str().unwrap(), PATIENCE).await.unwrap();
    let (mut qemu, _) = listener.accept().await.unwrap();
    qemu.write_all(b"{}\n").await.unwrap();
    assert_eq!(channel.lines.recv().await, Some(Ok("{}".into())));
    // The node does not read beyond the limit, so the rest cannot be written.
    let piece = vec![b'x'; 1 << 20];
    while qemu.write_all(&piece).await.is_ok() {}
    assert_eq!(channel.lines.recv().await, Some(Err("a line is longer than 4 MiB".into())));
    assert_eq!(channel.lines.recv().await, None);
    node.round_trip().await.expect("the node lives on");
}

/// QEMU answers when the test lets it.
#[tokio::test]
async fn a_qemu_that_does_not_answer_does_not_hold_up_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let may_answer = folder.path().join("may-answer");
    let shown = may_answer.display();
    let script =
        format!("#!/bin/sh\nuntil [ -e {shown} ]; do sleep 0.01; done\necho QEMU emulator version 10.0.2\n");
    write_script(&folder.path().join(testbed::host::QEMU), &script);
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["node", "--name", "compute1", "--run", "1"]).kill_on_drop(true);
    command.env("PATH", path_with(folder.path()));
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let streams = (process.stdout.take().unwrap(), process.stdin.take().unwrap());
    let node = Node::from_streams("compute1", streams.0, streams.1);
    if node.round_trip().await.is_err() {
        skipped::<()>("namespaces cannot be created here");
        return;
    }
    let mut facts = Box::pin(node.facts());
    tokio::select! {
        // This call is made first.
        biased;
        facts = &mut facts => panic!("QEMU has not answered yet: {facts:?}"),
        answered = node.round_trip() => drop(answered.unwrap()),
    }
    fs::write(may_answer, "").unwrap();
    assert_eq!(facts.await.unwrap().qemu.as_deref(), Some("10.0.2"));
}

/// An abandoned ping ends on its own, unlike the probe.
#[tokio::test]
async fn a_ping_leaves_nothing_behind() {
    let Some((node, _process)) = start().await else { return };
    node.set_up("lo", None).await.unwrap();
    let ping = || node.reach(Ipv4Addr::LOCALHOST, Duration::from_millis(10), PATIENCE);
    ping().await.unwrap();
    time::timeout(Duration::ZERO, ping()).await.expect_err("it takes a while");
    let left = node.stop_probe(Duration::ZERO).await.unwrap_err().to_string();
    assert_eq!(left, "node compute1 could not stop the probe: no probe is running");
    drop(node.start_probe(Ipv4Addr::LOCALHOST, Duration::from_millis(10), PATIENCE).await.unwrap());
    let (pinged, stopped) = tokio::join!(ping(), node.stop_probe(Duration::ZERO));
    pinged.expect("beside the probe");
    stopped.unwrap();
}

#[tokio::test]
async fn a_node_boots_guests_only_from_the_content_that_was_uploaded() {
    let Some((node, _process)) = start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    let content = vec![7; 3 << 20];
    fs::write(&path, &content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let file = uploaded(&path, &content);
    let copy = node.take_upload(file.clone()).await.unwrap();
    assert_eq!(copy, format!("/run/node/boot/{}", file.sha256));

    fs::write(&path, [&content[1..], b"x"].concat()).unwrap();
    let error = node.take_upload(file).await.unwrap_err().to_string();
    assert!(error.contains("kernel has changed since it was uploaded"), "{error}");
}

/// Offers userfaultfd to the user `nobody` on a node. Returns whether the device there belongs to that user.
async fn offers_userfaultfd(node: &Node, process: &Child) -> bool {
    node.offer_userfaultfd(NOBODY).await.unwrap();
    let device = fs::metadata(format!("/proc/{}/root/dev/userfaultfd", serving_pid(process)));
    device.is_ok_and(|device| device.uid() == NOBODY)
}

/// QEMU's user has the node's `/run` in common with the node.
#[tokio::test]
async fn nothing_that_qemu_leaves_on_its_node_leads_the_node_elsewhere() {
    let Some((node, process)) = start().await else { return };
    if node.facts().await.unwrap().privilege != Privilege::Root {
        skipped::<()>("needs root and another user");
        return;
    }
    let (host, uploads) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [of_host, kernel] = [host.path().join("ca-cert.pem"), uploads.path().join("kernel")];
    fs::write(&of_host, "of the host").unwrap();
    fs::write(&kernel, "uploaded").unwrap();
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o666)).unwrap();
    let disk = node.open_disk(kernel.to_str().unwrap()).await.unwrap();
    let as_qemu = async |script: &str, files: &[u64]| {
        let args = ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-ec", script];
        let (args, files) = (args.map(Into::into).to_vec(), files.to_vec());
        let spec = ProcessSpec { program: "setpriv".into(), args, files, ..ProcessSpec::default() };
        let (lines, status) = node.spawn(spec).await.unwrap().end().await.unwrap();
        assert!(status.is_success(), "{script}: {lines:?}");
        lines
    };

    // A QEMU that was taken over knows which names the node uses.
    let (folder, file) = (host.path().display(), file_path(disk.number()));
    let name = file.rsplit('/').next().unwrap();
    as_qemu(&format!("ln -s {folder} tls; ln -s {folder} boot; mkdir userfaultfd {name}"), &[]).await;
    node.write_file("tls/ca-cert.pem".into(), "of the node".into(), Some(NOBODY)).await.unwrap();
    node.take_upload(uploaded(&kernel, b"uploaded")).await.unwrap();
    let names: Vec<_> = fs::read_dir(host.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ca-cert.pem"]);
    assert_eq!(fs::read_to_string(&of_host).unwrap(), "of the host");

    // What the node has made is there for a later QEMU, which cannot change it.
    let script = format!("cat node/tls/ca-cert.pem; echo; cat {file}");
    assert_eq!(as_qemu(&script, &[disk.number()]).await, ["of the node", "uploaded"]);
    let script = "! { mv node away || mkdir node/userfaultfd || mv node/tls away || rm -f node/tls/*; }";
    as_qemu(script, &[]).await;
    let Some((other, other_process)) = start().await else { return };
    if !offers_userfaultfd(&other, &other_process).await {
        println!("skipped: the offer of userfaultfd, which is not possible here");
        return;
    }
    assert!(offers_userfaultfd(&node, &process).await);
}

#[tokio::test]
async fn a_probe_reports_while_it_runs_what_its_report_at_the_end_has() {
    if let Some((node, _process)) = start().await {
        assert_reports(&node).await;
    }
    // This includes a node on another host.
    let Some(host) = Host::new().await else { return };
    let (node, _process) = host.start_node().await;
    node.keep_alive(Carrier { pid: std::process::id() });
    assert_reports(&node).await;
}

/// Requires that a probe on a node reports what it sees.
async fn assert_reports(node: &Node) {
    node.set_up("lo", None).await.unwrap();
    let interval = Duration::from_millis(5);
    let mut reports = node.start_probe(Ipv4Addr::LOCALHOST, interval, PATIENCE).await.unwrap();
    let (mut windows, mut window_ns) = (Vec::new(), 0);
    // The probe runs until it is stopped below.
    while windows.len() < 8 {
        let progress = time::timeout(PATIENCE, reports.recv()).await.expect("it reports nothing").unwrap();
        assert!(progress.began_before_ns > 0);
        window_ns = progress.window_ns;
        windows.extend(progress.windows);
    }
    // No other probe reports.
    let second = node.start_probe(Ipv4Addr::LOCALHOST, interval, PATIENCE).await;
    assert!(second.unwrap_err().to_string().ends_with("a probe is already running"));
    let report = node.stop_probe(PATIENCE).await.unwrap();
    assert_eq!(report.latencies.window_ns, window_ns);
    // A later report of a window replaces an earlier one.
    let windows: BTreeMap<u64, _> = windows.into_iter().map(|window| (window.number, window)).collect();
    for live in windows.values() {
        let kept = &report.latencies.windows[live.number as usize];
        let found = (live.requests, live.unanswered, live.longest_ns);
        assert_eq!(found, (kept.requests, kept.unanswered, kept.longest_ns), "window {}", live.number);
        assert!(live.median_ns <= live.longest_ns && live.median_ns.is_some(), "{live:?}");
    }
    // Nothing waits for a reader of the reports.
    drop(node.start_probe(Ipv4Addr::LOCALHOST, interval, PATIENCE).await.unwrap());
    assert!(node.stop_probe(PATIENCE).await.unwrap().received > 0);
}

/// Returns how many pings were sent in the network namespace of a process.
fn sent_pings(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
    let mut icmp = text.lines().filter_map(|line| line.strip_prefix("Icmp: ")).map(str::split_whitespace);
    let (names, mut values) = (icmp.next().unwrap(), icmp.next().unwrap());
    values.nth(names.clone().position(|name| name == "OutEchos").unwrap()).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_connection_that_takes_nothing_holds_back_reports_and_not_the_probe() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["node", "--name", "controller", "--run", "1"]).kill_on_drop(true);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let pipe = stdout.as_fd().try_clone_to_owned().unwrap();
    let capacity = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut lines = BufReader::new(stdout).lines();
    let target = Ipv4Addr::LOCALHOST;
    let calls = [
        Call::SetUp { interface: "lo".into(), address: None },
        Call::StartProbe { probe: 7, target, interval_ns: 1_000_000, timeout_ms: 60_000 },
        Call::StopProbe { patience_ms: 60_000 },
    ];
    let [up, start, stop] = calls.map(|call| serde_json::to_string(&ToNode::Call { id: 1, call }).unwrap());
    for call in [up, start] {
        // A node that cannot create its namespaces ends.
        let _ = stdin.write_all(format!("{call}\n").as_bytes()).await;
        let Ok(Some(answer)) = lines.next_line().await else {
            skipped::<()>("namespaces cannot be created here");
            return;
        };
        assert_eq!(answer, r#"{"reply":{"id":1,"result":{"Ok":null}}}"#);
    }
    // A line that does not fit waits, and so does the writing thread of the node.
    let waiting = || ioctl_fionread(&pipe).unwrap();
    let pid = serving_pid(&process);
    poll(|| waiting() + 512 > capacity.cast_unsigned().into()).await;
    // The queues of the node have room for fewer than a thousand.
    let (before, bytes) = (sent_pings(pid), waiting());
    poll(|| sent_pings(pid) > before + 2_000).await;
    assert!(waiting() < bytes + 512, "nobody has read");

    stdin.write_all(format!("{stop}\n").as_bytes()).await.unwrap();
    let mut windows = Vec::new();
    let report: ProbeReport = loop {
        let line = time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        match serde_json::from_str(&line).unwrap() {
            FromNode::Probed { probe: 7, progress } => windows.extend(progress.windows),
            FromNode::Reply { result, .. } => break serde_json::from_value(result.unwrap()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    // Windows in which the probe stalled are not reported.
    let made = report.latencies.windows.iter().zip(0..).filter(|(window, _)| window.requests > 0);
    let reported: BTreeSet<u64> = windows.iter().map(|window| window.number).collect();
    let numbers: BTreeSet<u64> = made.map(|(_, number)| number).take(reported.len()).collect();
    assert_eq!(reported, numbers, "none is lost");
    assert!(report.sent > 2_000 && report.open_gap_ns.is_none(), "{report:?}");
}

#[tokio::test]
async fn a_connection_that_takes_nothing_holds_back_the_output_of_a_process() {
    const LINES: u32 = 4_000;
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["node", "--name", "controller", "--run", "1"]).kill_on_drop(true);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("written");
    // Lines of 4 KiB, and the number of those that have been written.
    let script = r#"i=0; while [ $i -lt $2 ]; do printf '%04096d\n' $i; i=$((i+1)); echo $i > "$1"; done"#;
    let args = ["-c", script, "sh", &file.display().to_string(), &LINES.to_string()].map(str::to_owned);
    let spec = ProcessSpec { program: "sh".into(), args: args.into(), ..ProcessSpec::default() };
    let call = serde_json::to_string(&ToNode::Call { id: 1, call: Call::Spawn(spec) }).unwrap();
    // A node that cannot create its namespaces ends.
    let _ = stdin.write_all(format!("{call}\n").as_bytes()).await;
    let mut lines = BufReader::new(stdout).lines();
    let Ok(Some(_)) = lines.next_line().await else {
        return skipped("namespaces cannot be created here").unwrap_or_default();
    };
    // Until the process has to wait. Without limits it would write all lines.
    let written = || fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
    let mut before = None;
    loop {
        time::sleep(Duration::from_secs(1)).await;
        let now = written();
        if now.is_some() && now == before {
            break;
        }
        before = now;
    }
    // 64 KiB fit into each of three buffers: the pipe to the node, the node's pipe, and this test's.
    assert!(before < Some(200), "{before:?} lines");

    let mut outputs = 0;
    loop {
        let line = time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        match serde_json::from_str(&line).unwrap() {
            FromNode::Output { text, .. } => {
                assert_eq!(text.parse(), Ok(outputs), "each line, in order");
                outputs += 1;
            }
            FromNode::Exited { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(outputs, LINES);
}

/// Waits until a condition holds.
async fn poll(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, holds).await.expect("it does not come about");
}
