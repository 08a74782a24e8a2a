//! `testbed observe`, which `testbed lab` and `testbed doctor` start in nodes and on hosts.

use super::{Failure, print};
use crate::inspect::observe::{self, Wanted};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    /// Only the interfaces in the network of this process
    #[arg(long)]
    pid: Option<u32>,
    /// Say what this directory lies on, too
    #[arg(long, value_name = "DIR")]
    directory: Vec<PathBuf>,
    /// Ask QEMU for its CPUs, too
    #[arg(long)]
    cpus: bool,
    /// Look for the nodes of runs, too
    #[arg(long)]
    nodes: bool,
}

pub(super) fn observe(args: &ObserveArgs) -> Result<u8, Failure> {
    let found = if let Some(pid) = args.pid {
        observe::enter_network(pid).map_err(Failure::lab)?;
        let interfaces = super::runtime()?.block_on(observe::interfaces(true));
        serde_json::to_string(&interfaces.map_err(Failure::lab)?)
    } else {
        let wanted = Wanted { directories: args.directory.clone(), cpus: args.cpus, nodes: args.nodes };
        let found = super::runtime()?.block_on(observe::observe(&wanted));
        serde_json::to_string(&found.map_err(Failure::lab)?)
    };
    print(&(found.map_err(Failure::lab)? + "\n"));
    Ok(0)
}
