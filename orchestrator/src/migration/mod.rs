//! One attempt at one cell, from the start of both ends to their shutdown.
//!
//! ```text
//! boot      the source starts from the saved guest; the destination waits
//! fill      the stressor fills its memory
//! settle    the stressor dirties memory until its rate is steady; the client's probe starts
//! migrate   the migrate command; samples; a verdict: completed, or given up and cancelled
//! observe   the guest must run, and dirty memory, where it is now
//! verify    the stressor verifies its memory
//! ```
//!
//! [`attempt`] goes through these phases and always tears everything down at the end. It knows no hypervisor
//! and no lab: a [`Driver`](crate::driver::Driver) migrates the guest, over a [`Network`](network::Network).
//! [`follow`] samples the migration, asks its mode for decisions and carries them out, and bounds every
//! state; [`recovery`] bounds the recovery from a link failure in post-copy. [`timeline`] applies the changes
//! that are scheduled during the migration. [`load`] computes dirty rates from the stressor's telemetry,
//! `live_probe` writes what the probe sees for viewers of the run, and `account` enters the results into the
//! record.

use crate::{
    driver::{self, control_port},
    node::NodeError,
    outcome::Outcome,
};
use std::time::Duration;
use units::Span;

mod account;
pub mod attempt;
pub mod follow;
mod live_probe;
pub mod load;
pub mod network;
mod recorded;
pub mod recovery;
#[cfg(test)]
mod tests;
pub mod timeline;

/// An error that makes an attempt fail, or that shows that its guest is lost.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of a node, its link or its probe.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An error of the driver.
    #[error(transparent)]
    Driver(#[from] driver::Error),
    /// The stressor did not do what it was asked to do before the migration.
    #[error(transparent)]
    ControlPort(#[from] control_port::Error),
    /// A change by the timeline or by a phase of the workload could not be carried out.
    #[error("the change due at {at} failed: {cause}")]
    Timeline {
        /// When the change was due, counted from the migrate command.
        at: Span,
        /// The error of the link or of the guest.
        cause: Box<Error>,
    },
    /// The migration failed; the text is the driver's reason.
    #[error("the migration failed: {0}")]
    Migration(String),
    /// The source has not answered for a while. Whether the guest runs is not known.
    #[error("the source has not answered for {} s{state}", silent.as_secs())]
    NoAnswer {
        /// How long the source has not answered.
        silent: Duration,
        /// The last known state of the migration, as a phrase after a space; empty if it is not known.
        state: String,
    },
    /// The guest should run but does not.
    #[error("the guest is lost: {0}")]
    GuestLost(String),
    /// The file with the samples could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The path of the file.
        path: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

impl Error {
    /// Returns the outcome of an attempt that ends with this error.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::GuestLost(_) => Outcome::GuestLost,
            _ => Outcome::Failed,
        }
    }
}
