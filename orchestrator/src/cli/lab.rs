//! `testbed lab`.

use super::{Failure, LabArgs, print, print_json, terminal};
use crate::{
    inspect::{
        shell::{self, Shell},
        status::Status,
    },
    lab::topology::NODES,
    layout,
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
    command: LabSubcommand,
}

#[derive(Debug, Subcommand)]
enum LabSubcommand {
    /// Show the runs in progress: nodes, interfaces, link shaping and QEMU processes
    ///
    /// With an inventory it also shows whether each host answers, and its CPUs, memory, kernel and QEMU.
    /// Ordinary users see their own runs on this host; root sees everybody's, with the name of the user. What
    /// a run of another user shows is under that user's control.
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Open a shell in a node of the run in progress, or run a command there
    ///
    /// If no run is in progress on this host, it starts a lab of three nodes that lasts as long as the shell;
    /// the link options shape its link. If none is in progress on the hosts of an inventory, the shell is on
    /// the host itself, as root.
    ///
    /// On a terminal, the shell has a terminal of its own. Root enters other users' runs only with --user,
    /// and then has that user's rights and only these variables: PATH, HOME, USER and LOGNAME of that user,
    /// and LANG, LC_*, SHELL and TERM.
    #[command(after_help = SHELL_HELP)]
    Shell(Box<ShellArgs>),
}

pub(super) const AFTER_HELP: &str = "Examples:
  testbed lab status
  testbed lab shell compute1";

const STATUS_HELP: &str = "Examples:
  testbed lab status
  testbed lab status --lab lab.yaml --json

Exit codes:
  0    the state is shown
  2    bad input
  3    a host does not answer";

const SHELL_HELP: &str = "Examples:
  testbed lab shell compute1 -- tc -s qdisc show dev migration
  testbed lab shell --rate 100mbit --delay 20ms compute1
  testbed lab shell --lab lab.yaml controller
  testbed lab shell --user alice compute1

Environment:
  SHELL  the shell to start [default: /bin/sh]

Exit codes:
  The command's own; 2 for bad input; 3 if the node cannot be entered.";

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// Also show what the login shells of hosts print
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShellArgs {
    /// The node to enter
    #[arg(value_parser = NODES)]
    node: String,
    #[command(flatten)]
    lab: LabArgs,
    /// The run to enter if several are in progress, as `testbed lab status` names it
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Choose among the runs of this user, a name or an ID; only root can name another user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Also show what the login shells of hosts print
    #[arg(short, long)]
    verbose: bool,
    /// A command with its arguments, to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    link: ProfileArgs,
}

pub(super) fn lab(args: &LabCommand) -> Result<u8, Failure> {
    match &args.command {
        LabSubcommand::Status(args) => status(args),
        LabSubcommand::Shell(args) => shell(args),
    }
}

fn status(args: &StatusArgs) -> Result<u8, Failure> {
    let status = match args.lab.choice().hosts().map_err(super::lab_failure)? {
        None => Status::local().map_err(Failure::lab)?,
        Some(hosts) => {
            let status = super::runtime()?.block_on(Status::of_hosts(&hosts)).map_err(super::lab_failure)?;
            if args.verbose {
                super::tell_greetings(&hosts);
            }
            status
        }
    };
    let code = if status.all_hosts_answer() { 0 } else { EXIT_FAILED };
    if args.json {
        print_json(&status.without_text())?;
    } else {
        print(layout::fold(&status.to_string(), terminal::width()))?;
    }
    Ok(code)
}

fn shell(args: &ShellArgs) -> Result<u8, Failure> {
    let shell = Shell {
        node: &args.node,
        run: args.run.as_deref(),
        user: args.user.as_deref(),
        link: args.link.resolve(),
        program: &args.command,
    };
    let failure =
        |error: shell::Error| if error.is_input() { Failure::input(error) } else { Failure::lab(error) };
    let notice = |text: &str| frontend::tell(text);
    let runtime = super::runtime()?;
    let Some(hosts) = args.lab.choice().hosts().map_err(super::lab_failure)? else {
        return runtime.block_on(shell.run_locally(notice)).map_err(failure);
    };
    let terminal = io::stdin().is_terminal();
    let session = runtime.block_on(shell.host_session(&hosts, terminal, notice));
    let ended = session.map_err(failure).and_then(|session| {
        sys::survive_terminal_signals().map_err(Failure::lab)?;
        session.run().map_err(Failure::lab)
    });
    if args.verbose {
        super::tell_greetings(&hosts);
    }
    Ok(visit::exit_code(ended?))
}
