//! CPU time of processes and threads, in nanoseconds, from the scheduler's statistics
//! (`/proc/PID/task/TID/schedstat`).

use std::{fs, time::Duration};

/// Returns the CPU time of those threads of a process whose names `counts` accepts. Threads that have ended
/// are not included.
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

/// Returns the CPU time of all running threads of a process.
pub(crate) fn of_process(pid: u32) -> Duration {
    of_threads(pid, |_| true)
}

/// Finds a descendant of this process whose name begins with `name`. Returns its PID.
pub(crate) fn descendant(name: &str) -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|&pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
            && is_own_descendant(pid)
    })
}

fn is_own_descendant(mut pid: u32) -> bool {
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
