//! Runs a user's program in a node, or on a host, as if it had been started there: the implementation of
//! `testbed lab shell`.
//!
//! ```text
//! testbed lab shell ── testbed enter (has the caller's terminal)
//!                        └─ testbed enter --joining (joins the namespaces)
//!                             └─ testbed enter --lifeline (inside) ── the program
//! ```
//!
//! The first `testbed enter` never leaves the caller's namespaces. It gives the rest a session of its own
//! ([`session`]) and, in a node of another user, that user's rights, so that nothing in namespaces that the
//! user controls happens with more than that user's rights.
//!
//! The second one holds the node's process, checks it ([`HeldProcess::check`]), and joins its namespaces. It
//! opens its own program beforehand, because a path may lead elsewhere in the node.
//!
//! The third one is needed because a process that joins a PID namespace does not become a member itself; only
//! its children do. It has its own mount namespace, so that `/proc` shows only the node's processes, and its
//! own host name, the node's name, which most shells show in their prompt. With a terminal, it and the
//! program form a process group of their own in the foreground, as shells expect. It survives the signals of
//! the terminal's keys. A program stopped by Ctrl-Z is resumed immediately, since no shell could resume it.
//!
//! When any process of the chain ends, for whatever reason, the program is killed. When the program ends, all
//! its descendants are killed, including background jobs. Only if the process inside is killed do the
//! descendants live until the run ends.

use super::{
    isolate,
    process::{self, HeldProcess, OnBehalfOf},
    session,
};
use crate::{
    process_tree::{self, Owner},
    sys,
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgrp, getppid, sethostname, setpgid, tcsetpgrp},
};
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            fs::OpenOptionsExt,
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Command, ExitStatus},
    thread,
};

/// The default shell, if `SHELL` is not set.
const SHELL: &str = "/bin/sh";

/// The directories of administration programs, which may be missing from an ordinary user's `PATH`.
const ADMIN_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

// Exit codes that shells use: program not found, not executable, and killed by a signal (plus its number).
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;
pub(super) const SIGNAL_BASE: u8 = 128;

/// The maximum length of a refusal, which may come from a process of another user, in bytes.
const MAX_REFUSAL_BYTES: u64 = 4096;

/// An error running a program in a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's namespaces could not be entered.
    #[error(transparent)]
    Isolate(#[from] isolate::Error),
    /// The node ended before the program was started, or is not a node.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The program could not be started.
    #[error("cannot run {program}: {source}")]
    Program {
        /// The program as given by the user, or the shell.
        program: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// Another system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// The operation as a verb phrase that completes "cannot".
        what: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::System { what, source: source.into() }
}

impl Error {
    /// Returns the exit code that shells use for this error: 127 for a program that is not found, 126 for
    /// one that cannot be run, `None` for other errors.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Program { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(NOT_FOUND),
            Self::Program { .. } => Some(CANNOT_RUN),
            _ => None,
        }
    }
}

/// The end of a program in a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEnd {
    /// The exit code of the program, as [`exit_code`] defines it.
    pub code: u8,
    /// Whether the node ended first and the program was killed with it.
    pub killed_with_node: bool,
}

/// The outcome of running a program through [`NodeSession::run`].
#[derive(Debug)]
pub enum Outcome {
    /// The program has exited with this code, as [`exit_code`] defines it.
    Exited(u8),
    /// The program was not started, for this reason.
    Refused(String),
}

/// The serving process of a node to enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The PID.
    pub pid: u32,
    /// The name of the run, as the process's arguments must have it.
    pub run: String,
}

/// A program to run in a node or on a host.
#[derive(Debug)]
pub struct NodeSession {
    /// The name of the node; becomes the host name.
    pub node: String,
    /// The node's serving process, or `None` to run the program on the host itself.
    pub target: Option<Target>,
    /// Whether the user is on another host, at the other end of standard output. If it is closed, the program
    /// is killed.
    pub remote: bool,
    /// The program and its arguments; empty for the user's shell.
    pub program: Vec<OsString>,
}

/// Converts an exit status to an exit code as shells do: 128 plus the signal's number for a process that was
/// killed by a signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    status
        .code()
        .map_or_else(|| SIGNAL_BASE.saturating_add(status.signal().unwrap_or(0) as u8), |code| code as u8)
}

