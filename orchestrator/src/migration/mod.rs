//! One attempt at one cell, from two QEMUs' start to their end.
//!
//! ```text
//! boot      the guest boots, once for all attempts on its machine, and is saved; both QEMUs start, the
//!           source with the saved guest; the destination waits
//! fill      the stressor fills its memory
//! settle    it dirties; the rate settles; the client's probe runs
//! migrate   the migrate command; samples; a verdict: completed, or given up and cancelled
//! observe   the guest runs and dirties where it is now
//! verify    the stressor checks its memory
//! ```
//!
//! [`attempt`] goes through these phases and tears down whatever happens. [`follow`] watches the migration
//! and decides, [`timeline`] carries out what changes in the middle of it, [`load`] reads rates from the
//! stressor's telemetry.

use crate::{
    driver::{
        control_port,
        qemu::{self, qmp},
    },
    node::NodeError,
    outcome::Outcome,
};
use units::Span;

pub mod attempt;
pub mod follow;
pub mod load;
mod recorded;
pub mod timeline;

/// Why an attempt did not come to a verdict on the migration.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// QEMU's monitor failed.
    #[error(transparent)]
    Monitor(#[from] qmp::Error),
    /// QEMU failed.
    #[error(transparent)]
    Qemu(#[from] qemu::process::Error),
    /// There was no guest to start with.
    #[error(transparent)]
    Saved(#[from] qemu::saved::Error),
    /// The stressor failed before the migration.
    #[error(transparent)]
    Stressor(#[from] control_port::Error),
    /// An entry of the timeline could not be carried out.
    #[error("the timeline's entry at {at}: {cause}")]
    Timeline {
        /// When it was due, counted from the migrate command.
        at: Span,
        /// Why not.
        cause: Box<Trouble>,
    },
    /// QEMU gave the migration up.
    #[error("the migration failed: {0}")]
    Migration(String),
    /// The guest should run and does not.
    #[error("the guest is lost: {0}")]
    GuestLost(String),
    /// Its samples or logs could not be written.
    #[error("cannot write {what}: {source}")]
    Write {
        /// The file.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Trouble {
    /// The outcome of an attempt that met this.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::GuestLost(_) => Outcome::GuestLost,
            _ => Outcome::Failed,
        }
    }
}
