//! Finds the processes of nodes on this host in `/proc`.
//!
//! The nodes of a run are not registered anywhere. They are recognized by the command line with which this
//! program starts them: `testbed node --inside ... --name compute1 --run 4711`. A run is named after the
//! process ID of its orchestrator, `4711`; on hosts other than the orchestrator's, after `4711@host`.
//!
//! Anybody can start a process with these arguments, so they do not prove anything. A process counts as a
//! node only if it has a node's namespaces and the rights of a single user ([`HeldProcess`]). It is then that
//! user's node: what it shows is only that user's claim. Nodes of the same run that belong to two users are
//! two labs.
//!
//! The processes of a lab start and end one after the other. A node whose parent or orchestrator has ended is
//! about to be killed by the kernel, and is not listed. When a lab is complete, the names of its node
//! processes change to [`READY`]. [`LabState`] is the state of a run's lab; [`nodes`] reads `/proc` again
//! until everything that it returns existed at the same time.

use super::observe::{Interface, interfaces_in};
use crate::{
    host::QEMU,
    lab::topology::NODES,
    node::server::{
        process::{HeldProcess, Namespaces, NodeArguments, command_line},
        serve::READY,
    },
    process_tree::{Owner, ProcessStatus},
};
use nix::unistd::{SysconfVar, Uid, User, geteuid, sysconf};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long [`nodes`] waits for a starting lab to be complete, or for an ending lab to be gone.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// How long [`nodes`] waits for a reading during which no node starts or ends, and how long it reads nodes of
/// other users; a busy host is slow.
const READING_LIMIT: Duration = Duration::from_secs(15);

/// How long the interfaces of a node are read.
const NODE_LIMIT: Duration = Duration::from_secs(5);

/// How much of a run's command line is shown, in characters.
const MAX_COMMAND_CHARACTERS: usize = 1000;

/// The interval at which `/proc` is read again while a lab starts or ends.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The process of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeProcess {
    /// The node's name: `controller`, `compute1` or `compute2`.
    pub name: String,
    /// The name of the run: `4711`, or `4711@host`.
    pub run: String,
    /// Whether its orchestrator is on another host, or has reached this host by SSH.
    pub remote: bool,
    /// Whether its lab was complete, so that others may use it, when `/proc` was read.
    pub ready: bool,
    /// The process ID on its host.
    pub pid: u32,
    /// The age of the process, in seconds.
    pub for_s: f64,
    /// The name of the user who owns it, or the user's ID without an account.
    pub user: String,
    /// The ID of that user.
    pub uid: u32,
    /// The group ID of that user.
    #[serde(skip)]
    gid: u32,
    /// The start of the process, in kernel ticks since the host's boot. Together with the process ID, it
    /// identifies the process.
    #[serde(skip)]
    started: u64,
    /// The process ID of its orchestrator, if that is visible here.
    #[serde(skip)]
    orchestrator: Option<u32>,
}

/// A node, with its interfaces and its QEMU processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedNode {
    #[serde(flatten)]
    pub process: NodeProcess,
    /// Its interfaces, without loopback.
    pub interfaces: Vec<Interface>,
    /// The QEMU processes in it.
    pub qemus: Vec<Qemu>,
    /// The reason why its interfaces could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A QEMU process in a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Qemu {
    /// The role of its guest: `boot`, `source` or `destination`.
    pub role: String,
    /// The process ID on the host.
    pub pid: u32,
    /// The age of the process, in seconds.
    pub for_s: f64,
}

/// The state of a run's lab, judged by its nodes on one host.
///
/// The order is that of completeness: the greatest of several states is the least complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabState {
    /// All its nodes have started and are connected.
    Complete,
    /// A node of a complete lab has ended. The other nodes will end too, unless that node was killed.
    Ending,
    /// Its nodes are being started and connected.
    Starting,
}

impl LabState {
    /// Returns the state of the lab with these nodes, all of one run. On a host other than the
    /// orchestrator's, the lab has further nodes on other hosts.
    pub fn of(nodes: &[&NodeProcess]) -> Self {
        if nodes.iter().any(|node| !node.ready) {
            return Self::Starting;
        }
        let is_one = |name: &&str| nodes.iter().filter(|node| node.name == **name).count() == 1;
        let is_remote = nodes.iter().any(|node| node.remote);
        if is_remote || NODES.iter().all(is_one) { Self::Complete } else { Self::Ending }
    }

