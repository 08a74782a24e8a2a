//! A node process, connected as the orchestrator connects to it.

use crate::common::real::skipped;
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Duration};
use testbed::node::{
    Node,
    protocol::{ProcessSpec, UploadedFile},
};
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
