//! The lab of `--lab vagrant`: the machines of a Vagrantfile, as hosts that are reached by SSH.
//!
//! Beside the Vagrantfile lies [`INVENTORY`], an inventory like any other. How its hosts are reached,
//! `vagrant ssh-config` says each time a lab starts: addresses may change with every `vagrant up`. What it
//! says is kept in memory, under a path that lasts as long as this process, so that nothing is left however
//! that ends.
//!
//! This neither starts nor stops machines.

use super::{
    inventory::{self, Inventory},
    memfile::Memfile,
    ssh::{Hosts, SshConfig, Way},
};
use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The inventory, in the Vagrantfile's folder.
pub const INVENTORY: &str = "lab.yaml";

const PROGRAM: &str = "vagrant";

const VAGRANTFILE: &str = "Vagrantfile";

/// The variable that names Vagrant's folder, for Vagrant as well.
const FOLDER: &str = "VAGRANT_CWD";

/// Where this project has its Vagrantfile.
const SUBFOLDER: &str = "vagrant";

/// Why there is no lab of Vagrant's.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The inventory beside the Vagrantfile is no good.
    #[error(transparent)]
    Inventory(#[from] inventory::Error),
    /// There is no Vagrantfile.
    #[error(
        "there is no Vagrantfile in {0}; go to the folder that has it or the one above `vagrant/`, or name it by \
         {FOLDER}"
    )]
    NoVagrantfile(String),
    /// There is no Vagrant.
    #[error("cannot run vagrant: {0}; install it, on Debian the packages vagrant and vagrant-libvirt")]
    NoVagrant(io::Error),
    /// Vagrant does not say how to reach the machines.
    #[error("{folder}: `vagrant ssh-config` says: {words}; `vagrant up` there starts the machines")]
    NotUp {
        /// The Vagrantfile's folder.
        folder: String,
        /// Vagrant's own words.
        words: String,
    },
    /// It says so of other machines.
    #[error("{folder}: {INVENTORY} names the host {host}, which the Vagrantfile there does not have")]
    NoHost {
        /// The Vagrantfile's folder.
        folder: String,
        /// The host.
        host: String,
    },
    /// What Vagrant says could not be kept.
    #[error("cannot keep what `vagrant ssh-config` says: {0}")]
    Keep(io::Error),
}

impl Trouble {
    /// Whether it is for the user to say something else, rather than for the machines to work.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Inventory(_) | Self::NoVagrantfile(_) | Self::NoVagrant(_) | Self::NoHost { .. })
    }
}

/// The folder with the Vagrantfile.
fn folder() -> Result<PathBuf, Trouble> {
    let (folders, looked) = match env::var_os(FOLDER).filter(|folder| !folder.is_empty()) {
        Some(named) => (vec![PathBuf::from(&named)], format!("{} ({FOLDER})", named.to_string_lossy())),
        None => (vec![".".into(), SUBFOLDER.into()], format!("this folder or its `{SUBFOLDER}/`")),
    };
    let found = folders.into_iter().find(|folder| folder.join(VAGRANTFILE).is_file());
    found.ok_or(Trouble::NoVagrantfile(looked))
}

/// Makes sure that there is a Vagrantfile with a good inventory, and a Vagrant, which is not asked: that
/// takes seconds.
pub(crate) fn check() -> Result<(), Trouble> {
    Inventory::read(&folder()?.join(INVENTORY))?;
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file()) {
        return Ok(());
    }
    Err(Trouble::NoVagrant(io::Error::new(io::ErrorKind::NotFound, "it is not in PATH")))
}

/// The hosts, and how Vagrant says that they are reached.
pub(crate) fn hosts() -> Result<Hosts, Trouble> {
    let folder = folder()?;
    let inventory = Inventory::read(&folder.join(INVENTORY))?;
    let text = ssh_config(&folder)?;
    let hosts = [&inventory.controller.host, &inventory.compute1.host, &inventory.compute2.host];
    if let Some(host) = hosts.into_iter().find(|host| !names(&text, host)) {
        return Err(Trouble::NoHost { folder: folder.display().to_string(), host: host.clone() });
    }
    let config = Memfile::holding(&text).map_err(Trouble::Keep)?;
    let way = Way { config: Some(SshConfig::Memory(config)), root: inventory.r#become };
    Ok(Hosts { inventory, way })
}

/// What `vagrant ssh-config` prints.
fn ssh_config(folder: &Path) -> Result<String, Trouble> {
    let output = Command::new(PROGRAM)
        .arg("ssh-config")
        .env(FOLDER, folder)
        // Plain words, whatever the terminal.
        .env("VAGRANT_NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(Trouble::NoVagrant)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>();
        let words = if lines.is_empty() { output.status.to_string() } else { lines.join(" ") };
        return Err(Trouble::NotUp { folder: folder.display().to_string(), words });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a configuration for ssh names this host.
fn names(config: &str, host: &str) -> bool {
    let mut lines = config.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.any(|words| words.first() == Some(&"Host") && words[1..].contains(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_by_its_whole_name() {
        let config = "Host controller\n  HostName 192.0.2.1\n\nHost compute1 c1\n";
        assert!(["controller", "compute1", "c1"].iter().all(|host| names(config, host)));
        assert!(["compute", "192.0.2.1", "compute2"].iter().all(|host| !names(config, host)));
    }
}
