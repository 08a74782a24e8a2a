//! QEMU: all that knows its command line, QMP, capabilities and parameters.
//!
//! [`Pair`] is the driver: two QEMUs and the migration between them. One QEMU is a command line
//! ([`machine`]), a process with a monitor ([`process`], [`qmp`]) and a guest that has booted before and was
//! saved ([`saved`]). [`parameters`] turns a matrix's settings into QEMU's. [`cpus`] is which CPUs a host's
//! QEMU can give a guest, [`accel`] which accelerator really works here.

pub mod accel;
pub mod cpus;
pub mod machine;
mod pair;
pub mod parameters;
pub mod process;
pub mod qmp;
mod query;
pub mod saved;

pub use pair::{Pair, Plan};

/// An error of QEMU or of the way to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A QEMU did not start, or ended by itself.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// A monitor failed.
    #[error(transparent)]
    Monitor(#[from] qmp::Error),
    /// There was no guest to start with.
    #[error(transparent)]
    Saved(#[from] saved::Error),
    /// The destination listens, but its answer names no port.
    #[error("the migration failed: QEMU does not say where it listens: {0}")]
    NoPort(String),
}
