//! The serving processes of nodes as `/proc` shows them: recognized by their arguments, then held and
//! checked.
//!
//! Anybody can start a process with the arguments of a node. So the arguments only show what a process claims
//! to be, and a process must be held before it is entered ([`HeldProcess`]): its PID cannot come to mean
//! another process, all data read about it belongs to it, and its namespaces are opened before any is joined.
//! [`HeldProcess::check`] compares it with real nodes.

use crate::{bounded, process_tree::ProcessStatus, sys};
use nix::{
    fcntl::{OFlag, openat},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
    unistd::geteuid,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

/// The maximum length of a command line that is read, in bytes, and of other texts about a process. A process
/// can make its own as long as its memory.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// The maximum length of the name of a node, or of a host in the name of a run.
const MAX_NAME_LENGTH: usize = 64;

/// An error holding or checking the process of a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has ended, or its PID belongs to another process by now.
    #[error("{0} is gone: its run, or the shell's temporary lab, has ended")]
    Gone(String),
    /// The process has the arguments of a node, but not the namespaces or the owner of one.
    #[error("process {pid} has the arguments of a node, but is not one: {reason}")]
    NotANode {
        /// The PID.
        pid: u32,
        /// The difference from a node.
        reason: String,
    },
    /// The process runs a different program than this one.
    #[error("{node} runs a different testbed program, {program}, so this one cannot enter it; {remedy}")]
    OtherProgram {
        /// The name of the node.
        node: String,
        /// The path of the process's program, as the kernel shows it.
        program: String,
        /// The program to use instead, as a phrase in the imperative.
        remedy: String,
    },
}

/// The meaning of the arguments of a node's serving process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeArguments {
    /// The node's name.
    pub name: String,
    /// The name of its run: `4711`, or `4711@host`.
    pub run: String,
    /// Whether its orchestrator is on another host.
    pub remote: bool,
}

impl NodeArguments {
    /// Parses the arguments of a process. Returns `None` if they are not those of a node's serving process,
    /// or if this program would not choose the names in them.
    pub fn parse(words: &[String]) -> Option<Self> {
        let after = |option: &str| {
            let at = words.iter().position(|word| word == option)?;
            words.get(at + 1).cloned()
        };
        let [program, command, ..] = words else { return None };
        (program == "testbed" && command == "node").then_some(())?;
        after("--inside")?;
        let (name, run) = (after("--name")?, after("--run")?);
        let is_usual = is_name(&name) && is_run_name(&run);
        is_usual.then(|| Self { name, run, remote: after("--remote").is_some() })
    }
}

/// Returns whether this is the name of a run: a PID, with or without the name of a host.
fn is_run_name(text: &str) -> bool {
    let (pid, host) = text.split_once('@').map_or((text, None), |(pid, host)| (pid, Some(host)));
    pid.parse::<u32>().is_ok() && pid.bytes().all(|byte| byte.is_ascii_digit()) && host.is_none_or(is_name)
}

/// Returns whether this can be the name of a node or of a host: visible characters, and not too many.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads the words of a process's command line. Returns `None` for a long one, of more than 64 KiB, for
/// kernel threads, and for processes that are exiting: the kernel frees their memory, which contains the
/// arguments, before their namespaces.
pub fn command_line(pid: u32) -> Option<Vec<String>> {
    split_arguments(&read_limited(File::open(format!("/proc/{pid}/cmdline")).ok()?)?)
}

/// Reads a text about a process. Returns `None` if it is too long.
fn read_limited(file: File) -> Option<Vec<u8>> {
    bounded::read_all(file, MAX_TEXT_BYTES, "the text").ok()
}

/// Splits the content of `/proc/PID/cmdline`.
fn split_arguments(line: &[u8]) -> Option<Vec<String>> {
    let line = line.strip_suffix(b"\0")?;
    Some(line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// The namespaces of a node, opened.
#[derive(Debug)]
pub struct Namespaces {
    /// The PID of the node's serving process.
    pub pid: u32,
    /// Its user namespace, unless it is also this process's.
    pub user: Option<File>,
    /// Its network namespace.
    pub net: File,
    /// Its PID namespace.
    pub pids: File,
    /// Its mount namespace.
    pub mnt: File,
}

/// Who wants to enter a node, by way of a process with the rights of the node's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnBehalfOf {
    /// That user.
    User,
    /// Another user.
    Visitor,
}

impl OnBehalfOf {
    /// Returns the word on a command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Visitor => "visitor",
        }
    }
}

