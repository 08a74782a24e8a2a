//! The inventory of a lab: a YAML file that names its hosts and their interfaces.
//!
//! ```yaml
//! controller: { host: lab0, guests: eth2 }
//! compute1:   { host: lab1, guests: eth2, migration: eth1 }
//! compute2:   { host: lab2, guests: eth2, migration: eth1 }
//! become: sudo                # how to become root; `none` if the login user is root
//! images: /srv/images         # directory for the guest's files; default: each host's cache directory
//! ssh_config: ssh-config      # default: the user's own ssh configuration
//! ```
//!
//! `host` is any destination that `ssh` accepts; keys, users, ports and jump hosts belong in the ssh
//! configuration. The interfaces must carry no other traffic during a run. They need no address.

use crate::{input, lab::topology::NODES, matrix::yaml};
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
};

/// An error reading an inventory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error(
        "cannot read the inventory {path}: {source}; `--lab` takes `local`, `vagrant` or the path of an \
         inventory"
    )]
    Read {
        /// The path of the inventory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The content of the file is not a valid inventory.
    #[error("{path}: {problem}")]
    Invalid {
        /// The path of the inventory.
        path: PathBuf,
        /// The problem, with the key or line where it is.
        problem: String,
    },
}

/// The hosts of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The host of the controller, which represents the guest's clients.
    pub controller: ControllerHost,
    /// The host of the source, where guests start.
    pub compute1: ComputeHost,
    /// The host of the destination, which guests migrate to.
    pub compute2: ComputeHost,
    /// How to become root on the hosts; `sudo` by default.
    #[serde(default)]
    pub r#become: Become,
    /// The directory for the guest's files on the compute hosts, for example an NFS export. By default each
    /// host's cache directory.
    pub images: Option<PathBuf>,
    /// The configuration file for ssh, relative to the inventory. By default the user's own.
    pub ssh_config: Option<PathBuf>,
}

/// The host of the controller and its interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerHost {
    /// The host's name for ssh.
    pub host: String,
    /// The host's interface on the guests' network.
    pub guests: String,
}

/// The host of a compute node and its interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeHost {
    /// The host's name for ssh.
    pub host: String,
    /// The host's interface on the guests' network.
    pub guests: String,
    /// The host's interface on the migration network.
    pub migration: String,
}

/// How to become root on a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Become {
    /// Through `sudo`, which must not ask for a password.
    #[default]
    Sudo,
    /// The login user is already root.
    None,
}

impl Inventory {
    /// Reads and validates an inventory, from standard input if the path is `-`. Resolves `ssh_config`
    /// relative to the inventory's folder.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (text, path) = input::read(path);
        let text = text.map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut inventory =
            Self::parse(&text).map_err(|problem| Error::Invalid { path: path.clone(), problem })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        inventory.ssh_config = inventory.ssh_config.map(|config| folder.join(config));
        Ok(inventory)
    }

    /// Returns the nodes' names, each with its host's name for ssh.
    pub fn hosts(&self) -> [(&'static str, &str); 3] {
        let [controller, compute1, compute2] = NODES;
        [
            (controller, &self.controller.host),
            (compute1, &self.compute1.host),
            (compute2, &self.compute2.host),
        ]
    }

    /// Parses and validates an inventory.
    ///
    /// # Errors
    ///
    /// The problem as text, with the key or line where it is.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Some editors put a byte order mark before the text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        yaml::check_limits(text)?;
        let inventory: Self = serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text))
            .map_err(|e| {
                let (path, problem) = (e.path().to_string(), e.into_inner());
                if path == "." { problem.to_string() } else { format!("{path}: {problem}") }
            })?;
        let Self { controller, compute1, compute2, .. } = &inventory;
        for (name, compute) in [("compute1", compute1), ("compute2", compute2)] {
            if compute.guests == compute.migration {
                return Err(format!(
                    "{name}: {} cannot be on both the guests' network and the migration network",
                    compute.guests
                ));
            }
        }
        let hosts = [&controller.host, &compute1.host, &compute2.host];
        if let Some(twice) = hosts.iter().enumerate().find(|(i, host)| hosts[..*i].contains(host)) {
            return Err(format!("{} is named twice; a lab needs three different hosts", twice.1));
        }
        if let Some(bad) = hosts.iter().find(|host| host.is_empty() || host.starts_with('-')) {
            return Err(format!("{bad:?} is not a valid host name"));
        }
        Ok(inventory)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const GOOD: &str = "\
controller: { host: lab0, guests: eth2 }
compute1: { host: lab1, guests: eth2, migration: eth1 }
compute2: { host: lab2, guests: eth2, migration: eth1 }
";

    #[test]
    fn an_inventory_names_three_hosts() {
        let inventory = Inventory::parse(GOOD).unwrap();
        assert_eq!(inventory.compute2.host, "lab2");
        assert_eq!(inventory.r#become, Become::Sudo);
        let root = Inventory::parse(&format!("{GOOD}become: none\n")).unwrap();
        assert_eq!(root.r#become, Become::None);
        assert!(Inventory::parse(&format!("\u{feff}{GOOD}")).is_ok(), "a byte order mark is ignored");
    }

    #[test]
    fn the_ssh_configuration_is_relative_to_the_inventory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.yaml");
        fs::write(&path, format!("{GOOD}ssh_config: keys/config\n")).unwrap();
        assert_eq!(Inventory::read(&path).unwrap().ssh_config, Some(dir.path().join("keys/config")));
    }

    #[test]
    fn errors_name_the_key_or_line() {
        let problem = |text: &str| Inventory::parse(text).unwrap_err();
        let missing = problem(&GOOD.replace(", migration: eth1", ""));
        assert!(missing.contains("compute1") && missing.contains("migration"), "{missing}");
        let unknown = problem(&format!("{GOOD}image: /x\n"));
        assert!(unknown.contains("unknown field `image`") && unknown.contains("`images`"), "{unknown}");
        assert!(problem(&GOOD.replace("eth1", "eth2")).contains("cannot be on both"));
        assert!(problem(&GOOD.replace("lab2", "lab0")).contains("lab0 is named twice"));
        assert!(problem(&GOOD.replace("lab1", "-oProxyCommand=x")).contains("not a valid host name"));
        assert!(problem(&format!("{GOOD}become: doas\n")).contains("become"));
        assert!(problem("controller: [").contains("line"));
        assert!(problem(&"[".repeat(200_000)).contains("nested deeper than 64 at line 1 column "));
    }
}
