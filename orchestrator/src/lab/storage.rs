//! Shared storage: the storage network, and disks that the controller serves on it.
//!
//! ```text
//!                 controller 198.18.0.1
//!                   storage (bridge)
//!                storage1       storage2
//!                   │               │            each branch shaped by the kernel at both ends
//!                storage         storage
//!               compute1         compute2
//!              198.18.0.2       198.18.0.3
//! ```
//!
//! A branch leads from the controller to one compute node. Its two ends are shaped alike, each for what it
//! sends, so a rate applies to each branch and each direction separately, as on a switch.
//!
//! The network is created when it is first needed. Only a local lab has one: on other hosts, the mount of the
//! inventory's `images` takes its place.

use super::{
    Compute, Error, Lab,
    topology::{PREFIX, STORAGE, STORAGE_ADDRESSES, STORAGE_CONTROLLER_ADDRESS, STORAGE_PORTS},
};
use crate::{
    host::{QEMU, QEMU_LIMIT},
    measure::{
        link::{BranchSetting, EndSetting, StorageSetting},
        tcp_buffers,
    },
    nfs,
    node::{Disk, Node, NodeError, Process, ProcessEvent},
    setup::NfsDriver,
};
use netem::Profile;
use std::{convert::Infallible, future, path::Path, time::Duration};
use tokio::time;

/// How long a server that has exited on its own stays down, as under a service manager.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// The links from the controller to the compute nodes that carry storage traffic.
#[derive(Clone, Copy)]
pub struct StorageLink<'a> {
    lab: &'a Lab,
}

/// The bytes that a branch of the storage link has carried since it was first shaped, with all headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BranchTraffic {
    /// Bytes from the controller to the compute node: the data that the node has read.
    pub from_controller: u64,
    /// Bytes from the compute node to the controller: the data that the node has written.
    pub to_controller: u64,
}

impl StorageLink<'_> {
    /// Shapes both branches alike, in both directions. Packets in transit are not lost. An empty profile only
    /// starts the counters.
    ///
    /// If the link has a delay, TCP's buffers may grow, as on the migration link.
    pub async fn shape(&self, profile: &Profile) -> Result<StorageSetting, NodeError> {
        let Lab { controller, source, destination, .. } = self.lab;
        let at_controller = tcp_buffers::bytes(profile);
        let at_computes = self.lab.allow_buffers(|needs| needs.storage = at_controller);
        let branch = async |compute: &Compute, port: &str| {
            let end = async |node: &Node, interface: &str, buffers: u64| {
                let tree = node.shape(interface, profile).await?.tree;
                Ok::<_, NodeError>(EndSetting { tree, buffers_refused: allow(node, buffers).await? })
            };
            Ok::<_, NodeError>(BranchSetting {
                controller: end(controller, port, at_controller).await?,
                compute: end(&compute.node, STORAGE, at_computes).await?,
            })
        };
        Ok(StorageSetting {
            source: branch(source, STORAGE_PORTS[0]).await?,
            destination: branch(destination, STORAGE_PORTS[1]).await?,
        })
    }

    /// Reads the traffic counted so far on the branches to the source and to the destination.
    pub async fn traffic(&self) -> Result<[BranchTraffic; 2], NodeError> {
        let Lab { controller, source, destination, .. } = self.lab;
        // Each direction is counted by its sender, whose count has the headers of every segment.
        let branch = async |compute: &Compute, port: &str| {
            Ok::<_, NodeError>(BranchTraffic {
                from_controller: controller.traffic(port).await?.sent_bytes,
                to_controller: compute.node.traffic(STORAGE).await?.sent_bytes,
            })
        };
        Ok([branch(source, STORAGE_PORTS[0]).await?, branch(destination, STORAGE_PORTS[1]).await?])
    }
}

/// Lets TCP's buffers grow on a node. Returns why the node refuses; nothing if it does not.
pub(super) async fn allow(node: &Node, buffer_bytes: u64) -> Result<Option<String>, NodeError> {
    match node.allow_tcp_buffers(buffer_bytes).await {
        Ok(()) => Ok(None),
        Err(NodeError::Failed { reason, .. }) => Ok(Some(reason)),
        Err(gone) => Err(gone),
    }
}

