//! `testbed lab`, and what it starts in nodes and on hosts: `testbed observe` and `testbed enter`.

use super::{Failure, LabArgs, print};
use crate::{
    inspect::{
        observe,
        status::{self, NotOne, Place, Status},
    },
    lab::{
        self,
        hosts::{
            inventory::{Become, Inventory},
            ssh::Way,
        },
        topology::NODES,
    },
    matrix::Settings,
    node::server::visit::{self, Visit},
    sys,
};
use clap::{Args, Subcommand};
use netem::cli::ProfileArgs;
use std::{
    ffi::OsString,
    io::IsTerminal,
    os::{fd::RawFd, unix::process::CommandExt},
    path::PathBuf,
    process::Command,
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
    /// For hosts, also whether each answers, and what it has; the exit code is 3 when one does not. An ordinary user sees
    /// their own runs on this machine, root everybody's.
    Status(StatusArgs),
    /// Open a shell in a node of the run that is under way, or run a command there
    ///
    /// On this machine, when no run is under way, it starts a lab of three nodes that lasts as long as the shell; the
    /// options of the link shape it. On hosts, when none is under way, the shell is on the host itself, as root. The
    /// exit code is the command's.
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
}

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
    /// Be the process inside, which ends with this pipe
    #[arg(long, value_name = "FD")]
    lifeline: Option<RawFd>,
    /// Whoever asked is in the foreground of the terminal
    #[arg(long)]
    foreground: bool,
    /// The program and its arguments
    #[arg(last = true)]
    program: Vec<OsString>,
}

pub(super) fn lab(args: &LabCommand) -> Result<u8, Failure> {
    match &args.command {
        What::Status(args) => status(args),
        What::Shell(args) => shell(args),
    }
}

fn status(args: &StatusArgs) -> Result<u8, Failure> {
    let status = match args.lab.choice().inventory().map_err(super::lab_failure)? {
        None => Status::local().map_err(Failure::lab)?,
        Some(inventory) => super::runtime()?.block_on(Status::of(&inventory)).map_err(super::lab_failure)?,
    };
    let code = if status.is_whole() { 0 } else { crate::results::verdict::EXIT_FAILED };
    if args.json {
        print(&(serde_json::to_string_pretty(&status.without_text()).map_err(Failure::lab)? + "\n"));
    } else {
        print(&status.to_string());
    }
    Ok(code)
}

fn shell(args: &ShellArgs) -> Result<u8, Failure> {
    match args.lab.choice().inventory().map_err(super::lab_failure)? {
        None => local_shell(args),
        Some(inventory) => shell_on_host(args, &inventory),
    }
}

/// The node's process that is meant, if a run is under way.
fn pick(args: &ShellArgs, processes: &[observe::NodeProcess]) -> Result<Option<u32>, Failure> {
    let picked = status::pick(processes, &args.node, args.run.as_deref());
    let picked = picked.map_err(|error| match error {
        NotOne::NoNode { .. } => Failure::lab(error),
        NotOne::Several(_) | NotOne::NoSuchRun(_) => Failure::input(error),
    })?;
    if let Some(process) = picked.filter(|_| !args.link.resolve().is_empty()) {
        return Err(Failure::input(format!(
            "run {} is under way, and its link is not for the shell to shape; leave the options of the link out",
            process.run
        )));
    }
    Ok(picked.map(|process| process.pid))
}

fn local_shell(args: &ShellArgs) -> Result<u8, Failure> {
    let profile = args.link.resolve();
    profile.validate().map_err(Failure::input)?;
    let pid = pick(args, &status::local_processes().map_err(Failure::lab)?)?;
    sys::outlive_interrupts().map_err(Failure::lab)?;
    if let Some(pid) = pid {
        return Ok(visit::exit_code(enter(args, pid).status().map_err(Failure::lab)?));
    }
    super::runtime()?.block_on(async {
        let lab = lab::local::start().await.map_err(super::lab_failure)?;
        let settings = Settings { link: profile, ..Settings::default() };
        let link = lab.link(&settings).map_err(Failure::input)?;
        let shaped = if settings.link.is_empty() {
            "not shaped".into()
        } else {
            link.shape(&settings.link).await.map_err(Failure::lab)?
        };
        eprintln!(
            "no run is under way: this is a lab of the shell's own, and ends with it; compute2 is {} from compute1, {shaped}",
            link.destination_address()
        );
        let ours = std::process::id().to_string();
        let processes = status::local_processes().map_err(Failure::lab)?;
        let node = processes.iter().find(|process| process.run == ours && process.name == args.node);
        let node = node.ok_or_else(|| Failure::lab(format!("{} has ended", args.node)))?;
        // By the runtime, which the lab's nodes are served by meanwhile.
        let mut command = tokio::process::Command::from(enter(args, node.pid));
        Ok(visit::exit_code(command.status().await.map_err(Failure::lab)?))
    })
}

/// The command that brings the user's program into a node of this machine.
fn enter(args: &ShellArgs, pid: u32) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("testbed").args(["enter", &args.node, "--pid", &pid.to_string(), "--"]).args(&args.command);
    command
}

fn shell_on_host(args: &ShellArgs, inventory: &Inventory) -> Result<u8, Failure> {
    if !args.link.resolve().is_empty() {
        return Err(Failure::input(
            "the options of the link are for a lab of the shell's own, on this machine; leave them out with hosts",
        ));
    }
    let host = inventory.hosts().into_iter().find(|(node, _)| *node == args.node).map(|(_, host)| host);
    let host = host.ok_or_else(|| Failure::input(format!("a lab has no {}", args.node)))?;
    let way = Way::of(inventory);
    let mut command = super::runtime()?.block_on(async {
        let place = Place::reach(&way, host).await.map_err(super::lab_failure)?;
        let pid = pick(args, &place.processes().await.map_err(super::lab_failure)?)?;
        if pid.is_none() {
            let how = if inventory.r#become == Become::Sudo { ", by sudo" } else { "" };
            eprintln!("no run is under way: this is the host {host} itself, as root{how}");
        }
        Ok(place.visit(&args.node, pid, &args.command, std::io::stdin().is_terminal()))
    })?;
    sys::outlive_interrupts().map_err(Failure::lab)?;
    Ok(visit::exit_code(command.status().map_err(Failure::lab)?))
}

pub(super) fn observe(args: &ObserveArgs) -> Result<u8, Failure> {
    let found = if let Some(pid) = args.pid {
        observe::enter_network(pid).map_err(Failure::lab)?;
        let interfaces = super::runtime()?.block_on(observe::interfaces(true));
        serde_json::to_string(&interfaces.map_err(Failure::lab)?)
    } else {
        let found = super::runtime()?.block_on(observe::observe(&args.directory, args.cpus));
        serde_json::to_string(&found.map_err(Failure::lab)?)
    };
    print(&(found.map_err(Failure::lab)? + "\n"));
    Ok(0)
}

pub(super) fn enter_node(args: &EnterArgs) -> Result<u8, Failure> {
    let EnterArgs { node, pid, remote, lifeline, foreground, program } = args;
    let visit = Visit { node: node.clone(), pid: *pid, remote: *remote, program: program.clone() };
    match lifeline {
        Some(lifeline) => visit.serve(*lifeline, *foreground),
        None => visit.enter(),
    }
    .map_err(Failure::lab)
}
