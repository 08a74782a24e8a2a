//! The errors of `testbed setup`.

use super::Invocation;
use crate::image;
use std::{io, path::PathBuf};

/// An error setting this host up. Each message says what was attempted, on what, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The user has to agree, but there is no one to ask.
    #[error("these changes need your consent, but there is no terminal to ask on: run with --yes to agree")]
    NoTerminal,

    /// The user answered no.
    #[error("nothing was changed")]
    Declined,

    /// Packages have to be installed, but the user cannot become root.
    #[error(
        "installing packages needs root, and sudo is not in PATH. Run as root:\n\n{}",
        commands.join("\n")
    )]
    NeedsRoot {
        /// Commands for a root shell.
        commands: Vec<String>,
    },

    /// The package manager is not apt, so the user has to run it.
    #[error(
        "`testbed setup` installs packages only with apt. Install {what} with:\n\n    {command}\n\nThen run \
         `testbed setup` again"
    )]
    ByHand {
        /// What to install.
        what: &'static str,
        command: Invocation,
    },

    /// No package manager was found.
    #[error(
        "none of apt-get, dnf, zypper and pacman is in PATH: install QEMU {minimum} or newer so that \
         qemu-system-x86_64 is in PATH, and run `testbed setup` again"
    )]
    NoManager {
        /// The oldest supported version of QEMU.
        minimum: String,
    },

    /// No package has a QEMU that is recent enough, or none can be installed safely.
    #[error(
        "cannot install QEMU {minimum} or newer from this system's packages without removing or downgrading \
         others:\n{}\nInstall it by hand so that qemu-system-x86_64 is in PATH",
        lines(tried)
    )]
    NoQemu {
        /// The oldest supported version of QEMU.
        minimum: String,
        /// Each suite that was tried, and why it cannot be used.
        tried: Vec<String>,
    },

    /// No package has QEMU's block driver `nfs` in the version of the installed QEMU.
    #[error(
        "cannot install QEMU's block driver nfs, which shared storage needs, without removing or downgrading \
         packages:\n{}\nInstall {package} of the same version as QEMU by hand",
        lines(tried)
    )]
    NoNfsDriver {
        /// The package that contains it.
        package: &'static str,
        /// Each suite that was tried, and why it cannot be used.
        tried: Vec<String>,
    },

    /// There is no kernel package to download, or it contains no kernel.
    #[error(
        "found no kernel package for virtual machines ({tried}): name a kernel with --kernel, and the \
         directory of its modules with --modules"
    )]
    NoKernelPackage {
        /// The reason why no kernel was found.
        tried: String,
    },

    /// A command was run and failed.
    #[error(
        "`{command}` failed{}: {message}",
        code.map(|code| format!(" with exit code {code}")).unwrap_or_default()
    )]
    Command {
        command: Invocation,
        /// The exit code; `None` if a signal ended the command.
        code: Option<i32>,
        /// The error lines of its output, else the last line.
        message: String,
    },

    /// A command could not be started.
    #[error("cannot run `{command}`: {source}")]
    Start { command: Invocation, source: io::Error },

    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: `create`.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    /// The guest's files could not be prepared.
    #[error(transparent)]
    Guest(#[from] image::Error),
}

impl Error {
    /// Returns the exit code of a program that ends with this error: 2 if the user did not agree, 3 if this
    /// host is the reason.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoTerminal | Self::Declined => 2,
            _ => 3,
        }
    }

    /// Returns a closure for `map_err` that adds the action and the path to an I/O error.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

fn lines(all: &[String]) -> String {
    all.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
