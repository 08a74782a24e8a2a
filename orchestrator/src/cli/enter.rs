//! `testbed enter`, which `testbed lab shell` starts: see [`crate::node::server::visit`].

use super::{ERROR, Failure};
use crate::{
    node::server::visit::{Error, NodeSession},
    sys,
};
use clap::Args;
use std::{ffi::OsString, fs::File, io::Write, os::fd::RawFd};

#[derive(Debug, Args)]
pub(super) struct EnterArgs {
    /// The node's name
    node: String,
    /// The node's process; without it, the program runs on the host itself
    #[arg(long)]
    pid: Option<u32>,
    /// The request comes from another host
    #[arg(long)]
    remote: bool,
    /// Report a program that cannot be started here instead of on standard error
    #[arg(long, value_name = "FD")]
    refusal: Option<RawFd>,
    /// Act as the process inside, which ends when this socket closes
    #[arg(long, value_name = "FD")]
    lifeline: Option<RawFd>,
    /// The requesting process is in the foreground of its terminal
    #[arg(long)]
    foreground: bool,
    /// The program and its arguments
    #[arg(last = true)]
    program: Vec<OsString>,
}

pub(super) fn enter(args: &EnterArgs) -> Result<u8, Failure> {
    let refusal = args.refusal.map(sys::inherited).transpose().map_err(Failure::lab)?;
    let session = NodeSession {
        node: args.node.clone(),
        pid: args.pid,
        remote: args.remote,
        program: args.program.clone(),
    };
    if let Some(lifeline) = args.lifeline {
        return session.run_inside(lifeline, args.foreground).or_else(|error| match error {
            Error::Program { .. } => {
                frontend::tell(format!("{ERROR}{error}"));
                error.exit_code().ok_or_else(|| Failure::lab(error))
            }
            error => Err(Failure::lab(error)),
        });
    }
    match (session.enter(), refusal) {
        (Ok(ended), _) => {
            if ended.killed_with_node {
                frontend::tell(format!("{ERROR}{}", Error::Gone(session.node)));
            }
            Ok(ended.code)
        }
        (Err(error), Some(refusal)) => {
            File::from(refusal).write_all(error.to_string().as_bytes()).map_err(Failure::lab)?;
            Ok(Failure::lab("").code)
        }
        (Err(error), None) => Err(Failure::lab(error)),
    }
}
