//! The parts of a lab's networks that an attempt uses: the migration link, and a client that probes the
//! guest.

use crate::{
    lab::{Link, topology::GUEST_ADDRESS},
    measure::link::{LinkSetting, StorageSetting},
    node::{
        NodeError,
        protocol::{ProbeProgress, Traffic},
        server::probe,
    },
};
use netem::Profile;
use std::time::Duration;
use tokio::sync::mpsc;

/// The migration link, and the network on which a client probes the guest.
#[expect(async_fn_in_trait, reason = "the whole program runs on one thread, so no future has to be `Send`")]
pub trait Network {
    /// Shapes the link, also during a migration. Returns the settings that are now in force.
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, NodeError>;
    /// Returns the traffic over the link so far, as counted at the source.
    async fn traffic(&self) -> Result<Traffic, NodeError>;
    /// Shapes the links to the disk that both ends share, if there is one. Returns the settings that are now
    /// in force.
    async fn shape_storage(&self, link: &Profile) -> Result<Option<StorageSetting>, NodeError>;
    /// Returns the bytes over these links so far, both directions together: first those of the source, then
    /// those of the destination.
    async fn storage_traffic(&self) -> Result<Option<[u64; 2]>, NodeError>;
    /// Waits at most `patience` for the guest to answer a first probe, then keeps probing it at this
    /// interval. Returns what the probe reports while it runs.
    async fn start_probe(
        &self,
        interval: Duration,
        patience: Duration,
    ) -> Result<mpsc::Receiver<ProbeProgress>, NodeError>;
    /// Stops the probe when the guest next answers it, or after `patience` without an answer, and returns the
    /// probe's report. Fails if no probe is running.
    async fn stop_probe(&self, patience: Duration) -> Result<probe::ProbeReport, NodeError>;
}

impl Network for Link<'_> {
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, NodeError> {
        Link::shape(self, link).await
    }

    async fn traffic(&self) -> Result<Traffic, NodeError> {
        Link::traffic(self).await
    }

    async fn shape_storage(&self, link: &Profile) -> Result<Option<StorageSetting>, NodeError> {
        match self.storage() {
            Some(storage) => Ok(Some(storage.shape(link).await?)),
            None => Ok(None),
        }
    }

    async fn storage_traffic(&self) -> Result<Option<[u64; 2]>, NodeError> {
        let Some(storage) = self.storage() else { return Ok(None) };
        let branches = storage.traffic().await?;
        Ok(Some(branches.map(|branch| branch.from_controller + branch.to_controller)))
    }

    async fn start_probe(
        &self,
        interval: Duration,
        patience: Duration,
    ) -> Result<mpsc::Receiver<ProbeProgress>, NodeError> {
        self.lab().controller.start_probe(GUEST_ADDRESS.0, interval, patience).await
    }

    async fn stop_probe(&self, patience: Duration) -> Result<probe::ProbeReport, NodeError> {
        self.lab().controller.stop_probe(patience).await
    }
}
