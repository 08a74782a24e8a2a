//! A lab: three nodes and the links between them.
//!
//! ```text
//!                    controller 198.51.100.1
//!                     guests (bridge)
//!                    /               \
//!              guests                 guests          the guests' network: for the probe, never shaped
//!         compute1                       compute2
//!              migration ─────── migration            shaped by the kernel at both ends
//!            192.0.2.1              192.0.2.2
//!               emulated ─────── emulated             a link emulator between TUN devices
//!          203.0.113.1              203.0.113.2
//! ```
//!
//! There are two migration links. An attempt uses the one shaped by the kernel, unless its link properties
//! need a feature that the kernel lacks and the emulator has; [`Description::backend`] decides. The emulated
//! link is created when an attempt first needs it.
//!
//! A disk that both compute nodes open is served by the controller over a third network: see [`storage`].
//!
//! The addresses are from the ranges reserved for documentation (RFC 5737); they exist only inside the lab.
//!
//! [`topology`] has the names and addresses. [`local`] starts the nodes on this host, [`hosts`] on others.

use crate::{
    matrix::Settings,
    measure::End,
    node::{Node, NodeError, alive::Carrier},
};
pub use choice::{LabChoice, start};
pub use description::{Description, LabKind, backend};
use futures::future;
use hosts::ssh::HostAccess;
pub use link::Link;
use netem::Backend;
use std::{io, net::Ipv4Addr, path::PathBuf, sync::Mutex, time::Duration};
use tokio::{io::AsyncReadExt, process::Child, sync::OnceCell, time};
use topology::{EMULATED, EMULATED_ADDRESSES, GUESTS, MIGRATION, PREFIX, SHAPED_ADDRESSES};

mod choice;
mod description;
pub mod hosts;
mod link;
pub mod local;
mod memory;
pub mod storage;
pub mod topology;

/// An error starting a lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node process did not start, or exited immediately.
    #[error("cannot start node {node}: {reason}")]
    Start {
        /// The name of the node.
        node: String,
        /// The standard error of its process.
        reason: String,
    },
    /// The inventory is unreadable or invalid.
    #[error(transparent)]
    Inventory(#[from] hosts::inventory::Error),
    /// The Vagrant machines are missing or not running.
    #[error(transparent)]
    Vagrant(#[from] hosts::vagrant::Error),
    /// A host is unreachable, or a file could not be stored there, or a node could not be started.
    #[error(
        "cannot use host {host}: {reason}{}",
        remedy.as_ref().map_or_else(String::new, |remedy| format!("; {remedy}"))
    )]
    Host {
        /// The host's name for ssh.
        host: String,
        /// The error message of ssh or of the host.
        reason: String,
        /// What to do, in the imperative, if the cause is known.
        remedy: Option<String>,
    },
    /// The process of a node on this host could not be started.
    #[error("cannot start a node process: {0}")]
    Process(io::Error),
    /// A file that the hosts need could not be read.
    #[error("cannot read {} to upload it: {source}", path.display())]
    Upload {
        /// The path of the file.
        path: PathBuf,
        /// The error reading it.
        source: io::Error,
    },
    /// The NFS server did not start, or exited immediately, with this message.
    #[error("the NFS server does not start: {0}")]
    NfsServer(String),
    /// The nodes are on other hosts.
    #[error("only a local lab has a storage network; the nodes of this one are on other hosts")]
    NoStorageNetwork,
    /// A node failed to carry out a call.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl Error {
    /// Returns whether the user's input is wrong, such as the inventory, as opposed to a host that fails.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Inventory(_) => true,
            Self::Vagrant(error) => error.is_input(),
            _ => false,
        }
    }

    /// Returns the message without the remedy, and the remedy separately, if the cause is known.
    pub fn with_remedy_apart(self) -> (String, Option<String>) {
        match self {
            Self::Host { host, reason, remedy } => {
                (Self::Host { host, reason, remedy: None }.to_string(), remedy)
            }
            other => (other.to_string(), None),
        }
    }
}

/// One end of a migration link.
#[derive(Debug, Clone)]
pub struct LinkEnd {
    /// The name of the interface in the node.
    pub interface: String,
    /// The IPv4 address of the interface.
    pub address: Ipv4Addr,
    /// The address of the other end.
    pub peer: Ipv4Addr,
}

