//! `testbed lab shell`: runs a shell, or another of the user's programs, in a node.
//!
//! If the lab of a run is just starting or ending, the command waits, so that the program runs in a complete
//! lab, be it this one or the next.
//!
//! Root enters nodes of other users only on request ([`Shell::user`]), and then with their rights: see
//! [`crate::node::server::visit`].

use super::{
    observe::Observation,
    processes::{self, LabState, NodeProcess, POLL_INTERVAL},
};
use crate::{
    lab::{
        self,
        hosts::{
            inventory::Become,
            session::HostSession,
            ssh::{HostAccess, HostProgram, SshHosts, Upload},
        },
    },
    matrix::Settings,
    node::{
        NodeError,
        server::{
            session::TerminalSettings,
            visit::{self, NodeSession, Target},
        },
    },
    sys,
};
use netem::{Profile, ethernet};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User, geteuid},
};
use std::{
    ffi::OsString,
    future,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{self, Command, ExitStatus},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time,
};

/// The time limit for a starting lab to become complete; a busy host is slow.
const START_LIMIT: Duration = Duration::from_secs(15);

/// The time limit for an incomplete lab to end, before another of its nodes is entered.
const END_LIMIT: Duration = Duration::from_secs(1);

/// A program to run in a node.
#[derive(Debug)]
pub struct Shell<'a> {
    /// The name of the node.
    pub node: &'a str,
    /// The name of the run, if the user gives one.
    pub run: Option<&'a str>,
    /// The user whose runs to choose from, if the user gives one; otherwise the current user.
    pub user: Option<&'a str>,
    /// The link of the temporary lab, which is started if no run is in progress.
    pub link: Profile,
    /// The program and its arguments. If empty, the user's shell is run.
    pub program: &'a [OsString],
}

/// An error running a program in a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node or more than one fits the user's choice.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The named user does not exist.
    #[error("there is no user {0} on this host")]
    NoSuchUser(String),
    /// An ordinary user names another user.
    #[error("only root enters the runs of other users; leave --user out")]
    NotRoot,
    /// A user is given, but the node is on a host of an inventory.
    #[error("--user chooses among the runs on this host; leave it out with hosts, where nodes are root's")]
    UserOfHosts,
    /// The inventory has no host for this node.
    #[error("the lab has no node {0}")]
    NoSuchNode(String),
    /// There are link options, but the link belongs to a run.
    #[error("run {0} is in progress, and a shell cannot change its link; leave out the link options")]
    LinkOfRun(String),
    /// There are link options, but the node is on a host of an inventory.
    #[error("the link options shape a temporary lab on this host; leave them out with hosts")]
    LinkOfHosts,
    /// The link options contradict each other, or this host cannot shape the link.
    #[error("{0}")]
    Link(String),
    /// The temporary lab could not be started, or a host could not be reached.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A node of the temporary lab failed to shape the link.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The program was not started in the node.
    #[error("{0}")]
    Refused(String),
    /// A system call failed.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Error {
    /// Returns whether the user's input is the reason, so that another command line would help.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Select(error) => !matches!(error, SelectError::NoNode { .. }),
            Self::NoSuchUser(_)
            | Self::NotRoot
            | Self::UserOfHosts
            | Self::NoSuchNode(_)
            | Self::LinkOfRun(_)
            | Self::LinkOfHosts
            | Self::Link(_) => true,
            Self::Lab(error) => error.is_input(),
            Self::Node(_) | Self::Refused(_) | Self::System(_) => false,
        }
    }
}

/// The outcome of running a program in a node on this host.
enum EnterOutcome {
    /// The program was started and has exited.
    Exited(ExitStatus),
    /// The program was not started, for this reason.
    Refused(String),
}

