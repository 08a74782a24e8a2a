//! The migration link of an attempt: shaping it and reading its counters.

use super::{
    Compute, Lab,
    storage::{self, StorageLink},
};
use crate::{
    measure::{
        link::{EndSetting, LinkSetting},
        tcp_buffers,
    },
    node::{NodeError, protocol::Traffic},
};
use netem::{Backend, Profile};
use std::net::Ipv4Addr;

/// The migration link of an attempt, shaped by the kernel or emulated.
#[derive(Clone, Copy)]
pub struct Link<'a> {
    pub(super) lab: &'a Lab,
    pub(super) backend: Backend,
    pub(super) tcp_tuning: bool,
    pub(super) storage: Option<StorageLink<'a>>,
}

impl<'a> Link<'a> {
    /// Returns the same link together with the storage link of its lab.
    #[must_use]
    pub fn with_storage(self, storage: StorageLink<'a>) -> Self {
        Self { storage: Some(storage), ..self }
    }

    /// Returns the storage link that belongs to this link, if the attempt uses one.
    pub fn storage(&self) -> Option<StorageLink<'a>> {
        self.storage
    }

    /// Returns the lab that the link belongs to.
    pub fn lab(&self) -> &Lab {
        self.lab
    }

    /// Returns the destination's address on the link.
    pub fn destination_address(&self) -> Ipv4Addr {
        self.lab.destination.end(self.backend).address
    }

    /// Shapes the link identically in both directions. Packets in transit are not lost, so this can be done
    /// during a migration.
    ///
    /// If the link has a delay and its ends are tuned, this also lets TCP's buffers at both ends grow to
    /// [`tcp_buffers::ROUND_TRIPS`] round trips of data; the limits are never set below the kernel's own. If
    /// a node refuses, a long link carries less than its rate.
    pub async fn shape(&self, profile: &Profile) -> Result<LinkSetting, NodeError> {
        let Lab { source, destination, .. } = self.lab;
        let shape = async |compute: &Compute| {
            let interface = &compute.end(self.backend).interface;
            Ok::<_, NodeError>(compute.node.shape(interface, profile).await?.tree)
        };
        let trees = match self.backend {
            Backend::Kernel => [shape(source).await?, shape(destination).await?],
            Backend::Userspace => {
                self.lab.ensure_emulated_link().await?;
                // The emulator at the source shapes both directions.
                let tree = shape(source).await?;
                [tree.clone(), tree]
            }
        };
        let needed = if self.tcp_tuning { tcp_buffers::bytes(profile) } else { 0 };
        let buffer_bytes = self.lab.allow_buffers(|needs| needs.migration = needed);
        let end = async |compute: &Compute, tree| {
            let buffers_refused = storage::allow(&compute.node, buffer_bytes).await?;
            Ok::<_, NodeError>(EndSetting { tree, buffers_refused })
        };
        let [near, far] = trees;
        let (source, destination) = (end(source, near).await?, end(destination, far).await?);
        Ok(LinkSetting { backend: self.backend, source, destination })
    }

    /// Reads the traffic counted so far at the source's end of the link.
    pub async fn traffic(&self) -> Result<Traffic, NodeError> {
        let source = &self.lab.source;
        source.node.traffic(&source.end(self.backend).interface).await
    }
}