impl NodeSession {
    /// Runs the program through a process that joins the node's namespaces, in a session of its own. With
    /// `owner`, everything in the node has that user's rights. Waits until the program exits.
    ///
    /// Must be called while this process has a single thread, and starts no other.
    pub fn run(&self, owner: Option<Owner>) -> Result<Outcome, Error> {
        let parent = getppid();
        isolate::end_with_parent(Signal::SIGTERM)?;
        if getppid() != parent {
            return Ok(Outcome::Exited(SIGNAL_BASE + Signal::SIGTERM as u8));
        }
        let (refusal, theirs) = io::pipe().map_err(system("create a pipe"))?;
        let mut command = Command::new("/proc/self/exe");
        let whom = if owner.is_some() { OnBehalfOf::Visitor } else { OnBehalfOf::User };
        command.arg0("testbed").args(["enter", &self.node, "--joining", whom.word(), "--refusal"]);
        command.arg(theirs.as_raw_fd().to_string());
        let ready = |command: &mut Command, has_terminal: bool| {
            command.args(has_terminal.then_some("--terminal")).args(self.arguments());
            Ok(fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)?)
        };
        let code =
            session::run(&mut command, owner, ready).map_err(system("start a session for the node"))?;
        // The process may belong to another user: do not wait for the end of its output, and limit how much
        // is read.
        fcntl(&refusal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(system("read a pipe"))?;
        let mut reason = Vec::new();
        let _ = refusal.take(MAX_REFUSAL_BYTES).read_to_end(&mut reason);
        let reason = String::from_utf8_lossy(&reason);
        Ok(match owner {
            _ if reason.is_empty() => Outcome::Exited(code),
            Some(_) => Outcome::Refused(format!("a process with that user's rights says: {reason}")),
            None => Outcome::Refused(reason.into()),
        })
    }

    /// Returns the arguments of `testbed enter` that all processes of the chain have in common.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if let Some(Target { pid, run }) = &self.target {
            arguments.extend([format!("--pid={pid}").into(), format!("--run={run}").into()]);
        }
        arguments.extend(self.remote.then_some("--remote".into()));
        arguments.push("--".into());
        arguments.extend(self.program.iter().cloned());
        arguments
    }

    /// Enters the node and runs the program there through a second process. Waits until that process exits.
    /// `terminal` says whether the standard streams are a terminal of the program's own.
    ///
    /// Must be called while this process has a single thread, and starts no other.
    pub fn enter(&self, terminal: bool, whom: OnBehalfOf) -> Result<SessionEnd, Error> {
        let parent = getppid();
        let current_dir = env::current_dir();
        // Before joining: in the node, this path may lead to another program.
        let program = File::options().read(true).custom_flags(OFlag::O_PATH.bits()).open("/proc/self/exe");
        let program = OwnedFd::from(program.map_err(system("open this program"))?);
        if let Some(Target { pid, run }) = &self.target {
            let held = HeldProcess::open(*pid).map_err(|_| process::Error::Gone(self.node.clone()))?;
            isolate::join(held.check(&self.node, run, whom)?)?;
        }
        // Only after joining, because the kernel clears the parent-death signal when a process changes its
        // user.
        isolate::die_with_parent()?;
        if getppid() != parent {
            return Ok(SessionEnd { code: SIGNAL_BASE + Signal::SIGKILL as u8, killed_with_node: false });
        }
        sys::survive_terminal_signals().map_err(system("handle interrupts"))?;
        let (theirs, mut ours) = UnixStream::pair().map_err(system("create a socket pair"))?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(system("make a socket inheritable"))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["enter", &self.node, "--lifeline", &theirs.as_raw_fd().to_string()]);
        command.args(terminal.then_some("--terminal")).args(self.arguments());
        // The directory may not exist in the node's mount namespace.
        if let Ok(dir) = current_dir.and_then(|dir| fs::metadata(&dir).map(|_| dir)) {
            command.current_dir(dir);
        }
        sys::run_opened(&mut command, program).map_err(system("prepare a process in the node"))?;
        let status = command.status().map_err(system("start a process in the node"))?;
        let killed_with_node = status.signal() == Some(Signal::SIGKILL as i32) && self.target.is_some();
        drop(theirs);
        let was_started = ours.set_nonblocking(true).is_ok() && ours.read_exact(&mut [0]).is_ok();
        if killed_with_node && !was_started {
            return Err(process::Error::Gone(self.node.clone()).into());
        }
        Ok(SessionEnd { code: exit_code(status), killed_with_node })
    }

    /// Runs the program; called in the process inside. Returns the program's exit code.
    ///
    /// `lifeline` is a socket inherited from the first process. A byte is written to it when the program is
    /// about to start, and the program is killed when its other end is closed. `terminal` is the same as for
    /// [`Self::enter`]; the program is in the terminal's foreground.
    pub fn run_inside(&self, lifeline: RawFd, terminal: bool) -> Result<u8, Error> {
        let mut lifeline = UnixStream::from(sys::inherited(lifeline).map_err(system("use the socket"))?);
        // Orphaned descendants become children of this process, which `kill_descendants` relies on.
        prctl::set_child_subreaper(true).map_err(system("become a subreaper"))?;
        self.set_up_namespaces().map_err(system("set up the shell's mount namespace and host name"))?;
        sys::survive_terminal_signals().map_err(system("handle interrupts"))?;
        if terminal {
            lead_foreground_group();
        }
        let mut command = self.command();
        sys::die_with_parent(&mut command);
        // This happens before the program starts, so that a program that may have started is never reported
        // as not started. A failure is harmless: then nobody reads it.
        let _ = lifeline.write_all(&[1]);
        let child = command.spawn().map_err(|source| Error::Program {
            program: command.get_program().display().to_string(),
            source,
        })?;
        let (pid, remote) = (Pid::from_raw(child.id().cast_signed()), self.remote);
        thread::spawn(move || {
            wait_for_hangup(&lifeline, remote);
            let _ = kill(pid, Signal::SIGKILL);
        });
        let code = wait(pid).map_err(system("wait for the program"))?;
        kill_descendants();
        Ok(code)
    }

    /// Sets the host name to the node's, and mounts a `/proc` that shows the node's processes.
    fn set_up_namespaces(&self) -> Result<(), Errno> {
        let mounts = if self.target.is_some() { CloneFlags::CLONE_NEWNS } else { CloneFlags::empty() };
        unshare(CloneFlags::CLONE_NEWUTS | mounts)?;
        sethostname(&self.node)?;
        if self.target.is_some() {
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            // Ordinary users may not do this in some containers; then `/proc` shows more than the node's
            // processes.
            let _ = mount(Some("proc"), "/proc", Some("proc"), flags, none);
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = match &self.program[..] {
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
            [] => {
                Command::new(env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or(SHELL.into()))
            }
        };
        command.env("PATH", search_path(&env::var("PATH").unwrap_or_default()));
        command.env("TESTBED_NODE", &self.node).env("PS1", format!("{}# ", self.node));
        command
    }
}

