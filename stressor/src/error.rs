//! Everything that can go wrong, in one type. Each message says what was attempted, on what, and, where
//! there is something to be done, what.

use crate::{machine::MachineError, workload::WorkloadError};
use std::io;
use units::Bytes;

/// An error of the stressor.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot find out how much memory there is: {0}")]
    Probe(#[source] io::Error),
    #[error("cannot map and fill {size} for the {area}: {cause}; the stressor now holds no memory")]
    Map { area: &'static str, size: Bytes, cause: io::Error },
    #[error("cannot start a thread: {0}; is there a limit on their number (`ulimit -u`)?")]
    Thread(#[source] io::Error),
    #[error("cannot {what}: {cause}")]
    System { what: String, cause: io::Error },
}

impl Error {
    /// Whether it is the settings that have to change, and nothing was touched.
    pub fn is_bad_settings(&self) -> bool {
        matches!(self, Self::Workload(_) | Self::Machine(_))
    }

    /// An error of the kernel's, for something attempted: "open /dev/console".
    pub(crate) fn system(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), cause: cause.into() }
    }
}