/// A compute node and its interfaces.
#[derive(Clone)]
pub struct Compute {
    /// The handle to the node.
    pub node: Node,
    /// The node's end of the link shaped by the kernel.
    pub shaped: LinkEnd,
    /// The node's end of the emulated link, which may not exist yet.
    pub emulated: LinkEnd,
    /// The name of the node's interface on the guests' network.
    pub guests_interface: String,
    /// The paths of the guest's kernel and initramfs on the node's host; `None` on this host, where they are
    /// used in place.
    pub guest_files: Option<(String, String)>,
}

impl Compute {
    /// Describes the node at an end of the migration.
    fn new(node: Node, end: End, guest_files: Option<(String, String)>) -> Self {
        let link_end = |interface: &str, [source, destination]: [Ipv4Addr; 2]| {
            let (address, peer) = match end {
                End::Source => (source, destination),
                End::Destination => (destination, source),
            };
            LinkEnd { interface: interface.into(), address, peer }
        };
        Self {
            node,
            shaped: link_end(MIGRATION, SHAPED_ADDRESSES),
            emulated: link_end(EMULATED, EMULATED_ADDRESSES),
            guests_interface: GUESTS.into(),
            guest_files,
        }
    }

    /// Brings an end of a migration link up. Only the other end can connect to the node through it, even if
    /// its network has more addresses.
    async fn set_up(&self, end: &LinkEnd) -> Result<(), NodeError> {
        self.node.set_up(&end.interface, Some((end.address, PREFIX))).await?;
        self.node.prohibit_all_but(end.peer, PREFIX).await
    }

    /// Returns the node's end of the link with this backend.
    fn end(&self, backend: Backend) -> &LinkEnd {
        match backend {
            Backend::Kernel => &self.shaped,
            Backend::Userspace => &self.emulated,
        }
    }
}

/// The sizes that TCP's buffers need on the links of a compute node, in bytes. The limit applies to the node,
/// not to a link.
#[derive(Debug, Default)]
struct BufferNeeds {
    migration: u64,
    storage: u64,
}

/// Three connected nodes.
pub struct Lab {
    /// The node that represents the guest's clients and runs the probe.
    pub controller: Node,
    /// The compute node where guests start.
    pub source: Compute,
    /// The compute node that guests migrate to.
    pub destination: Compute,
    /// The lab's kind and the facts about its nodes.
    pub description: Description,
    /// Set once the emulated link exists.
    emulated: OnceCell<()>,
    /// Set once the storage network exists.
    storage: OnceCell<()>,
    /// The PIDs of the source and the destination node, for links created later; `None` if the nodes are on
    /// other hosts.
    compute_pids: Option<[u32; 2]>,
    buffer_needs: Mutex<BufferNeeds>,
    /// The local node processes, or the ssh processes that lead to remote nodes; they end with the lab.
    processes: [Child; 3],
    /// The connections to the hosts of remote nodes; they end with the lab, after the nodes.
    access: Option<HostAccess>,
}

impl Lab {
    /// Assembles a lab of connected nodes. `compute_pids` are the PIDs of the compute nodes, whose network
    /// namespaces get the ends of links created later, or `None` if the nodes are on other hosts.
    fn new(
        controller: Node,
        [source, destination]: [Compute; 2],
        description: Description,
        compute_pids: Option<[u32; 2]>,
        processes: [Child; 3],
    ) -> Self {
        Self {
            controller,
            source,
            destination,
            description,
            emulated: OnceCell::new(),
            storage: OnceCell::new(),
            compute_pids,
            buffer_needs: Mutex::default(),
            processes,
            access: None,
        }
    }

    /// Marks the nodes as complete, so that `testbed lab` can inspect and enter them.
    pub async fn announce(&self) -> Result<(), NodeError> {
        for node in [&self.controller, &self.source.node, &self.destination.node] {
            node.announce().await?;
        }
        Ok(())
    }