/// Returns this search path with the missing [`ADMIN_DIRS`] appended.
fn search_path(path: &str) -> String {
    let present: Vec<&str> = path.split(':').filter(|folder| !folder.is_empty()).collect();
    let missing = ADMIN_DIRS.into_iter().filter(|folder| !present.contains(folder));
    present.iter().copied().chain(missing).collect::<Vec<_>>().join(":")
}

/// Makes this process the leader of a new process group and puts that group in the foreground of the terminal
/// among the standard streams. The previous group is not visible in the PID namespace, which makes some
/// shells exit.
fn lead_foreground_group() {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let Some(terminal) = streams.into_iter().find(BorrowedFd::is_terminal) else { return };
    if setpgid(Pid::from_raw(0), Pid::from_raw(0)).is_err() {
        return;
    }
    // A background process that calls tcsetpgrp is stopped by SIGTTOU unless it blocks the signal.
    let mut background = SigSet::empty();
    background.add(Signal::SIGTTOU);
    if background.thread_block().is_ok() {
        let _ = tcsetpgrp(terminal, getpgrp());
        let _ = background.thread_unblock();
    }
}

/// Waits until the program exits. Returns its exit code.
fn wait(program: Pid) -> Result<u8, Errno> {
    loop {
        match waitpid(program, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(SIGNAL_BASE + signal as u8),
            // Ctrl-Z: resume the whole process group.
            Ok(WaitStatus::Stopped(_, Signal::SIGTSTP)) => {
                let _ = kill(Pid::from_raw(0), Signal::SIGCONT);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits until the other end of the lifeline is closed, or, for a remote user, standard output.
fn wait_for_hangup(lifeline: &UnixStream, remote: bool) {
    let stdout = io::stdout();
    let mut watched = vec![PollFd::new(lifeline.as_fd(), PollFlags::empty())];
    if remote {
        // The only sign that an SSH session without a terminal has ended.
        watched.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
    }
    let ended = |fd: &PollFd| fd.any() == Some(true) || fd.revents().is_some_and(|events| !events.is_empty());
    while !watched.iter().any(ended) {
        if poll(&mut watched, PollTimeout::NONE).is_err_and(|errno| errno != Errno::EINTR) {
            return;
        }
    }
}

/// Kills all descendants of this process and waits until they are gone. Orphans are included, since this
/// process is their subreaper.
fn kill_descendants() {
    let none = BTreeSet::new();
    while process_tree::signal_descendants(Signal::SIGKILL, &none).unwrap_or(false) {
        thread::sleep(process_tree::INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_admin_directories_are_appended_to_the_search_path() {
        assert_eq!(search_path("/usr/bin:/sbin:/bin"), "/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/sbin");
        assert_eq!(search_path(""), "/usr/local/sbin:/usr/sbin:/sbin");
    }
}