/// What confines a process besides its user and its namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Confinement {
    /// The capabilities that it has or can get, as bits.
    capabilities: u64,
    /// Whether its system calls are filtered, as the kernel's number.
    seccomp: u64,
    /// Whether it can get no more rights by `execve`: 1, or 0.
    no_new_privileges: u64,
}

impl Confinement {
    /// Parses the content of `/proc/PID/status`.
    fn parse(text: &str) -> Option<Self> {
        // Kernels without filters have no `Seccomp`.
        let number = |name: &str, radix| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            u64::from_str_radix(value.trim(), radix).ok()
        };
        Some(Self {
            capabilities: number("CapEff", 16)? & number("CapBnd", 16)?,
            seccomp: number("Seccomp", 10).unwrap_or(0),
            no_new_privileges: number("NoNewPrivs", 10).unwrap_or(0),
        })
    }

    /// Returns whether this confines no more than `other`.
    fn is_within(self, other: Self) -> bool {
        other.capabilities & !self.capabilities == 0
            && self.seccomp <= other.seccomp
            && self.no_new_privileges <= other.no_new_privileges
    }
}

/// A process, held: its PID file descriptor shows whether it still runs, and its directory in `/proc` stays
/// its own even if the PID is used again.
#[derive(Debug)]
pub struct HeldProcess {
    pid: u32,
    pidfd: OwnedFd,
    /// `/proc/PID`.
    directory: File,
}

