//! `testbed observe`, which `testbed lab` and `testbed doctor` start in nodes and on hosts.

use super::{Failure, print};
use crate::{
    inspect::observe::{self, ObserveRequest},
    sys,
};
use clap::Args;
use frontend::Text;
use std::{os::fd::RawFd, path::PathBuf};

#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    /// Report only the interfaces in this network namespace, which is open as this descriptor
    #[arg(long, value_name = "FD")]
    network: Option<RawFd>,
    /// The user namespace to enter first
    #[arg(long, value_name = "FD", requires = "network")]
    user_namespace: Option<RawFd>,
    /// Also report the file system of this directory
    #[arg(long, value_name = "DIR")]
    directory: Vec<PathBuf>,
    /// Also ask QEMU for its CPU models
    #[arg(long)]
    cpus: bool,
    /// Also look for nodes of runs
    #[arg(long)]
    nodes: bool,
}

pub(super) fn observe(args: &ObserveArgs) -> Result<u8, Failure> {
    let found = if let Some(network) = args.network {
        let user = args.user_namespace.map(sys::inherited).transpose().map_err(Failure::lab)?;
        let network = sys::inherited(network).map_err(Failure::lab)?;
        observe::enter_network(user, network).map_err(Failure::lab)?;
        let interfaces = super::runtime()?.block_on(observe::interfaces(true));
        serde_json::to_string(&interfaces.map_err(Failure::lab)?)
    } else {
        let request =
            ObserveRequest { directories: args.directory.clone(), cpus: args.cpus, nodes: args.nodes };
        let found = super::runtime()?.block_on(observe::observe(&request));
        serde_json::to_string(&found.map_err(Failure::lab)?)
    };
    print(Text::json(&(found.map_err(Failure::lab)? + "\n")))?;
    Ok(0)
}
