//! A lab: three nodes, the network between them, and what is known about both.
//!
//! ```text
//!                    controller 198.51.100.1
//!                     guests (bridge)
//!                    /               \
//!              guests                 guests          the guest's network: probes, never shaped
//!         compute1                       compute2
//!              migration ─────── migration            shaped by the kernel at both ends
//!            192.0.2.1              192.0.2.2
//!               emulated ─────── emulated             a link emulator between TUN devices
//!          203.0.113.1              203.0.113.2
//! ```
//!
//! There are two links to migrate over. An attempt uses the one that the kernel shapes, unless its link needs
//! something that the kernel lacks and the emulator has: [`Description::backend`] decides. The emulated link
//! is made when an attempt first needs it.
//!
//! The addresses come from the ranges reserved for documentation (RFC 5737): they exist inside the lab only.
//!
//! [`topology`] has the names and addresses. [`local`] makes the nodes on this machine, [`hosts`] on other
//! machines.

use crate::{
    matrix::Settings,
    node::{Node, NodeError},
};
pub use choice::{Choice, start};
pub use description::{Description, backend};
pub use link::Link;
use netem::Backend;
use std::{io, net::Ipv4Addr, time::Duration};
use tokio::{io::AsyncReadExt, process::Child, sync::OnceCell, time};
use topology::{EMULATED, EMULATED_ADDRESSES, GUESTS, MIGRATION, PREFIX, SHAPED_ADDRESSES};

mod choice;
mod description;
pub mod hosts;
mod link;
pub mod local;
pub mod topology;

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
    Inventory(#[from] hosts::inventory::Error),
    /// There are no machines of Vagrant's.
    #[error(transparent)]
    Vagrant(#[from] hosts::vagrant::Trouble),
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

impl Error {
    /// Whether it is for the user to name other hosts, rather than for the hosts to work.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Inventory(_) => true,
            Self::Vagrant(trouble) => trouble.is_input(),
            _ => false,
        }
    }
}

/// One end of a link to migrate over.
#[derive(Debug, Clone)]
pub struct End {
    /// The interface.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A compute node and the names of its interfaces.
#[derive(Clone)]
pub struct Compute {
    /// The node.
    pub node: Node,
    /// Its end of the link that the kernel shapes.
    pub shaped: End,
    /// Its end of the emulated link, once that is there.
    pub emulated: End,
    /// Its interface on the guests' network.
    pub guests_interface: String,
    /// Paths of the guest's kernel and initramfs on its host, where they are not this machine's own.
    pub guest_files: Option<(String, String)>,
}

impl Compute {
    /// The source (0) or the destination (1) of a lab, with what of the guest is on its host.
    fn new(node: Node, which: usize, guest_files: Option<(String, String)>) -> Self {
        let end = |interface: &str, addresses: [Ipv4Addr; 2]| End {
            interface: interface.into(),
            address: addresses[which],
        };
        Self {
            node,
            shaped: end(MIGRATION, SHAPED_ADDRESSES),
            emulated: end(EMULATED, EMULATED_ADDRESSES),
            guests_interface: GUESTS.into(),
            guest_files,
        }
    }

    /// Its end of the link of this backend.
    fn end(&self, backend: Backend) -> &End {
        match backend {
            Backend::Kernel => &self.shaped,
            Backend::Userspace => &self.emulated,
        }
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
    /// Whether the emulated link has been made.
    emulated: OnceCell<()>,
    /// The process in whose network namespace the destination's end of it is to be, where that is on this
    /// machine.
    destination_pid: Option<u32>,
    /// The local node processes, or those that lead to nodes elsewhere; they end with the lab.
    processes: [Child; 3],
}

impl Lab {
    /// A lab of these nodes. The emulated link's far end is to be in the network namespace of
    /// `destination_pid`, where that is on this machine.
    fn new(
        controller: Node,
        [source, destination]: [Compute; 2],
        description: Description,
        destination_pid: Option<u32>,
        processes: [Child; 3],
    ) -> Self {
        Self {
            controller,
            source,
            destination,
            description,
            emulated: OnceCell::new(),
            destination_pid,
            processes,
        }
    }

    /// Shows to others that the lab is complete, so that they may look into it and enter its nodes.
    pub async fn announce(&self) -> Result<(), NodeError> {
        for node in [&self.controller, &self.source.node, &self.destination.node] {
            node.announce().await?;
        }
        Ok(())
    }

    /// Ends the lab, in order; a lab that is dropped is killed. Of a local one nothing is left then.
    pub async fn end(self) {
        // Nodes end when nobody holds them any more.
        let processes = self.processes;
        drop((self.controller, self.source, self.destination));
        for mut process in processes {
            if time::timeout(LAST_WORDS, process.wait()).await.is_err() {
                let _ = process.kill().await;
            }
        }
    }

    /// Whether every node is still there.
    pub fn is_whole(&self) -> bool {
        ![&self.controller, &self.source.node, &self.destination.node].iter().any(|n| n.is_gone())
    }

    /// The link that an attempt with these settings uses.
    ///
    /// # Errors
    ///
    /// As [`Description::backend`].
    pub fn link(&self, settings: &Settings) -> Result<Link<'_>, String> {
        Ok(Link { lab: self, backend: self.description.backend(settings)? })
    }

    /// Makes the emulated link, unless it is there.
    async fn emulate(&self) -> Result<(), NodeError> {
        let make = async || {
            let (near, far) = (&self.source, &self.destination);
            let [name, peer] = [near, far].map(|compute| compute.emulated.interface.as_str());
            // A lab without one says in its description that it has no emulator.
            let Some(destination_pid) = self.destination_pid else { return Ok(()) };
            near.node.add_emulated_link(name, peer, destination_pid).await?;
            for Compute { node, emulated, .. } in [near, far] {
                node.set_up(&emulated.interface, Some((emulated.address, PREFIX))).await?;
            }
            Ok(())
        };
        self.emulated.get_or_try_init(make).await.copied()
    }
}

/// How long a node that failed may take to say why, and one that is ended to do so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The node that a process is, or leads to, once it has answered.
pub(crate) async fn serve_through(name: &str, process: &mut Child) -> Result<Node, Error> {
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
