//! Shared disks and the storage link of a lab, without QEMU.

use crate::common::{
    labs::{self, server_of},
    real::signal,
};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, Instant},
};
use stressor::disk::{BLOCK_BYTES, fill_block};
use testbed::{
    matrix::{Link, Settings},
    node::{Node, protocol::ProcessSpec},
};
use tokio::time;
use units::Bytes;

/// Returns a profile of a link from JSON.
fn profile(text: &str) -> netem::Profile {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_shared_disk_has_its_content_and_leaves_nothing() {
    let Some(lab) = labs::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let size = Bytes::new(8 << 20);
    let mut disk = labs::share_new(&lab, folder.path(), size, Bytes::new(1 << 20)).await.unwrap();
    assert_eq!(disk.url(), "nfs://198.18.0.1/testbed/disk");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    let file = File::open(disk.path()).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.len(), metadata.nlink()), (size.get(), 0));
    for number in [0, 1, 255, 256] {
        let (mut block, mut expected) = ([0; BLOCK_BYTES as usize], [0; BLOCK_BYTES as usize]);
        file.read_exact_at(&mut block, number * BLOCK_BYTES).unwrap();
        if number < 256 {
            fill_block(&mut expected, number, 0);
        }
        assert!(block == expected, "block {number}");
    }

    // The server can be stopped, killed and started again; asking twice does no harm.
    for _ in 0..2 {
        let server = server_of(disk.path()).unwrap();
        signal(server, Signal::SIGSTOP);
        wait_until(|| state(server) == Some('T')).await;
        signal(server, Signal::SIGCONT);
        wait_until(|| state(server).is_some_and(|state| state != 'T')).await;
        disk.kill().await.unwrap();
        disk.kill().await.unwrap();
        disk.start().await.unwrap();
        disk.start().await.unwrap();
    }
    signal(server_of(disk.path()).unwrap(), Signal::SIGSTOP);
    let path = disk.path().to_owned();
    disk.end().await.unwrap();
    lab.controller.round_trip().await.unwrap();
    let now = fs::metadata(&path).map(|metadata| metadata.ino());
    assert_ne!(now.ok(), Some(metadata.ino()), "the node has the file open");

    // A lab serves one disk at a time, and the next one afterwards.
    let first = labs::share_new(&lab, folder.path(), size, Bytes::ZERO).await.unwrap();
    let second = labs::share_new(&lab, folder.path(), size, Bytes::ZERO).await.err().unwrap().to_string();
    assert!(second.contains("the NFS server does not start: cannot serve at 198.18.0.1"), "{second}");
    first.end().await.unwrap();
    drop(labs::share_new(&lab, folder.path(), size, Bytes::ZERO).await.unwrap());
    lab.end().await;
}

/// Returns the state of a process, such as `T` if it is stopped, or `None` if it is gone.
fn state(pid: i32) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("State:"))?.trim().chars().next()
}

/// Waits until something holds.
async fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it never holds");
        time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stopped_server_ends_with_its_lab() {
    let Some(lab) = labs::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = labs::share_new(&lab, folder.path(), Bytes::new(1 << 20), Bytes::ZERO).await.unwrap();
    let server = server_of(disk.path()).unwrap();
    signal(server, Signal::SIGSTOP);
    lab.end().await;
    wait_until(|| state(server).is_none()).await;
    drop(disk);
}

#[tokio::test]
async fn a_server_that_somebody_else_kills_is_started_again() {
    let Some(lab) = labs::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut disk = labs::share_new(&lab, folder.path(), Bytes::new(1 << 20), Bytes::ZERO).await.unwrap();
    let path = disk.path().to_owned();
    let killed = server_of(&path).unwrap();
    signal(killed, Signal::SIGKILL);
    let mut failures = Vec::new();
    tokio::select! {
        never = disk.keep_serving(|status| failures.push(status.to_string())) => match never {},
        () = wait_until(|| server_of(&path).is_some_and(|server| server != killed)) => {}
    }
    assert_eq!(failures, ["signal: 9 (SIGKILL)"]);
}

#[tokio::test]
async fn a_disk_that_cannot_be_made_says_why() {
    let Some(lab) = labs::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let refused =
        labs::share_new(&lab, &missing, Bytes::new(1 << 20), Bytes::ZERO).await.err().unwrap().to_string();
    let expected = format!("could not create a disk: cannot create a disk in {}:", missing.display());
    assert!(refused.contains(&expected), "{refused}");
    let huge = Bytes::new(i64::MAX as u64);
    let refused = labs::share_new(&lab, folder.path(), huge, Bytes::ZERO).await.err().unwrap().to_string();
    assert!(refused.contains(&format!("cannot create a disk in {}: ", folder.path().display())), "{refused}");
    labs::share_new(&lab, folder.path(), Bytes::new(1 << 20), Bytes::ZERO)
        .await
        .unwrap()
        .end()
        .await
        .unwrap();
}

