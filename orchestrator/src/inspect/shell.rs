//! A program of the user's in a node, or a shell: `testbed lab shell`.
//!
//! A run's lab that is starting or ending is waited for, so that the program finds all of it or another one.

use super::{
    observe::Observation,
    processes::{self, NodeProcess, Stage, TICK},
};
use crate::{
    lab::{
        self,
        hosts::{
            inventory::Become,
            ssh::{Hosts, Upload, Way},
        },
    },
    matrix::Settings,
    node::{
        NodeError,
        server::visit::{self, Visit},
    },
    sys,
};
use netem::Profile;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::{
    ffi::OsString,
    io::{self, Read},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{self, Command, ExitStatus},
    time::{Duration, Instant},
};
use tokio::time;

/// How long a lab that is starting may take to be complete; a loaded machine is slow.
const STARTING: Duration = Duration::from_secs(15);

/// How long a lab that lacks a node may take to be gone.
const ENDING: Duration = Duration::from_secs(1);

/// What a user wants to be run, and where.
#[derive(Debug)]
pub struct Shell<'a> {
    /// The node.
    pub node: &'a str,
    /// The run, where it is named.
    pub run: Option<&'a str>,
    /// The link of a lab that is started for the shell.
    pub link: Profile,
    /// The program and its arguments; the user's shell without.
    pub program: &'a [OsString],
}

/// An error on the way into a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not clear which node is meant.
    #[error(transparent)]
    NotOne(#[from] NotOne),
    /// The inventory is for a lab without this node.
    #[error("a lab has no {0}")]
    NoSuchNode(String),
    /// The link is a run's.
    #[error(
        "run {0} is under way, and its link is not for the shell to shape; leave the options of the link out"
    )]
    LinkOfRun(String),
    /// The link is between hosts.
    #[error(
        "the options of the link are for a lab of the shell's own, on this machine; leave them out with hosts"
    )]
    LinkOfHosts,
    /// The link makes no sense, or this machine cannot have it.
    #[error("{0}")]
    Link(String),
    /// There is no lab.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A node of the shell's own lab did not do what it was asked.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The way into the node is closed.
    #[error("{0}")]
    Refused(String),
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Error {
    /// Whether the user has to say something else, rather than that something does not work.
    pub fn is_input(&self) -> bool {
        match self {
            Self::NotOne(error) => !matches!(error, NotOne::NoNode { .. }),
            Self::NoSuchNode(_) | Self::LinkOfRun(_) | Self::LinkOfHosts | Self::Link(_) => true,
            Self::Lab(error) => error.is_input(),
            Self::Node(_) | Self::Refused(_) | Self::System(_) => false,
        }
    }
}

/// What came of bringing a program into a node of this machine.
enum Entered {
    /// It was started, and has ended.
    Ended(ExitStatus),
    /// It was not started, and why.
    Refused(String),
}

