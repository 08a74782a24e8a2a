//! A child process that tries to create namespaces. All `unsafe` of `setup` is here.
//!
//! A process with several threads cannot enter a user namespace, and no process can leave one again. So a
//! child process tries it. The child is forked without executing another program, because a suitable program
//! may not be installed.
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

/// The step at which the child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamespaceStep {
    /// Creating the namespaces with `unshare`.
    Unshare,
    /// Mapping the user to root of the user namespace.
    MapUser,
    /// Setting an interface up in the network namespace.
    Network,
}

impl NamespaceStep {
    const ALL: [Self; 3] = [Self::Unshare, Self::MapUser, Self::Network];
}

/// Creates a network namespace in a child, in a new user namespace if `user` is set, and sets an interface up
/// in it: some systems allow creating the namespace, but not setting the interface up.
///
/// # Errors
/// The outer error if the child could not be started or waited for; the inner error if the child failed, with
/// the step and the error number.
pub(super) fn try_namespaces(user: bool) -> io::Result<Result<(), (NamespaceStep, Errno)>> {
    // All allocations come before the fork: another thread may hold the allocator's lock when the process
    // forks.
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
            // SAFETY: the buffer has the given length, the descriptor is open; _exit does not return.
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
                return Err(io::Error::other(format!("the child process was killed by {signal}")));
            }
            read?;
            let [step, a, b, c, d] = report;
            Ok(match step.checked_sub(1).and_then(|at| NamespaceStep::ALL.get(usize::from(at))) {
                None => Ok(()),
                Some(step) => Err((*step, Errno::from_raw(i32::from_le_bytes([a, b, c, d])))),
            })
        }
    }
}

/// Runs in the child: creates the namespaces and sets the interface up. Allocates nothing.
fn in_child(user: bool, maps: &[(&CStr, CString)]) -> Result<(), (NamespaceStep, Errno)> {
    let check = |step, result: libc::c_int| {
        if result < 0 { Err((step, Errno::last())) } else { Ok(result) }
    };
    let flags = libc::CLONE_NEWNET | if user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: these are system calls on this process, which has a single thread; every pointer points to a
    // live value of the type and length that the call expects.
    unsafe {
        check(NamespaceStep::Unshare, libc::unshare(flags))?;
        if user {
            for (path, text) in maps {
                let file = check(NamespaceStep::MapUser, libc::open(path.as_ptr(), libc::O_WRONLY))?;
                let bytes = text.as_bytes();
                let written = libc::write(file, bytes.as_ptr().cast(), bytes.len());
                check(NamespaceStep::MapUser, if written < 0 { -1 } else { 0 })?;
                libc::close(file);
            }
        }
        let socket = check(NamespaceStep::Network, libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check(NamespaceStep::Network, libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_leaves_the_namespaces_of_this_process_unchanged() {
        let namespaces = || ["user", "net"].map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")));
        let before = namespaces().map(Result::unwrap);
        for user in [true, false] {
            // Whether this succeeds depends on the host, so only the outer result is checked.
            let outcome = try_namespaces(user).unwrap();
            eprintln!("user namespace {user}: {outcome:?}");
        }
        assert_eq!(namespaces().map(Result::unwrap), before);
    }
}
