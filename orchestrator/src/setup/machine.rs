//! The machine that is set up, as far as setting it up depends on it.

use super::{Invocation, Runner};
use crate::image::Cache;
use std::path::PathBuf;

/// The machine, and who asks.
pub struct Machine<'a> {
    /// Runs its commands.
    pub runner: &'a dyn Runner,
    /// The user's cache.
    pub cache: Cache,
    /// `/`, except in tests.
    pub root: PathBuf,
    /// Whether packages can be installed.
    pub privilege: Privilege,
}

/// How something is done as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// This program runs as root.
    Root,
    /// `sudo` is here.
    Sudo,
    /// Not at all.
    None,
}

impl<'a> Machine<'a> {
    /// This machine and this user.
    pub fn this(runner: &'a dyn Runner, cache: Cache) -> Self {
        let privilege = if nix::unistd::geteuid().is_root() {
            Privilege::Root
        } else if runner.find("sudo").is_some() {
            Privilege::Sudo
        } else {
            Privilege::None
        };
        Self { runner, cache, root: PathBuf::from("/"), privilege }
    }

    /// A command as it is run with root's rights. `interactive` is whether sudo may ask for a password.
    pub(super) fn as_root(&self, command: Invocation, interactive: bool) -> Invocation {
        match self.privilege {
            Privilege::Sudo if interactive => command.through("sudo", &[]),
            Privilege::Sudo => command.through("sudo", &["-n"]),
            Privilege::Root | Privilege::None => command,
        }
    }
}

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackageManager {
    Apt,
    Dnf,
    Zypper,
    Pacman,
}

impl PackageManager {
    /// The one this machine has.
    pub(super) fn of(runner: &dyn Runner) -> Option<Self> {
        // apt first: it can be beside others where packages are built for them.
        let known =
            [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("zypper", Self::Zypper), ("pacman", Self::Pacman)];
        known.into_iter().find(|(program, _)| runner.find(program).is_some()).map(|(_, manager)| manager)
    }

    /// The command that installs QEMU.
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
