//! The host that is set up: its privileges and its package manager.

use super::{Invocation, Runner};
use crate::image::Cache;
use std::path::PathBuf;

/// This host, and the user who runs `testbed setup` on it.
pub struct LocalHost<'a> {
    /// Runs the host's commands.
    pub runner: &'a dyn Runner,
    /// The cache of the user, which kernels are copied to.
    pub cache: Cache,
    /// The root of the file system: `/`, except in tests.
    pub root: PathBuf,
    /// The way to install packages.
    pub privilege: Privilege,
}

/// The way to run a command as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// This program itself runs as root.
    Root,
    /// `sudo` is in `PATH`; it may ask for a password.
    Sudo,
    /// Neither of them: nothing can be installed.
    None,
}

impl<'a> LocalHost<'a> {
    /// Describes this host and the current user.
    pub fn detect(runner: &'a dyn Runner, cache: Cache) -> Self {
        let privilege = if nix::unistd::geteuid().is_root() {
            Privilege::Root
        } else if runner.find("sudo").is_some() {
            Privilege::Sudo
        } else {
            Privilege::None
        };
        Self { runner, cache, root: PathBuf::from("/"), privilege }
    }

    /// Wraps a command so that it runs as root. `interactive` allows sudo to ask for a password.
    pub(super) fn as_root(&self, command: Invocation, interactive: bool) -> Invocation {
        match self.privilege {
            Privilege::Sudo if interactive => command.through("sudo", &[]),
            Privilege::Sudo => command.through("sudo", &["-n"]),
            Privilege::Root | Privilege::None => command,
        }
    }
}

/// A package manager that this program knows. It runs only apt; for the others it prints the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackageManager {
    Apt,
    Dnf,
    Zypper,
    Pacman,
}

impl PackageManager {
    /// Finds the package manager of this host.
    pub(super) fn detect(runner: &dyn Runner) -> Option<Self> {
        // apt first: on a Debian where packages for other distributions are built, `dnf` may be installed
        // too.
        let known =
            [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("zypper", Self::Zypper), ("pacman", Self::Pacman)];
        known.into_iter().find(|(program, _)| runner.find(program).is_some()).map(|(_, manager)| manager)
    }

    /// Returns the command that installs QEMU.
    pub(super) fn install_qemu(self) -> Invocation {
        match self {
            Self::Apt => {
                Invocation::new("apt-get", ["install", "--no-install-recommends", "qemu-system-x86"])
            }
            Self::Dnf => Invocation::new("dnf", ["install", "qemu-system-x86-core"]),
            Self::Zypper => Invocation::new("zypper", ["install", "qemu-x86"]),
            Self::Pacman => Invocation::new("pacman", ["-S", "qemu-system-x86"]),
        }
    }
}
