//! What can go wrong while a machine is set up.

use super::Invocation;
use crate::image;
use std::{io, path::PathBuf};

/// Why the machine is not set up. Each says what was attempted, on what, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nobody to ask.
    #[error("this needs your consent, and there is no terminal to ask on: run it with --yes to agree")]
    NoTerminal,

    /// The user said no.
    #[error("nothing was changed")]
    Declined,

    /// Packages have to be installed, by somebody who may.
    #[error(
        "installing packages needs root, and there is no sudo here. As root, run:\n\n{}",
        commands.join("\n")
    )]
    NeedsRoot {
        /// What to run.
        commands: Vec<String>,
    },

    /// This program does not drive that package manager.
    #[error("QEMU is installed on this system with:\n\n    {command}\n\nThen run `testbed setup` again")]
    ByHand {
        /// What to run.
        command: Invocation,
    },

    /// No package manager was found.
    #[error(
        "none of apt-get, dnf, zypper and pacman is here: install QEMU {minimum} or newer so that \
         qemu-system-x86_64 is in PATH, and run `testbed setup` again"
    )]
    NoManager {
        /// The oldest QEMU that serves.
        minimum: String,
    },

    /// The distribution has no QEMU that serves.
    #[error(
        "no package of this system's gives QEMU {minimum} or newer without removing others:\n{}\nInstall one \
         by hand so that qemu-system-x86_64 is in PATH",
        lines(tried)
    )]
    NoQemu {
        /// The oldest QEMU that serves.
        minimum: String,
        /// Each way that was tried, and why it does not lead there.
        tried: Vec<String>,
    },

    /// There is no kernel package to fetch.
    #[error(
        "no package of a kernel for virtual machines was found ({tried}): give a kernel with --kernel, and the \
         directory of its modules with --modules"
    )]
    NoKernelPackage {
        /// What was tried.
        tried: String,
    },

    /// A command failed.
    #[error("`{command}` failed{}: {said}", code.map(|code| format!(" with exit code {code}")).unwrap_or_default())]
    Command {
        /// The command.
        command: Invocation,
        /// Its exit code.
        code: Option<i32>,
        /// The end of what it said.
        said: String,
    },

    /// A command could not be started.
    #[error("cannot run `{command}`: {source}")]
    Start {
        /// The command.
        command: Invocation,
        /// Why not.
        source: io::Error,
    },

    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// The guest's files could not be made ready.
    #[error(transparent)]
    Guest(#[from] image::Error),
}

impl Error {
    /// The exit code of a program that ends with this: 2 when the user has to answer first, 3 when the
    /// machine is the reason.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoTerminal | Self::Declined => 2,
            _ => 3,
        }
    }

    /// For `map_err`: an I/O error with what was attempted and on what.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

fn lines(all: &[String]) -> String {
    all.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
