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
//! something that the kernel lacks and the emulator has: [`Description::backend`] decides. The emulated link is
//! made when an attempt first needs it.
//!
//! The addresses come from the ranges reserved for documentation (RFC 5737): they exist inside the lab only.
//!
//! [`local`] makes the nodes on this machine, [`ssh`] on hosts that an [`inventory`] names. [`vagrant`] has the
//! inventory of the machines that Vagrant makes. [`observe`] finds what is under way on a host, [`status`] puts it
//! together.

use crate::{
    guest::GuestFiles,
    matrix::Settings,
    node::{
        Node, NodeError,
        protocol::{Facts, Traffic},
        round_trip::RoundTrips,
    },
    qemu::machine::Machine,
    setup::doctor::Finding,
};
use inventory::Inventory;
use netem::{Backend, Profile, Shaper, kernel::Feature};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, io, net::Ipv4Addr, path::PathBuf, str::FromStr, sync::Mutex, time::Duration};
use tokio::{io::AsyncReadExt, process::Child, sync::OnceCell, time};
use units::BitRate;

mod doctor;
pub mod inventory;
pub mod local;
pub mod observe;
pub mod ssh;
pub mod status;
pub mod vagrant;

/// The names of a lab's nodes.
pub const NODES: [&str; 3] = ["controller", "compute1", "compute2"];

/// Which lab is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// Namespaces of this machine.
    #[default]
    Local,
    /// The machines of a Vagrantfile, see [`vagrant`].
    Vagrant,
    /// The hosts that this file names.
    Inventory(PathBuf),
}

impl Choice {
    /// The hosts; none where the nodes are this machine's own.
    pub fn inventory(&self) -> Result<Option<Inventory>, Error> {
        Ok(match self {
            Self::Local => None,
            Self::Vagrant => Some(vagrant::inventory()?),
            Self::Inventory(path) => Some(Inventory::read(path)?),
        })
    }

    /// Makes sure that the hosts are named as they have to be; reaches none.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Self::Vagrant => vagrant::check(),
            other => other.inventory().map(drop),
        }
    }
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
const SHAPED_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const EMULATED_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
/// The name of a compute node's interface on the migration link that the kernel shapes.
const MIGRATION: &str = "migration";
/// The name of a compute node's interface on the emulated link.
const EMULATED: &str = "emulated";
/// The name of a node's interface on the guests' network.
const GUESTS: &str = "guests";

/// The guest's address and prefix length on the guests' network.
pub const GUEST_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 51, 100, 10), 24);

/// The prefix length of every network here.
const PREFIX: u8 = 24;

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
    /// There are no machines of Vagrant's.
    #[error(transparent)]
    Vagrant(#[from] vagrant::Trouble),
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

/// How many round trips' worth of data TCP's buffers may hold at both ends of a link with a delay: one round trip
/// under way and one in the queue of the link, and twice that, for Linux gives half of a buffer to data.
pub const BUFFERED_ROUND_TRIPS: u32 = 4;

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
    /// The guest's kernel and initramfs on its host, where they are not this machine's own.
    guest: Option<(String, String)>,
}

impl Compute {
    /// The source (0) or the destination (1) of a lab, with what of the guest is on its host.
    fn new(node: Node, which: usize, guest: Option<(String, String)>) -> Self {
        let end = |interface: &str, addresses: [Ipv4Addr; 2]| End {
            interface: interface.into(),
            address: addresses[which],
        };
        Self {
            node,
            shaped: end(MIGRATION, SHAPED_ADDRESSES),
            emulated: end(EMULATED, EMULATED_ADDRESSES),
            guests_interface: GUESTS.into(),
            guest,
        }
    }