    /// Shuts the lab down: each node gets 2 s to exit before its process is killed. Nothing is left of a
    /// local lab when this returns. Dropping a lab kills the processes immediately.
    pub async fn end(self) {
        // A node exits when the last handle to it is dropped.
        let processes = self.processes;
        drop((self.controller, self.source, self.destination));
        future::join_all(processes.map(|mut process| async move {
            if time::timeout(EXIT_GRACE, process.wait()).await.is_err() {
                let _ = process.kill().await;
            }
        }))
        .await;
    }

    /// Returns whether the connection to every node still works.
    pub fn is_intact(&self) -> bool {
        ![&self.controller, &self.source.node, &self.destination.node].iter().any(|n| n.is_gone())
    }

    /// Returns the migration link for an attempt with these settings.
    ///
    /// # Errors
    ///
    /// The missing feature, as text, as [`Description::backend`] returns it.
    pub fn link(&self, settings: &Settings) -> Result<Link<'_>, String> {
        let (backend, tcp_tuning) = (self.description.backend(settings)?, settings.link.tcp_tuning);
        Ok(Link { lab: self, backend, tcp_tuning, storage: None })
    }

    /// Changes the buffer sizes that the links need, and returns the size that the compute nodes, which are
    /// the ends of both links, now need.
    fn allow_buffers(&self, change: impl FnOnce(&mut BufferNeeds)) -> u64 {
        let mut needs = self.buffer_needs.lock().unwrap();
        change(&mut needs);
        needs.migration.max(needs.storage)
    }

    /// Creates the emulated link if it does not exist yet.
    async fn ensure_emulated_link(&self) -> Result<(), NodeError> {
        let make = async || {
            let (near, far) = (&self.source, &self.destination);
            let [name, peer] = [near, far].map(|compute| compute.emulated.interface.as_str());
            // Not reached without a PID: the description of a lab without PIDs says that it cannot emulate
            // links.
            let Some([_, destination_pid]) = self.compute_pids else { return Ok(()) };
            near.node.add_emulated_link(name, peer, destination_pid).await?;
            for compute in [near, far] {
                compute.set_up(&compute.emulated).await?;
            }
            Ok(())
        };
        self.emulated.get_or_try_init(make).await.copied()
    }
}

/// How long to wait for the error message of a node that failed to start, and for a node to exit.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// The longest error message of a node that is read, in bytes.
const REASON_BYTES: u64 = 64 << 10;

/// Connects to a node through the standard streams of a process: the node itself, or with a `carrier`, the
/// ssh that leads to it. Returns when the node has answered its first call.
pub(crate) async fn connect_node(
    name: &str,
    process: &mut Child,
    carrier: Option<Carrier>,
) -> Result<Node, Error> {
    // The message of the node already has a prefix, which would be repeated in this program's message.
    let failed = |reason: &str| {
        let reason = reason.trim();
        Error::Start { node: name.into(), reason: reason.strip_prefix("error: ").unwrap_or(reason).into() }
    };
    let (Some(stdin), Some(stdout), Some(mut stderr)) =
        (process.stdin.take(), process.stdout.take(), process.stderr.take())
    else {
        return Err(failed("its standard streams are not pipes"));
    };
    let node = Node::from_streams(name, stdout, stdin);
    // Started immediately: a slow host may take longer for the first answer than a node waits for a silent
    // orchestrator.
    if let Some(carrier) = carrier {
        node.keep_alive(carrier);
    }
    if let Err(error) = node.round_trip().await {
        if let NodeError::Unreadable { reason, .. } | NodeError::Lost { reason, .. } = error {
            let _ = process.start_kill();
            return Err(failed(&reason));
        }
        let mut reason = String::new();
        let _ = time::timeout(EXIT_GRACE, (&mut stderr).take(REASON_BYTES).read_to_string(&mut reason)).await;
        return Err(failed(&reason));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use tokio::process::Command;

    #[tokio::test]
    async fn a_node_that_does_not_start_gives_its_reason_without_a_second_prefix() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'error: no namespaces here' >&2"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Err(error) = connect_node("compute1", &mut command.spawn().unwrap(), None).await else {
            panic!("this is no node");
        };
        assert_eq!(error.to_string(), "cannot start node compute1: no namespaces here");
    }
}
