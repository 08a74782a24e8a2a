//! Processes as `/proc` shows them, and the descendants of this process among them.
//!
//! A program may start others: a wrapper around QEMU does, and so do `sudo` and `apt-get`. Ending a program
//! means ending these too. Process groups do not suffice, because a program can leave its group.

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, getsid},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, thread,
    time::{Duration, Instant},
};

/// The interval between checks whether killed processes have ended.
pub const INTERVAL: Duration = Duration::from_millis(5);

/// How often [`kill_session`] looks for processes that have been started in the meantime.
const KILL_ROUNDS: u32 = 100;

/// A descendant of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Descendant {
    /// The PID in this process's PID namespace.
    pid: u32,
    /// Whether it has ended, but its parent has not noticed yet.
    ended: bool,
    /// Whether this process is its parent.
    is_child: bool,
}

/// The content of `/proc/PID/status` about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// The PID of its parent; zero if the parent is outside the PID namespace of `/proc`.
    pub parent: u32,
    /// Whether it has ended, but its parent has not noticed yet.
    pub ended: bool,
    /// The PIDs in all of its PID namespaces, from the namespace of `/proc` to its own.
    pub pids: Vec<u32>,
    /// Its user and group, or `None` if real, effective, saved and file system IDs differ, as they do in
    /// set-uid and set-gid programs.
    pub owner: Option<Owner>,
}

/// A user and a group, by their IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl ProcessStatus {
    /// Parses the content of `/proc/PID/status`.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let numbers = |name: &str| -> Option<Vec<u32>> {
            field(name)?.split_whitespace().map(|number| number.parse().ok()).collect()
        };
        let only = |numbers: Vec<u32>| {
            let first = *numbers.first()?;
            numbers.iter().all(|number| *number == first).then_some(first)
        };
        let owner = only(numbers("Uid")?).zip(only(numbers("Gid")?)).map(|(uid, gid)| Owner { uid, gid });
        Some(Self {
            parent: *numbers("PPid")?.last()?,
            ended: field("State")?.trim().starts_with(['Z', 'X']),
            pids: numbers("NSpid").filter(|pids| !pids.is_empty())?,
            owner,
        })
    }

    /// Reads the status of a process.
    pub fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    /// Returns the PID in its own, innermost PID namespace.
    pub fn own_pid(&self) -> u32 {
        self.pids.last().copied().unwrap_or_default()
    }
}

/// Lists the descendants of this process, without the children in `except` and their descendants.
fn descendants(except: &BTreeSet<u32>) -> io::Result<Vec<Descendant>> {
    // `/proc` may belong to another PID namespace, in which all PIDs are different.
    let me: u32 = fs::read_link("/proc/self")?.to_str().and_then(|pid| pid.parse().ok()).unwrap_or(0);
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process that has ended meanwhile no longer has a status.
    let all = pids.filter_map(|pid| Some((pid, ProcessStatus::read(pid)?))).collect();
    Ok(below(me, &all, except))
}

/// Returns the descendants of the process `me` in a list of processes by PID. See [`descendants`].
fn below(me: u32, all: &BTreeMap<u32, ProcessStatus>, except: &BTreeSet<u32>) -> Vec<Descendant> {
    let depth = all.get(&me).map_or(1, |status| status.pids.len());
    let mut found = Vec::new();
    let mut parents = vec![me];
    while let Some(parent) = parents.pop() {
        for (pid, status) in all.iter().filter(|(_, status)| status.parent == parent) {
            let Some(&here) = status.pids.get(depth - 1) else { continue };
            if parent == me && except.contains(&here) {
                continue;
            }
            found.push(Descendant { pid: here, ended: status.ended, is_child: parent == me });
            parents.push(*pid);
        }
    }
    found
}

