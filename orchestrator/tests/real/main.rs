//! Tests with real guests, hosts and downloads, in one program: each module says what belongs there.
//!
//! They are `#[ignore]`: `cargo xtask test` builds what they run, installs what the machine lacks, and runs
//! them one after the other. A test that cannot run prints `skipped:` and why.

#[path = "../common/mod.rs"]
mod common;

/// Runs in namespaces of this machine, disturbed in every way that users and machines know.
mod local;

/// The tests of `netem`, in a guest whose kernel has `sch_netem`.
mod netem_guest;

/// Set-up with a real download.
mod setup;

/// The Slurm example on a real cluster.
mod slurm;

/// Runs between hosts that are reached by SSH: real servers, in namespaces.
mod ssh;

/// Runs between hosts that a stub of Vagrant names.
mod vagrant;