impl Lab {
    /// Returns the storage link, creating it if it does not exist yet.
    ///
    /// # Errors
    ///
    /// [`Error::NoStorageNetwork`] if the nodes are on other hosts.
    pub async fn storage_link(&self) -> Result<StorageLink<'_>, Error> {
        let [source_pid, destination_pid] = self.compute_pids.ok_or(Error::NoStorageNetwork)?;
        let create = async || {
            let computes = [(&self.source, source_pid), (&self.destination, destination_pid)];
            for ((compute, pid), (port, address)) in
                computes.into_iter().zip(STORAGE_PORTS.into_iter().zip(STORAGE_ADDRESSES))
            {
                self.controller.add_link(port, STORAGE, pid).await?;
                compute.node.set_up(STORAGE, Some((address, PREFIX))).await?;
                compute.node.prohibit_all_but(STORAGE_CONTROLLER_ADDRESS, PREFIX).await?;
            }
            self.controller.add_bridge(STORAGE, &STORAGE_PORTS).await?;
            self.controller.set_up(STORAGE, Some((STORAGE_CONTROLLER_ADDRESS, PREFIX))).await
        };
        self.storage.get_or_try_init(create).await?;
        Ok(StorageLink { lab: self })
    }

    /// Serves a disk of the controller to both compute nodes. A lab serves one disk at a time.
    ///
    /// # Errors
    ///
    /// If the server does not start, or if the lab has no storage network.
    pub async fn share_disk(&self, disk: Disk) -> Result<SharedDisk, Error> {
        self.storage_link().await?;
        let mut shared = SharedDisk {
            url: nfs::url(STORAGE_CONTROLLER_ADDRESS),
            node: self.controller.clone(),
            disk,
            server: None,
        };
        shared.start().await?;
        Ok(shared)
    }
}

/// A disk at the controller that both compute nodes can open. When it is dropped, the server is killed and
/// the file is removed.
pub struct SharedDisk {
    url: String,
    node: Node,
    disk: Disk,
    /// The server, unless it has been killed or has failed.
    server: Option<Process>,
}

impl SharedDisk {
    /// Returns the URL of the disk for QEMU: `nfs://198.18.0.1/testbed/disk`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns a path to the file on the controller's host, for as long as the disk exists.
    pub fn path(&self) -> &Path {
        Path::new(self.disk.path())
    }

    /// Kills the server, as when its host fails. Its connections are reset, but no data is lost: clients
    /// reconnect once it is started again.
    pub async fn kill(&mut self) -> Result<(), Error> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        server.kill().await?;
        server.end().await?;
        Ok(())
    }

    /// Starts the server unless it runs, and waits until clients can connect.
    pub async fn start(&mut self) -> Result<(), Error> {
        if self.server.is_some() {
            return Ok(());
        }
        let mut server = self.node.serve_disk(&self.disk, STORAGE_CONTROLLER_ADDRESS, STORAGE).await?;
        let mut output = Vec::new();
        while let Some(event) = server.events.recv().await {
            match event {
                ProcessEvent::Output(line) if line == nfs::LISTENING => {
                    self.server = Some(server);
                    return Ok(());
                }
                ProcessEvent::Output(line) => output.push(line),
                ProcessEvent::Exited(status) if output.is_empty() => {
                    return Err(Error::NfsServer(status.to_string()));
                }
                ProcessEvent::Exited(_) => {
                    let said = output.join("; ");
                    return Err(Error::NfsServer(said.trim_start_matches("error: ").into()));
                }
            }
        }
        Err(server.loss_of_node().into())
    }

    /// Restarts the server whenever it has exited on its own, after one second. Calls `failed` with its exit
    /// status each time. Never returns.
    pub async fn keep_serving(&mut self, mut failed: impl FnMut(&str)) -> Infallible {
        loop {
            if let Some(server) = &mut self.server {
                match server.events.recv().await {
                    Some(ProcessEvent::Output(_)) => continue,
                    Some(ProcessEvent::Exited(status)) => failed(&status.to_string()),
                    // The node is gone, and the lab with it.
                    None => future::pending().await,
                }
                self.server = None;
            }
            time::sleep(RESTART_DELAY).await;
            // If it fails, it is tried again.
            let _ = self.start().await;
        }
    }

    /// Kills the server and waits until it has exited, which frees the space of the disk.
    pub async fn end(mut self) -> Result<(), Error> {
        self.kill().await
    }
}

/// Asks the QEMU of a node whether it can open shared disks.
pub async fn nfs_driver(node: &Node) -> Result<NfsDriver, NodeError> {
    let Ok(answer) = time::timeout(QEMU_LIMIT, node.run(QEMU, &NfsDriver::QUESTION)).await else {
        return Ok(NfsDriver::Unknown(format!("it did not answer within {} s", QEMU_LIMIT.as_secs())));
    };
    let (said, status) = answer?;
    Ok(NfsDriver::from_answer(status.is_own_exit(), &said.join("\n")))
}
