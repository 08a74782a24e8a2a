//! The processes of nodes on this host, found in `/proc`.
//!
//! A run's nodes have no names outside and keep no list of themselves. They are known by the words that this
//! program starts them with: `testbed node --inside ... --name compute1 --run 4711`. A run is named by its
//! orchestrator's process, and on other hosts than that one's by `4711@host`.
//!
//! A lab starts and ends one process after the other. A node whose parent or orchestrator has ended is about
//! to be killed by the kernel and is not listed. Whether a lab is complete, its nodes say by their processes'
//! names ([`READY`]); [`Stage`] tells where a run's lab is, and [`nodes`] reads again for a while until what
//! it shows is of one moment.

use super::observe::{Interface, interfaces_in};
use crate::{
    host::QEMU,
    lab::topology::NODES,
    node::server::{isolate, serve::READY},
};
use nix::unistd::{SysconfVar, geteuid, sysconf};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long a look waits for a lab that is starting or ending to have done so.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it looks meanwhile.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// A node's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeProcess {
    /// The node's name.
    pub name: String,
    /// The run that it belongs to.
    pub run: String,
    /// Whether its orchestrator is on another host, or came by SSH as if it were.
    pub remote: bool,
    /// Whether its lab was complete and open to others when this was read.
    pub ready: bool,
    /// Its number on its host.
    pub pid: u32,
    /// For how long it has been there, in seconds.
    pub for_s: f64,
    /// When it was started, in the kernel's ticks since the host was: with its number, no other process's.
    #[serde(skip)]
    started: u64,
    /// Its orchestrator's process, where that is visible here.
    #[serde(skip)]
    orchestrator: Option<u32>,
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

/// Where a run's lab is between its start and its end, by those of its nodes that are on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// All its nodes are there and connected.
    Complete,
    /// A node of a complete lab is gone; the others follow, unless it was killed.
    Ending,
    /// Its nodes are being made and connected.
    Starting,
}

impl Stage {
    /// The stage of the run with these nodes. On other hosts than its orchestrator's it has nodes that are
    /// not among them.
    pub fn of(nodes: &[&NodeProcess]) -> Self {
        if nodes.iter().any(|node| !node.ready) {
            return Self::Starting;
        }
        let is_one = |name: &&str| nodes.iter().filter(|node| node.name == **name).count() == 1;
        let is_remote = nodes.iter().any(|node| node.remote);
        if is_remote || NODES.iter().all(is_one) { Self::Complete } else { Self::Ending }
    }

    /// The least complete of the stages of the runs with these nodes.
    pub fn least_of<'a>(nodes: impl IntoIterator<Item = &'a NodeProcess>) -> Self {
        let mut runs: Vec<Vec<&NodeProcess>> = Vec::new();
        for node in nodes {
            match runs.iter_mut().find(|run| run[0].run == node.run) {
                Some(run) => run.push(node),
                None => runs.push(vec![node]),
            }
        }
        runs.iter().map(|run| Self::of(run)).max().unwrap_or(Self::Complete)
    }
}

impl NodeProcess {
    /// Whether the same process still serves as a node.
    pub fn is_there(&self) -> bool {
        read(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// What the run's orchestrator was started as, where it is on this host.
    pub fn command(&self) -> Option<String> {
        let words = words(self.orchestrator?)?;
        let program = Path::new(words.first()?).file_name()?.to_string_lossy().into_owned();
        Some([program].into_iter().chain(words.into_iter().skip(1)).collect::<Vec<_>>().join(" "))
    }
}

/// Returns the nodes on this host, with what is in them.
///
/// Where a lab is starting or ending, it is looked at again, for up to a second.
pub fn nodes() -> io::Result<Vec<Seen>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = processes()?;
        let seen: Vec<Option<Seen>> = before.iter().cloned().map(look_into).collect();
        let is_settled = Stage::least_of(&before) == Stage::Complete
            && seen.iter().all(Option::is_some)
            && before.iter().all(NodeProcess::is_there);
        if is_settled || Instant::now() >= deadline {
            return Ok(seen.into_iter().flatten().filter(|seen| seen.process.is_there()).collect());
        }
        thread::sleep(TICK);
    }
}

/// Returns the processes of nodes on this host, as far as this user may know.
pub fn processes() -> io::Result<Vec<NodeProcess>> {
    let mut found: Vec<NodeProcess> = pids()?.filter_map(read).collect();
    found.sort_by(|a, b| (&a.run, rank(&a.name), a.pid).cmp(&(&b.run, rank(&b.name), b.pid)));
    Ok(found)
}

/// A node's place in every list.
pub(super) fn rank(name: &str) -> usize {
    NODES.iter().position(|known| *known == name).unwrap_or(NODES.len())
}