impl HeldProcess {
    /// Opens the process with this PID.
    ///
    /// # Errors
    /// If there is no such process, or if it has ended.
    pub fn open(pid: u32) -> io::Result<Self> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let process = Pid::from_raw(pid.cast_signed()).ok_or_else(none)?;
        let pidfd = pidfd_open(process, PidfdFlags::empty())?;
        let held = Self { pid, pidfd, directory: File::open(format!("/proc/{pid}"))? };
        // If it still runs, the PID has meant this process throughout, and the directory is its own.
        if held.is_alive() { Ok(held) } else { Err(none()) }
    }

    /// Returns whether the process still runs.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Opens a file in the process's directory in `/proc`.
    fn file(&self, name: &str) -> io::Result<File> {
        Ok(openat(&self.directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.into())
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        read_limited(self.file(name).ok()?)
    }

    /// Parses the arguments of the process, if they are those of a node's serving process.
    pub fn arguments(&self) -> Option<NodeArguments> {
        NodeArguments::parse(&split_arguments(&self.read("cmdline")?)?)
    }

    /// Reads the status of the process.
    pub fn status(&self) -> Option<ProcessStatus> {
        ProcessStatus::parse(&String::from_utf8_lossy(&self.read("status")?))
    }

    /// Reads the name that the process has given itself.
    pub fn name(&self) -> Option<Vec<u8>> {
        self.read("comm").map(|name| name.trim_ascii_end().to_vec())
    }

    /// Opens the namespaces of a node that belongs to the user `owner`.
    ///
    /// # Errors
    /// [`Error::NotANode`] if the process is confined and this one is not, if it shares a namespace with this
    /// one that nodes do not share, or if its user namespace is not one of `owner`.
    pub fn namespaces(&self, owner: u32) -> Result<Namespaces, Error> {
        let refused = |reason: String| Error::NotANode { pid: self.pid, reason };
        let ours = fs::read_to_string("/proc/self/status").ok().and_then(|ours| Confinement::parse(&ours));
        if !self.confinement().zip(ours).is_some_and(|(theirs, ours)| theirs.is_within(ours)) {
            // Such as the root user of a container.
            return Err(refused("it is confined, and this program is not".into()));
        }
        let open = |kind: &str| {
            let opened = self.file(&format!("ns/{kind}"))?;
            let ours = fs::metadata(format!("/proc/self/ns/{kind}"))?;
            let theirs = opened.metadata()?;
            Ok((opened, (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())))
        };
        let open = |kind: &str| {
            open(kind).map_err(|error: io::Error| refused(format!("its {kind} namespace is closed: {error}")))
        };
        let separate = |kind: &str| match open(kind)? {
            (_, true) => Err(refused(format!("it is in the same {kind} namespace as this program"))),
            (opened, false) => Ok(opened),
        };
        let (net, pids, mnt) = (separate("net")?, separate("pid")?, separate("mnt")?);
        let (user, is_ours) = open("user")?;
        if is_ours && !(owner == 0 && geteuid().is_root()) {
            return Err(refused("it has no user namespace of its own".into()));
        }
        if !is_ours && sys::user_namespace_owner(user.as_fd()).ok() != Some(owner) {
            return Err(refused("its user namespace belongs to another user".into()));
        }
        Ok(Namespaces { pid: self.pid, user: (!is_ours).then_some(user), net, pids, mnt })
    }

    /// Reads what confines the process.
    fn confinement(&self) -> Option<Confinement> {
        Confinement::parse(&String::from_utf8_lossy(&self.read("status")?))
    }

    /// Checks that this is the process of the node `node` of the run `run`, that it belongs to this user and
    /// runs this program, on behalf of that user or another one. Returns its namespaces.
    ///
    /// # Errors
    /// If it has ended, is not a node, or runs a different program.
    pub fn check(&self, node: &str, run: &str, whom: OnBehalfOf) -> Result<Namespaces, Error> {
        let gone = || Error::Gone(node.into());
        let arguments = self.arguments().ok_or_else(gone)?;
        if (arguments.name.as_str(), arguments.run.as_str()) != (node, run) {
            return Err(gone());
        }
        let refused = |reason: &str| Error::NotANode { pid: self.pid, reason: reason.into() };
        let owner = self.status().ok_or_else(gone)?.owner;
        let owner = owner.ok_or_else(|| refused("it runs with the rights of several users"))?;
        if owner.uid != geteuid().as_raw() {
            return Err(refused("it belongs to another user"));
        }
        let checked = self.namespaces(owner.uid).and_then(|namespaces| {
            if self.runs_this_program() {
                return Ok(namespaces);
            }
            let link = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
            let remedy = if whom == OnBehalfOf::Visitor {
                // Whoever asks must not run a program of the node's user.
                "only that user can, with the program that started the run".into()
            } else if arguments.remote {
                "use the testbed that started the run".into()
            } else {
                format!("use that one: /proc/{}/exe lab shell --run {run} {node}", self.pid)
            };
            Err(Error::OtherProgram { node: node.into(), program: link.display().to_string(), remedy })
        });
        // This comes last, so that all of the above is about one process. If that has ended, it explains all
        // refusals.
        if self.is_alive() { checked } else { Err(gone()) }
    }

    /// Returns whether the process runs this program: the same file, or another file with the same content,
    /// because each login user of a host has a copy.
    fn runs_this_program(&self) -> bool {
        let same = || {
            let (mut theirs, mut ours) = (self.file("exe")?, File::open("/proc/self/exe")?);
            let [a, b] = [theirs.metadata()?, ours.metadata()?];
            if (a.dev(), a.ino()) == (b.dev(), b.ino()) {
                return Ok(true);
            }
            Ok::<_, io::Error>(a.len() == b.len() && have_same_content(&mut theirs, &mut ours)?)
        };
        same().unwrap_or(false)
    }
}

