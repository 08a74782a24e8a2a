//! `testbed enter`, which `testbed lab shell` starts: see [`crate::node::server::visit`].

use super::{ERROR, Failure};
use crate::{
    node::server::{
        process::{self, OnBehalfOf},
        visit::{Error, NodeSession, Outcome, Target},
    },
    process_tree::Owner,
    sys,
};
use clap::Args;
use std::{ffi::OsString, fs::File, io::Write, os::fd::RawFd};

#[derive(Debug, Args)]
pub(super) struct EnterArgs {
    /// The node's name
    node: String,
    /// The node's process; without it, the program runs on the host itself
    #[arg(long, requires = "run")]
    pid: Option<u32>,
    /// The name of the run that the node belongs to
    #[arg(long, requires = "pid")]
    run: Option<String>,
    /// Act in the node as the user with this ID, who owns it
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    /// The ID of that user's group
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
    /// The request comes from another host
    #[arg(long)]
    remote: bool,
    /// Report a program that cannot be started here instead of on standard error
    #[arg(long, value_name = "FD")]
    refusal: Option<RawFd>,
    /// Act as the process that joins the node's namespaces, for the node's user or for a visitor
    #[arg(long, value_enum, value_name = "WHOM")]
    joining: Option<OnBehalfOf>,
    /// Act as the process inside, which ends when this socket closes
    #[arg(long, value_name = "FD")]
    lifeline: Option<RawFd>,
    /// The program has a terminal of its own
    #[arg(long)]
    terminal: bool,
    /// The program and its arguments
    #[arg(last = true)]
    program: Vec<OsString>,
}

pub(super) fn enter(args: &EnterArgs) -> Result<u8, Failure> {
    let refusal = args.refusal.map(sys::inherited).transpose().map_err(Failure::lab)?;
    let target = args.pid.zip(args.run.clone()).map(|(pid, run)| Target { pid, run });
    let session =
        NodeSession { node: args.node.clone(), target, remote: args.remote, program: args.program.clone() };
    if let Some(lifeline) = args.lifeline {
        return session.run_inside(lifeline, args.terminal).or_else(|error| match error {
            Error::Program { .. } => {
                frontend::tell(format!("{ERROR}{error}"));
                error.exit_code().ok_or_else(|| Failure::lab(error))
            }
            error => Err(Failure::lab(error)),
        });
    }
    let reason = if let Some(whom) = args.joining {
        match session.enter(args.terminal, whom) {
            Ok(ended) => {
                if ended.killed_with_node {
                    frontend::tell(format!("{ERROR}{}", process::Error::Gone(session.node)));
                }
                return Ok(ended.code);
            }
            Err(error) => error.to_string(),
        }
    } else {
        let owner = args.uid.zip(args.gid).map(|(uid, gid)| Owner { uid, gid });
        match session.run(owner) {
            Ok(Outcome::Exited(code)) => return Ok(code),
            Ok(Outcome::Refused(reason)) => reason,
            Err(error) => error.to_string(),
        }
    };
    match refusal {
        Some(refusal) => {
            File::from(refusal).write_all(reason.as_bytes()).map_err(Failure::lab)?;
            Ok(Failure::lab("").code)
        }
        None => Err(Failure::lab(reason)),
    }
}
