//! The link that an attempt migrates over.

use super::Lab;
use crate::{
    measure::tcp_buffers,
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

    /// Shapes the link alike in both directions; a description of what was set. Packets that are under way are
    /// not lost, so that this can be done in mid-migration.
    ///
    /// At both ends of a link with a delay, TCP's buffers may grow to [`tcp_buffers::ROUND_TRIPS`], and in any case as
    /// far as the kernel has it. Where that cannot be set, the description says why, and a long link carries less
    /// than its rate.
    pub async fn shape(&self, profile: &Profile) -> Result<String, NodeError> {
        let Lab { source, destination, .. } = self.lab;
        let shaping = match self.backend {
            Backend::Kernel => vec![source, destination],
            Backend::Userspace => {
                self.lab.emulate().await?;
                // It shapes both directions.
                vec![source]
            }
        };
        let mut descriptions = Vec::new();
        for compute in shaping {
            descriptions.push(compute.node.shape(&compute.end(self.backend).interface, profile).await?);
        }
        let buffer_bytes = tcp_buffers::bytes(profile);
        for compute in [source, destination] {
            match compute.node.allow_tcp_buffers(buffer_bytes).await {
                Ok(()) => {}
                Err(NodeError::Failed { reason, .. }) => {
                    descriptions.push(format!("TCP's buffers are limited as before: {reason}"));
                }
                Err(gone) => return Err(gone),
            }
        }
        descriptions.dedup();
        Ok(descriptions.join("; "))
    }

    /// What has passed through the source's end.
    pub async fn traffic(&self) -> Result<Traffic, NodeError> {
        let source = &self.lab.source;
        source.node.traffic(&source.end(self.backend).interface).await
    }
}
