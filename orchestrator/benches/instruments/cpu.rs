//! CPU time of processes and threads, to the nanosecond, from the scheduler's own books
//! (`/proc/PID/task/TID/schedstat`).

use std::{fs, time::Duration};

/// What the threads of a process have used for which `counts` says yes, given their names; those that have
/// ended are left out.
pub(crate) fn of_threads(pid: u32, counts: impl Fn(&str) -> bool) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let used = |thread: fs::DirEntry| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanos = stat.split(' ').next()?.parse().ok()?;
        counts(name.trim()).then_some(Duration::from_nanos(nanos))
    };
    threads.flatten().filter_map(used).sum()
}

/// What all threads of a process have used.
pub(crate) fn of_process(pid: u32) -> Duration {
    of_threads(pid, |_| true)
}

/// A process that this one started, or one it started did, by the beginning of its name.
pub(crate) fn descendant(name: &str) -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|&pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
            && is_ours(pid)
    })
}

fn is_ours(mut pid: u32) -> bool {
    while pid > 1 {
        if pid == std::process::id() {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|p| p.trim().parse().ok()).unwrap_or(0);
    }
    false
}
