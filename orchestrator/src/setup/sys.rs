//! The one thing here that needs `unsafe`: a child process that tries to make namespaces.
//!
//! A process with several threads cannot enter a user namespace, and one that could would not come back. So
//! a child tries, which is forked and not a program of its own, for there may be none that fits.
#![allow(unsafe_code)]

use nix::{
    errno::Errno,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork, getegid, geteuid},
};
use std::{
    ffi::{CStr, CString},
    io::{self, PipeReader, PipeWriter, Read},
    os::fd::AsRawFd,
};

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Making the namespaces.
    Unshare,
    /// Becoming root in the user namespace.
    MapUser,
    /// Setting up a network interface.
    Network,
}

impl Step {
    const ALL: [Self; 3] = [Self::Unshare, Self::MapUser, Self::Network];
}

/// Makes a network namespace in a child, within a new user namespace or not, and sets up an interface in it:
/// there are systems that allow the one and not the other.
///
/// # Errors
/// The outer error when the child could not be started or watched; the inner one when it failed, with what
/// it was doing.
pub(super) fn try_namespaces(user: bool) -> io::Result<Result<(), (Step, Errno)>> {
    // Everything that allocates comes before the fork.
    let maps = [
        (c"/proc/self/setgroups", CString::from(c"deny")),
        (c"/proc/self/uid_map", CString::new(format!("0 {} 1", geteuid()))?),
        (c"/proc/self/gid_map", CString::new(format!("0 {} 1", getegid()))?),
    ];
    let (mut reader, writer): (PipeReader, PipeWriter) = io::pipe()?;
    // SAFETY: the child calls nothing but async-signal-safe functions until it leaves by _exit.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let report = match in_child(user, &maps) {
                Ok(()) => [0; 5],
                Err((step, errno)) => {
                    let [a, b, c, d] = (errno as i32).to_le_bytes();
                    [1 + step as u8, a, b, c, d]
                }
            };
            // SAFETY: the buffer is as long as said, the descriptor is open; _exit does not return.
            unsafe {
                libc::write(writer.as_raw_fd(), report.as_ptr().cast(), report.len());
                libc::_exit(0)
            }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut report = [0; 5];
            let read = reader.read_exact(&mut report);
            let status = loop {
                match waitpid(child, None) {
                    Err(Errno::EINTR) => {}
                    status => break status?,
                }
            };
            if let WaitStatus::Signaled(_, signal, _) = status {
                return Err(io::Error::other(format!("the child that tried was killed by {signal}")));
            }
            read?;
            let [step, a, b, c, d] = report;
            Ok(match step.checked_sub(1).and_then(|at| Step::ALL.get(usize::from(at))) {
                None => Ok(()),
                Some(step) => Err((*step, Errno::from_raw(i32::from_le_bytes([a, b, c, d])))),
            })
        }
    }
}

/// What the child does. Allocates nothing.
fn in_child(user: bool, maps: &[(&CStr, CString)]) -> Result<(), (Step, Errno)> {
    let check = |step, result: libc::c_int| {
        if result < 0 { Err((step, Errno::last())) } else { Ok(result) }
    };
    let flags = libc::CLONE_NEWNET | if user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: system calls on this process, which has one thread; every pointer is to a live value of the
    // type and length that the call expects.
    unsafe {
        check(Step::Unshare, libc::unshare(flags))?;
        if user {
            for (path, text) in maps {
                let file = check(Step::MapUser, libc::open(path.as_ptr(), libc::O_WRONLY))?;
                let bytes = text.as_bytes();
                let written = libc::write(file, bytes.as_ptr().cast(), bytes.len());
                check(Step::MapUser, if written < 0 { -1 } else { 0 })?;
                libc::close(file);
            }
        }
        let socket = check(Step::Network, libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check(Step::Network, libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_leaves_this_process_where_it_was() {
        let namespaces = || ["user", "net"].map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")));
        let before = namespaces().map(Result::unwrap);
        for user in [true, false] {
            // Whether it works depends on the machine; that it is found out does not.
            let outcome = try_namespaces(user).unwrap();
            eprintln!("user namespace {user}: {outcome:?}");
        }
        assert_eq!(namespaces().map(Result::unwrap), before);
    }
}
