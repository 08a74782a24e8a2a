//! Signals that the program must leave alone, and one that must not end it.

use crate::sys;
use nix::sys::signal::Signal;
use std::fs;

/// Returns whether this process ignores a signal. `nohup` starts programs that ignore SIGHUP, and a shell
/// without job control starts background jobs that ignore SIGINT; a program that nevertheless catches these
/// signals would end when it was meant to continue. Call this before the signal is caught.
pub fn is_ignored(signal: Signal) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| is_in(&status, signal))
}

/// Returns the signals that end a program and that it may catch to end cleanly: those of SIGINT, SIGTERM and
/// SIGHUP that this process was not started to ignore.
pub fn termination_signals() -> impl Iterator<Item = Signal> {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().filter(|signal| !is_ignored(*signal))
}

/// Makes a write beyond a limit on the size of files (`ulimit -f`) an error of that write, which the program
/// can report. The signal SIGXFSZ would end it without a word. Call this first in `main`.
pub fn survive_size_limits() {
    if !is_ignored(Signal::SIGXFSZ) {
        let _ = sys::survive(Signal::SIGXFSZ);
    }
}

/// Returns whether a process with this `/proc/PID/status` ignores a signal: bit N - 1 of `SigIgn` stands for
/// signal N, see `proc_pid_status(5)`.
fn is_in(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as u32 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_signal_is_a_bit_of_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(is_in(status, Signal::SIGHUP) && is_in(status, Signal::SIGPIPE));
        assert!(!is_in(status, Signal::SIGINT) && !is_in("", Signal::SIGHUP));
    }

    #[test]
    fn size_limits_still_end_other_programs() {
        survive_size_limits();
        let mut child = Command::new("cat");
        let status = String::from_utf8(child.arg("/proc/self/status").output().unwrap().stdout).unwrap();
        assert!(status.contains("SigIgn:") && !is_in(&status, Signal::SIGXFSZ), "{status}");
    }
}
