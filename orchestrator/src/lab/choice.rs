//! The choice of a lab on the command line (`--lab`), and how the chosen lab starts.

use super::{
    Error, Lab, LabKind,
    hosts::{
        inventory::Inventory,
        ssh::{self, SshHosts},
        vagrant,
    },
    local,
};
use crate::image::GuestFiles;
use std::{convert::Infallible, panic, path::PathBuf, str::FromStr};
use tokio::task;

/// The lab that a command uses: the value of `--lab`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LabChoice {
    /// A lab in namespaces on this host.
    #[default]
    Local,
    /// The machines of a Vagrantfile: see [`vagrant`].
    Vagrant,
    /// The hosts named in this inventory file.
    Inventory(PathBuf),
}

impl LabChoice {
    /// Returns the hosts of the lab, or `None` for the local lab. For Vagrant, runs `vagrant ssh-config`.
    pub fn hosts(&self) -> Result<Option<SshHosts>, Error> {
        Ok(match self {
            Self::Local => None,
            Self::Vagrant => Some(vagrant::hosts()?),
            Self::Inventory(path) => Some(Inventory::read(path)?.into()),
        })
    }

    /// Validates the inventory without contacting any host, and for Vagrant that `vagrant` is in `PATH`.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Self::Vagrant => Ok(vagrant::check()?),
            other => other.hosts().map(drop),
        }
    }
}

impl FromStr for LabChoice {
    type Err = Infallible;

    /// Parses `local`, `vagrant`, or the path of an inventory.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "local" => Self::Local,
            "vagrant" => Self::Vagrant,
            path => Self::Inventory(path.into()),
        })
    }
}

/// Starts a lab, uploads the guest's files to its hosts, and announces it, so that `testbed lab` can inspect
/// and enter its nodes. `notice` receives what the login shells of the hosts print.
pub async fn start(choice: &LabChoice, guest: &GuestFiles, notice: impl Fn(&str)) -> Result<Lab, Error> {
    let owned = choice.clone();
    // `vagrant` takes seconds, in which the user may interrupt the run.
    let hosts = task::spawn_blocking(move || owned.hosts()).await;
    let lab = match hosts.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))? {
        None => local::start().await?,
        Some(hosts) => {
            let started = Box::pin(ssh::start(&hosts, guest)).await;
            hosts.access.greetings().iter().for_each(|greeting| notice(greeting));
            let mut lab = started?;
            lab.access = Some(hosts.access);
            if *choice == LabChoice::Vagrant {
                lab.description.kind = LabKind::Vagrant;
            }
            lab
        }
    };
    lab.announce().await?;
    Ok(lab)
}
