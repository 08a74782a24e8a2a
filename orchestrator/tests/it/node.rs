//! A node process, connected as the orchestrator connects to it.

use crate::common::real::skipped;
use std::{process::Stdio, time::Duration};
use testbed::node::{Node, protocol::ProcessSpec};
use tokio::{
    io::AsyncWriteExt,
    net::UnixListener,
    process::{Child, Command},
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
