//! Tests without QEMU, in one program: each module says what belongs there.

#[path = "../common/mod.rs"]
mod common;

/// What ARCHITECTURE.md shows.
mod architecture;

/// The program as people meet it: exit codes, messages, help, what it prints and writes.
mod cli;

/// The engine on a mock bench: order, records, what is kept of a run that was cut short.
mod engine;

/// The scripts and manifests in `examples`.
mod examples;

/// Labs of this machine and their shells, in PID namespaces.
mod lab;

/// The layers of ARCHITECTURE.md, against what the sources import.
mod layers;

/// Every way in which a matrix file can be wrong, with its message.
mod matrix_bad_inputs;

/// The matrices in `scenarios`, and what the model predicts for them.
mod matrix_scenarios;

/// The JSON Schema of matrix files.
mod matrix_schema;

/// Whatever a node or QEMU's monitor may send.
mod protocols;

/// What QEMU is started and set up with.
mod qemu;

/// Results of every version, and their JSON Schema.
mod records;

/// `--lab vagrant` with a stub of Vagrant.
mod vagrant;
