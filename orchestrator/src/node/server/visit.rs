//! A program of the user's in a node, or on a host, as if it were started there: what `testbed lab shell`
//! does.
//!
//! ```text
//! testbed lab shell ── testbed enter (joins the namespaces) ── testbed enter (inside) ── the program
//! ```
//!
//! The second process is needed since only children get to be members of a PID namespace that is joined. It
//! has a mount namespace of its own, so that `/proc` shows the node's processes alone, and a host name of its
//! own, which most shells have in their prompt: the node's name.
//!
//! On a terminal, the process inside and the program are a process group of their own in the foreground, as
//! shells want it: the terminal's keys reach the program alone. The process inside survives them; a program
//! that Ctrl-Z stops is let go on, since nobody could do that for it. When any of them ends, however it ends,
//! the program ends with it; and when the program ends, so does what it has started and left, also what it
//! has put into the background. Where the process inside is killed itself, that ends with its run.

use super::isolate;
use crate::sys;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        termios::{SetArg, Termios, tcgetattr, tcsetattr},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgrp, getppid, sethostname, setpgid, tcgetpgrp, tcsetpgrp},
};
use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

/// The shell where `SHELL` names none.
const SHELL: &str = "/bin/sh";

/// Where the administrator's programs are, which an ordinary user's search path may not have.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Exit codes as shells have them.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;
const BY_SIGNAL: u8 = 128;

/// Why a program could not be run in a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's namespaces are out of reach.
    #[error(transparent)]
    Isolate(#[from] isolate::Error),
    /// The node ended before the program was started.
    #[error("{0} is gone: its run, or the shell's lab, has ended")]
    Gone(String),
    /// The program cannot be run.
    #[error("cannot run {program}: {source}")]
    Program {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::System { what, source: source.into() }
}

impl Error {
    /// The exit code that shells have for it, where they have one.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Program { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(NOT_FOUND),
            Self::Program { .. } => Some(CANNOT_RUN),
            _ => None,
        }
    }
}

/// A program's end in a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub code: u8,
    /// Whether the node ended first, and took the program with it.
    pub with_its_node: bool,
}

/// What is to be run, and where.
#[derive(Debug)]
pub struct Visit {
    /// The node's name.
    pub node: String,
    /// The node's process; none for the host itself.
    pub pid: Option<u32>,
    /// Whether whoever asked is at the other end of standard output, so that the program ends when that is
    /// closed.
    pub remote: bool,
    /// The program and its arguments; the user's shell without.
    pub program: Vec<OsString>,
}

/// What a process's end comes to as an exit code, as shells have it.
pub fn exit_code(status: ExitStatus) -> u8 {
    status
        .code()
        .map_or_else(|| BY_SIGNAL.saturating_add(status.signal().unwrap_or(0) as u8), |code| code as u8)
}

impl Visit {
    /// Enters the node and runs the program there. Must be called while the process has a single thread,
    /// which it has from then on.
    pub fn enter(&self) -> Result<Ended, Error> {
        let parent = getppid();
        let terminal = Terminal::now();
        let here = env::current_dir();
        if let Some(pid) = self.pid {
            isolate::join(
                pid,
                CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS,
            )?;
        }
        // Not before: whoever becomes another user is forgotten to be ended.
        isolate::die_with_parent()?;
        if getppid() != parent {
            return Ok(Ended { code: BY_SIGNAL + Signal::SIGKILL as u8, with_its_node: false });
        }
        sys::outlive_interrupts().map_err(system("handle interrupts"))?;
        let (theirs, mut ours) = UnixStream::pair().map_err(system("make a pair of sockets"))?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(system("pass a socket on"))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("testbed").args(["enter", &self.node, "--lifeline", &theirs.as_raw_fd().to_string()]);
        command.args(self.remote.then_some("--remote"));
        command.args(terminal.is_ours().then_some("--foreground"));
        command.args(self.pid.map(|pid| format!("--pid={pid}")));
        command.arg("--").args(&self.program);
        if let Ok(here) = here.and_then(|here| fs::metadata(&here).map(|_| here)) {
            command.current_dir(here);
        }
        let status = command.status().map_err(system("start a process in the node"))?;
        terminal.restore();
        let with_its_node = status.signal() == Some(Signal::SIGKILL as i32) && self.pid.is_some();
        drop(theirs);
        let was_started = ours.set_nonblocking(true).is_ok() && ours.read_exact(&mut [0]).is_ok();
        if with_its_node && !was_started {
            return Err(Error::Gone(self.node.clone()));
        }
        Ok(Ended { code: exit_code(status), with_its_node })
    }

