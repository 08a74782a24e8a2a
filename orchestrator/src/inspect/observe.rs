//! What there is on a host: its own means, and the nodes of runs in progress, seen from outside.
//!
//! What is in a node's namespaces is read by a process that enters them and ends. Nothing is changed, and
//! nothing is asked of the run. On another host, the same program says the same through SSH
//! ([`crate::lab::hosts::ssh`]). An ordinary user sees their own runs only, root everybody's.

use super::processes::{self, Seen};
use crate::{
    driver::qemu::cpus::Cpus,
    node::{
        protocol::{Facts, Privilege},
        server::{isolate, serve},
    },
};
use netem::{Netlink, show::Shown};
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
    sched::CloneFlags,
    sys::{socket::SockaddrStorage, statvfs::statvfs},
    unistd::geteuid,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    error::Error,
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// What was seen of a host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Observation {
    /// What a node there would say of itself.
    pub facts: Facts,
    /// Whether KVM can be had.
    pub kvm: Kvm,
    /// The host's own interfaces, without loopback.
    pub interfaces: Vec<Interface>,
    /// The directories that were asked about, as far as they are there.
    pub directories: Vec<Directory>,
    /// Which CPUs its QEMU can give a guest, or why that is not known, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Result<Cpus, String>>,
    /// The nodes of runs in progress there, where it was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Seen>,
}

/// How it stands with `/dev/kvm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kvm {
    /// It opens.
    Open,
    /// It is there, but does not open, and why.
    Closed(String),
    /// There is none.
    Absent,
}

/// A directory, and what it lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path.
    pub path: PathBuf,
    /// The type of the file system: `ext4`, `nfs4`.
    pub file_system: String,
    /// What is mounted: a device, a server's export.
    pub source: String,
    /// What an ordinary user can still put there, in bytes.
    pub free_bytes: u64,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is set up and has a carrier.
    pub up: bool,
    /// Its addresses with their prefix lengths, without those of the link.
    pub addresses: Vec<String>,
    /// What shapes it, as `netem show --json` has it; nothing for interfaces of the host.
    pub shaping: Option<Value>,
    /// The same as `netem show` prints it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shown: String,
}

impl Interface {
    /// Whether a profile is in force on it.
    pub fn is_shaped(&self) -> bool {
        let is_applied = |way| self.shaping.as_ref().is_some_and(|shaping| shaping[way].is_object());
        is_applied("sends") || is_applied("receives")
    }
}

/// What went wrong in a look around.
type Problem = Box<dyn Error + Send + Sync>;

/// What is to be looked at on a host besides its own means.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// These directories.
    pub directories: Vec<PathBuf>,
    /// The CPUs that QEMU can give a guest.
    pub cpus: bool,
    /// The nodes of runs in progress.
    pub nodes: bool,
}

/// Looks at this host.
pub async fn observe(wanted: &Wanted) -> Result<Observation, Problem> {
    let privilege = if geteuid().is_root() { Privilege::Root } else { Privilege::UserNamespace };
    let kvm = kvm();
    Ok(Observation {
        facts: serve::facts(privilege).await?,
        interfaces: interfaces(false).await?,
        directories: wanted.directories.iter().filter_map(|path| directory(path).ok()).collect(),
        cpus: wanted.cpus.then(|| Cpus::of_qemu(kvm == Kvm::Open).map_err(|error| error.to_string())),
        nodes: if wanted.nodes { processes::nodes()? } else { Vec::new() },
        kvm,
    })
}

/// The interfaces of a node, by a process that enters its network.
pub(super) fn interfaces_in(pid: u32) -> Result<Vec<Interface>, Problem> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("testbed").args(["observe", "--pid", &pid.to_string()]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Enters a node's network, for [`interfaces`]. Must be called while the process has a single thread.
pub fn enter_network(pid: u32) -> Result<(), isolate::Error> {
    isolate::join(pid, CloneFlags::CLONE_NEWNET)
}

/// The interfaces in the network of this thread but loopback, and what shapes them, if that is wanted.
pub async fn interfaces(shaping: bool) -> Result<Vec<Interface>, Problem> {
    let netlink = Netlink::open()?;
    let addresses: Vec<InterfaceAddress> = getifaddrs()?.collect();
    let mut found = Vec::new();
    for interface in netlink.interfaces().await? {
        let name = interface.name;
        let of = addresses.iter().filter(|address| address.interface_name == name);
        let flags = of.clone().fold(InterfaceFlags::empty(), |flags, address| flags | address.flags);
        if flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let shown = if shaping { Some(Shown::read(&netlink, &name).await?) } else { None };
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

/// An IP address with its prefix length; not an IPv6 address that every link has by itself.
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

fn directory(path: &Path) -> io::Result<Directory> {
    let real = fs::canonicalize(path)?;
    let space = statvfs(&real)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let (file_system, source) =
        mount_of(&mounts, &real).unwrap_or_else(|| ("unknown".into(), "unknown".into()));
    let free_bytes = space.blocks_available() * space.fragment_size();
    Ok(Directory { path: path.into(), file_system, source, free_bytes })
}

/// The type and the source of what is mounted where this path is, by the text of `mountinfo`.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String)> {
    let mount = |line: &str| {
        let (place, what) = line.split_once(" - ")?;
        // Blanks and the like are in octal.
        let point = place.split(' ').nth(4)?.replace("\\040", " ");
        let mut what = what.split(' ');
        path.starts_with(&point)
            .then(|| Some((point.len(), what.next()?.to_string(), what.next()?.to_string())))?
    };
    // Of two mounts in one place, the later one is seen.
    let nearest = mounts.lines().filter_map(mount).max_by_key(|(depth, ..)| *depth)?;
    Some((nearest.1, nearest.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_on_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:5 / /srv/images rw,relatime shared:1 - nfs4 controller:/images rw\n\
                      3 1 0:6 / /srv/image rw - tmpfs image rw\n";
        let of = |path: &str| mount_of(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/srv/images/deep"), ("nfs4".into(), "controller:/images".into()));
        assert_eq!(of("/srv/imagesque"), ("ext4".into(), "/dev/sda1".into()));
        assert_eq!(of("/"), ("ext4".into(), "/dev/sda1".into()));
    }
}
