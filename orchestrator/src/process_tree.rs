//! The descendants of this process, as `/proc` lists them.
//!
//! A program may start others: a wrapper around QEMU does, and so do `sudo` and `apt-get`. Whoever ends a
//! program has to end these too. Process groups do not suffice, because a program can leave its group.

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The interval at which killed processes are looked for again.
pub const INTERVAL: Duration = Duration::from_millis(5);

/// A descendant of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Descendant {
    /// The PID in this process's PID namespace.
    pid: i32,
    /// Whether it has ended, and its parent has not noticed yet.
    ended: bool,
    /// Whether this process is its parent.
    is_child: bool,
}

/// What `/proc/PID/status` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Status {
    parent: i32,
    ended: bool,
    /// The PIDs in all of its PID namespaces, from that of `/proc` to its own.
    pids: Vec<i32>,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let pids = field("NSpid")?.split_whitespace().map(|pid| pid.parse().ok());
        Some(Self {
            parent: field("PPid")?.trim().parse().ok()?,
            ended: field("State")?.trim().starts_with(['Z', 'X']),
            pids: pids.collect::<Option<_>>()?,
        })
    }
}

/// Lists the descendants of this process, without the children in `except` and their descendants.
fn descendants(except: &BTreeSet<u32>) -> io::Result<Vec<Descendant>> {
    // `/proc` may be that of another PID namespace, in which all PIDs are others.
    let me: i32 = fs::read_link("/proc/self")?.to_str().and_then(|pid| pid.parse().ok()).unwrap_or(0);
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        // A process that has ended meanwhile has no status any more.
        let status = |pid: i32| {
            Status::parse(&fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?)
        };
        if let Some((pid, status)) = pid.and_then(|pid| Some((pid, status(pid)?))) {
            all.insert(pid, status);
        }
    }
    Ok(below(me, &all, except))
}

/// Returns the descendants of the process `me` in a list of processes by PID. See [`descendants`].
fn below(me: i32, all: &BTreeMap<i32, Status>, except: &BTreeSet<u32>) -> Vec<Descendant> {
    let depth = all.get(&me).map_or(1, |status| status.pids.len());
    let mut found = Vec::new();
    let mut parents = vec![me];
    while let Some(parent) = parents.pop() {
        for (pid, status) in all.iter().filter(|(_, status)| status.parent == parent) {
            let Some(&here) = status.pids.get(depth - 1) else { continue };
            if parent == me && except.contains(&here.cast_unsigned()) {
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
        let pid = Pid::from_raw(pid);
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
/// not after `patience`.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(parent: i32, pids: &[i32]) -> Status {
        Status { parent, ended: false, pids: pids.to_vec() }
    }

    #[test]
    fn the_status_of_a_process_is_read() {
        let text = "Name:\tsh (x)\nState:\tS (sleeping)\nTgid:\t90\nPPid:\t7\nNSpid:\t90\t12\n";
        assert_eq!(Status::parse(text), Some(status(7, &[90, 12])));
        let zombie = text.replace("S (sleeping)", "Z (zombie)");
        assert!(Status::parse(&zombie).unwrap().ended);
        assert_eq!(Status::parse("Name:\tsh\n"), None);
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
}
