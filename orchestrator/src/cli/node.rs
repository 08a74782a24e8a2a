//! `testbed node`: a node process. See [`crate::node`].

use super::Failure;
use crate::node::{
    isolate::{self, die_with_parent},
    protocol::Privilege,
    serve,
};
use clap::{Args, ValueEnum};
use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::Command,
};

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Share the user namespace of this node process, if one is needed
    #[arg(long, value_name = "PID")]
    join: Option<u32>,
    /// Be the process inside the namespaces
    #[arg(long)]
    inside: Option<Inside>,
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
        None => outside(args.join),
        Some(inside) => serve_inside(match inside {
            Inside::Root => Privilege::Root,
            Inside::UserNamespace => Privilege::UserNamespace,
        }),
    }
}

/// Makes the namespaces, starts the process inside, and waits for it.
fn outside(join: Option<u32>) -> Result<u8, Failure> {
    let inside = match isolate::enter(join).map_err(Failure::lab)? {
        Privilege::Root => "root",
        Privilege::UserNamespace => "user-namespace",
    };
    let status = Command::new("/proc/self/exe")
        .arg0("testbed")
        .args(["node", "--inside", inside])
        .status()
        .map_err(|e| Failure::lab(format!("cannot start the process inside the namespaces: {e}")))?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(code as u8),
        (None, signal) => Err(Failure::lab(format!("the process inside ended by signal {signal:?}"))),
    }
}

fn serve_inside(privilege: Privilege) -> Result<u8, Failure> {
    isolate::private_run_dir().map_err(Failure::lab)?;
    super::runtime()?.block_on(serve::serve(privilege)).map_err(Failure::lab)?;
    Ok(0)
}
