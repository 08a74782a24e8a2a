//! The lab of `--lab vagrant`: the machines of a Vagrantfile, as hosts reached through SSH.
//!
//! [`INVENTORY`], next to the Vagrantfile, is an ordinary inventory. The ssh configuration for its hosts is
//! the output of `vagrant ssh-config` each time a lab starts, because addresses may change with every
//! `vagrant up`. It is kept in memory, under a path that is valid as long as this process lives, so nothing
//! remains however the process ends.
//!
//! This module neither starts nor stops machines.

use super::{
    inventory::{self, Inventory},
    memfile::Memfile,
    ssh::{Contacts, HostAccess, SshConfig, SshHosts},
};
use crate::{bounded, sys};
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long `vagrant ssh-config` may take: it loads Ruby and its plugins, and asks about each machine.
const LIMIT: Duration = Duration::from_secs(300);

/// The name of the inventory in the Vagrantfile's folder.
pub const INVENTORY: &str = "lab.yaml";

const PROGRAM: &str = "vagrant";

const VAGRANTFILE: &str = "Vagrantfile";

/// The environment variable that names the Vagrantfile's folder; Vagrant reads it too.
const FOLDER_VAR: &str = "VAGRANT_CWD";

/// The folder of the Vagrantfile in this project.
const SUBFOLDER: &str = "vagrant";

/// An error finding or reaching the Vagrant machines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The inventory next to the Vagrantfile is unreadable or invalid.
    #[error(transparent)]
    Inventory(#[from] inventory::Error),
    /// The folders that were searched contain no Vagrantfile.
    #[error(
        "no Vagrantfile in {0}; run testbed in the folder that contains it or in the parent of `vagrant/`, \
         or set {FOLDER_VAR} to its folder"
    )]
    NoVagrantfile(String),
    /// A folder that may contain a Vagrantfile cannot be read.
    #[error("cannot look for a Vagrantfile in {folder}: {source}")]
    Unreadable {
        /// The path of the folder.
        folder: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The program `vagrant` is missing or cannot be started.
    #[error("cannot run vagrant: {0}; install it (on Debian, the packages vagrant and vagrant-libvirt)")]
    NoVagrant(io::Error),
    /// The command `vagrant ssh-config` took too long.
    #[error(
        "{folder}: `vagrant ssh-config` hangs: {why}; find out what it waits for by running it there, for \
         example another `vagrant` or the machines' provider"
    )]
    Silent {
        /// The path of the Vagrantfile's folder.
        folder: String,
        /// The limit that it exceeded, as text.
        why: io::Error,
    },
    /// The command `vagrant ssh-config` failed, as it does if the machines are not running.
    #[error("{folder}: `vagrant ssh-config` failed: {message}; start the machines there with `vagrant up`")]
    NotUp {
        /// The path of the Vagrantfile's folder.
        folder: String,
        /// Vagrant's error message on one line.
        message: String,
    },
    /// A host of the inventory is not a machine of the Vagrantfile.
    #[error("{folder}: {INVENTORY} names the host {host}, which the Vagrantfile there does not define")]
    NoHost {
        /// The path of the Vagrantfile's folder.
        folder: String,
        /// The host's name in the inventory.
        host: String,
    },
    /// The file in memory for the output of `vagrant ssh-config` could not be created.
    #[error("cannot store the output of `vagrant ssh-config` in memory: {0}")]
    Memfile(io::Error),
}

impl Error {
    /// Returns whether the user's input or installation is wrong, as opposed to machines that are not
    /// running.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::NotUp { .. } | Self::Silent { .. } | Self::Memfile(_))
    }
}

