//! Network namespaces without a name: held open by whoever holds the [`Namespace`], and gone with it.

use crate::error::{Error, Result};
use nix::sched::{CloneFlags, setns, unshare};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
};

/// A network namespace, held open by this value (and by the processes and sockets in it).
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, with nothing in it but a loopback interface that is down.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] without `CAP_SYS_ADMIN`; inside a user namespace of one's own there is that.
    pub fn new() -> Result<Self> {
        // A namespace belongs to a thread, so a thread of its own makes it.
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        made.join().expect("making a namespace does not panic").map(Self).map_err(|source| {
            let doing = "make a network namespace".to_owned();
            match source.raw_os_error() {
                Some(libc::EPERM) => Error::NotPermitted { doing },
                _ => Error::System { doing, source },
            }
        })
    }

    /// The one the calling thread is in.
    ///
    /// # Errors
    ///
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        File::open("/proc/thread-self/ns/net").map(Self).map_err(Error::system("open this network namespace"))
    }

    /// Runs something in this namespace, on a thread of its own. Sockets made there stay there.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = || {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                work()
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl From<File> for Namespace {
    /// What an opened `/proc/PID/ns/net` refers to.
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