fn pids() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Returns the node that this process is; nothing where it is none, or one that is going.
fn read(pid: u32) -> Option<NodeProcess> {
    let (name, run, remote) = node_words(&words(pid)?)?;
    let us = geteuid();
    let owner = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    // Words prove nothing. What root enters as root was made by root; what it enters in somebody's user
    // namespace, it enters as that user.
    let ours =
        owner == us.as_raw() || us.is_root() && !isolate::is_in_our_user_namespace(pid).unwrap_or(true);
    ours.then_some(())?;
    let status = Status::read(pid)?;
    let orchestrator = match status.ancestry((!remote).then_some(&run))? {
        Ancestry::Orchestrator(pid) => Some(pid),
        Ancestry::OutOfSight => None,
    };
    let ready =
        fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().as_bytes() == READY.to_bytes();
    let started = started_ticks(pid)?;
    Some(NodeProcess { name, run, remote, ready, pid, for_s: age_s(started)?, started, orchestrator })
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

/// Whether these are the words of the process that makes a node's namespaces and starts the serving one.
fn is_outside(words: &[String]) -> bool {
    words.get(1).is_some_and(|command| command == "node") && !words.iter().any(|word| word == "--inside")
}

/// Returns the words that a process was started with; nothing of the kernel's own processes, and of those
/// that are ending: the kernel takes their memory, which has the words, before their namespaces.
fn words(pid: u32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = line.strip_suffix(b"\0")?;
    Some(line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// What the kernel says of a process.
struct Status {
    /// Its parent; zero where that is outside of this PID namespace.
    parent: u32,
    /// Its number in its own PID namespace.
    own_number: u32,
}

impl Status {
    fn read(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let last = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().last()?.parse().ok()
        };
        Some(Self { parent: last("PPid:")?, own_number: last("NSpid:")? })
    }

    /// Returns who is above the node whose serving process this is. `run` is the run's name where the
    /// orchestrator is on this host.
    fn ancestry(&self, run: Option<&str>) -> Option<Ancestry> {
        if self.parent == 0 {
            return Some(Ancestry::OutOfSight);
        }
        is_outside(&words(self.parent)?).then_some(())?;
        let (Some(run), orchestrator) = (run, Self::read(self.parent)?.parent) else {
            return Some(Ancestry::OutOfSight);
        };
        if orchestrator == 0 {
            return Some(Ancestry::OutOfSight);
        }
        // Orphans get another parent, whose number is not the run's name.
        let number = Self::read(orchestrator)?.own_number;
        (number.to_string() == run).then_some(Ancestry::Orchestrator(orchestrator))
    }
}

/// Who is above a node. One of which a parent has ended is about to be killed, and has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ancestry {
    /// The orchestrator's process.
    Orchestrator(u32),
    /// A process on another host, or outside of this PID namespace.
    OutOfSight,
}

/// Returns when a process was started, in the kernel's ticks since the host was.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold anything. The start is the 22nd field, the 20th after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Returns for how long there has been what was started at this tick.
fn age_s(started: u64) -> Option<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some((uptime - started as f64 / ticks as f64).max(0.0))
}

/// Returns what is in a node; nothing where it has gone meanwhile.
fn look_into(process: NodeProcess) -> Option<Seen> {
    let pid_namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let namespace = pid_namespace(process.pid)?;
    let qemus = pids().ok()?.filter(|pid| pid_namespace(*pid).as_ref() == Some(&namespace));
    let qemu = |pid| Some(Qemu { role: qemu_role(&words(pid)?)?, pid, for_s: age_s(started_ticks(pid)?)? });
    let qemus = qemus.filter_map(qemu).collect();
    let (interfaces, problem) = match interfaces_in(process.pid) {
        Ok(interfaces) => (interfaces, None),
        Err(_) if !process.is_there() => return None,
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

#[cfg(test)]
impl NodeProcess {
    /// A node of a complete lab; on a host, where the run's name has one.
    pub(super) fn sample(name: &str, run: &str) -> Self {
        Self {
            name: name.into(),
            run: run.into(),
            remote: run.contains('@'),
            ready: true,
            pid: 1,
            for_s: 1.0,
            started: 1,
            orchestrator: None,
        }
    }
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
        let age = age_s(started_ticks(std::process::id()).unwrap()).unwrap();
        assert!((0.0..3600.0).contains(&age), "{age}");
    }

    fn node(name: &str, run: &str, ready: bool) -> NodeProcess {
        NodeProcess { ready, ..NodeProcess::sample(name, run) }
    }

    #[test]
    fn a_lab_is_complete_between_its_start_and_its_end() {
        let of = |names: &[&str], run: &str, ready| {
            let nodes: Vec<_> = names.iter().map(|name| node(name, run, ready)).collect();
            Stage::least_of(&nodes)
        };
        assert_eq!(of(&NODES, "7", true), Stage::Complete);
        assert_eq!(of(&NODES, "7", false), Stage::Starting);
        assert_eq!(of(&NODES[..2], "7", false), Stage::Starting);
        assert_eq!(of(&NODES[1..], "7", true), Stage::Ending);
        // The next lab of a run that has lost one.
        assert_eq!(of(&["controller", "compute1", "compute2", "compute2"], "7", true), Stage::Ending);
        // A host has one node of the three.
        assert_eq!(of(&["compute1"], "7@a", true), Stage::Complete);
        assert_eq!(of(&[], "", true), Stage::Complete);
        let two = [node("compute1", "7@a", true), node("compute1", "8@a", false)];
        assert_eq!(Stage::least_of(&two), Stage::Starting);
    }

    #[test]
    fn a_node_without_a_living_parent_is_none() {
        let us = Status::read(std::process::id()).unwrap();
        assert_eq!(us.own_number, std::process::id());
        // What has started this test is no node.
        assert_eq!(us.ancestry(Some("1")), None);
        assert_eq!(Status { parent: 0, own_number: 1 }.ancestry(None), Some(Ancestry::OutOfSight));
    }
}