impl Shell<'_> {
    /// Runs the program on this host, in a node of the chosen run. If no run is in progress, runs it in a
    /// temporary lab and says so through `notice`. Returns the program's exit code.
    pub async fn run_locally(&self, notice: impl Fn(&str)) -> Result<u8, Error> {
        let link = self.link.validate().and_then(|()| self.link.validate_for(ethernet::MTU));
        link.map_err(|error| Error::Link(error.to_string()))?;
        let uid = self.uid()?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Some(process) = self.choose(uid, async || Ok(local_processes()?)).await? else { break };
            match enter(&process, self.program).await? {
                EnterOutcome::Exited(status) => return Ok(visit::exit_code(status)),
                // The run has ended in the meantime: choose again, since there may be another run.
                EnterOutcome::Refused(_) if !process.is_alive() && Instant::now() < deadline => {}
                EnterOutcome::Refused(reason) => return Err(Error::Refused(reason)),
            }
        }
        if uid != geteuid().as_raw() {
            return Err(SelectError::NoRunOf(self.user.unwrap_or_default().into()).into());
        }
        let lab = lab::local::start().await?;
        let settings = Settings { link: self.link.clone().into(), ..Settings::default() };
        let link = lab.link(&settings).map_err(Error::Link)?;
        let shaped = if settings.link.is_empty() {
            "not shaped".into()
        } else {
            format!("shaped ({})", link.shape(&settings.link).await?)
        };
        notice(&format!(
            "No run in progress: started a temporary lab; it is removed when this shell exits.\n\
             The address of compute2 is {}; the migration link is {shaped}.",
            link.destination_address()
        ));
        lab.announce().await?;
        let ours = process::id().to_string();
        let processes = local_processes()?;
        let is_ours = |process: &&NodeProcess| process.run == ours && process.uid == uid;
        let node = processes.iter().filter(is_ours).find(|process| process.name == self.node);
        let outcome = match node {
            Some(node) => enter(node, self.program).await?,
            None => EnterOutcome::Refused(format!("{} has ended", self.node)),
        };
        lab.end().await;
        match outcome {
            EnterOutcome::Exited(status) => Ok(visit::exit_code(status)),
            EnterOutcome::Refused(reason) => Err(Error::Refused(reason)),
        }
    }

    /// Returns the session that runs the program on the node's host, in the node of the chosen run. If no run
    /// is in progress, the session runs the program on the host itself, and `notice` says so. `terminal`
    /// gives the program a terminal.
    pub async fn host_session<'a>(
        &self,
        SshHosts { inventory, access }: &'a SshHosts,
        terminal: bool,
        notice: impl Fn(&str),
    ) -> Result<HostSession<'a>, Error> {
        if !self.link.is_empty() {
            return Err(Error::LinkOfHosts);
        }
        if self.user.is_some() {
            return Err(Error::UserOfHosts);
        }
        let host = inventory.hosts().into_iter().find(|(node, _)| *node == self.node).map(|(_, host)| host);
        let host = host.ok_or_else(|| Error::NoSuchNode(self.node.into()))?;
        let remote = RemoteHost::reach(access, host).await?;
        let process = self.choose(0, async || Ok(remote.processes().await?)).await?;
        if process.is_none() {
            let how = if inventory.r#become == Become::Sudo { ", through sudo" } else { "" };
            notice(&format!("No run in progress: this shell is on the host {host} itself, as root{how}."));
        }
        let target = process.map(|NodeProcess { pid, run, .. }| Target { pid, run });
        Ok(remote.enter(self.node, target, self.program, terminal).await?)
    }

    /// Returns the ID of the user whose runs to choose from.
    fn uid(&self) -> Result<u32, Error> {
        let us = geteuid();
        let Some(name) = self.user else { return Ok(us.as_raw()) };
        let account = User::from_name(name).ok().flatten().map(|user| user.uid);
        let uid = account.or_else(|| name.parse().ok().map(Uid::from_raw));
        match uid.ok_or_else(|| Error::NoSuchUser(name.into()))? {
            uid if uid != us && !us.is_root() => Err(Error::NotRoot),
            uid => Ok(uid.as_raw()),
        }
    }

    /// Waits until the lab of the chosen run of the user `uid` is complete, and selects the node. `list`
    /// lists the existing nodes. Returns `None` if no run is in progress.
    async fn choose(
        &self,
        uid: u32,
        list: impl AsyncFn() -> Result<Vec<NodeProcess>, Error>,
    ) -> Result<Option<NodeProcess>, Error> {
        let began = Instant::now();
        loop {
            let (nodes, others) = list().await?.into_iter().partition::<Vec<_>, _>(|node| node.uid == uid);
            let chosen: Vec<_> = nodes.iter().filter(|node| matches_run(&node.run, self.run)).collect();
            let has_node = chosen.iter().any(|node| node.name == self.node);
            let limit = match LabState::least_complete(chosen) {
                LabState::Complete => Duration::ZERO,
                LabState::Ending if has_node => END_LIMIT,
                LabState::Ending | LabState::Starting => START_LIMIT,
            };
            if began.elapsed() < limit {
                time::sleep(POLL_INTERVAL).await;
                continue;
            }
            let selected = match select_node(&nodes, self.node, self.run) {
                Ok(None) | Err(SelectError::NoSuchRun(_)) if self.user.is_none() => {
                    refuse_others(&others, self.run)?;
                    select_node(&nodes, self.node, self.run)?
                }
                selected => selected?,
            };
            if let Some(process) = selected.filter(|_| !self.link.is_empty()) {
                return Err(Error::LinkOfRun(process.run.clone()));
            }
            return Ok(selected.cloned());
        }
    }
}

