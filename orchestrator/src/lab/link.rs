//! The link that an attempt migrates over.

use super::{Compute, Lab};
use crate::{
    measure::{
        link::{EndSetting, LinkSetting},
        tcp_buffers,
    },
    node::{NodeError, protocol::Traffic},
};
use netem::{Backend, Profile};
use std::net::Ipv4Addr;

/// The link that an attempt migrates over.
#[derive(Clone, Copy)]
pub struct Link<'a> {
    pub(super) lab: &'a Lab,
    pub(super) backend: Backend,
}

impl Link<'_> {
    /// The lab that it is of.
    pub fn lab(&self) -> &Lab {
        self.lab
    }

    /// The destination's address on it.
    pub fn destination_address(&self) -> Ipv4Addr {
        self.lab.destination.end(self.backend).address
    }

    /// Shapes the link alike in both directions. Packets that are under way are not lost, so that this can be
    /// done in mid-migration.
    ///
    /// At both ends of a link with a delay, TCP's buffers may grow to [`tcp_buffers::ROUND_TRIPS`], and in
    /// any case as far as the kernel has it. Where that is refused, a long link carries less than its rate.
    pub async fn shape(&self, profile: &Profile) -> Result<LinkSetting, NodeError> {
        let Lab { source, destination, .. } = self.lab;
        let shape = async |compute: &Compute| {
            let interface = &compute.end(self.backend).interface;
            Ok::<_, NodeError>(compute.node.shape(interface, profile).await?.tree)
        };
        let trees = match self.backend {
            Backend::Kernel => [shape(source).await?, shape(destination).await?],
            Backend::Userspace => {
                self.lab.emulate().await?;
                // It shapes both directions.
                let tree = shape(source).await?;
                [tree.clone(), tree]
            }
        };
        let buffer_bytes = tcp_buffers::bytes(profile);
        let allow = async |compute: &Compute, tree| match compute.node.allow_tcp_buffers(buffer_bytes).await {
            Ok(()) => Ok(EndSetting { tree, buffers_refused: None }),
            Err(NodeError::Failed { reason, .. }) => Ok(EndSetting { tree, buffers_refused: Some(reason) }),
            Err(gone) => Err(gone),
        };
        let [near, far] = trees;
        let (source, destination) = (allow(source, near).await?, allow(destination, far).await?);
        Ok(LinkSetting { backend: self.backend, source, destination })
    }

    /// What has passed through the source's end.
    pub async fn traffic(&self) -> Result<Traffic, NodeError> {
        let source = &self.lab.source;
        source.node.traffic(&source.end(self.backend).interface).await
    }
}