impl Shell<'_> {
    /// Runs the program on this machine, in a node of the run that is meant, or of a lab of its own where
    /// none is in progress, which `notice` is told. Returns the program's exit code.
    pub async fn on_this_machine(&self, notice: impl Fn(&str)) -> Result<u8, Error> {
        self.link.validate().map_err(|error| Error::Link(error.to_string()))?;
        let deadline = Instant::now() + STARTING;
        loop {
            let Some(process) = self.choose(async || Ok(local_processes()?)).await? else { break };
            match enter(&process, self.program).await? {
                Entered::Ended(status) => return Ok(visit::exit_code(status)),
                // Its run ended in the meantime: there may be another, or none.
                Entered::Refused(_) if !process.is_there() && Instant::now() < deadline => {}
                Entered::Refused(reason) => return Err(Error::Refused(reason)),
            }
        }
        let lab = lab::local::start().await?;
        let settings = Settings { link: self.link.clone(), ..Settings::default() };
        let link = lab.link(&settings).map_err(Error::Link)?;
        let shaped = if settings.link.is_empty() {
            "not shaped".into()
        } else {
            link.shape(&settings.link).await?.to_string()
        };
        notice(&format!(
            "no run is under way: this is a lab of the shell's own, and ends with it; compute2 is {} from compute1, \
             {shaped}",
            link.destination_address()
        ));
        lab.announce().await?;
        let ours = process::id().to_string();
        let processes = local_processes()?;
        let node = processes.iter().find(|process| process.run == ours && process.name == self.node);
        let entered = match node {
            Some(node) => enter(node, self.program).await?,
            None => Entered::Refused(format!("{} has ended", self.node)),
        };
        lab.end().await;
        match entered {
            Entered::Ended(status) => Ok(visit::exit_code(status)),
            Entered::Refused(reason) => Err(Error::Refused(reason)),
        }
    }

    /// Returns the command that runs the program on the node's host: in the node of the run that is
    /// meant, or on the host itself where none is in progress, which `notice` is told; on a terminal or not.
    pub async fn on_host(
        &self,
        Hosts { inventory, way }: &Hosts,
        terminal: bool,
        notice: impl Fn(&str),
    ) -> Result<Command, Error> {
        if !self.link.is_empty() {
            return Err(Error::LinkOfHosts);
        }
        let host = inventory.hosts().into_iter().find(|(node, _)| *node == self.node).map(|(_, host)| host);
        let host = host.ok_or_else(|| Error::NoSuchNode(self.node.into()))?;
        let place = Place::reach(way, host).await?;
        let process = self.choose(async || Ok(place.processes().await?)).await?;
        if process.is_none() {
            let how = if inventory.r#become == Become::Sudo { ", by sudo" } else { "" };
            notice(&format!("no run is under way: this is the host {host} itself, as root{how}"));
        }
        Ok(place.visit(self.node, process.map(|process| process.pid), self.program, terminal))
    }

    /// Returns the node that is meant, by a `look` at those that there are, as soon as its lab is complete;
    /// nothing where no run is in progress.
    async fn choose(
        &self,
        look: impl AsyncFn() -> Result<Vec<NodeProcess>, Error>,
    ) -> Result<Option<NodeProcess>, Error> {
        let began = Instant::now();
        loop {
            let nodes = look().await?;
            let patience = match Stage::least_of(nodes.iter().filter(|node| is_meant(&node.run, self.run))) {
                Stage::Complete => Duration::ZERO,
                Stage::Ending => ENDING,
                Stage::Starting => STARTING,
            };
            if began.elapsed() < patience {
                time::sleep(TICK).await;
                continue;
            }
            let picked = pick(&nodes, self.node, self.run)?;
            if let Some(process) = picked.filter(|_| !self.link.is_empty()) {
                return Err(Error::LinkOfRun(process.run.clone()));
            }
            return Ok(picked.cloned());
        }
    }
}

/// Brings a program into a node of this machine and waits for its end.
async fn enter(node: &NodeProcess, program: &[OsString]) -> Result<Entered, Error> {
    // From here on, the terminal's keys are the program's.
    sys::outlive_interrupts()?;
    let (mut refusal, theirs) = io::pipe()?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(io::Error::from)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("testbed").args(["enter", &node.name, "--pid", &node.pid.to_string()]);
    command.args(["--refusal", &theirs.as_raw_fd().to_string(), "--"]).args(program);
    // By the runtime, which the nodes of the shell's own lab are served by meanwhile.
    let status = tokio::process::Command::from(command).status().await?;
    drop(theirs);
    let mut reason = String::new();
    refusal.read_to_string(&mut reason)?;
    Ok(if reason.is_empty() { Entered::Ended(status) } else { Entered::Refused(reason) })
}

/// Why no node can be meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOne {
    /// More than one run is under way.
    #[error("{} runs are under way: {}; say which with --run", .0.len(), .0.join(", "))]
    Several(Vec<String>),
    /// The run that was named is not.
    #[error("no run {0} is under way; `testbed lab status` lists those that are")]
    NoSuchRun(String),
    /// The run has no such node now.
    #[error("run {run} has no {node} now; it may be starting or ending")]
    NoNode {
        /// The run.
        run: String,
        /// The node.
        node: String,
    },
}

