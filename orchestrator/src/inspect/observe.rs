//! What there is on a host: its own means, and the nodes of runs that are under way, seen from outside.
//!
//! A run's nodes have no names outside and keep no list of themselves. They are found in `/proc`, by the words that
//! this program starts them with: `testbed node --inside ... --name compute1 --run 4711`. A run is named by its
//! orchestrator's process, and on other hosts than that one's by `4711@host`. What is in a node's namespaces is read by
//! a process that enters them and ends. Nothing is changed, and nothing is asked of the run.
//!
//! On another host, the same program says the same through SSH ([`crate::lab::hosts::ssh`]). An ordinary user sees their own
//! runs only, root everybody's.

use crate::{
    driver::qemu::{cpus::Cpus, machine::QEMU},
    lab::topology::NODES,
    node::{
        protocol::{Facts, Privilege},
        server::{isolate, serve},
    },
};
use netem::{Netlink, cli::Shown};
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
    sched::CloneFlags,
    sys::{socket::SockaddrStorage, statvfs::statvfs},
    unistd::{SysconfVar, geteuid, sysconf},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    error::Error,
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::{fs::MetadataExt, process::CommandExt},
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
    /// The nodes of runs under way there.
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

/// A node's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeProcess {
    /// The node's name.
    pub name: String,
    /// The run that it belongs to.
    pub run: String,
    /// Whether its orchestrator is on another host, or came by SSH as if it were.
    pub remote: bool,
    /// Its number on its host.
    pub pid: u32,
    /// For how long it has been there, in seconds.
    pub for_s: f64,
}

/// A node, and what is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Its process.
    #[serde(flatten)]
    pub process: NodeProcess,
    /// Its interfaces, without loopback.
    pub interfaces: Vec<Interface>,
    /// Its QEMUs.
    pub qemus: Vec<Qemu>,
    /// Why it could not be looked into, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A QEMU in a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Qemu {
    /// What it is for: `boot`, `source`, `destination`.
    pub role: String,
    /// Its number on the host.
    pub pid: u32,
    /// For how long it has been there, in seconds.
    pub for_s: f64,
}

/// What went wrong in a look around.
type Problem = Box<dyn Error + Send + Sync>;

/// Looks at this host, and at these directories; asks QEMU for its CPUs if that is wanted.
pub async fn observe(directories: &[PathBuf], cpus: bool) -> Result<Observation, Problem> {
    let privilege = if geteuid().is_root() { Privilege::Root } else { Privilege::UserNamespace };
    let kvm = kvm();
    Ok(Observation {
        facts: serve::facts(privilege).await?,
        interfaces: interfaces(false).await?,
        directories: directories.iter().filter_map(|path| directory(path).ok()).collect(),
        cpus: cpus.then(|| Cpus::of_qemu(kvm == Kvm::Open).map_err(|error| error.to_string())),
        nodes: nodes()?,
        kvm,
    })
}

/// The nodes on this host, with what is in them.
pub fn nodes() -> io::Result<Vec<Seen>> {
    Ok(processes()?.into_iter().filter_map(look_into).collect())
}

/// The processes of nodes on this host, as far as this user may know.
pub fn processes() -> io::Result<Vec<NodeProcess>> {
    let mut found: Vec<NodeProcess> = pids()?.filter_map(node_process).collect();
    found.sort_by(|a, b| (&a.run, rank(&a.name), a.pid).cmp(&(&b.run, rank(&b.name), b.pid)));
    Ok(found)
}

/// A node's place in every list.
fn rank(name: &str) -> usize {
    NODES.iter().position(|known| *known == name).unwrap_or(NODES.len())
}

fn pids() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

fn node_process(pid: u32) -> Option<NodeProcess> {
    let (name, run, remote) = node_words(&words(pid)?)?;
    let us = geteuid();
    let owner = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    // Words prove nothing. What root enters as root was made by root; what it enters in somebody's user namespace, it
    // enters as that user.
    let ours =
        owner == us.as_raw() || us.is_root() && !isolate::is_in_our_user_namespace(pid).unwrap_or(true);
    ours.then_some(())?;
    Some(NodeProcess { name, run, remote, pid, for_s: age_s(pid)? })
}

