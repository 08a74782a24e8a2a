//! Which lab a command uses, and how it starts.

use super::{
    Error, Lab,
    hosts::{
        inventory::Inventory,
        ssh::{self, Hosts},
        vagrant,
    },
    local,
};
use crate::image::GuestFiles;
use std::{convert::Infallible, path::PathBuf, str::FromStr};

/// Which lab is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// Namespaces of this machine.
    #[default]
    Local,
    /// The machines of a Vagrantfile, see [`vagrant`].
    Vagrant,
    /// The hosts that this file names.
    Inventory(PathBuf),
}

impl Choice {
    /// The hosts; none where the nodes are this machine's own.
    pub fn hosts(&self) -> Result<Option<Hosts>, Error> {
        Ok(match self {
            Self::Local => None,
            Self::Vagrant => Some(vagrant::hosts()?),
            Self::Inventory(path) => Some(Inventory::read(path)?.into()),
        })
    }

    /// Makes sure that the hosts are named as they have to be; reaches none.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Self::Vagrant => Ok(vagrant::check()?),
            other => other.hosts().map(drop),
        }
    }
}

impl FromStr for Choice {
    type Err = Infallible;

    /// `local`, `vagrant`, or a path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "local" => Self::Local,
            "vagrant" => Self::Vagrant,
            path => Self::Inventory(path.into()),
        })
    }
}

/// Starts a lab in which these guests can be run, and which others may look into.
pub async fn start(choice: &Choice, guest: &GuestFiles) -> Result<Lab, Error> {
    let lab = match choice.hosts()? {
        None => local::start().await?,
        Some(hosts) => {
            let mut lab = ssh::start(&hosts, guest).await?;
            if *choice == Choice::Vagrant {
                lab.description.kind = "vagrant".into();
            }
            lab
        }
    };
    lab.announce().await?;
    Ok(lab)
}
