//! What an attempt needs of a lab's networks: the link that it migrates over, and a client that probes the
//! guest.

use crate::{
    lab::{Link, topology::GUEST_ADDRESS},
    measure::link::LinkSetting,
    node::{NodeError, protocol::Traffic, server::probe},
};
use netem::Profile;
use std::time::Duration;

/// The link that a guest migrates over, and the network on which a client probes it.
#[expect(async_fn_in_trait, reason = "the whole program runs on one thread, so no future has to be `Send`")]
pub trait Network {
    /// Shapes the link, also while a migration runs; returns what was set.
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, NodeError>;
    /// What the source has sent over the link so far.
    async fn traffic(&self) -> Result<Traffic, NodeError>;
    /// Starts to probe the guest at this interval, once it has answered within `patience`.
    async fn start_probe(&self, interval: Duration, patience: Duration) -> Result<(), NodeError>;
    /// Ends the probe and returns what it saw; refused where none runs.
    async fn stop_probe(&self) -> Result<probe::Report, NodeError>;
}

impl Network for Link<'_> {
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, NodeError> {
        Link::shape(self, link).await
    }

    async fn traffic(&self) -> Result<Traffic, NodeError> {
        Link::traffic(self).await
    }

    async fn start_probe(&self, interval: Duration, patience: Duration) -> Result<(), NodeError> {
        self.lab().controller.start_probe(GUEST_ADDRESS.0, interval, patience).await
    }

    async fn stop_probe(&self) -> Result<probe::Report, NodeError> {
        self.lab().controller.stop_probe().await
    }
}
