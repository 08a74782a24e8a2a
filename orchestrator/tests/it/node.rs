//! A node process, connected as the orchestrator connects to it.

use crate::common::real::{signal, skipped};
use netem::{Namespace, Netlink};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
    unistd::geteuid,
};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _, fs, os::fd::AsFd, os::unix::fs::PermissionsExt, path::Path, process::Stdio,
    time::Duration,
};
use testbed::node::{
    Node,
    protocol::{ProcessSpec, UploadedFile},
};
use tokio::{
    io::AsyncWriteExt,
    net::UnixListener,
    process::{Child, Command},
    time,
};

const PATIENCE: Duration = Duration::from_secs(60);

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

    /// Starts a node that serves an orchestrator on another host, which sends no keep-alives yet.
    async fn start_node(&self) -> (Node, Child) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
        command.args(["node", "--name", "compute1", "--run", "1@h", "--remote", "192.0.2.9 1 192.0.2.1 22"]);
        command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped());
        // The process is in the namespace of the thread that starts it. That is this thread, and not one
        // for the purpose, because a node dies with the thread that has started it.
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
    assert_eq!(error, "node compute1 is gone: it heard nothing from testbed for 8 s, and ended");
}

#[tokio::test]
async fn a_remote_node_does_not_count_the_time_for_which_it_stood_still() {
    let Some(host) = Host::new().await else { return };
    let (node, process) = host.start_node().await;
    let pid = serving_pid(&process);
    signal(pid, Signal::SIGSTOP);
    time::sleep(Duration::from_secs(9)).await;
    signal(pid, Signal::SIGCONT);
    // It must not use this time to end.
    time::sleep(Duration::from_secs(1)).await;
    node.round_trip().await.expect("the node lives on");
}

/// Describes a file with this content as uploaded.
fn uploaded(path: &Path, content: &[u8]) -> UploadedFile {
    let mut sha256 = String::new();
    for byte in Sha256::digest(content) {
        let _ = write!(sha256, "{byte:02x}");
    }
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
    // The node reads no further than the limit, so that the rest cannot be written.
    let piece = vec![b'x'; 1 << 20];
    while qemu.write_all(&piece).await.is_ok() {}
    assert_eq!(channel.lines.recv().await, Some(Err("a line is longer than 4 MiB".into())));
    assert_eq!(channel.lines.recv().await, None);
    node.round_trip().await.expect("the node lives on");
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
    assert_eq!(copy, format!("/run/boot/{}", file.sha256));

    fs::write(&path, [&content[1..], b"x"].concat()).unwrap();
    let error = node.take_upload(file).await.unwrap_err().to_string();
    assert!(error.contains("kernel has changed since it was uploaded"), "{error}");
}
