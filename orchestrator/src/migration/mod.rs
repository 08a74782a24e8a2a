//! One attempt at one cell, from the start of both ends to their end.
//!
//! ```text
//! boot      both ends start with a guest that has booted before; the destination waits
//! fill      the stressor fills its memory
//! settle    it dirties; the rate settles; the client's probe runs
//! migrate   the migrate command; samples; a verdict: completed, or given up and cancelled
//! observe   the guest runs and dirties where it is now
//! verify    the stressor checks its memory
//! ```
//!
//! [`attempt`] goes through these phases and tears down whatever happens. It knows no hypervisor and no lab:
//! a [`Driver`](crate::driver::Driver) migrates, a [`Network`](network::Network) is migrated over. [`follow`]
//! samples the migration, asks its mode what to do and does it; [`timeline`] carries out what changes in the
//! middle of it. [`load`] reads rates from the stressor's telemetry, `account` puts what was seen into the
//! record.

use crate::{
    driver::{self, control_port},
    node::NodeError,
    outcome::Outcome,
};
use units::Span;

mod account;
pub mod attempt;
pub mod follow;
pub mod load;
pub mod network;
mod recorded;
#[cfg(test)]
mod tests;
pub mod timeline;

/// An error that ends an attempt before there is a verdict on the migration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] driver::Error),
    /// The stressor failed before the migration.
    #[error(transparent)]
    ControlPort(#[from] control_port::Error),
    /// An entry of the timeline could not be carried out.
    #[error("the timeline's entry at {at}: {cause}")]
    Timeline {
        /// When it was due, counted from the migrate command.
        at: Span,
        /// Why not.
        cause: Box<Error>,
    },
    /// The migration failed, in the driver's words.
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

impl Error {
    /// The outcome of an attempt that ended with this.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::GuestLost(_) => Outcome::GuestLost,
            _ => Outcome::Failed,
        }
    }
}
