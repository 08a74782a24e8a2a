//! Tests with real guests, hosts and downloads, in one program.
//!
//! They are marked `#[ignore]`: `cargo xtask test` builds the programs they need, installs what is missing on
//! this host, and starts many simultaneously; each waits for its [turn](common::turn::Turn). A test that
//! cannot run prints `skipped:` and why.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a test says what failed or why it was skipped"
)]

#[path = "../common/mod.rs"]
mod common;

/// Migrations through a file, and by handing memory over.
mod blackout;

/// The messages about hosts that lack something.
mod causes;

/// What QEMUs may do on their host, and who may do anything to them.
mod containment;

/// Commands of the documents and the help texts, as they are written.
mod documents;

/// The disk of a guest.
mod guest_disk;

/// Runs in namespaces on this host, with interruptions and failures of all kinds.
mod local;

/// The behavior of `ssh` and of hosts' login shells between `testbed` and a host.
mod login_shells;

/// The aids and the modes of migrations.
mod migrate;

/// Guests whose disk is copied to the destination.
mod mirror;

/// Workloads and links whose rates change.
mod moving;

/// The tests of `netem` in a guest whose kernel has `sch_netem`.
mod netem_guest;

/// Random combinations of settings of a migration.
mod random;

/// Post-copy over a link that fails.
mod recovery;

/// Set-up with a real download.
mod setup;

/// The Slurm example on a real cluster.
mod slurm;

/// Runs between hosts that are reached by SSH. They have real SSH servers, in namespaces.
mod ssh;

/// Shared disks that QEMU's programs read and write, while the server is stopped and killed.
mod storage;

/// Runs between hosts that a stub of `vagrant` describes.
mod vagrant;

/// The live page of a run.
mod watch;
