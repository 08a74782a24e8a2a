//! `testbed enter`, which `testbed lab shell` starts: see [`crate::node::server::visit`].

use super::Failure;
use crate::{
    node::server::visit::{Error, Visit},
    sys,
};
use clap::Args;
use std::{ffi::OsString, fs::File, io::Write, os::fd::RawFd};

#[derive(Debug, Args)]
pub(super) struct EnterArgs {
    /// The node's name
    node: String,
    /// The node's process; without one, the host itself is meant
    #[arg(long)]
    pid: Option<u32>,
    /// Whoever asked is on another host
    #[arg(long)]
    remote: bool,
    /// Where a program that is not started is accounted for, instead of standard error
    #[arg(long, value_name = "FD")]
    refusal: Option<RawFd>,
    /// Be the process inside, which ends with this socket
    #[arg(long, value_name = "FD")]
    lifeline: Option<RawFd>,
    /// Whoever asked is in the foreground of the terminal
    #[arg(long)]
    foreground: bool,
    /// The program and its arguments
    #[arg(last = true)]
    program: Vec<OsString>,
}

pub(super) fn enter(args: &EnterArgs) -> Result<u8, Failure> {
    let refusal = args.refusal.map(sys::inherited).transpose().map_err(Failure::lab)?;
    let visit =
        Visit { node: args.node.clone(), pid: args.pid, remote: args.remote, program: args.program.clone() };
    if let Some(lifeline) = args.lifeline {
        return visit.serve(lifeline, args.foreground).or_else(|error| match error {
            Error::Program { .. } => {
                eprintln!("{error}");
                error.exit_code().ok_or_else(|| Failure::lab(error))
            }
            error => Err(Failure::lab(error)),
        });
    }
    match (visit.enter(), refusal) {
        (Ok(ended), _) => {
            if ended.with_its_node {
                eprintln!("{}", Error::Gone(visit.node));
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