/// Sends a signal to every descendant of this process, except for the children in `except` and their
/// descendants. Returns whether there were any that had not ended. Those that have ended are reaped if this
/// process is their parent.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn signal_descendants(signal: Signal, except: &BTreeSet<u32>) -> io::Result<bool> {
    let mut running = false;
    for Descendant { pid, ended, is_child } in descendants(except)? {
        let pid = Pid::from_raw(pid.cast_signed());
        if !ended {
            // It may have ended just now, or belong to another user.
            running |= kill(pid, signal).is_ok();
        } else if is_child {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
    Ok(running)
}

/// Sends a signal to every descendant of this process, waits until they have ended, and kills those that have
/// not ended after `patience`.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn end_descendants(signal: Signal, patience: Duration) -> io::Result<()> {
    let none = BTreeSet::new();
    let deadline = Instant::now() + patience;
    signal_descendants(signal, &none)?;
    while descendants(&none)?.iter().any(|descendant| !descendant.ended) {
        if Instant::now() >= deadline {
            signal_descendants(Signal::SIGKILL, &none)?;
            break;
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Kills every process of a session, regardless of process groups. `leader` is the PID of the process that
/// began the session.
pub fn kill_session(leader: u32) {
    let leader = Pid::from_raw(leader.cast_signed());
    for _ in 0..KILL_ROUNDS {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let members = pids.map(Pid::from_raw).filter(|pid| getsid(Some(*pid)) == Ok(leader));
        // An ended process remains until its parent notices.
        let running = members.filter(|pid| !has_ended(*pid)).collect::<Vec<_>>();
        if running.is_empty() {
            return;
        }
        for pid in running {
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(INTERVAL);
    }
}

/// Returns whether a process has ended, but its parent has not noticed yet.
fn has_ended(pid: Pid) -> bool {
    ProcessStatus::read(pid.as_raw().cast_unsigned()).is_none_or(|status| status.ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    fn status(parent: u32, pids: &[u32]) -> ProcessStatus {
        ProcessStatus { parent, ended: false, pids: pids.to_vec(), owner: Some(Owner { uid: 7, gid: 5 }) }
    }

    const TEXT: &str = "Name:\tsh (x)\nState:\tS (sleeping)\nTgid:\t90\nPPid:\t7\nUid:\t7\t7\t7\t7\n\
                        Gid:\t5\t5\t5\t5\nNSpid:\t90\t12\n";

    #[test]
    fn the_status_of_a_process_is_read() {
        let read = ProcessStatus::parse(TEXT).unwrap();
        assert_eq!(read, status(7, &[90, 12]));
        assert_eq!(read.own_pid(), 12);
        let zombie = TEXT.replace("S (sleeping)", "Z (zombie)");
        assert!(ProcessStatus::parse(&zombie).unwrap().ended);
        assert_eq!(ProcessStatus::parse("Name:\tsh\n"), None);
    }

    #[test]
    fn a_set_uid_program_belongs_to_nobody() {
        for uids in ["7\t0\t0\t0", "0\t0\t0\t7"] {
            let text = TEXT.replace("7\t7\t7\t7", uids);
            assert_eq!(ProcessStatus::parse(&text).unwrap().owner, None);
        }
    }

    #[test]
    fn children_and_grandchildren_are_found() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let pid = child.id();
        let deadline = Instant::now() + Duration::from_secs(10);
        let grandchild = loop {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            if let Some(grandchild) = children.split_whitespace().next() {
                break grandchild.parse::<u32>().unwrap();
            }
            assert!(Instant::now() < deadline);
        };
        let found = descendants(&BTreeSet::new()).unwrap();
        assert!([pid, grandchild].iter().all(|pid| found.iter().any(|found| found.pid == *pid)), "{found:?}");
        kill(Pid::from_raw(grandchild.cast_signed()), Signal::SIGKILL).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn descendants_are_those_below_this_process_by_their_pids_in_its_namespace() {
        // 50 is the first process of a PID namespace; `/proc` is that of its parent namespace.
        let all = BTreeMap::from([
            (7, status(1, &[7])),
            (50, status(7, &[50, 1])),
            (51, status(50, &[51, 2])),
            (52, status(51, &[52, 3])),
            (53, status(52, &[53, 4])),
            (54, status(50, &[54, 5])),
            (60, status(7, &[60, 6])),
        ]);
        let pids = |except: &[u32]| {
            let found = below(50, &all, &except.iter().copied().collect());
            found.iter().map(|descendant| descendant.pid).collect::<BTreeSet<_>>()
        };
        assert_eq!(pids(&[]), BTreeSet::from([2, 3, 4, 5]));
        assert_eq!(pids(&[2]), BTreeSet::from([5]), "the child 2 is running, and all below it");
        assert_eq!(pids(&[5]), BTreeSet::from([2, 3, 4]));
        assert_eq!(pids(&[3]), BTreeSet::from([2, 3, 4, 5]), "only children can be left out");
    }

    #[test]
    fn a_session_ends_with_its_other_process_groups() {
        // `timeout` makes a process group of its own.
        let script = "timeout 600 sh -c 'echo; sleep 600'; sleep 600";
        let mut leader = Command::new("setsid");
        let mut leader = leader.args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = leader.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        kill_session(leader.id());
        // The pipe ends when the last process has closed it.
        output.read_to_string(&mut String::new()).unwrap();
        leader.wait().unwrap();
    }
}
