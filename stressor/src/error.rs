//! The error type of this crate. Each message says what was attempted, on what, and, if known, how to fix it.

use crate::{
    cgroup::{self, Limit},
    disk::DiskError,
    machine::MemoryError,
    workload::WorkloadError,
};
use std::io;
use units::Bytes;

/// An error setting up or running a workload.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "there is nothing to do without memory or a disk: give memory a size with --working-set, and a \
         --rate to dirty it at, or name a --disk; `stressor --help` has examples"
    )]
    NothingToDo,
    #[error("cannot determine how much memory is available: {0}")]
    Probe(#[source] io::Error),
    #[error("cannot allocate {size} for the {area}: {cause}; the stressor has released all its memory")]
    Map { area: &'static str, size: Bytes, cause: io::Error },
    #[error("cannot start a thread: {cause}; {remedy}")]
    Thread { cause: io::Error, remedy: String },
    #[error("cannot {what}: {cause}")]
    System { what: String, cause: io::Error },
}

impl Error {
    /// Returns whether the settings are at fault. In that case nothing was changed.
    pub fn is_bad_settings(&self) -> bool {
        match self {
            Self::Workload(_) | Self::Memory(_) | Self::NothingToDo => true,
            Self::Disk(error) => error.is_bad_settings(),
            Self::Probe(_) | Self::Map { .. } | Self::Thread { .. } | Self::System { .. } => false,
        }
    }

    /// Creates an error for a thread that could not be started. Call this while the threads that did start
    /// are still running.
    pub(crate) fn thread(cause: io::Error) -> Self {
        let remedy = match cgroup::process_limit() {
            Some(Limit { file, left: 0 }) => format!("raise the limit in {}", file.display()),
            _ => "check the limit on the number of threads (`ulimit -u`)".to_owned(),
        };
        Self::Thread { cause, remedy }
    }

    /// Creates an error for a failed system call. `what` completes "cannot ...", as in "open /dev/console".
    pub(crate) fn system(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), cause: cause.into() }
    }
}
