//! A lab: three nodes, the network between them, and what is known about both.
//!
//! ```text
//!                    controller 198.51.100.1
//!                     guests (bridge)
//!                    /               \
//!              guests                 guests          the guest's network: probes, never shaped
//!         compute1                       compute2
//!              migration ─────── migration            the migration link: shaped at both ends
//!            192.0.2.1              192.0.2.2
//! ```
//!
//! The addresses come from the ranges reserved for documentation (RFC 5737): they exist inside the lab only.

use crate::{
    matrix::Settings,
    node::{Node, NodeError, protocol::Facts},
    qemu::machine::Machine,
};
use netem::{Profile, Shaper, kernel::Feature};
use serde::{Deserialize, Serialize};
use std::{io, net::Ipv4Addr, sync::Mutex};

pub mod local;

/// The guest's address and prefix length on the guests' network.
pub const GUEST_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 51, 100, 10), 24);

/// The guest's Ethernet address: locally administered, in QEMU's customary range.
pub const GUEST_MAC: &str = "52:54:00:12:34:56";

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node process did not start, or ended at once.
    #[error("cannot start node {node}: {reason}")]
    Start {
        /// The node's name.
        node: &'static str,
        /// Its last words.
        reason: String,
    },
    /// The system refused to start a process.
    #[error("cannot start a node process: {0}")]
    Process(#[from] io::Error),
    /// A node could not do its part.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// A compute node and the names of its interfaces.
#[derive(Clone)]
pub struct Compute {
    /// The node.
    pub node: Node,
    /// Its address on the migration link.
    pub migration_address: Ipv4Addr,
    /// Its interface on the migration link.
    pub migration_interface: String,
    /// Its interface on the guests' network.
    pub guests_interface: String,
}

/// Three nodes, connected and ready.
pub struct Lab {
    /// The node that stands for the guest's clients.
    pub controller: Node,
    /// Where guests start.
    pub source: Compute,
    /// Where they migrate to.
    pub destination: Compute,
    /// What the lab is.
    pub description: Description,
    /// The machine whose guest has booted and is saved at the source, see [`crate::qemu::saved`].
    pub saved: Mutex<Option<Machine>>,
    /// The local node processes; they end with the lab.
    _processes: Vec<tokio::process::Child>,
}

/// What a lab is, for the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The kind of lab.
    pub kind: String,
    /// What the source node said of itself.
    pub source: Facts,
    /// What the destination node said of itself.
    pub destination: Facts,
}

impl Description {
    /// What the lab lacks for a migration with these settings, in words, if it lacks anything for any link that
    /// the migration meets.
    pub fn lacks(&self, settings: &Settings) -> Option<String> {
        let later = settings.steps().into_iter().filter_map(|step| step.link);
        later.chain([settings.link.clone()]).find_map(|link| self.lacks_for(&link))
    }

    fn lacks_for(&self, link: &Profile) -> Option<String> {
        let needed = [
            (link.needs_delay_line(), Feature::Netem),
            (link.rate.is_some() && link.shaper == Shaper::Tbf, Feature::Tbf),
            (link.rate.is_some() && link.shaper == Shaper::Htb, Feature::Htb),
        ];
        let missing = |node: &Facts, feature: Feature| !node.features.contains(feature.module());
        let (_, feature) = needed.into_iter().find(|(needs, feature)| {
            *needs && (missing(&self.source, *feature) || missing(&self.destination, *feature))
        })?;
        Some(format!("this link needs {} ({}), which the kernel lacks", feature.module(), feature.option()))
    }
}

impl Lab {
    /// Whether every node is still there.
    pub fn is_whole(&self) -> bool {
        ![&self.controller, &self.source.node, &self.destination.node].iter().any(|n| n.is_gone())
    }

    /// Shapes the migration link, each end what it sends; a description of what was set.
    pub async fn shape(&self, profile: &Profile) -> Result<String, NodeError> {
        let mut descriptions = Vec::new();
        for compute in [&self.source, &self.destination] {
            descriptions.push(compute.node.shape(&compute.migration_interface, profile).await?);
        }
        descriptions.dedup();
        Ok(descriptions.join("; "))
    }
}