/// Finds the folder with the Vagrantfile: the folder that `VAGRANT_CWD` names, or else the current folder or
/// its subfolder `vagrant/`.
fn folder() -> Result<PathBuf, Error> {
    let (folders, searched) = match env::var_os(FOLDER_VAR).filter(|folder| !folder.is_empty()) {
        Some(named) => (vec![PathBuf::from(&named)], format!("{} ({FOLDER_VAR})", named.to_string_lossy())),
        None => (vec![".".into(), SUBFOLDER.into()], format!("the current folder or in `{SUBFOLDER}/`")),
    };
    for folder in folders {
        match fs::metadata(folder.join(VAGRANTFILE)) {
            Ok(found) if found.is_file() => return Ok(folder),
            Err(source)
                if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Err(Error::Unreadable { folder: folder.display().to_string(), source });
            }
            _ => {}
        }
    }
    Err(Error::NoVagrantfile(searched))
}

/// Checks that there is a Vagrantfile with a valid inventory, and that `vagrant` is in `PATH`. Does not run
/// `vagrant`, because that takes seconds.
pub(crate) fn check() -> Result<(), Error> {
    Inventory::read(&folder()?.join(INVENTORY))?;
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file()) {
        return Ok(());
    }
    Err(Error::NoVagrant(io::Error::new(io::ErrorKind::NotFound, "not found in PATH")))
}

/// Returns the hosts of the inventory and the ssh configuration for them, which `vagrant ssh-config` prints.
pub(crate) fn hosts() -> Result<SshHosts, Error> {
    let folder = folder()?;
    let inventory = Inventory::read(&folder.join(INVENTORY))?;
    let text = ssh_config(Command::new(PROGRAM), &folder, LIMIT)?;
    let hosts = [&inventory.controller.host, &inventory.compute1.host, &inventory.compute2.host];
    if let Some(host) = hosts.into_iter().find(|host| !has_host(&text, host)) {
        return Err(Error::NoHost { folder: folder.display().to_string(), host: host.clone() });
    }
    let config = Memfile::with_text(&text).map_err(Error::Memfile)?;
    let access = HostAccess {
        config: Some(SshConfig::Memory(config)),
        become_root: inventory.r#become,
        images: inventory.images.clone(),
        contacts: Contacts::default(),
    };
    Ok(SshHosts { inventory, access })
}

/// Runs `vagrant ssh-config` and returns its output, which is an ssh configuration.
fn ssh_config(mut command: Command, folder: &Path, limit: Duration) -> Result<String, Error> {
    // Keep escape sequences out of error messages.
    command.arg("ssh-config").env(FOLDER_VAR, folder).env("VAGRANT_NO_COLOR", "1");
    // It is in a process group of its own, which Ctrl-C does not reach.
    sys::die_with_parent(&mut command);
    let output = bounded::output_within(&mut command, limit).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => Error::Silent { folder: folder.display().to_string(), why: error },
        _ => Error::NoVagrant(error),
    })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>();
        let message = if lines.is_empty() { output.status.to_string() } else { lines.join(" ") };
        return Err(Error::NotUp { folder: folder.display().to_string(), message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns whether an ssh configuration has a `Host` line with this name.
fn has_host(config: &str, host: &str) -> bool {
    let mut lines = config.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.any(|words| words.first() == Some(&"Host") && words[1..].contains(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vagrant_that_does_not_answer_is_given_up() {
        let mut vagrant = Command::new("sh");
        vagrant.args(["-c", "sleep 600; true"]);
        let error = ssh_config(vagrant, Path::new("/lab"), Duration::from_secs(1)).unwrap_err();
        assert!(!error.is_input());
        let expected = "/lab: `vagrant ssh-config` hangs: it did not answer within 1 s; find out what it";
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    #[test]
    fn a_host_is_found_by_its_whole_name() {
        let config = "Host controller\n  HostName 192.0.2.1\n\nHost compute1 c1\n";
        assert!(["controller", "compute1", "c1"].iter().all(|host| has_host(config, host)));
        assert!(["compute", "192.0.2.1", "compute2"].iter().all(|host| !has_host(config, host)));
    }
}
