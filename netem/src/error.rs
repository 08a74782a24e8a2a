//! The error type of this crate. Each message says what was attempted, on what, and how to fix it.

use crate::{feature::Feature, profile::ProfileError};
use std::io;

/// An error of an operation on a link. Unless a variant says otherwise, the link is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A profile that is invalid for every link; see [`Profile::validate`](crate::Profile::validate).
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A valid profile or option that does not work on this interface, such as a burst below its MTU.
    #[error("{interface}: {problem}")]
    Unsuitable {
        /// The interface, or the address of the server in `netem measure`.
        interface: String,
        /// The setting, what is wrong with it, and which values are allowed.
        problem: String,
    },
    /// A trace file that cannot be read or parsed.
    #[error("{file}: {problem}")]
    Trace {
        /// The path of the trace file.
        file: String,
        /// The number of the line and what is wrong with it, or why the file cannot be read.
        problem: String,
    },
    /// No interface of this name exists in the network namespace.
    #[error(
        "no interface `{name}` in this network namespace{}",
        nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean `{n}`?"))
    )]
    NoInterface {
        /// The requested name.
        name: String,
        /// The most similar name that exists; `None` when none is similar.
        nearest: Option<String>,
    },
    /// The kernel refused the operation with `EPERM` or `EACCES`.
    #[error(
        "not permitted to {action}: it needs CAP_NET_ADMIN in the interface's network namespace; run as root"
    )]
    NotPermitted {
        /// The attempted operation, as it follows "cannot".
        action: String,
    },
    /// The kernel was built without a feature, or its module cannot be loaded.
    #[error(
        "cannot {action}: this kernel has no {feature}; run `{}`, or use a kernel with {}",
        feature.load_command(),
        feature.option()
    )]
    MissingFeature {
        /// The attempted operation, as it follows "cannot".
        action: String,
        /// The feature that this kernel lacks.
        feature: Feature,
    },
    /// The interface already has a qdisc that this crate did not create.
    #[error(
        "{interface} already has a {kind} qdisc ({handle}) that netem did not create; \
         remove it first: tc qdisc del dev {} {place}",
        shell_word(interface)
    )]
    Occupied {
        /// The interface that has the qdisc.
        interface: String,
        /// The kind of the existing qdisc, such as `fq_codel`.
        kind: String,
        /// The handle of the existing qdisc, as `tc` writes it.
        handle: String,
        /// Where the qdisc is attached: `root`, or `ingress` or `clsact`.
        place: &'static str,
    },
    /// The ingress qdisc of this crate has a filter that this crate did not create.
    #[error(
        "{interface} has another filter ({kind}, pref {preference}) for what it receives, which netem did \
         not create; remove it first: tc filter del dev {} ingress pref {preference}",
        shell_word(interface)
    )]
    OccupiedByFilter {
        /// The interface that has the filter.
        interface: String,
        /// The kind of the filter, such as `flower`.
        kind: String,
        /// The preference of the filter, which identifies it.
        preference: u16,
    },
    /// A part of what shapes the interface is missing or was changed by somebody else.
    #[error(
        "what {interface} {direction} is not shaped as applied: {problems}; apply a profile again to repair \
         it, or remove it: {}",
        clear_command(interface)
    )]
    Broken {
        /// The shaped interface.
        interface: String,
        /// The direction: `sends` or `receives`.
        direction: &'static str,
        /// What is broken, separated by semicolons.
        problems: String,
    },
    /// The kernel has accepted a setting, but holds another one. The previous state has been restored.
    #[error(
        "the kernel changed a setting of {interface}: {asked} became {held}; the previous settings \
         are restored"
    )]
    Differs {
        /// The interface.
        interface: String,
        /// The requested setting.
        asked: String,
        /// What the kernel reports instead.
        held: String,
    },
    /// A change was requested, but no profile is in force on the interface.
    #[error("{interface} has no profile to change; apply one first")]
    NothingApplied {
        /// The interface without a profile.
        interface: String,
    },
    /// The kernel refused a netlink request.
    #[error("cannot {action}: {source}{}", message.as_ref().map_or_else(String::new, |m| format!(" ({m})")))]
    Kernel {
        /// The attempted operation, as it follows "cannot".
        action: String,
        /// The error number of the refusal.
        source: io::Error,
        /// The kernel's error text (its extended acknowledgement), if it sent one.
        message: Option<String>,
    },
    /// A system call outside netlink failed.
    #[error("cannot {action}: {source}")]
    System {
        /// The attempted operation, as it follows "cannot".
        action: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The netlink connection is closed.
    #[error("cannot {action}: {problem}")]
    Protocol {
        /// The attempted operation, as it follows "cannot".
        action: String,
        /// What is wrong with the connection.
        problem: String,
    },
}

/// The result of an operation on a link.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns a function for `map_err` that wraps the error of a system call in [`Error::System`].
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action: action.into(), source }
    }

    /// Returns whether the request itself was invalid, as opposed to an operation that failed. The program
    /// then exits with code 2.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Profile(_)
                | Self::Unsuitable { .. }
                | Self::Trace { .. }
                | Self::NoInterface { .. }
                | Self::Occupied { .. }
                | Self::OccupiedByFilter { .. }
                | Self::Broken { .. }
                | Self::NothingApplied { .. }
        )
    }
}

/// Returns the command that removes everything from an interface.
pub(crate) fn clear_command(name: &str) -> String {
    format!("netem clear {}{}", if name.starts_with('-') { "-- " } else { "" }, shell_word(name))
}

/// Returns the name of an interface, in the form of [`printable`](crate::interface::printable), as a word of
/// a POSIX shell's command line. A name with a byte
/// that is not UTF-8 or a control character becomes `$'...'`, which bash, zsh and others understand.
fn shell_word(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,+@%/=".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else if name.contains("\\x") {
        format!("$'{}'", name.replace('\'', "\\'"))
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_option() {
        assert_eq!(clear_command("-near"), "netem clear -- -near");
        assert_eq!(clear_command("n;x"), "netem clear 'n;x'");
    }

    #[test]
    fn names_are_quoted_for_a_shell() {
        for (name, word) in [
            ("eth0.7@if2", "eth0.7@if2"),
            ("a;b", "'a;b'"),
            ("a'$b", r"'a'\''$b'"),
            ("v\\xff", r"$'v\xff'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(name), word);
        }
    }
}
