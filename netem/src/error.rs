//! What can go wrong, said as: what was attempted, on what, and what to do.

use crate::{feature::Feature, profile::ProfileError};
use std::io;

/// Why an operation on a link failed. Unless a variant says otherwise, the link is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The profile asks for what no link can do.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The profile cannot be had on this interface, such as a burst below its MTU.
    #[error("{interface}: {problem}")]
    Unsuitable {
        /// The interface.
        interface: String,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// A trace cannot be read, or means nothing.
    #[error("{file}: {problem}")]
    Trace {
        /// The file.
        file: String,
        /// What is wrong, with its line.
        problem: String,
    },
    /// There is no such interface in this network namespace.
    #[error("there is no interface `{name}` here{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean `{n}`?")))]
    NoInterface {
        /// The name that was asked for.
        name: String,
        /// The one most like it.
        nearest: Option<String>,
    },
    /// The kernel demands `CAP_NET_ADMIN`.
    #[error(
        "not permitted to {doing}: this takes CAP_NET_ADMIN in the interface's network namespace; run as root"
    )]
    NotPermitted {
        /// What was attempted.
        doing: String,
    },
    /// The kernel was built without something, or its module cannot be loaded.
    #[error("cannot {doing}: this kernel has no {feature}; `modprobe {}`, or use a kernel with {}", feature.module(), feature.option())]
    MissingFeature {
        /// What was attempted.
        doing: String,
        /// What is missing.
        feature: Feature,
    },
    /// The interface already has a qdisc that somebody else put there.
    #[error(
        "{interface} already has a {kind} qdisc ({handle}) that is not ours; remove it first: tc qdisc del dev {interface} {place}"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The kind of the qdisc in the way.
        kind: String,
        /// Its handle, as `tc` writes it.
        handle: String,
        /// `root` or `ingress`.
        place: &'static str,
    },
    /// There is nothing to change: no profile has been applied.
    #[error("{interface} has no profile to change; apply one first")]
    NothingApplied {
        /// The interface.
        interface: String,
    },
    /// The kernel refused a request.
    #[error("cannot {doing}: {source}{}", said.as_ref().map_or_else(String::new, |s| format!(" ({s})")))]
    Kernel {
        /// What was attempted.
        doing: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words (its extended acknowledgement), where it gave any.
        said: Option<String>,
    },
    /// A system call outside netlink failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The netlink connection is gone, or the kernel sent what nobody understands.
    #[error("cannot {doing}: {problem}")]
    Protocol {
        /// What was attempted.
        doing: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

/// The result of an operation on a link.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` of a system call.
    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing: doing.into(), source }
    }

    /// Whether the caller asked for the impossible, as opposed to something having gone wrong: exit code 2.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Profile(_)
                | Self::Unsuitable { .. }
                | Self::Trace { .. }
                | Self::NoInterface { .. }
                | Self::Occupied { .. }
                | Self::NothingApplied { .. }
        )
    }
}