/// Runs a program in a node on this host and waits until it exits.
async fn enter(node: &NodeProcess, program: &[OsString]) -> Result<EnterOutcome, Error> {
    // From now on, Ctrl-C and the other keys of the terminal are for the program.
    sys::survive_terminal_signals()?;
    let (mut refusal, theirs) = io::pipe()?;
    // No close-on-exec: `testbed enter` inherits this end and writes the reason to it if it refuses.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(io::Error::from)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("testbed").args(["enter", &node.name, "--pid", &node.pid.to_string(), "--run", &node.run]);
    if node.uid != geteuid().as_raw() {
        let owner = node.owner();
        command.args([format!("--uid={}", owner.uid), format!("--gid={}", owner.gid)]);
    }
    command.args(["--refusal", &theirs.as_raw_fd().to_string(), "--"]).args(program);
    let settings = TerminalSettings::of(io::stdin().as_fd());
    // Started by tokio: the nodes of a temporary lab need the runtime while the program runs.
    let status = wait(tokio::process::Command::from(command).spawn()?).await?;
    drop(theirs);
    if let Some(settings) = settings.filter(|_| status.signal().is_some()) {
        // It was killed before it could restore the terminal.
        settings.restore();
    }
    let mut reason = String::new();
    refusal.read_to_string(&mut reason)?;
    Ok(if reason.is_empty() { EnterOutcome::Exited(status) } else { EnterOutcome::Refused(reason) })
}

/// Waits until `testbed enter` exits, and forwards signals that would end this process: `testbed enter` has
/// to restore the terminal first.
async fn wait(mut child: tokio::process::Child) -> io::Result<ExitStatus> {
    let mut terminations = signal(SignalKind::terminate())?;
    // A program started by nohup survives its terminal.
    let mut hangups =
        (!frontend::is_ignored(Signal::SIGHUP)).then(|| signal(SignalKind::hangup())).transpose()?;
    let hangup = async {
        match &mut hangups {
            Some(hangups) => hangups.recv().await,
            None => future::pending().await,
        }
    };
    let ended = tokio::select! {
        status = child.wait() => return status,
        _ = terminations.recv() => Signal::SIGTERM,
        _ = hangup => Signal::SIGHUP,
    };
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), ended);
    }
    child.wait().await
}

/// An error selecting a node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// More than one run fits.
    #[error("{} runs are in progress: {}; choose one with --run", .0.len(), .0.join(", "))]
    Several(Vec<String>),
    /// The run that the user names is not in progress.
    #[error("no run {0} is in progress; `testbed lab status` lists the runs in progress")]
    NoSuchRun(String),
    /// The user that the user names has no run in progress.
    #[error("no run of user {0} is in progress; `testbed lab status` lists the runs in progress")]
    NoRunOf(String),
    /// The only runs that fit belong to other users.
    #[error(
        "run {run} belongs to user {user}; to enter it with that user's rights, add `--user {user}`{elsewise}"
    )]
    OfOther {
        run: String,
        user: String,
        /// The user's other options, as the end of the sentence.
        elsewise: String,
    },
    /// The run lacks the node at the moment.
    #[error("run {run} has no node {node} at the moment; it may be starting or ending")]
    NoNode { run: String, node: String },
}

/// Selects the node of this name, of the run `run`, or of the only run. Returns `None` if no run is in
/// progress and none was named.
fn select_node<'a>(
    nodes: &'a [NodeProcess],
    node: &str,
    run: Option<&str>,
) -> Result<Option<&'a NodeProcess>, SelectError> {
    let mut runs: Vec<&str> =
        nodes.iter().map(|node| node.run.as_str()).filter(|name| matches_run(name, run)).collect();
    runs.dedup();
    match (&runs[..], run) {
        ([], None) => Ok(None),
        ([], Some(run)) => Err(SelectError::NoSuchRun(run.into())),
        ([run], _) => match nodes.iter().find(|process| process.name == node && process.run == *run) {
            Some(found) => Ok(Some(found)),
            None => Err(SelectError::NoNode { run: (*run).into(), node: node.into() }),
        },
        (several, _) => Err(SelectError::Several(several.iter().map(ToString::to_string).collect())),
    }
}

