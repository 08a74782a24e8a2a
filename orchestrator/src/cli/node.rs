//! `testbed node`: a node process. See [`crate::node`].

use super::Failure;
use crate::node::{
    protocol::Privilege,
    server::{host::HostNetwork, isolate::die_with_parent, outside::NodeLauncher, serve},
};
use clap::{Args, ValueEnum};
use std::os::fd::RawFd;

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Share the user namespace of this node process, if one is needed
    #[arg(long, value_name = "PID")]
    join: Option<u32>,
    /// Serve an orchestrator on another host, connected by the session of this `SSH_CONNECTION`
    #[arg(long, value_name = "SSH_CONNECTION")]
    remote: Option<String>,
    /// The node's name, by which it is found in a list of processes
    #[arg(long)]
    name: String,
    /// The run that the node belongs to, found in the same way
    #[arg(long)]
    run: String,
    /// Act as the process inside the namespaces
    #[arg(long)]
    inside: Option<Inside>,
    /// The file descriptor of the host's network namespace, for the process inside
    #[arg(long, value_name = "FD", requires = "remote")]
    network: Option<RawFd>,
}

/// The source of the right to create namespaces, passed to the process inside.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Inside {
    Root,
    UserNamespace,
}

pub(super) fn node(args: &NodeArgs) -> Result<u8, Failure> {
    die_with_parent().map_err(Failure::lab)?;
    match args.inside {
        None => {
            let NodeArgs { join, remote, name, run, .. } = args;
            NodeLauncher { name, run, join: *join, remote: remote.as_deref() }.launch().map_err(Failure::lab)
        }
        Some(inside) => {
            let host = match (&args.remote, args.network) {
                (Some(connection), Some(network)) => {
                    Some(HostNetwork::open(network, connection).map_err(Failure::lab)?)
                }
                _ => None,
            };
            let privilege = match inside {
                Inside::Root => Privilege::Root,
                Inside::UserNamespace => Privilege::UserNamespace,
            };
            let runtime = super::runtime()?;
            let served = runtime.block_on(serve::serve(privilege, host)).map_err(Failure::lab);
            // A call may still be copying a file, on a thread that cannot be cancelled.
            runtime.shutdown_background();
            served.map(|()| 0)
        }
    }
}
