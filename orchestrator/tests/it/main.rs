//! Tests that need no QEMU, in one program.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a test says what failed or why it was skipped"
)]

#[path = "../common/mod.rs"]
mod common;

/// The corpora of `cargo fuzz`.
mod corpus;

/// The code examples in ARCHITECTURE.md.
mod architecture;

/// The HTML page in a real browser.
mod browser;

/// The command line: exit codes, messages, help, output and written files.
mod cli;

/// What documents and help texts show: commands that work, pages made from the code.
mod documents;

/// The engine on a mock bench: order, records, and what an interrupted run keeps.
mod engine;

/// The Slurm scripts and Kubernetes manifests in `examples`.
mod examples;

/// Labs on this host and their shells, in PID namespaces.
mod lab;

/// The layers in ARCHITECTURE.md, compared with the imports of the sources.
mod layers;

/// The NFS server that shares a disk: its protocol, and what it survives.
mod nfs;

/// A node process: what it refuses in files and from its connections.
mod node;

/// Invalid matrix files and their messages.
mod matrix_bad_inputs;

/// The matrices in `scenarios`, compared with what the model predicts.
mod matrix_scenarios;

/// The JSON Schema of matrix files.
mod matrix_schema;

/// Combinations of settings of migrations.
mod migrate;

/// Traces that a matrix names.
mod moving;

/// The experience of a newcomer: hints, terminals of any width, colors, standard input.
mod newcomer;

/// Numbers in tampered results.
mod numbers;

/// The notebook that loads a run into pandas.
mod notebook;

/// Arbitrary input from a node or from QEMU's monitor.
mod protocols;

/// The HTML page without a browser: content, size, text that stays text.
mod page;

/// QEMU's command lines, capabilities and parameters.
mod qemu;

/// Results in every version of the format, and their JSON Schema.
mod records;

/// Shared disks and the storage link of a lab, without QEMU.
mod storage;

/// Full devices, closed pipes, and control characters in text.
mod streams;

/// `--lab vagrant` with a stub of `vagrant`.
mod vagrant;

/// The live page of a run in progress.
mod watch;

/// Line widths, phrases and doc comments of the whole repository.
mod words;