    /// Runs the program, in the process inside; its exit code. It ends when nobody holds the other end of
    /// `lifeline` any more, where a byte says that it is being started. It is to have the terminal, if
    /// whoever asked is in the terminal's `foreground`.
    pub fn serve(&self, lifeline: RawFd, foreground: bool) -> Result<u8, Error> {
        let mut lifeline = UnixStream::from(sys::inherited(lifeline).map_err(system("use the socket"))?);
        prctl::set_child_subreaper(true).map_err(system("look after what the program leaves"))?;
        self.furnish().map_err(system("make a mount and a host name of the shell's own"))?;
        sys::outlive_interrupts().map_err(system("handle interrupts"))?;
        if foreground {
            own_group();
        }
        let mut command = self.command();
        sys::die_with_parent(&mut command);
        // Before: of a program that may have begun, nobody shall believe that it has not. No reader, no
        // matter.
        let _ = lifeline.write_all(&[1]);
        let child = command.spawn().map_err(|source| Error::Program {
            program: command.get_program().display().to_string(),
            source,
        })?;
        let (pid, remote) = (Pid::from_raw(child.id().cast_signed()), self.remote);
        thread::spawn(move || {
            wait_for_end(&lifeline, remote);
            let _ = kill(pid, Signal::SIGKILL);
        });
        let code = wait(pid).map_err(system("wait for the program"))?;
        end_descendants();
        Ok(code)
    }

