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
//!
//! [`local`] makes the nodes on this machine, [`ssh`] on hosts that an [`inventory`] names.

use crate::{
    guest::GuestFiles,
    matrix::Settings,
    node::{Node, NodeError, protocol::Facts},
    qemu::machine::Machine,
    setup::doctor::Finding,
};
use inventory::Inventory;
use netem::{Shaper, kernel::Feature};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, io, net::Ipv4Addr, path::PathBuf, str::FromStr, sync::Mutex, time::Duration};
use tokio::{io::AsyncReadExt, process::Child, time};

mod doctor;
pub mod inventory;
pub mod local;
pub mod ssh;

/// Which lab is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// Namespaces of this machine.
    #[default]
    Local,
    /// The machines of the Vagrantfile in the folder `vagrant` or in this one.
    Vagrant,
    /// The hosts that this file names.
    Inventory(PathBuf),
}

impl FromStr for Choice {
    type Err = Infallible;

    /// `local`, `vagrant`, or a path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "local" => Self::Local,
            "vagrant" => Self::Vagrant,
            path => Self::Inventory(path.into()),
        })
    }
}

const CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const MIGRATION_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
/// Of both networks.
const PREFIX: u8 = 24;
/// The name of a compute node's interface on the migration link.
const MIGRATION: &str = "migration";
/// The name of a node's interface on the guests' network.
const GUESTS: &str = "guests";

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
        node: String,
        /// Its last words.
        reason: String,
    },
    /// The inventory is no good.
    #[error(transparent)]
    Inventory(#[from] inventory::Error),
    /// A host did not take what a node needs there.
    #[error("cannot use host {host}: {reason}")]
    Host {
        /// Its name.
        host: String,
        /// What it, or ssh, said.
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
    /// The guest's kernel and initramfs on its host, where they are not this machine's own.
    guest: Option<(String, String)>,
}

impl Compute {
    /// The machine as this node starts it: with its own paths and its own network.
    pub fn machine(&self, machine: &Machine) -> Machine {
        let (kernel, initramfs) =
            self.guest.clone().unwrap_or_else(|| (machine.kernel.clone(), machine.initramfs.clone()));
        let network = Some(self.guests_interface.clone());
        Machine { kernel, initramfs, network, ..machine.clone() }
    }
}

/// Starts a lab in which these guests can be run.
pub async fn start(choice: &Choice, guest: &GuestFiles) -> Result<Lab, Error> {
    match choice {
        Choice::Local => local::start().await,
        Choice::Vagrant => ssh::start(&Inventory::of_vagrant()?, guest).await,
        Choice::Inventory(path) => ssh::start(&Inventory::read(path)?, guest).await,
    }
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
    _processes: Vec<Child>,
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
    /// What the lab lacks for a migration with these settings, in words, if it lacks anything.
    pub fn lacks(&self, settings: &Settings) -> Option<String> {
        let link = &settings.link;
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
    pub async fn shape(&self, profile: &netem::Profile) -> Result<String, NodeError> {
        let mut descriptions = Vec::new();
        for compute in [&self.source, &self.destination] {
            descriptions.push(compute.node.shape(&compute.migration_interface, profile).await?);
        }
        descriptions.dedup();
        Ok(descriptions.join("; "))
    }
}

/// What a lab that is not this machine's lacks for these guests, and what mends it.
pub async fn examine(choice: &Choice, guest: &GuestFiles) -> Result<Vec<Finding>, Error> {
    match choice {
        Choice::Local => Ok(Vec::new()),
        Choice::Vagrant => doctor::examine(&Inventory::of_vagrant()?, guest).await,
        Choice::Inventory(path) => doctor::examine(&Inventory::read(path)?, guest).await,
    }
}

/// How long a node that failed may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The node that a process is, or leads to, once it has answered.
async fn serve_through(name: &str, process: &mut Child) -> Result<Node, Error> {
    let failed = |reason: &str| Error::Start { node: name.into(), reason: reason.trim().into() };
    let (Some(stdin), Some(stdout), Some(mut stderr)) =
        (process.stdin.take(), process.stdout.take(), process.stderr.take())
    else {
        return Err(failed("it has no standard streams"));
    };
    let node = Node::over(name, stdout, stdin);
    if node.facts().await.is_err() {
        let mut reason = String::new();
        let _ = time::timeout(LAST_WORDS, stderr.read_to_string(&mut reason)).await;
        return Err(failed(&reason));
    }
    Ok(node)
}
