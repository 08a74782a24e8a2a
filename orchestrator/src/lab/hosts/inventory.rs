//! Which hosts a lab is made of: a YAML file.
//!
//! ```yaml
//! controller: { host: lab0, guests: eth2 }
//! compute1:   { host: lab1, guests: eth2, migration: eth1 }
//! compute2:   { host: lab2, guests: eth2, migration: eth1 }
//! become: sudo                # how to get root there; `none` where one logs in as root
//! images: /srv/images         # where the guest's files go; each host's cache directory without it
//! ssh_config: ssh-config      # instead of the user's own
//! ```
//!
//! `host` is whatever `ssh` takes: keys, users, ports and jump hosts are its configuration's business. The
//! interfaces named carry nothing else during a run. They need no address.

use crate::lab::topology::NODES;
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Why there is no inventory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the inventory {path}: {source}; `--lab` takes `local`, `vagrant` or a file")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says something wrong.
    #[error("{path}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, and where.
        problem: String,
    },
}

/// The hosts of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Where the guest's clients are.
    pub controller: ControllerHost,
    /// Where guests start.
    pub compute1: ComputeHost,
    /// Where they migrate to.
    pub compute2: ComputeHost,
    /// How to become root.
    #[serde(default)]
    pub r#become: Become,
    /// The directory for the guest's files on the compute hosts, an NFS export for example.
    pub images: Option<PathBuf>,
    /// The configuration file for ssh; the user's own without it. Relative to the inventory.
    pub ssh_config: Option<PathBuf>,
}

/// The controller's host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerHost {
    /// Its name for ssh.
    pub host: String,
    /// Its interface on the guests' network.
    pub guests: String,
}

/// A compute node's host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeHost {
    /// Its name for ssh.
    pub host: String,
    /// Its interface on the guests' network.
    pub guests: String,
    /// Its interface on the migration network.
    pub migration: String,
}

/// How to become root on a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Become {
    /// Through sudo, without a password.
    #[default]
    Sudo,
    /// One is, after logging in.
    None,
}

impl Inventory {
    /// Reads an inventory.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let mut inventory =
            Self::parse(&text).map_err(|problem| Error::Invalid { path: path.into(), problem })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        inventory.ssh_config = inventory.ssh_config.map(|config| folder.join(config));
        Ok(inventory)
    }

    /// The hosts' names for ssh, by the nodes' names.
    pub fn hosts(&self) -> [(&'static str, &str); 3] {
        let [controller, compute1, compute2] = NODES;
        [
            (controller, &self.controller.host),
            (compute1, &self.compute1.host),
            (compute2, &self.compute2.host),
        ]
    }

    /// What a file with this text says, or what is wrong with it.
    fn parse(text: &str) -> Result<Self, String> {
        let inventory: Self = serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text))
            .map_err(|e| {
                let (path, problem) = (e.path().to_string(), e.into_inner());
                if path == "." { problem.to_string() } else { format!("{path}: {problem}") }
            })?;
        let Self { controller, compute1, compute2, .. } = &inventory;
        for (name, compute) in [("compute1", compute1), ("compute2", compute2)] {
            if compute.guests == compute.migration {
                return Err(format!(
                    "{name}: {} cannot be both the guests' network and the migration network",
                    compute.guests
                ));
            }
        }
        let hosts = [&controller.host, &compute1.host, &compute2.host];
        if let Some(twice) = hosts.iter().enumerate().find(|(i, host)| hosts[..*i].contains(host)) {
            return Err(format!("{} is named twice; a lab takes three hosts", twice.1));
        }
        if let Some(bad) = hosts.iter().find(|host| host.is_empty() || host.starts_with('-')) {
            return Err(format!("{bad:?} is no name of a host"));
        }
        Ok(inventory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
controller: { host: lab0, guests: eth2 }
compute1: { host: lab1, guests: eth2, migration: eth1 }
compute2: { host: lab2, guests: eth2, migration: eth1 }
";

    #[test]
    fn a_file_names_three_hosts() {
        let inventory = Inventory::parse(GOOD).unwrap();
        assert_eq!(inventory.compute2.host, "lab2");
        assert_eq!(inventory.r#become, Become::Sudo);
        let root = Inventory::parse(&format!("{GOOD}become: none\n")).unwrap();
        assert_eq!(root.r#become, Become::None);
    }

    #[test]
    fn a_configuration_is_looked_for_beside_the_inventory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.yaml");
        fs::write(&path, format!("{GOOD}ssh_config: keys/config\n")).unwrap();
        assert_eq!(Inventory::read(&path).unwrap().ssh_config, Some(dir.path().join("keys/config")));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let problem = |text: &str| Inventory::parse(text).unwrap_err();
        let missing = problem(&GOOD.replace(", migration: eth1", ""));
        assert!(missing.contains("compute1") && missing.contains("migration"), "{missing}");
        let unknown = problem(&format!("{GOOD}image: /x\n"));
        assert!(unknown.contains("unknown field `image`") && unknown.contains("`images`"), "{unknown}");
        assert!(problem(&GOOD.replace("eth1", "eth2")).contains("cannot be both"));
        assert!(problem(&GOOD.replace("lab2", "lab0")).contains("lab0 is named twice"));
        assert!(problem(&GOOD.replace("lab1", "-oProxyCommand=x")).contains("no name of a host"));
        assert!(problem(&format!("{GOOD}become: doas\n")).contains("become"));
        assert!(problem("controller: [").contains("line"));
    }
}