fn have_same_content(a: &mut File, b: &mut File) -> io::Result<bool> {
    const CHUNK: u64 = 1 << 20;
    loop {
        let chunk = |file: &mut File| {
            let mut content = Vec::new();
            file.take(CHUNK).read_to_end(&mut content)?;
            Ok::<_, io::Error>(content)
        };
        match (chunk(a)?, chunk(b)?) {
            (a, b) if a != b => return Ok(false),
            (a, _) if a.is_empty() => return Ok(true),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };

    fn parse(line: &str) -> Option<NodeArguments> {
        NodeArguments::parse(&line.split(' ').map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_node_is_recognized_by_its_arguments() {
        let node = |name: &str, run: &str, remote| {
            Some(NodeArguments { name: name.into(), run: run.into(), remote })
        };
        assert_eq!(
            parse("testbed node --inside root --name compute1 --run 4711"),
            node("compute1", "4711", false)
        );
        assert_eq!(
            parse("testbed node --inside root --name controller --run 7@here --remote x --network 3"),
            node("controller", "7@here", true)
        );
        // Not nodes: the outer process, which only creates the namespaces, a QEMU, and a search for nodes.
        assert_eq!(parse("testbed node --name compute1 --run 4711"), None);
        assert_eq!(parse("qemu-system-x86_64 -name testbed-source"), None);
        assert_eq!(parse("grep testbed node --inside --name compute1 --run 7"), None);
    }

    #[test]
    fn names_that_this_program_never_chooses_are_not_believed() {
        let with = |name: &str, run: &str| {
            let words = ["testbed", "node", "--inside", "root", "--name", name, "--run", run];
            NodeArguments::parse(&words.map(ToString::to_string))
        };
        assert!(with("compute1", "7@lab-0.example").is_some());
        for run in ["", "+7", "7\x1b[2J", "x", "7@", "7@a b", "7@a\nb", &format!("7@{}", "a".repeat(65))] {
            assert_eq!(with("compute1", run), None, "{run:?}");
        }
        assert_eq!(with("compute1\x1b[2J", "7"), None);
    }

    #[test]
    fn a_held_process_that_ends_is_noticed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = HeldProcess::open(child.id()).unwrap();
        assert!(held.is_alive());
        assert_eq!(held.status().unwrap().parent, std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!held.is_alive());
        assert_eq!(held.status(), None);
        assert!(matches!(held.check("compute1", "7", OnBehalfOf::User), Err(Error::Gone(_))));
        assert!(HeldProcess::open(child.id()).is_err());
    }

    #[test]
    fn a_process_with_a_huge_command_line_is_no_node() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("node"), "echo there; read never").unwrap();
        let read = |more: &[String]| {
            let mut command = Command::new("sh");
            command.arg0("testbed").args(["node", "--inside", "root", "--name", "compute1", "--run", "7"]);
            let command = command.args(more).current_dir(&folder);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            let held = HeldProcess::open(child.id()).unwrap();
            let found = (command_line(child.id()).map(|words| words.len()), held.arguments().is_some());
            child.stdin.take().unwrap().write_all(b"\n").unwrap();
            child.wait().unwrap();
            found
        };
        assert_eq!(read(&[]), (Some(8), true));
        // The kernel takes 128 KiB in one argument.
        assert_eq!(read(&["x".repeat(60 << 10)]), (Some(9), true));
        assert_eq!(read(&["x".repeat(64 << 10)]), (None, false));
        assert_eq!(read(&vec!["x".repeat(100 << 10); 10]), (None, false));
    }

    #[test]
    fn a_process_in_our_namespaces_is_no_node() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = HeldProcess::open(child.id()).unwrap();
        let refused = held.namespaces(geteuid().as_raw()).unwrap_err().to_string();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refused.ends_with("it is in the same net namespace as this program"), "{refused}");
    }

    #[test]
    fn a_confined_process_is_no_node() {
        let refusal = |program: &str, args: &[&str]| {
            let mut child = Command::new(program).args(args).spawn().unwrap();
            while fs::read(format!("/proc/{}/comm", child.id())).unwrap() != b"sleep\n" {}
            let held = HeldProcess::open(child.id()).unwrap();
            let refused = held.namespaces(geteuid().as_raw()).unwrap_err().to_string();
            child.kill().unwrap();
            child.wait().unwrap();
            refused
        };
        let confined = "it is confined, and this program is not";
        assert!(!refusal("sleep", &["60"]).ends_with(confined));
        let refused = refusal("setpriv", &["--no-new-privs", "sleep", "60"]);
        assert!(refused.ends_with(confined), "{refused}");
        if !geteuid().is_root() {
            return println!("skipped: needs root, for a process without one of its capabilities");
        }
        let refused = refusal("setpriv", &["--bounding-set", "-sys_boot", "sleep", "60"]);
        assert!(refused.ends_with(confined), "{refused}");
    }

    #[test]
    fn a_copy_of_this_program_is_this_program_and_another_is_not() {
        let held = HeldProcess::open(std::process::id()).unwrap();
        assert!(held.runs_this_program());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let other = HeldProcess::open(child.id()).unwrap();
        // Until its exec, a child runs the program of its parent.
        while fs::read(format!("/proc/{}/comm", child.id())).unwrap() != b"sleep\n" {}
        assert!(!other.runs_this_program());
        child.kill().unwrap();
        child.wait().unwrap();
        let files = [&b"same"[..], b"same", b"else"].map(|content| {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(&file, content).unwrap();
            file
        });
        let same = |a: usize, b: usize| {
            let [mut a, mut b] = [a, b].map(|which| File::open(&files[which]).unwrap());
            have_same_content(&mut a, &mut b).unwrap()
        };
        assert!(same(0, 1) && !same(0, 2));
    }
}
