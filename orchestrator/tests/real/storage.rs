//! Shared disks that QEMU's programs read and write in the compute nodes of a lab, while the server is
//! stopped, killed and started again.

use crate::common::{
    labs::{self, server_of},
    real::{signal, skipped},
    turn::Turn,
};
use nix::sys::signal::Signal;
use std::path::Path;
use testbed::{
    lab::{
        Compute, Lab,
        storage::{SharedDisk, nfs_driver},
    },
    node::{
        Process, ProcessEvent,
        protocol::{ExitStatus, ProcessSpec},
    },
    setup::NfsDriver,
};
use units::Bytes;

const MIB: u64 = 1 << 20;

/// The size of the disks.
const SIZE: Bytes = Bytes::new(256 * MIB);

/// Starts a lab whose compute nodes have `qemu-io` and can open shared disks. Skips the test otherwise.
async fn start() -> Option<Lab> {
    let lab = labs::start().await?;
    match nfs_driver(&lab.source.node).await.unwrap() {
        NfsDriver::Present => {}
        other => return skipped(&format!("QEMU cannot open shared disks: {other:?}")),
    }
    if io(&lab.source, &["--version"]).await.is_err() {
        return skipped("qemu-io is not installed (Debian package qemu-utils)");
    }
    Some(lab)
}

async fn share(lab: &Lab, folder: &Path) -> SharedDisk {
    labs::share_new(lab, folder, SIZE, Bytes::new(MIB)).await.unwrap()
}

/// A `qemu-io` that runs in a compute node.
struct Io(Process);

impl Io {
    /// Returns the next line of its output, or the exit status and the end.
    async fn next(&mut self) -> Result<String, String> {
        match self.0.events.recv().await {
            Some(ProcessEvent::Output(line)) => Ok(line),
            Some(ProcessEvent::Exited(status)) => Err(status.to_string()),
            None => panic!("{}", self.0.loss_of_node()),
        }
    }

    /// Waits for the output of a command that has been carried out.
    async fn next_written(&mut self) {
        while !self.next().await.expect("it has not finished").starts_with("wrote ") {}
    }

    /// Waits until it exits. Returns the rest of its output, and asserts that all went well.
    async fn end(self) -> String {
        let (all, status) = self.output().await;
        assert!(status.is_success(), "{status}: {all}");
        all
    }

    /// Waits until it exits. Returns the rest of its output, and the exit status.
    async fn output(mut self) -> (String, ExitStatus) {
        let (lines, status) = self.0.end().await.unwrap();
        (lines.join("\n"), status)
    }
}

/// Starts `qemu-io` with these arguments.
async fn io(compute: &Compute, args: &[&str]) -> Result<Io, String> {
    let args = args.iter().map(ToString::to_string).collect();
    let spec = ProcessSpec { program: "qemu-io".into(), args, ..ProcessSpec::default() };
    compute.node.spawn(spec).await.map(Io).map_err(|error| error.to_string())
}

/// Starts `qemu-io` with these commands for a disk, without a cache in the client.
async fn on_disk<S: AsRef<str>>(compute: &Compute, disk: &SharedDisk, commands: &[S]) -> Io {
    let mut args = vec!["-f", "raw", "-t", "none"];
    args.extend(commands.iter().flat_map(|command| ["-c", command.as_ref()]));
    args.push(disk.url());
    io(compute, &args).await.unwrap()
}

/// Returns commands that write `count` MiB of this byte, one at a time, and flush.
fn writes(from_mib: u64, count: u64, byte: u8) -> Vec<String> {
    let mut commands: Vec<String> =
        (0..count).map(|n| format!("write -P {byte} {}M 1M", from_mib + n)).collect();
    commands.push("flush".into());
    commands
}