/// Refuses to choose if runs of other users fit: the user may mean one of them.
fn refuse_others(others: &[NodeProcess], run: Option<&str>) -> Result<(), SelectError> {
    let Some(node) = others.iter().find(|node| matches_run(&node.run, run)) else { return Ok(()) };
    let us = User::from_uid(geteuid()).ok().flatten().map_or_else(|| "0".into(), |user| user.name);
    let elsewise = match run {
        Some(_) => String::new(),
        None => format!(", or `--user {us}` for a temporary lab"),
    };
    Err(SelectError::OfOther { run: node.run.clone(), user: node.user.clone(), elsewise })
}

/// Returns whether the run `name` fits the user's choice: any run fits `None`; `4711` fits `4711` and
/// `4711@host`.
fn matches_run(name: &str, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| name == wanted || name.split_once('@').is_some_and(|(pid, _)| pid == wanted))
}

/// Lists the nodes of this host that belong to local labs.
fn local_processes() -> io::Result<Vec<NodeProcess>> {
    Ok(processes::processes()?.into_iter().filter(|process| !process.remote).collect())
}

/// The host of a node, reached by SSH.
struct RemoteHost<'a> {
    access: &'a HostAccess,
    host: &'a str,
    program: HostProgram,
}

impl<'a> RemoteHost<'a> {
    /// Connects to a host, by its name for ssh, and uploads this program to it.
    async fn reach(access: &'a HostAccess, host: &'a str) -> Result<Self, lab::Error> {
        let upload = Upload::read(Path::new("/proc/self/exe"))?;
        Ok(Self { access, host, program: access.host(host).install(&upload).await? })
    }

    /// Lists the nodes of runs in progress on the host. Those that do not belong to root only claim to be
    /// nodes.
    async fn processes(&self) -> Result<Vec<NodeProcess>, lab::Error> {
        let seen =
            self.access.host(self.host).observe::<Observation>(&self.program, &["--nodes".into()]).await?;
        let is_real = |process: &NodeProcess| process.remote && process.uid == 0;
        Ok(seen.nodes.into_iter().map(|seen| seen.process).filter(is_real).collect())
    }

    /// Returns the session that runs a program in the node with the process `target`, or on the host itself
    /// if that is `None`.
    async fn enter(
        &self,
        node: &str,
        target: Option<Target>,
        program: &[OsString],
        terminal: bool,
    ) -> Result<HostSession<'a>, lab::Error> {
        let session = NodeSession { node: node.into(), target, remote: true, program: program.to_vec() };
        self.access.host(self.host).enter(&self.program, &session, terminal).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, run: &str) -> NodeProcess {
        NodeProcess::sample(name, run)
    }

    #[test]
    fn the_only_run_is_selected_by_default() {
        let nodes = [node("controller", "7"), node("compute1", "7")];
        assert_eq!(select_node(&nodes, "compute1", None), Ok(Some(&nodes[1])));
        assert_eq!(select_node(&nodes, "compute1", Some("7")), Ok(Some(&nodes[1])));
        assert_eq!(
            select_node(&nodes, "compute2", None),
            Err(SelectError::NoNode { run: "7".into(), node: "compute2".into() })
        );
        assert_eq!(select_node(&[], "compute1", None), Ok(None));
        assert_eq!(select_node(&nodes, "compute1", Some("8")), Err(SelectError::NoSuchRun("8".into())));
    }

    #[test]
    fn the_run_of_another_user_is_refused_with_the_option_that_enters_it() {
        let mut nodes = [node("compute1", "7")];
        nodes[0].user = "alice".into();
        assert_eq!(refuse_others(&nodes, Some("8")), Ok(()));
        let refused = refuse_others(&nodes, Some("7")).unwrap_err().to_string();
        assert_eq!(
            refused,
            "run 7 belongs to user alice; to enter it with that user's rights, add `--user alice`"
        );
        let refused = refuse_others(&nodes, None).unwrap_err().to_string();
        assert!(refused.ends_with("` for a temporary lab"), "{refused}");
    }

    #[test]
    fn one_of_several_runs_has_to_be_chosen() {
        let nodes = [node("compute1", "7@a"), node("compute1", "7@b"), node("compute1", "9@a")];
        let several = SelectError::Several(vec!["7@a".into(), "7@b".into(), "9@a".into()]);
        assert_eq!(several.to_string(), "3 runs are in progress: 7@a, 7@b, 9@a; choose one with --run");
        assert_eq!(select_node(&nodes, "compute1", None), Err(several));
        assert_eq!(select_node(&nodes, "compute1", Some("9")), Ok(Some(&nodes[2])));
        assert_eq!(select_node(&nodes, "compute1", Some("7@b")), Ok(Some(&nodes[1])));
        let which = SelectError::Several(vec!["7@a".into(), "7@b".into()]);
        assert_eq!(select_node(&nodes, "compute1", Some("7")), Err(which));
    }
}