#[tokio::test]
async fn the_storage_link_is_shaped_alike_at_all_ends_and_counted_apart() {
    let Some(lab) = labs::start().await else { return };
    let link = lab.storage_link().await.unwrap();
    let rate = profile(r#"{ "rate": "100mbit" }"#);
    if let Some(why) = lab.description.lacks_for_storage(&rate) {
        println!("skipped: {why}");
        return;
    }
    let setting = link.shape(&rate).await.unwrap();
    let ends = [&setting.source, &setting.destination].map(|branch| [&branch.controller, &branch.compute]);
    for end in ends.as_flattened() {
        assert!(end.tree.iter().any(|qdisc| qdisc.contains("tbf") && qdisc.contains("100mbit")), "{end:?}");
        assert_eq!(end, ends.as_flattened().first().unwrap());
    }
    let before = link.traffic().await.unwrap();
    let ping = ProcessSpec {
        program: "ping".into(),
        args: ["-c", "10", "-i", "0.01", "-s", "1000", "198.18.0.1"].map(Into::into).to_vec(),
        ..ProcessSpec::default()
    };
    let mut ping = match lab.source.node.spawn(ping).await {
        Ok(ping) => ping,
        Err(error) => return println!("skipped: {error}"),
    };
    ping.end().await.unwrap();
    let after = link.traffic().await.unwrap();
    // Ten frames with 1000 bytes, and headers of Ethernet, IP and ICMP, each way.
    let [source, destination] = [0, 1].map(|branch| {
        let [from, to] = [before[branch], after[branch]];
        [to.from_controller - from.from_controller, to.to_controller - from.to_controller]
    });
    assert!(source.iter().all(|bytes| (10_420..12_000).contains(bytes)), "{source:?}");
    assert!(destination.iter().all(|bytes| *bytes < 5_000), "{destination:?}");
    lab.end().await;
}

/// The limit of TCP's send buffers in a node, in bytes.
async fn buffer_limit(node: &Node) -> u64 {
    let (lines, _) = node.run("cat", &["/proc/sys/net/ipv4/tcp_wmem"]).await.unwrap();
    lines[0].split_whitespace().last().unwrap().parse().unwrap()
}

#[tokio::test]
async fn shaping_one_link_keeps_the_buffers_that_the_other_one_needs() {
    // Four round trips of 40 ms at 125 MB/s.
    const NEEDED: u64 = 20_000_000;
    let Some(lab) = labs::start().await else { return };
    let [short, long] = ["0", "20ms"].map(|delay| format!(r#"{{ "rate": "1gbit", "delay": "{delay}" }}"#));
    let [short, long] = [profile(&short), profile(&long)];
    let settings = Settings { link: long.clone().into(), ..Settings::default() };
    let migration = match lab.link(&settings) {
        Ok(link) => link,
        Err(why) => return println!("skipped: {why}"),
    };
    let storage = lab.storage_link().await.unwrap();
    migration.shape(&long).await.unwrap();
    storage.shape(&short).await.unwrap();
    assert_eq!(buffer_limit(&lab.source.node).await, NEEDED);
    migration.shape(&short).await.unwrap();
    assert!(buffer_limit(&lab.source.node).await < NEEDED);
    if let Some(why) = lab.description.lacks_for_storage(&long) {
        println!("skipped: the other way round: {why}");
        return;
    }
    storage.shape(&long).await.unwrap();
    migration.shape(&short).await.unwrap();
    assert_eq!(buffer_limit(&lab.destination.node).await, NEEDED);
    assert_eq!(buffer_limit(&lab.controller).await, NEEDED);
}

#[tokio::test]
async fn buffers_stay_as_they_are_at_the_ends_of_a_link_without_tuning() {
    let Some(lab) = labs::start().await else { return };
    let untuned = buffer_limit(&lab.source.node).await;
    let long = profile(r#"{ "rate": "1gbit", "delay": "200ms" }"#);
    for (tcp_tuning, limit) in [(true, 200_000_000), (false, untuned)] {
        let settings = Settings { link: Link { tcp_tuning, ..long.clone().into() }, ..Settings::default() };
        let migration = match lab.link(&settings) {
            Ok(link) => link,
            Err(why) => return println!("skipped: {why}"),
        };
        migration.shape(&long).await.unwrap();
        for end in [&lab.source, &lab.destination] {
            assert_eq!(buffer_limit(&end.node).await, limit, "tcp_tuning: {tcp_tuning}");
        }
    }
    assert_ne!(untuned, 200_000_000);
}

#[test]
fn an_ordinary_user_shares_disks() {
    labs::run_as_ordinary_user("storage::a_shared_disk_has_its_content_and_leaves_nothing");
}
