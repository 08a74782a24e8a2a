//! `testbed lab`.

use super::{Failure, LabArgs, print};
use crate::{
    inspect::{
        shell::{self, Shell},
        status::Status,
    },
    lab::topology::NODES,
    node::server::visit,
    results::verdict::EXIT_FAILED,
    sys,
};
use clap::{Args, Subcommand};
use netem::cli::ProfileArgs;
use std::{
    ffi::OsString,
    io::{self, IsTerminal},
};

#[derive(Debug, Args)]
pub(super) struct LabCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the runs that are under way: their nodes, interfaces, what shapes them, and the QEMUs
    ///
    /// For hosts, also whether each answers, and what it has; the exit code is 3 when one does not. An
    /// ordinary user sees their own runs on this machine, root everybody's.
    Status(StatusArgs),
    /// Open a shell in a node of the run that is under way, or run a command there
    ///
    /// On this machine, when no run is under way, it starts a lab of three nodes that lasts as long as the
    /// shell; the options of the link shape it. On hosts, when none is under way, the shell is on the host
    /// itself, as root. The exit code is the command's.
    #[command(after_help = EXAMPLES)]
    Shell(Box<ShellArgs>),
}

const EXAMPLES: &str = "Examples:
  testbed lab shell compute1 -- tc -s qdisc show dev migration
  testbed lab shell --rate 100mbit --delay 20ms compute1
  testbed lab shell --lab lab.yaml controller";

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShellArgs {
    /// The node
    #[arg(value_parser = NODES)]
    node: String,
    #[command(flatten)]
    lab: LabArgs,
    /// The run, as `testbed lab status` names it, where several are under way
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// A command with its arguments instead of the shell that SHELL names
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    link: ProfileArgs,
}

pub(super) fn lab(args: &LabCommand) -> Result<u8, Failure> {
    match &args.command {
        What::Status(args) => status(args),
        What::Shell(args) => shell(args),
    }
}

fn status(args: &StatusArgs) -> Result<u8, Failure> {
    let status = match args.lab.choice().hosts().map_err(super::lab_failure)? {
        None => Status::local().map_err(Failure::lab)?,
        Some(hosts) => super::runtime()?.block_on(Status::of(&hosts)).map_err(super::lab_failure)?,
    };
    let code = if status.is_whole() { 0 } else { EXIT_FAILED };
    if args.json {
        print(&(serde_json::to_string_pretty(&status.without_text()).map_err(Failure::lab)? + "\n"));
    } else {
        print(&status.to_string());
    }
    Ok(code)
}

fn shell(args: &ShellArgs) -> Result<u8, Failure> {
    let shell = Shell {
        node: &args.node,
        run: args.run.as_deref(),
        link: args.link.resolve(),
        program: &args.command,
    };
    let failure =
        |error: shell::Error| if error.is_input() { Failure::input(error) } else { Failure::lab(error) };
    let notice = |text: &str| eprintln!("{text}");
    let runtime = super::runtime()?;
    let Some(hosts) = args.lab.choice().hosts().map_err(super::lab_failure)? else {
        return runtime.block_on(shell.on_this_machine(notice)).map_err(failure);
    };
    let terminal = io::stdin().is_terminal();
    let mut command = runtime.block_on(shell.on_host(&hosts, terminal, notice)).map_err(failure)?;
    sys::outlive_interrupts().map_err(Failure::lab)?;
    Ok(visit::exit_code(command.status().map_err(Failure::lab)?))
}
