//! The lab of `--lab vagrant`: the machines of a Vagrantfile, as hosts that are reached by SSH.
//!
//! Beside the Vagrantfile lies [`INVENTORY`], an inventory like any other. How its hosts are reached, `vagrant
//! ssh-config` says each time a lab starts: addresses may change with every `vagrant up`. What it says is kept in
//! memory, under a path that lasts as long as this process, so that nothing is left however that ends.
//!
//! This neither starts nor stops machines.

use super::inventory::Inventory;
use crate::lab::Error;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::{
    env,
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::Arc,
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
        matches!(self, Self::NoVagrantfile(_) | Self::NoVagrant(_) | Self::NoHost { .. })
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

/// Makes sure that there is a Vagrantfile with a good inventory, and a Vagrant, which is not asked: that takes seconds.
pub(crate) fn check() -> Result<(), Error> {
    Inventory::read(&folder()?.join(INVENTORY))?;
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file()) {
        return Ok(());
    }
    Err(Trouble::NoVagrant(io::Error::new(io::ErrorKind::NotFound, "it is not in PATH")).into())
}

/// The hosts, and how Vagrant says that they are reached.
pub(crate) fn inventory() -> Result<Inventory, Error> {
    let folder = folder()?;
    let mut inventory = Inventory::read(&folder.join(INVENTORY))?;
    let text = ssh_config(&folder)?;
    let hosts = [&inventory.controller.host, &inventory.compute1.host, &inventory.compute2.host];
    if let Some(host) = hosts.into_iter().find(|host| !names(&text, host)) {
        return Err(Trouble::NoHost { folder: folder.display().to_string(), host: host.clone() }.into());
    }
    let kept = Unnamed::holding(&text).map_err(Trouble::Keep)?;
    inventory.ssh_config = Some(kept.path());
    inventory.kept = Some(kept);
    Ok(inventory)
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

/// A file without a name, which other processes of the user can read for as long as this value lives.
#[derive(Debug, Clone)]
pub(crate) struct Unnamed {
    file: Arc<File>,
}

impl PartialEq for Unnamed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Eq for Unnamed {}

impl Unnamed {
    fn holding(text: &str) -> io::Result<Self> {
        let mut file = File::from(memfd_create(c"testbed-ssh-config", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Through this process: ssh closes descriptors that it inherits.
    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_unnamed_file_is_read_by_others_while_it_lives() {
        let file = Unnamed::holding("Host a\n  Port 22\n").unwrap();
        let path = file.path();
        // Each from its beginning.
        for _ in 0..2 {
            let output = Command::new("cat").arg(&path).output().unwrap();
            assert_eq!(output.stdout, b"Host a\n  Port 22\n");
        }
        let real = fs::read_link(&path).unwrap();
        assert!(!real.exists(), "{} is in no folder", real.display());
        drop(file);
        assert_ne!(fs::read_link(&path).ok(), Some(real));
    }

    #[test]
    fn a_host_is_named_by_its_whole_name() {
        let config = "Host controller\n  HostName 192.0.2.1\n\nHost compute1 c1\n";
        assert!(["controller", "compute1", "c1"].iter().all(|host| names(config, host)));
        assert!(["compute", "192.0.2.1", "compute2"].iter().all(|host| !names(config, host)));
    }
}