/// Returns the node of this name, of the run that is named or is the only one; none where no run is under
/// way.
fn pick<'a>(
    nodes: &'a [NodeProcess],
    node: &str,
    run: Option<&str>,
) -> Result<Option<&'a NodeProcess>, NotOne> {
    let mut runs: Vec<&str> =
        nodes.iter().map(|node| node.run.as_str()).filter(|name| is_meant(name, run)).collect();
    runs.dedup();
    match (&runs[..], run) {
        ([], None) => Ok(None),
        ([], Some(run)) => Err(NotOne::NoSuchRun(run.into())),
        ([run], _) => match nodes.iter().find(|process| process.name == node && process.run == *run) {
            Some(found) => Ok(Some(found)),
            None => Err(NotOne::NoNode { run: (*run).into(), node: node.into() }),
        },
        (several, _) => Err(NotOne::Several(several.iter().map(ToString::to_string).collect())),
    }
}

/// Whether a run of this name is meant, where one is `wanted`.
fn is_meant(name: &str, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| name == wanted || name.split_once('@').is_some_and(|(pid, _)| pid == wanted))
}

/// Returns the processes of local runs' nodes on this machine.
fn local_processes() -> io::Result<Vec<NodeProcess>> {
    Ok(processes::processes()?.into_iter().filter(|process| !process.remote).collect())
}

/// A node's host.
struct Place<'a> {
    way: &'a Way,
    host: &'a str,
    /// This program there, in words of a shell.
    program: String,
}

impl<'a> Place<'a> {
    /// The host of this name for ssh, with this program on it.
    async fn reach(way: &'a Way, host: &'a str) -> Result<Self, lab::Error> {
        let upload = Upload::read(Path::new("/proc/self/exe"))?;
        Ok(Self { way, host, program: way.host(host).as_root(&upload).await? })
    }

    /// The nodes of runs under way there.
    async fn processes(&self) -> Result<Vec<NodeProcess>, lab::Error> {
        let seen =
            self.way.host(self.host).observe::<Observation>(&self.program, &["--nodes".into()]).await?;
        Ok(seen.nodes.into_iter().map(|seen| seen.process).filter(|process| process.remote).collect())
    }

    /// The command that brings a program there, into the node of this name, or onto the host itself without a
    /// process.
    fn visit(&self, node: &str, pid: Option<u32>, program: &[OsString], terminal: bool) -> Command {
        let visit = Visit { node: node.into(), pid, remote: true, program: program.to_vec() };
        self.way.host(self.host).visit(&self.program, &visit, terminal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, run: &str) -> NodeProcess {
        NodeProcess::sample(name, run)
    }

    #[test]
    fn the_only_run_need_not_be_named() {
        let nodes = [node("controller", "7"), node("compute1", "7")];
        assert_eq!(pick(&nodes, "compute1", None), Ok(Some(&nodes[1])));
        assert_eq!(pick(&nodes, "compute1", Some("7")), Ok(Some(&nodes[1])));
        assert_eq!(
            pick(&nodes, "compute2", None),
            Err(NotOne::NoNode { run: "7".into(), node: "compute2".into() })
        );
        assert_eq!(pick(&[], "compute1", None), Ok(None));
        assert_eq!(pick(&nodes, "compute1", Some("8")), Err(NotOne::NoSuchRun("8".into())));
    }

    #[test]
    fn several_runs_are_told_apart() {
        let nodes = [node("compute1", "7@a"), node("compute1", "7@b"), node("compute1", "9@a")];
        let several = NotOne::Several(vec!["7@a".into(), "7@b".into(), "9@a".into()]);
        assert_eq!(several.to_string(), "3 runs are under way: 7@a, 7@b, 9@a; say which with --run");
        assert_eq!(pick(&nodes, "compute1", None), Err(several));
        assert_eq!(pick(&nodes, "compute1", Some("9")), Ok(Some(&nodes[2])));
        assert_eq!(pick(&nodes, "compute1", Some("7@b")), Ok(Some(&nodes[1])));
        let which = NotOne::Several(vec!["7@a".into(), "7@b".into()]);
        assert_eq!(pick(&nodes, "compute1", Some("7")), Err(which));
    }
}
