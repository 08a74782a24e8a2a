//! `testbed node`: a node process. See [`crate::node`].

use super::Failure;
use crate::node::{
    protocol::Privilege,
    server::{
        host::{self, Host},
        isolate::{self, die_with_parent},
        serve,
    },
};
use clap::{Args, ValueEnum};
use std::{
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::Command,
};

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Share the user namespace of this node process, if one is needed
    #[arg(long, value_name = "PID")]
    join: Option<u32>,
    /// Serve an orchestrator on another host, which came by the session of this `SSH_CONNECTION`
    #[arg(long, value_name = "SSH_CONNECTION")]
    remote: Option<String>,
    /// The node's name, by which it is found in a list of processes
    #[arg(long)]
    name: String,
    /// The run that it belongs to, likewise
    #[arg(long)]
    run: String,
    /// Be the process inside the namespaces
    #[arg(long)]
    inside: Option<Inside>,
    /// The file descriptor of the host's network namespace, for the process inside
    #[arg(long, value_name = "FD", requires = "remote")]
    network: Option<RawFd>,
}

/// What the namespaces' right comes from, told to the process inside.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Inside {
    Root,
    UserNamespace,
}

pub(super) fn node(args: &NodeArgs) -> Result<u8, Failure> {
    die_with_parent().map_err(Failure::lab)?;
    match args.inside {
        None => outside(args),
        Some(inside) => {
            let host = match (&args.remote, args.network) {
                (Some(connection), Some(network)) => {
                    Some(Host::open(network, connection).map_err(Failure::lab)?)
                }
                _ => None,
            };
            let privilege = match inside {
                Inside::Root => Privilege::Root,
                Inside::UserNamespace => Privilege::UserNamespace,
            };
            serve_inside(privilege, host)
        }
    }
}

/// Makes the namespaces, starts the process inside, and waits for it.
fn outside(args: &NodeArgs) -> Result<u8, Failure> {
    let network =
        args.remote.as_ref().map(|_| host::inheritable_network()).transpose().map_err(Failure::lab)?;
    let inside = match (isolate::enter(args.join).map_err(Failure::lab)?, &args.remote) {
        (Privilege::Root, _) => "root",
        (Privilege::UserNamespace, None) => "user-namespace",
        (Privilege::UserNamespace, Some(_)) => {
            return Err(Failure::lab(
                "a node on another host needs root there; set `become: sudo` in the inventory",
            ));
        }
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg0("testbed").args(["node", "--inside", inside, "--name", &args.name, "--run", &args.run]);
    if let (Some(connection), Some(network)) = (&args.remote, &network) {
        command.args(["--remote", connection, "--network", &network.as_raw_fd().to_string()]);
    }
    let status = command
        .status()
        .map_err(|e| Failure::lab(format!("cannot start the process inside the namespaces: {e}")))?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(code as u8),
        (None, signal) => Err(Failure::lab(format!("the process inside ended by signal {signal:?}"))),
    }
}

fn serve_inside(privilege: Privilege, host: Option<Host>) -> Result<u8, Failure> {
    isolate::private_run_dir().map_err(Failure::lab)?;
    super::runtime()?.block_on(serve::serve(privilege, host)).map_err(Failure::lab)?;
    Ok(0)
}
