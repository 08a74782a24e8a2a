//! The QEMU driver: the only code that knows QEMU's command line, QMP, capabilities and parameters.
//!
//! [`Pair`] is the driver: two QEMU processes and the migration between them. Each QEMU has a command line
//! ([`machine`]), a process with a monitor ([`process`], [`qmp`]), and a guest that was booted earlier and
//! saved ([`saved`]). [`parameters`] translates the matrix's settings into QEMU's. [`cpus`] asks a host's
//! QEMU which CPUs it can give a guest; [`accel`] finds out which accelerator works on a host, and [`trial`]
//! whether QEMU can create a machine and migrate it; for that, `support` asks what QEMU can do in a
//! migration. [`machine_types`] chooses a machine type that both ends have. [`confinement`] restricts what a
//! QEMU process may do. [`disk`] is the guest's disk; `image` writes its image, and `mirror` moves it to the
//! destination, both by `jobs`. `tls` makes the certificates of an encrypted migration. `recovery` reconnects
//! a post-copy migration. `channels` counts what each connection of a migration over several connections has
//! sent. `file` migrates through a file, and `cpr` by handing the guest's memory over.

use crate::node::NodeError;

pub mod accel;
mod channels;
pub mod confinement;
mod cpr;
pub mod cpus;
pub mod disk;
mod file;
mod image;
mod jobs;
pub mod machine;
pub mod machine_types;
mod mirror;
mod pair;
pub mod parameters;
pub mod process;
pub mod qmp;
mod query;
mod recovery;
pub mod saved;
mod support;
mod tls;
pub mod trial;

pub use pair::{Pair, PairSpec};

/// An error of a QEMU or of the connection to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A QEMU did not start, or exited unexpectedly.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// A command to a QEMU's monitor failed.
    #[error(transparent)]
    Monitor(#[from] qmp::Error),
    /// The guest could not be booted or saved.
    #[error(transparent)]
    Saved(#[from] saved::Error),
    /// The destination listens, but its answer, which is the text, contains no port.
    #[error("the migration failed: the destination's QEMU does not report its port: {0}")]
    NoPort(String),
    /// The migration cannot be encrypted.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// A disk could not be created.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// A node could not create a file or a socket.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The guest was to be saved to a file that has not been created.
    #[error("the file of the migration has not been created")]
    NoFile,
    /// The guest was to be handed over through a folder that has not been created.
    #[error("the folder for the sockets of the migration has not been created")]
    NoFolder,
    /// The destination has not created its socket of type `cpr`.
    #[error("the destination's QEMU has not created its socket `cpr`")]
    NoSocket,
    /// The mirror of the disk has failed, for this reason.
    #[error("the disk could not be copied: {0}")]
    Mirror(String),
}