/// A node's name, its run, and whether it is served from elsewhere, by the words of its serving process.
fn node_words(words: &[String]) -> Option<(String, String, bool)> {
    let after = |option: &str| {
        let at = words.iter().position(|word| word == option)?;
        words.get(at + 1).cloned()
    };
    match words {
        [program, command, ..] if program == "testbed" && command == "node" => {
            after("--inside")?;
            Some((after("--name")?, after("--run")?, after("--remote").is_some()))
        }
        _ => None,
    }
}

/// The words that a process was started with; none of the kernel's own processes, and of those that are gone.
fn words(pid: u32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = line.strip_suffix(b"\0")?;
    Some(line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// What a run's orchestrator was started as, where it is on this host.
pub fn command_of(run: &str) -> Option<String> {
    let words = words(run.parse().ok()?)?;
    let program = Path::new(words.first()?).file_name()?.to_string_lossy().into_owned();
    Some([program].into_iter().chain(words.into_iter().skip(1)).collect::<Vec<_>>().join(" "))
}

/// For how long a process has been there.
fn age_s(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold anything. The start is the 22nd field, the 20th after it.
    let started: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some((uptime - started / ticks as f64).max(0.0))
}

/// What is in a node; nothing where it has gone meanwhile.
fn look_into(process: NodeProcess) -> Option<Seen> {
    let pid_namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let namespace = pid_namespace(process.pid)?;
    let qemus = pids().ok()?.filter(|pid| pid_namespace(*pid).as_ref() == Some(&namespace));
    let qemus = qemus
        .filter_map(|pid| Some(Qemu { role: qemu_role(&words(pid)?)?, pid, for_s: age_s(pid)? }))
        .collect();
    let (interfaces, problem) = match interfaces_in(process.pid) {
        Ok(interfaces) => (interfaces, None),
        Err(_) if age_s(process.pid).is_none() => return None,
        Err(problem) => (Vec::new(), Some(problem.to_string())),
    };
    Some(Seen { process, interfaces, qemus, problem })
}

/// What a QEMU of ours is for, by its words.
fn qemu_role(words: &[String]) -> Option<String> {
    (words.first()? == QEMU).then_some(())?;
    let name = words.iter().position(|word| word == "-name")?;
    words.get(name + 1)?.strip_prefix("testbed-").map(ToString::to_string)
}

/// The interfaces of a node, by a process that enters its network.
fn interfaces_in(pid: u32) -> Result<Vec<Interface>, Problem> {
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

    fn split(line: &str) -> Vec<String> {
        line.split(' ').map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_is_known_by_its_words() {
        let known = |line: &str| node_words(&split(line));
        assert_eq!(
            known("testbed node --inside root --name compute1 --run 4711"),
            Some(("compute1".into(), "4711".into(), false))
        );
        assert_eq!(
            known("testbed node --inside root --name controller --run 7@here --remote x --network 3"),
            Some(("controller".into(), "7@here".into(), true))
        );
        // The process that only makes the namespaces, a QEMU, and somebody's search for nodes.
        assert_eq!(known("testbed node --name compute1 --run 4711"), None);
        assert_eq!(known("qemu-system-x86_64 -name testbed-source"), None);
        assert_eq!(known("grep testbed node --inside --name a --run b"), None);
    }

    #[test]
    fn a_qemu_is_known_by_its_name() {
        assert_eq!(
            qemu_role(&split("qemu-system-x86_64 -m 1 -name testbed-source")).as_deref(),
            Some("source")
        );
        assert_eq!(qemu_role(&split("qemu-system-x86_64 -name mine")), None);
    }

    #[test]
    fn this_process_is_as_old_as_it_is() {
        let age = age_s(std::process::id()).unwrap();
        assert!((0.0..3600.0).contains(&age), "{age}");
        assert!(command_of(&std::process::id().to_string()).is_some_and(|line| line.starts_with("testbed-")));
    }

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
