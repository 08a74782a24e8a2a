//! The inventory of a lab: a YAML file that names its hosts and their interfaces.
//!
//! ```yaml
//! controller: { host: lab0, guests: eth2 }
//! compute1:   { host: lab1, guests: eth2, migration: eth1 }
//! compute2:   { host: lab2, guests: eth2, migration: eth1 }
//! become: sudo                # how to become root; `none` if the login user is root
//! images: /srv/images         # directory for the guest's files; default: each host's cache directory.
//!                             # An absolute path, or `~/…` in the login user's home directory there.
//! ssh_config: ssh-config      # default: the user's own ssh configuration. Relative to this file, or `~/…`.
//! ```
//!
//! `host` is any destination that `ssh` accepts; keys, users, ports and jump hosts belong in the ssh
//! configuration. The interfaces must carry no other traffic during a run. They need no address.

use super::host_path::{HostPath, check_text};
use crate::{input, lab::topology::NODES, matrix::yaml};
use serde::Deserialize;
use std::{
    env, fs, io,
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
    pub images: Option<HostPath>,
    /// The configuration file for ssh, relative to the inventory or to the user's home directory (`~/…`). By
    /// default the user's own.
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
    /// relative to the inventory's folder, and checks that the file exists.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (text, path) = input::read(path);
        let text = text.map_err(|source| Error::Read { path: path.clone(), source })?;
        let invalid = |problem| Error::Invalid { path: path.clone(), problem };
        let mut inventory = Self::parse(&text).map_err(invalid)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if let Some(config) = inventory.ssh_config {
            inventory.ssh_config = Some(find_ssh_config(folder, &config).map_err(invalid)?);
        }
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
        let is_bad =
            |host: &str| host.is_empty() || host.starts_with('-') || host.chars().any(char::is_control);
        if let Some(bad) = hosts.iter().find(|host| is_bad(host)) {
            return Err(format!("{bad:?} is not a valid host name"));
        }
        for (key, interface) in [
            ("controller.guests", &controller.guests),
            ("compute1.guests", &compute1.guests),
            ("compute1.migration", &compute1.migration),
            ("compute2.guests", &compute2.guests),
            ("compute2.migration", &compute2.migration),
        ] {
            check_interface(interface).map_err(|problem| format!("{key}: {problem}"))?;
        }
        if let Some(config) = &inventory.ssh_config {
            check_text("a path", &config.to_string_lossy())
                .map_err(|problem| format!("ssh_config: {problem}"))?;
        }
        Ok(inventory)
    }
}

/// The longest name that an interface can have, including alternative names (`ALTIFNAMSIZ`), in bytes.
const INTERFACE_BYTES: usize = 127;

/// Checks that an interface can have this name.
fn check_interface(name: &str) -> Result<(), String> {
    const WHAT: &str = "the name of an interface";
    check_text(WHAT, name)?;
    let bad = |c: char| c == '/' || c.is_whitespace();
    if name.contains(bad) || name.len() > INTERFACE_BYTES || [".", ".."].contains(&name) {
        return Err(format!("{name:?} is not {WHAT}; `ip -brief link` on that host lists them"));
    }
    Ok(())
}

/// Returns the path of the configuration for ssh that an inventory in `folder` names.
///
/// # Errors
///
/// The problem as text if the file does not exist.
fn find_ssh_config(folder: &Path, config: &Path) -> Result<PathBuf, String> {
    let text = config.to_string_lossy();
    let path = match (config.strip_prefix("~"), env::var_os("HOME")) {
        (Ok(below), Some(home)) => Path::new(&home).join(below),
        (Ok(_), None) => return Err(format!("ssh_config: {text} needs HOME, which is not set")),
        (Err(_), _) if text.starts_with('~') => {
            return Err(format!(
                "ssh_config: {text:?} is another user's home directory; write its absolute path"
            ));
        }
        (Err(_), _) => folder.join(config),
    };
    let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    let cannot = |why: String| {
        let shown = absolute.display();
        Err(format!("ssh_config: cannot use {shown}: {why}; a relative path is relative to the inventory"))
    };
    match fs::metadata(&path) {
        Err(error) => cannot(error.to_string()),
        Ok(found) if found.is_dir() => cannot("it is a directory".into()),
        Ok(_) => Ok(path),
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
        let missing = Inventory::read(&path).unwrap_err().to_string();
        let config = dir.path().join("keys/config");
        for words in ["ssh_config", config.to_str().unwrap(), "No such file", "relative to the inventory"] {
            assert!(missing.contains(words), "{missing}");
        }
        fs::create_dir_all(&config).unwrap();
        assert!(Inventory::read(&path).unwrap_err().to_string().contains("it is a directory"));
        fs::remove_dir(&config).unwrap();
        fs::write(&config, "").unwrap();
        assert_eq!(Inventory::read(&path).unwrap().ssh_config, Some(config));
        fs::write(&path, format!("{GOOD}ssh_config: ~other/config\n")).unwrap();
        assert!(Inventory::read(&path).unwrap_err().to_string().contains("another user's home directory"));
    }

    #[test]
    fn paths_and_names_that_no_host_can_have_are_refused() {
        let problem = |text: &str| Inventory::parse(text).unwrap_err();
        let with = |line: &str| format!("{GOOD}{line}\n");
        for line in ["images: /srv/images", "images: ~/img", "images: \"/a dir/it's\"", "ssh_config: a b"] {
            Inventory::parse(&with(line)).unwrap();
        }
        for (line, words) in [
            ("images: images", &["images: ", "relative", "/srv/images", "~/images"][..]),
            ("images: ''", &["images: ", "empty"]),
            ("images: \"/srv/\\nx\"", &["images: ", "control character"]),
            ("images: ~other/img", &["images: ", "another user"]),
            ("ssh_config: ''", &["ssh_config: ", "empty"]),
            ("ssh_config: \"a\\0b\"", &["ssh_config: ", "control character"]),
        ] {
            let problem = problem(&with(line));
            assert!(words.iter().all(|word| problem.contains(word)), "{words:?} is not all in: {problem}");
        }
        for bad in ["''", "\"eth1\\n\"", "eth 1", "a/b", "'.'", &"e".repeat(128)] {
            let problem = problem(&GOOD.replacen("migration: eth1", &format!("migration: {bad}"), 1));
            assert!(problem.starts_with("compute1.migration: "), "{bad}: {problem}");
        }
        assert!(problem(&GOOD.replace("lab1", "\"lab\\e1\"")).contains("not a valid host name"));
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
