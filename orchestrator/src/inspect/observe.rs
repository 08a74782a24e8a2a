//! Observes a host from outside a run: its resources, and the nodes of runs in progress.
//!
//! A child process enters a node's network namespace, reads what is there, and exits. It does not change
//! anything, does not send anything to the run, and does not run any program of the node. On other hosts,
//! `testbed observe` does the same through SSH ([`crate::lab::hosts::ssh`]). An ordinary user sees only their
//! own runs, root sees the runs of all users. In another user's node, root enters only the network namespace,
//! not the user namespace, where that user has all rights.

use super::processes::{self, ObservedNode};
use crate::{
    bounded,
    driver::qemu::{cpus::Cpus, machine::Accelerator},
    host::Mount,
    node::{
        protocol::{Facts, Privilege},
        server::{isolate, parent::Unusable, process::Namespaces, serve},
    },
};
use netem::{Netlink, show::InterfaceState};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
    sched::{CloneFlags, setns},
    sys::{socket::SockaddrStorage, statvfs::statvfs},
    unistd::geteuid,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    io,
    net::IpAddr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The resources of a host, and the nodes on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Observation {
    /// The facts that a node on this host would report.
    pub facts: Facts,
    /// Whether `/dev/kvm` can be opened.
    pub kvm: Kvm,
    /// The host's own interfaces, except loopback.
    pub interfaces: Vec<Interface>,
    /// The host's interfaces that no node can use, by name, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unusable: BTreeMap<String, Unusable>,
    /// The requested directories that exist.
    pub directories: Vec<Directory>,
    /// The CPU models that QEMU offers guests, or the reason why they are unknown; `None` if not requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Result<Cpus, String>>,
    /// The nodes of runs in progress; empty if not requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<ObservedNode>,
}

/// The state of `/dev/kvm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kvm {
    /// The device can be opened for reading and writing.
    Open,
    /// The device exists, but cannot be opened, for this reason.
    Closed(String),
    /// The device does not exist.
    Absent,
}

/// A directory and its file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The path that was requested.
    pub path: PathBuf,
    /// The type of the file system, such as `ext4` or `nfs4`.
    pub file_system: String,
    /// The source of the mount: a device, or the export of a server.
    pub source: String,
    /// The space that is free for ordinary users, in bytes.
    pub free_bytes: u64,
}

/// A network interface of a node or of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    /// Whether it is set up and has a carrier.
    pub up: bool,
    /// Its addresses with their prefix lengths, without IPv6 link-local addresses.
    pub addresses: Vec<String>,
    /// Its shaping, in the format of `netem show --json`; `None` for interfaces of the host.
    pub shaping: Option<Value>,
    /// Its shaping, in the text format of `netem show`; empty for interfaces of the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shown: String,
}

impl Interface {
    /// Returns whether a profile is applied to the interface, in either direction.
    pub fn is_shaped(&self) -> bool {
        let is_applied =
            |direction| self.shaping.as_ref().is_some_and(|shaping| shaping[direction].is_object());
        is_applied("sends") || is_applied("receives")
    }
}

/// An error of an observation; it is only printed.
type BoxError = Box<dyn Error + Send + Sync>;

/// The optional parts of an [`Observation`].
#[derive(Debug, Clone, Default)]
pub struct ObserveRequest {
    /// Directories whose file systems are observed.
    pub directories: Vec<PathBuf>,
    /// Whether to ask QEMU for its CPU models.
    pub cpus: bool,
    /// Whether to observe the nodes of runs in progress.
    pub nodes: bool,
}

/// Observes this host.
pub async fn observe(request: &ObserveRequest) -> Result<Observation, BoxError> {
    let privilege = if geteuid().is_root() { Privilege::Root } else { Privilege::UserNamespace };
    let kvm = kvm();
    let accelerator = if kvm == Kvm::Open { Accelerator::Kvm } else { Accelerator::Tcg };
    let cpus = if request.cpus {
        Some(Cpus::of_qemu(accelerator).await.map_err(|error| error.to_string()))
    } else {
        None
    };
    Ok(Observation {
        facts: serve::facts(privilege).await?,
        interfaces: interfaces(false).await?,
        unusable: unusable().await?,
        directories: request.directories.iter().filter_map(|path| directory(path).ok()).collect(),
        cpus,
        nodes: if request.nodes { processes::nodes()? } else { Vec::new() },
        kvm,
    })
}

