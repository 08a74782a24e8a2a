//! The host to be set up: its privileges and its package manager.

use super::{Invocation, Runner, nfs};
use crate::image::Cache;
use std::path::PathBuf;

/// This host, and the user who runs `testbed setup` on it.
pub struct LocalHost<'a> {
    /// Runs the host's commands.
    pub runner: &'a dyn Runner,
    /// The user's cache, to which kernels are copied.
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
    /// Neither: nothing can be installed.
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
        // apt comes first: `dnf` may also be installed on a Debian that builds packages for other
        // distributions.
        let known =
            [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("zypper", Self::Zypper), ("pacman", Self::Pacman)];
        known.into_iter().find(|(program, _)| runner.find(program).is_some()).map(|(_, manager)| manager)
    }

    /// Returns the command that installs QEMU, with its block driver `nfs` if requested.
    pub(super) fn install_qemu(self, nfs_driver: bool) -> Invocation {
        let qemu = match self {
            Self::Apt | Self::Pacman => "qemu-system-x86",
            Self::Dnf => "qemu-system-x86-core",
            Self::Zypper => "qemu-x86",
        };
        self.install([qemu].into_iter().chain(nfs_driver.then(|| self.nfs_driver())))
    }

    /// Returns the command that installs QEMU's block driver `nfs`.
    pub(super) fn install_nfs_driver(self) -> Invocation {
        self.install([self.nfs_driver()])
    }

    /// Returns the package that contains QEMU's block driver `nfs`.
    fn nfs_driver(self) -> &'static str {
        match self {
            Self::Apt => nfs::PACKAGE,
            Self::Dnf | Self::Zypper | Self::Pacman => "qemu-block-nfs",
        }
    }

    fn install(self, packages: impl IntoIterator<Item = &'static str>) -> Invocation {
        let (program, words): (&str, &[&str]) = match self {
            Self::Apt => ("apt-get", &["install", "--no-install-recommends"]),
            Self::Dnf => ("dnf", &["install"]),
            Self::Zypper => ("zypper", &["install"]),
            Self::Pacman => ("pacman", &["-S"]),
        };
        Invocation::new(program, words.iter().copied().chain(packages))
    }
}
