//! Anonymous network namespaces: the kernel removes one when its last [`Namespace`], process and socket is
//! closed.

use crate::error::{Error, Result};
use nix::sched::{CloneFlags, setns, unshare};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
};

/// A network namespace, kept alive by this value and by the processes and sockets in it.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Creates a network namespace, which contains only a loopback interface that is down.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] without `CAP_SYS_ADMIN`, which the creator of a user namespace has in it.
    pub fn new() -> Result<Self> {
        // `unshare` moves the thread that calls it, so a separate thread creates the namespace.
        let made = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        made.map(Self).map_err(|source| {
            let action = "create a network namespace".to_owned();
            match source.raw_os_error() {
                Some(libc::EPERM) => Error::NotPermitted { action },
                _ => Error::System { action, source },
            }
        })
    }

    /// Opens the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        File::open("/proc/thread-self/ns/net")
            .map(Self)
            .map_err(Error::system("open the current network namespace"))
    }

    /// Runs `work` in this namespace, on a separate thread. Sockets that `work` opens stay in the namespace.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered, or if `work` fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        run_in(self.as_fd(), work)
    }
}

/// Does the same as [`Namespace::run`] in an open network namespace.
pub(crate) fn run_in<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_own_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Runs `work` on a separate thread, whose namespaces it may change. Fails if the system grants no thread, or
/// if `work` fails.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl From<File> for Namespace {
    /// Takes an open `/proc/PID/ns/net`.
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