    /// Returns the state of the least complete lab of these nodes, which may belong to several runs.
    pub fn least_complete<'a>(nodes: impl IntoIterator<Item = &'a NodeProcess>) -> Self {
        let mut runs: Vec<Vec<&NodeProcess>> = Vec::new();
        for node in nodes {
            match runs.iter_mut().find(|run| run[0].is_of_same_lab(node)) {
                Some(run) => run.push(node),
                None => runs.push(vec![node]),
            }
        }
        runs.iter().map(|run| Self::of(run)).max().unwrap_or(Self::Complete)
    }
}

impl NodeProcess {
    /// Returns whether the same process still runs and serves as a node.
    pub fn is_alive(&self) -> bool {
        read_node(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Returns whether it belongs to the user of this process.
    fn is_own(&self) -> bool {
        self.uid == geteuid().as_raw()
    }

    /// Returns the user and the group that own the process.
    pub fn owner(&self) -> Owner {
        Owner { uid: self.uid, gid: self.gid }
    }

    /// Returns whether both nodes belong to the same run of the same user.
    pub fn is_of_same_lab(&self, other: &Self) -> bool {
        (&self.run, self.uid) == (&other.run, other.uid)
    }

    /// Returns the command line of the run's orchestrator, if that is visible on this host. A long one is
    /// cut.
    pub fn command(&self) -> Option<String> {
        let words = command_line(self.orchestrator?)?;
        let program = Path::new(words.first()?).file_name()?.to_string_lossy().into_owned();
        Some(cut([program].into_iter().chain(words.into_iter().skip(1)).collect::<Vec<_>>().join(" ")))
    }
}

/// Observes the nodes on this host that the user may see. All of them were there from the beginning of the
/// reading to its end. While a lab is starting or ending, reads again for up to a second. Only on a host
/// where nodes keep starting and ending for 15 s, the nodes returned are just those that are alive. After
/// that time, no further node of another user is entered.
pub fn nodes() -> io::Result<Vec<ObservedNode>> {
    let began = Instant::now();
    loop {
        let before = processes()?;
        let namespaces = pid_namespaces()?;
        let mut observed: Vec<Option<ObservedNode>> = vec![None; before.len()];
        // Own nodes first: those of others may take all the time that there is.
        for own in [true, false] {
            for (process, observed) in before.iter().zip(&mut observed).filter(|(it, _)| it.is_own() == own) {
                *observed = observe_node(process.clone(), &namespaces, limit(own, began.elapsed()));
            }
        }
        let is_consistent = observed.iter().all(Option::is_some) && have_not_changed(&before, &processes()?);
        let is_complete = LabState::least_complete(&before) == LabState::Complete;
        let may_be_incomplete = began.elapsed() >= SETTLE_LIMIT;
        if is_consistent && (is_complete || may_be_incomplete) || began.elapsed() >= READING_LIMIT {
            let mut nodes: Vec<_> = observed.into_iter().flatten().collect();
            if !is_consistent {
                nodes.retain(|node| node.process.is_alive());
            }
            for node in nodes.iter_mut().filter(|node| !node.process.ready) {
                // The interfaces of a starting node are being created and moved.
                node.problem = None;
            }
            return Ok(nodes);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Returns how long a node may be read, this long after the beginning. Zero if there is no time left for
/// nodes of other users.
fn limit(own: bool, elapsed: Duration) -> Duration {
    if own { NODE_LIMIT } else { NODE_LIMIT.min(READING_LIMIT.saturating_sub(elapsed)) }
}

/// Returns the PID namespaces of all processes, as `/proc` names them.
fn pid_namespaces() -> io::Result<HashMap<u32, PathBuf>> {
    Ok(pids()?.filter_map(|pid| Some((pid, fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?))).collect())
}

/// Returns whether two lists have the same processes, in the same states.
fn have_not_changed(before: &[NodeProcess], after: &[NodeProcess]) -> bool {
    let identity = |node: &NodeProcess| (node.pid, node.started, node.ready);
    before.iter().map(identity).eq(after.iter().map(identity))
}

/// Lists the processes of nodes on this host that the user may see, sorted by run and then by node.
pub fn processes() -> io::Result<Vec<NodeProcess>> {
    let mut found: Vec<NodeProcess> = pids()?.filter_map(read_node).collect();
    found.sort_by(|a, b| {
        (&a.run, a.uid, display_order(&a.name), a.pid).cmp(&(&b.run, b.uid, display_order(&b.name), b.pid))
    });
    Ok(found)
}

/// Returns the position of a node in lists: controller, compute1, compute2.
pub(super) fn display_order(name: &str) -> usize {
    NODES.iter().position(|known| *known == name).unwrap_or(NODES.len())
}

/// Lists the process IDs in `/proc`.
fn pids() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Returns the name of a user, or the user's ID without an account.
fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Reads the node that a process serves. Returns `None` if the process is not a node, if the node is about to
/// end, or if the user may not see it.
fn read_node(pid: u32) -> Option<NodeProcess> {
    // Only processes with such arguments are worth holding.
    NodeArguments::parse(&command_line(pid)?)?;
    let held = HeldProcess::open(pid).ok()?;
    let NodeArguments { name, run, remote } = held.arguments()?;
    let status = held.status()?;
    let owner = status.owner?;
    (owner.uid == geteuid().as_raw() || geteuid().is_root()).then_some(())?;
    held.namespaces(owner.uid).ok()?;
    let orchestrator = match ancestry(&status, (!remote).then_some(&run))? {
        Ancestry::Orchestrator(pid) => Some(pid),
        Ancestry::NotVisible => None,
    };
    let ready = held.name()? == READY.to_bytes();
    let started = started_ticks(pid)?;
    let node = NodeProcess {
        name,
        run,
        remote,
        ready,
        pid,
        for_s: age_s(started)?,
        user: user_name(owner.uid),
        uid: owner.uid,
        gid: owner.gid,
        started,
        orchestrator,
    };
    held.is_alive().then_some(node)
}

/// Returns whether this is the command line of a node's outer process, which creates the namespaces and
/// starts the serving process.
fn is_outer_process(words: &[String]) -> bool {
    words.get(1).is_some_and(|command| command == "node") && !words.iter().any(|word| word == "--inside")
}

/// Finds the orchestrator of the node whose serving process has this status. `run` is the run's name if the
/// orchestrator is on this host. Returns `None` if the node's parent or its orchestrator has ended: the
/// kernel is about to kill the node.
fn ancestry(node: &ProcessStatus, run: Option<&String>) -> Option<Ancestry> {
    if node.parent == 0 {
        return Some(Ancestry::NotVisible);
    }
    is_outer_process(&command_line(node.parent)?).then_some(())?;
    let (Some(run), orchestrator) = (run, ProcessStatus::read(node.parent)?.parent) else {
        return Some(Ancestry::NotVisible);
    };
    if orchestrator == 0 {
        return Some(Ancestry::NotVisible);
    }
    // An orphan gets another parent, whose process ID is not the name of the run.
    let own_pid = ProcessStatus::read(orchestrator)?.own_pid();
    (own_pid.to_string() == *run).then_some(Ancestry::Orchestrator(orchestrator))
}

/// The orchestrator above a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ancestry {
    /// The process ID of the orchestrator.
    Orchestrator(u32),
    /// The orchestrator is on another host, or outside this PID namespace.
    NotVisible,
}

/// Returns the start of a process, in kernel ticks since the host's boot.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The start is field 22. Fields are counted from the last parenthesis, after field 2, because the name of
    // the process may contain spaces and parentheses: index 19 after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Returns the age of a process that was started at this tick, in seconds.
fn age_s(started: u64) -> Option<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some((uptime - started as f64 / ticks as f64).max(0.0))
}

/// Opens the namespaces of a node. Returns `None` if it has ended in the meantime.
fn open_node(process: &NodeProcess) -> Option<Namespaces> {
    let namespaces = HeldProcess::open(process.pid).ok()?.namespaces(process.uid).ok()?;
    // They belong to the process that was found, unless that process has ended.
    process.is_alive().then_some(namespaces)
}

/// Observes the inside of a node, whose interfaces are read for at most this time. `namespaces` are the PID
/// namespaces of all processes. Returns `None` if the node has ended in the meantime.
fn observe_node(
    process: NodeProcess,
    namespaces: &HashMap<u32, PathBuf>,
    limit: Duration,
) -> Option<ObservedNode> {
    if limit.is_zero() {
        let problem = Some("nodes of other users took all the time that there is to read them".into());
        return Some(ObservedNode { process, interfaces: Vec::new(), qemus: Vec::new(), problem });
    }
    let namespace = namespaces.get(&process.pid)?;
    let mut inside: Vec<u32> =
        namespaces.iter().filter(|(_, of)| *of == namespace).map(|(pid, _)| *pid).collect();
    inside.sort_unstable();
    let qemu =
        |pid| Some(Qemu { role: qemu_role(&command_line(pid)?)?, pid, for_s: age_s(started_ticks(pid)?)? });
    let qemus = inside.into_iter().filter_map(qemu).collect();
    let (interfaces, problem) = match interfaces_in(&open_node(&process)?, process.is_own(), limit) {
        Ok(interfaces) => (interfaces, None),
        Err(_) if !process.is_alive() => return None,
        Err(problem) => (Vec::new(), Some(problem.to_string())),
    };
    Some(ObservedNode { process, interfaces, qemus, problem })
}

/// Returns a command line, without its end if it is long.
fn cut(line: String) -> String {
    match line.char_indices().nth(MAX_COMMAND_CHARACTERS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Parses the role of a QEMU process from its command line. Returns `None` if this program did not start it.
fn qemu_role(words: &[String]) -> Option<String> {
    (words.first()? == QEMU).then_some(())?;
    let name = words.iter().position(|word| word == "-name")?;
    words.get(name + 1)?.strip_prefix("testbed-").map(ToString::to_string)
}

#[cfg(test)]
impl NodeProcess {
    /// Returns a node of a complete lab, which is remote if the run's name contains a host.
    pub(super) fn sample(name: &str, run: &str) -> Self {
        Self {
            name: name.into(),
            run: run.into(),
            remote: run.contains('@'),
            ready: true,
            pid: 1,
            for_s: 1.0,
            user: "somebody".into(),
            uid: geteuid().as_raw(),
            gid: 0,
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
    fn a_qemu_is_recognized_by_its_name() {
        assert_eq!(
            qemu_role(&split("qemu-system-x86_64 -m 1 -name testbed-source")).as_deref(),
            Some("source")
        );
        assert_eq!(qemu_role(&split("qemu-system-x86_64 -name mine")), None);
    }

    #[test]
    fn the_age_of_this_process_is_plausible() {
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
            LabState::least_complete(&nodes)
        };
        assert_eq!(of(&NODES, "7", true), LabState::Complete);
        assert_eq!(of(&NODES, "7", false), LabState::Starting);
        assert_eq!(of(&NODES[..2], "7", false), LabState::Starting);
        assert_eq!(of(&NODES[1..], "7", true), LabState::Ending);
        // A run has lost a node and is starting its next lab.
        assert_eq!(of(&["controller", "compute1", "compute2", "compute2"], "7", true), LabState::Ending);
        // On a host of an inventory, a lab has a single node.
        assert_eq!(of(&["compute1"], "7@a", true), LabState::Complete);
        assert_eq!(of(&[], "", true), LabState::Complete);
        let two = [node("compute1", "7@a", true), node("compute1", "8@a", false)];
        assert_eq!(LabState::least_complete(&two), LabState::Starting);
        // Another user's node with the name of the run does not belong to the run.
        let other = NodeProcess { uid: 4711, ..node("compute2", "7", true) };
        let both = NODES.iter().map(|name| node(name, "7", true)).chain([other]).collect::<Vec<_>>();
        assert_eq!(LabState::of(&both[..3].iter().collect::<Vec<_>>()), LabState::Complete);
        assert_eq!(LabState::least_complete(&both), LabState::Ending);
    }

    #[test]
    fn nodes_of_other_users_are_read_for_a_limited_time_together() {
        let at = |own, seconds| limit(own, Duration::from_secs(seconds)).as_secs();
        assert_eq!([0, 10, 12, 15, 600].map(|seconds| at(false, seconds)), [5, 5, 3, 0, 0]);
        assert_eq!([0, 600].map(|seconds| at(true, seconds)), [5, 5]);
    }

    #[test]
    fn a_long_command_line_is_cut() {
        assert_eq!(cut("testbed run a.yaml".into()), "testbed run a.yaml");
        assert_eq!(cut("ä".repeat(1000)), "ä".repeat(1000));
        assert_eq!(cut("ä".repeat(1001)), "ä".repeat(1000) + "…");
    }

    #[test]
    fn a_process_whose_parent_is_no_node_has_no_ancestry() {
        let us = ProcessStatus::read(std::process::id()).unwrap();
        assert_eq!(us.own_pid(), std::process::id());
        // The parent of this test is not the outer process of a node.
        assert_eq!(ancestry(&us, Some(&"1".into())), None);
        let first = ProcessStatus { parent: 0, ended: false, pids: vec![1], owner: None };
        assert_eq!(ancestry(&first, None), Some(Ancestry::NotVisible));
    }
}