/// The maximum number of interfaces that a node shows. A run's has at most six; whoever owns the node can add
/// any number, and each is read by itself.
const MOST_INTERFACES: usize = 64;

/// Reads the interfaces of a node, in at most this time. A child process enters the node's network namespace,
/// after its user namespace if `enters_user` is set.
pub(super) fn interfaces_in(
    node: &Namespaces,
    enters_user: bool,
    limit: Duration,
) -> Result<Vec<Interface>, BoxError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("testbed").arg("observe");
    let user = node.user.as_ref().filter(|_| enters_user);
    for (option, namespace) in [("--network", Some(&node.net)), ("--user-namespace", user)] {
        let Some(namespace) = namespace else { continue };
        fcntl(namespace, FcntlArg::F_SETFD(FdFlag::empty()))?;
        command.args([option, &namespace.as_raw_fd().to_string()]);
    }
    let output = bounded::output_within(&mut command, limit)
        .map_err(|error| format!("cannot read its interfaces: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.trim().trim_start_matches("error: ").into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Enters the network namespace of a node, for [`interfaces`]. Enters a user namespace first if one is given.
/// Call it while this process has a single thread.
pub fn enter_network(user: Option<OwnedFd>, network: OwnedFd) -> io::Result<()> {
    user.map_or(Ok(()), isolate::join_user)?;
    Ok(setns(network, CloneFlags::CLONE_NEWNET)?)
}

/// Reads the interfaces in the network namespace of this thread, without loopback. `shaping` also reads their
/// shaping.
pub async fn interfaces(shaping: bool) -> Result<Vec<Interface>, BoxError> {
    let netlink = Netlink::open()?;
    let interfaces = netlink.interfaces().await?;
    if shaping && interfaces.len() > MOST_INTERFACES {
        return Err(
            format!("it has {} interfaces, and shows at most {MOST_INTERFACES}", interfaces.len()).into()
        );
    }
    let addresses: Vec<InterfaceAddress> = getifaddrs()?.collect();
    let mut found = Vec::new();
    for interface in interfaces {
        let name = interface.name;
        let of = addresses.iter().filter(|address| address.interface_name == name);
        let flags = of.clone().fold(InterfaceFlags::empty(), |flags, address| flags | address.flags);
        if flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let shown = if shaping { Some(InterfaceState::read(&netlink, &name).await?) } else { None };
        found.push(Interface {
            up: flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOWER_UP),
            addresses: of.filter_map(address_text).collect(),
            shaping: shown.as_ref().map(serde_json::to_value).transpose()?,
            shown: shown.map(|shown| shown.to_string()).unwrap_or_default(),
            name,
        });
    }
    Ok(found)
}

/// Returns the interfaces in the network namespace of this thread that cannot carry a node's macvlan.
async fn unusable() -> Result<BTreeMap<String, Unusable>, BoxError> {
    let roles = Netlink::open()?.roles().await?;
    Ok(roles.into_iter().filter_map(|role| Some((role.name.clone(), Unusable::check(&role)?))).collect())
}

/// Formats an IP address with its prefix length. Returns `None` for an IPv6 link-local address, which every
/// interface has.
fn address_text(address: &InterfaceAddress) -> Option<String> {
    let ip = |storage: &SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or(storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let prefix = match ip(address.netmask.as_ref()?)? {
        IpAddr::V4(mask) => mask.to_bits().count_ones(),
        IpAddr::V6(mask) => mask.to_bits().count_ones(),
    };
    let address = ip(address.address.as_ref()?)?;
    let of_the_link = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!of_the_link).then(|| format!("{address}/{prefix}"))
}

fn kvm() -> Kvm {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Kvm::Open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kvm::Absent,
        Err(error) => Kvm::Closed(error.to_string()),
    }
}

/// Reads the file system and the free space of a directory.
fn directory(path: &Path) -> io::Result<Directory> {
    let real = fs::canonicalize(path)?;
    let space = statvfs(&real)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let (file_system, source) = Mount::of(&mounts, &real)
        .map_or_else(|| ("unknown".into(), "unknown".into()), |mount| (mount.file_system, mount.source));
    let free_bytes = space.blocks_available() * space.fragment_size();
    Ok(Directory { path: path.into(), file_system, source, free_bytes })
}