#[tokio::test]
#[ignore = "needs qemu-io and QEMU's nfs driver"]
async fn what_one_node_writes_the_other_reads() {
    let _turn = Turn::shared();
    let Some(lab) = start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = share(&lab, folder.path()).await;
    // Data was written beforehand, and zeros follow it.
    let read = on_disk(&lab.source, &disk, &["read -P 0 1M 255M"]).await.end().await;
    assert!(!read.contains("verification failed") && read.contains("255 MiB"), "{read}");
    // Some versions of qemu-io then exit with 1.
    let (read, _) = on_disk(&lab.source, &disk, &["read -P 0 1020k 4k"]).await.output().await;
    assert!(read.contains("verification failed"), "{read}");
    let near = on_disk(&lab.source, &disk, &writes(8, 64, 0x5a)).await;
    let far = on_disk(&lab.destination, &disk, &writes(80, 64, 0xa5)).await;
    tokio::join!(near.end(), far.end());
    for compute in [&lab.destination, &lab.source] {
        let read =
            on_disk(compute, &disk, &["read -P 0x5a 8M 64M", "read -P 0xa5 80M 64M"]).await.end().await;
        assert!(!read.contains("verification failed"), "{read}");
    }
    // Most of it was sent through the storage link, and each branch carried its own share.
    let link = lab.storage_link().await.unwrap();
    link.shape(&netem::Profile::default()).await.unwrap();
    let before = link.traffic().await.unwrap();
    on_disk(&lab.source, &disk, &writes(0, 16, 1)).await.end().await;
    let after = link.traffic().await.unwrap();
    let written = after[0].to_controller - before[0].to_controller;
    assert!((16 * MIB..18 * MIB).contains(&written), "{written}");
    assert!(after[1].to_controller - before[1].to_controller < MIB);
    disk.end().await.unwrap();
    lab.end().await;
}

#[tokio::test]
#[ignore = "needs qemu-io and QEMU's nfs driver"]
async fn nothing_is_lost_while_the_server_is_stopped_and_killed() {
    let _turn = Turn::shared();
    let Some(lab) = start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut disk = share(&lab, folder.path()).await;
    let mut near = on_disk(&lab.source, &disk, &writes(0, 100, 0x11)).await;
    let mut far = on_disk(&lab.destination, &disk, &writes(100, 100, 0x22)).await;
    for _ in 0..3 {
        for io in [&mut near, &mut far] {
            io.next_written().await;
        }
        let server = server_of(disk.path()).unwrap();
        signal(server, Signal::SIGSTOP);
        signal(server, Signal::SIGCONT);
        for io in [&mut near, &mut far] {
            io.next_written().await;
        }
        // The server is killed with unanswered calls.
        signal(server, Signal::SIGSTOP);
        disk.kill().await.unwrap();
        disk.start().await.unwrap();
    }
    tokio::join!(near.end(), far.end());
    let read = on_disk(&lab.source, &disk, &["read -P 0x11 0 100M", "read -P 0x22 100M 100M"]).await;
    let read = read.end().await;
    assert!(!read.contains("verification failed"), "{read}");
    disk.end().await.unwrap();
    lab.end().await;
}

#[tokio::test]
#[ignore = "needs qemu-io and QEMU's nfs driver"]
async fn a_full_file_system_is_reported_to_the_client() {
    let _turn = Turn::shared();
    let Some(folder) = labs::small_file_system("16m") else { return };
    let Some(lab) = start().await else { return };
    let disk = share(&lab, folder).await;
    let mut io = on_disk(&lab.source, &disk, &writes(0, 32, 9)).await;
    let mut all = String::new();
    while let Ok(line) = io.next().await {
        all.extend([&line, "\n"]);
    }
    // QEMU's client reports every failed write as EFAULT, and names the cause in its message.
    assert!(all.contains("Write failed with NFS3ERR_NOSPC") && all.contains("write failed:"), "{all}");
    assert!(all.contains("wrote 1048576/1048576 bytes at offset 10485760"), "what fits is written: {all}");
    lab.end().await;
}

#[test]
#[ignore = "needs qemu-io and QEMU's nfs driver"]
fn an_ordinary_user_shares_disks_with_qemu() {
    let _turn = Turn::shared();
    labs::run_as_ordinary_user("storage::nothing_is_lost_while_the_server_is_stopped_and_killed");
}
