//! The fuzz targets: one function for each kind of input from outside. None of them may panic, hang or need
//! much memory.
//!
//! The programs in `fuzz_targets` call these functions with inputs that libFuzzer generates;
//! `orchestrator/tests/it/corpus.rs` calls them with those in `corpus`.

#![allow(dead_code, reason = "each program uses only one of these")]

use std::{fs::File, str, sync::OnceLock, time::Duration};
use testbed::{
    driver::{control_port::ControlPort, qemu::qmp},
    lab::hosts::inventory::Inventory,
    matrix,
    nfs::Export,
    node::{Node, protocol::ToNode},
    results::record::Record,
};
use tokio::{
    io::AsyncWriteExt,
    runtime::{Builder, Runtime},
    sync::mpsc,
};

/// The largest number of cells for which a matrix is expanded: a matrix of 100,000 takes seconds, as it
/// should.
const CELLS: usize = 200;

type Target = fn(&[u8]);

/// All functions, by the names of their corpora.
pub(crate) const ALL: [(&str, Target); 9] = [
    ("matrix", matrix),
    ("inventory", inventory),
    ("records", records),
    ("trace", trace),
    ("qmp", qmp),
    ("stressor", stressor),
    ("node", node),
    ("netlink", netlink),
    ("nfs", nfs),
];

/// A matrix file: its cells, or messages about it.
pub(crate) fn matrix(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    // Axes with many values make many cells.
    if text.matches(',').count() + text.matches('-').count() > CELLS {
        return;
    }
    match matrix::File::parse(text, "matrix.yaml").and_then(|file| file.expand()) {
        Ok(plan) => drop(plan.cells.len()),
        Err(errors) => drop(errors.to_string()),
    }
}

/// An inventory.
pub(crate) fn inventory(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    drop(Inventory::parse(text));
}

/// The lines of `cells.jsonl`.
pub(crate) fn records(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
        let text = serde_json::to_string(&record).expect("a record that was read can be written");
        let again: Record = serde_json::from_str(&text).expect("a record that was written can be read");
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}

/// A trace of a link's rate or of a dirty rate.
pub(crate) fn trace(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(load) = text.parse::<netem::trace::Trace<matrix::LoadRate>>() {
        assert!(load.steps().iter().all(|step| step.at < load.length()));
    }
    let Ok(trace) = text.parse::<netem::trace::Trace>() else { return };
    assert!(!trace.steps().is_empty());
    drop(trace.profiles(&netem::Profile::default()));
}

/// Lines from QEMU's monitor, while a call waits.
pub(crate) fn qmp(input: &[u8]) {
    let (to_client, lines) = mpsc::unbounded_channel();
    for line in String::from_utf8_lossy(input).lines() {
        let _ = to_client.send(Ok(line.to_owned()));
    }
    drop(to_client);
    runtime().block_on(async {
        if let Ok(client) = qmp::Client::start(lines, drop).await {
            let _ = client.call("query-migrate", serde_json::Value::Null).await;
        }
    });
}

/// Lines in both directions between the orchestrator and the stressor.
pub(crate) fn stressor(input: &[u8]) {
    let (to_port, lines) = mpsc::unbounded_channel();
    for line in String::from_utf8_lossy(input).lines() {
        drop(serde_json::from_str::<stressor::protocol::Request>(line));
        let _ = to_port.send(Ok(line.to_owned()));
    }
    drop(to_port);
    runtime().block_on(async {
        let port = ControlPort::start(lines, drop);
        let _ = port.verify(Duration::from_secs(60)).await;
        let _ = port.verify_disk(Duration::from_secs(60)).await;
        drop(port.telemetry());
    });
}

/// Lines in both directions between the orchestrator and a node.
pub(crate) fn node(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        drop(serde_json::from_slice::<ToNode>(line));
    }
    runtime().block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(input.len().max(1));
        let (read, write) = tokio::io::split(ours);
        let node = Node::from_streams("compute1", read, write);
        let answers = async {
            let _ = theirs.write_all(input).await;
            drop(theirs);
        };
        let _ = tokio::join!(node.stop_probe(Duration::ZERO), answers);
    });
}

/// A message from the kernel.
pub(crate) fn netlink(input: &[u8]) {
    drop(netem::kernel::show_answer(input));
}

/// A message to the NFS server.
pub(crate) fn nfs(input: &[u8]) {
    static EXPORT: OnceLock<Export> = OnceLock::new();
    let export = EXPORT.get_or_init(|| {
        let full = File::options().read(true).write(true).open("/dev/full");
        Export::new(full.expect("/dev/full is there")).expect("it can be examined")
    });
    let mut reply = Vec::new();
    let _ = export.answer(input, &mut reply);
    assert!(reply.len() < 2 << 20);
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_current_thread().enable_time().build().expect("a runtime starts"))
}
