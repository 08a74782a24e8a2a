//! The parts of a lab's networks that an attempt uses: the migration link, and a client that probes the
//! guest.

use crate::{
    lab::{Link, topology::GUEST_ADDRESS},
    measure::link::LinkSetting,
    node::{NodeError, protocol::Traffic, server::probe},
};
use netem::Profile;
use std::time::Duration;

/// The migration link, and the network on which a client probes the guest.
#[expect(async_fn_in_trait, reason = "the whole program runs on one thread, so no future has to be `Send`")]
pub trait Network {
    /// Shapes the link, also during a migration. Returns the settings that are now in force.
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, NodeError>;
    /// Returns the traffic over the link so far, as counted at the source.
    async fn traffic(&self) -> Result<Traffic, NodeError>;
    /// Waits at most `patience` for the guest to answer a first probe, then keeps probing it at this
    /// interval.
    async fn start_probe(&self, interval: Duration, patience: Duration) -> Result<(), NodeError>;
    /// Stops the probe when the guest answers it once more, or after `patience` without an answer, and
    /// returns its report. Fails if no probe runs.
    async fn stop_probe(&self, patience: Duration) -> Result<probe::ProbeReport, NodeError>;
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

    async fn stop_probe(&self, patience: Duration) -> Result<probe::ProbeReport, NodeError> {
        self.lab().controller.stop_probe(patience).await
    }
}