    /// Its end of the link of this backend.
    fn end(&self, backend: Backend) -> &End {
        match backend {
            Backend::Kernel => &self.shaped,
            Backend::Userspace => &self.emulated,
        }
    }

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
    match choice.inventory()? {
        None => local::start().await,
        Some(inventory) => {
            let mut lab = ssh::start(&inventory, guest).await?;
            if *choice == Choice::Vagrant {
                lab.description.kind = "vagrant".into();
            }
            Ok(lab)
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
    /// The machine whose guest has booted and is saved at the source, see [`crate::qemu::saved`].
    pub saved: Mutex<Option<Machine>>,
    /// Whether the emulated link has been made.
    emulated: OnceCell<()>,
    /// The process in whose network namespace the destination's end of it is to be, where that is on this machine.
    destination_pid: Option<u32>,
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
    /// How far away the nodes are from the orchestrator, whose clock takes all times. Absent in results of older
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<RoundTrips>,
}

impl Description {
    /// What carries out the links of these settings, those of the timeline included: the kernel where it has all that
    /// they take, else the emulator.
    ///
    /// # Errors
    ///
    /// What the lab lacks, in words, where neither can.
    pub fn backend(&self, settings: &Settings) -> Result<Backend, String> {
        let later = settings.steps().into_iter().filter_map(|step| step.link);
        let links: Vec<Profile> = [settings.link.clone()].into_iter().chain(later).collect();
        let Some(feature) = links.iter().find_map(|link| self.lacking(link)) else {
            return Ok(Backend::Kernel);
        };
        let lacks =
            format!("this link needs {} ({}), which the kernel lacks", feature.module(), feature.option());
        if links.iter().any(|link| link.slots.is_some()) {
            return Err(format!("{lacks}, and the backend `{}` has no slots", Backend::Userspace));
        }
        // It is the source that makes both ends.
        match &self.source.no_emulator {
            Some(reason) => Err(format!("{lacks}, and it cannot be emulated: {reason}")),
            None => Ok(Backend::Userspace),
        }
    }

    /// What the lab lacks for a migration with these settings, in words, if it lacks anything for any link that
    /// the migration meets.
    pub fn lacks(&self, settings: &Settings) -> Option<String> {
        self.backend(settings).err()
    }

    /// A part that a link needs of the kernel and that a node's kernel does not have.
    fn lacking(&self, link: &Profile) -> Option<Feature> {
        let needed = [
            (link.needs_delay_line(), Feature::Netem),
            (link.rate.is_some() && link.shaper == Shaper::Tbf, Feature::Tbf),
            (link.rate.is_some() && link.shaper == Shaper::Htb, Feature::Htb),
        ];
        let missing = |node: &Facts, feature: Feature| !node.features.contains(feature.module());
        let mut lacking = needed.into_iter().filter(|(needs, feature)| {
            *needs && (missing(&self.source, *feature) || missing(&self.destination, *feature))
        });
        lacking.next().map(|(_, feature)| feature)
    }
}

impl Lab {
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

/// How far TCP's buffers may grow for [`BUFFERED_ROUND_TRIPS`] of a link, in bytes; 0 without a delay, and then as
/// far as the kernel has it.
pub fn buffer_bytes(link: &Profile) -> u64 {
    const NO_RATE: BitRate = BitRate::new(10_000_000_000);
    // The kernel keeps the limit as such a number.
    const MOST: u128 = i32::MAX as u128;
    let bytes_per_second = link.rate.unwrap_or(NO_RATE).to_byte_rate().get();
    let nanos = u128::from(link.delay.as_nanos()) * 2 * u128::from(BUFFERED_ROUND_TRIPS);
    (u128::from(bytes_per_second) * nanos / 1_000_000_000).min(MOST) as u64
}

/// The link that an attempt migrates over.
#[derive(Clone, Copy)]
pub struct Link<'a> {
    lab: &'a Lab,
    backend: Backend,
}

impl Link<'_> {
    /// The destination's address on it.
    pub fn destination_address(&self) -> Ipv4Addr {
        self.lab.destination.end(self.backend).address
    }

    /// Shapes the link alike in both directions; a description of what was set. Packets that are under way are
    /// not lost, so that this can be done in mid-migration.
    ///
    /// At both ends of a link with a delay, TCP's buffers may grow to [`BUFFERED_ROUND_TRIPS`], and in any case as
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
        let buffer_bytes = buffer_bytes(profile);
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

/// What the hosts of an inventory lack for these guests, and what mends it.
pub async fn examine(inventory: &Inventory, guest: &GuestFiles) -> Result<Vec<Finding>, Error> {
    doctor::examine(inventory, guest).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::protocol::Privilege;

    fn description(features: &[Feature], no_emulator: Option<&str>) -> Description {
        let facts = Facts {
            version: String::new(),
            kernel: String::new(),
            cpu_model: String::new(),
            cpus: 2,
            memory_bytes: 1 << 34,
            privilege: Privilege::Root,
            features: features.iter().map(ToString::to_string).collect(),
            no_emulator: no_emulator.map(Into::into),
            available_memory_bytes: 1 << 33,
            clock: jiff::Timestamp::UNIX_EPOCH,
            qemu: None,
        };
        Description { kind: "local".into(), source: facts.clone(), destination: facts, round_trips: None }
    }

    fn settings(link: &str) -> Settings {
        Settings { link: serde_json::from_str(link).unwrap(), ..Settings::default() }
    }

    const DELAYED: &str = r#"{ "rate": "1gbit", "delay": "5ms" }"#;

    #[test]
    fn the_kernel_shapes_what_it_can() {
        let all = description(&Feature::ALL, None);
        let slots = r#"{ "slots": { "min_delay": "1ms", "max_delay": "2ms" } }"#;
        for link in ["{}", DELAYED, r#"{ "rate": "1gbit", "shaper": "htb" }"#, slots] {
            assert_eq!(all.backend(&settings(link)), Ok(Backend::Kernel), "{link}");
        }
        let only_rates = description(&[Feature::Tbf], None);
        assert_eq!(only_rates.backend(&settings(r#"{ "rate": "1gbit" }"#)), Ok(Backend::Kernel));
        assert_eq!(only_rates.backend(&settings(DELAYED)), Ok(Backend::Userspace));
        assert_eq!(only_rates.lacks(&settings(DELAYED)), None);
        assert_eq!(
            only_rates.lacks(&settings(slots)).unwrap(),
            "this link needs sch_netem (CONFIG_NET_SCH_NETEM), which the kernel lacks, and the backend `userspace` \
             has no slots"
        );
    }

    #[test]
    fn what_can_be_had_in_neither_way_is_lacking() {
        let neither = description(&[Feature::Tbf], Some("no access to /dev/net/tun"));
        assert_eq!(
            neither.lacks(&settings(DELAYED)).unwrap(),
            "this link needs sch_netem (CONFIG_NET_SCH_NETEM), which the kernel lacks, and it cannot be emulated: \
             no access to /dev/net/tun"
        );
        assert_eq!(neither.lacks(&settings(r#"{ "rate": "1gbit" }"#)), None);
    }

    #[test]
    fn buffers_are_as_large_as_the_link_is_long() {
        let bytes = |link| buffer_bytes(&settings(link).link);
        assert_eq!(bytes(r#"{ "rate": "1gbit" }"#), 0);
        assert_eq!(bytes(DELAYED), 5_000_000);
        assert_eq!(bytes(r#"{ "delay": "5ms" }"#), 50_000_000);
        assert_eq!(bytes(r#"{ "delay": "240s" }"#), i32::MAX as u64);
    }
}