    /// A host name that is the node's, and a `/proc` with its processes.
    fn furnish(&self) -> Result<(), Errno> {
        let mounts = if self.pid.is_some() { CloneFlags::CLONE_NEWNS } else { CloneFlags::empty() };
        unshare(CloneFlags::CLONE_NEWUTS | mounts)?;
        sethostname(&self.node)?;
        if self.pid.is_some() {
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            // In some containers an ordinary user may not; then `/proc` shows more than the node.
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

/// The search path, with where the administrator's programs are.
fn search_path(path: &str) -> String {
    let there: Vec<&str> = path.split(':').filter(|folder| !folder.is_empty()).collect();
    let missing = ADMINISTRATORS.into_iter().filter(|folder| !there.contains(folder));
    there.iter().copied().chain(missing).collect::<Vec<_>>().join(":")
}

/// Makes this process the leader of a process group, and brings that to the foreground of the terminal. The
/// group that it was in is out of sight in a PID namespace, and some shells despair of that.
fn own_group() {
    let Ok(terminal) = File::options().read(true).write(true).open("/dev/tty") else { return };
    if setpgid(Pid::from_raw(0), Pid::from_raw(0)).is_ok() {
        to_foreground(&terminal, getpgrp());
    }
}

/// Makes a process group the one that the terminal's keys reach.
fn to_foreground(terminal: &File, group: Pid) {
    // Else one who is not in the foreground is stopped for it.
    let mut background = SigSet::empty();
    background.add(Signal::SIGTTOU);
    if background.thread_block().is_ok() {
        let _ = tcsetpgrp(terminal, group);
        let _ = background.thread_unblock();
    }
}

/// Waits for the program to end; its exit code.
fn wait(program: Pid) -> Result<u8, Errno> {
    loop {
        match waitpid(program, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(BY_SIGNAL + signal as u8),
            // By the terminal's key: it goes on, with what it may have started.
            Ok(WaitStatus::Stopped(_, Signal::SIGTSTP)) => {
                let _ = kill(Pid::from_raw(0), Signal::SIGCONT);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits until nobody is interested any more.
fn wait_for_end(lifeline: &UnixStream, remote: bool) {
    let stdout = io::stdout();
    let mut watched = vec![PollFd::new(lifeline.as_fd(), PollFlags::empty())];
    if remote {
        // The end of a session that has no terminal shows here alone.
        watched.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
    }
    let ended = |fd: &PollFd| fd.any() == Some(true) || fd.revents().is_some_and(|events| !events.is_empty());
    while !watched.iter().any(ended) {
        if poll(&mut watched, PollTimeout::NONE).is_err_and(|errno| errno != Errno::EINTR) {
            return;
        }
    }
}

/// Kills whatever has come of this process, and waits until it is gone.
fn end_descendants() {
    loop {
        for pid in descendants().unwrap_or_default() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_millis(5)),
            Ok(_) => {}
            Err(_no_child_is_left) => return,
        }
    }
}

/// The processes below this one, by their numbers in its PID namespace. Those that are orphaned come to be
/// its children.
fn descendants() -> Option<Vec<i32>> {
    let us = Listed::read("self")?;
    // `/proc` may be of a namespace further out, and then has more than one number for each.
    let depth = us.numbers.len() - 1;
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let all: HashMap<i32, Listed> = entries
        .filter_map(|entry| Listed::read(entry.file_name().to_str()?))
        .map(|listed| (listed.pid, listed))
        .collect();
    let below = |mut pid: i32| {
        while let Some(parent) = all.get(&pid).map(|listed| listed.parent) {
            if parent == us.pid {
                return true;
            }
            pid = parent;
        }
        false
    };
    let found = all.values().filter(|listed| below(listed.pid));
    Some(found.filter_map(|listed| listed.numbers.get(depth).copied()).collect())
}

/// A process as `/proc` lists it.
struct Listed {
    pid: i32,
    parent: i32,
    /// Its number in the PID namespace of `/proc`, and in each one further in that it is in.
    numbers: Vec<i32>,
}

impl Listed {
    fn read(entry: &str) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{entry}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<i32>>>()
        };
        let [pid] = field("Pid:")?[..] else { return None };
        let [parent] = field("PPid:")?[..] else { return None };
        Some(Self { pid, parent, numbers: field("NSpid:")? })
    }
}

/// The terminal, as it is before a shell that may not leave it so.
struct Terminal(Option<(File, Termios, Pid)>);

impl Terminal {
    fn now() -> Self {
        let open = || {
            let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
            let (settings, group) = (tcgetattr(&terminal).ok()?, tcgetpgrp(&terminal).ok()?);
            Some((terminal, settings, group))
        };
        Self(open())
    }

    /// Whether its keys reach this process.
    fn is_ours(&self) -> bool {
        self.0.as_ref().is_some_and(|(_, _, group)| *group == getpgrp())
    }

    /// Puts it back: its settings, and whom its keys reach.
    fn restore(&self) {
        let Some((terminal, settings, group)) = &self.0 else { return };
        if !self.is_ours() {
            return;
        }
        to_foreground(terminal, *group);
        let _ = tcsetattr(terminal, SetArg::TCSADRAIN, settings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_path_gets_what_it_lacks() {
        assert_eq!(search_path("/usr/bin:/sbin:/bin"), "/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/sbin");
        assert_eq!(search_path(""), "/usr/local/sbin:/usr/sbin:/sbin");
    }

    #[test]
    fn children_and_theirs_are_found() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let found = || descendants().unwrap();
        let pid = child.id().cast_signed();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let grandchild = loop {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            if let Some(grandchild) = children.split_whitespace().next() {
                break grandchild.parse::<i32>().unwrap();
            }
            assert!(std::time::Instant::now() < deadline);
        };
        let found = found();
        assert!(found.contains(&pid) && found.contains(&grandchild), "{found:?}");
        kill(Pid::from_raw(grandchild), Signal::SIGKILL).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
