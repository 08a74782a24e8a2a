//! The command line of `testbed`: one definition, from which help, man pages and completions are made.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes: 0 when all went well and
//! every expectation holds, 1 when one does not, 2 for bad input (nothing was started), 3 when the lab or
//! QEMU failed, 130 when the run was interrupted.

use crate::{
    image::KernelChoice,
    lab::Choice,
    matrix::selection::Selection,
    report::{FormatName, Rendered},
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, builder::PossibleValue};
use std::{fmt, path::PathBuf, process::ExitCode};

mod doctor;
mod enter;
mod generate;
mod lab;
mod node;
mod observe;
mod plan;
mod report;
mod run;
mod schema;
mod setup;

/// Runs a matrix of real QEMU live migrations and reports what it measured.
///
/// A matrix file names a guest, a link, a workload and a way to migrate, and axes that vary them. Each
/// combination is migrated for real, between two nodes of a lab, over a link that is really shaped.
#[derive(Debug, Parser)]
#[command(name = "testbed", version, max_term_width = 100, after_long_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0    all went well, and every expectation holds
  1    an expectation does not hold
  2    bad input; nothing was started
  3    the lab or QEMU failed
  130  interrupted";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a matrix of migrations and report
    #[command(after_help = EXIT_CODES)]
    Run(run::RunArgs),
    /// Show the cells of a matrix, what the model predicts for each, and what would be skipped
    Plan(plan::PlanArgs),
    /// Show the tables of finished or unfinished runs again
    Report(report::ReportArgs),
    /// List what a run needs, what is missing here, and the command that mends it
    Doctor(doctor::DoctorArgs),
    /// Install what is missing: QEMU, the guest's kernel, the guest's image
    Setup(setup::SetupArgs),
    /// Look into a lab while it is used: what is under way, and a shell in a node
    Lab(lab::LabCommand),
    /// Print the JSON Schema of matrix files, for editors
    Schema(schema::SchemaArgs),
    /// Serve as a node of a lab; started by `testbed run`
    #[command(hide = true)]
    Node(node::NodeArgs),
    /// Say what there is on this host; started by `testbed lab` and `testbed doctor`
    #[command(hide = true)]
    Observe(observe::ObserveArgs),
    /// Run a program in a node; started by `testbed lab shell`
    #[command(hide = true)]
    Enter(enter::EnterArgs),
    /// Write man pages and completions of all three programs below a folder
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

/// Which of a matrix's cells are meant.
#[derive(Debug, Args)]
struct SelectionArgs {
    /// Only the cells for which this holds, like "stress.rate <= 96MB/s and link.delay == 0"
    #[arg(long, value_name = "EXPR")]
    only: Option<String>,
    /// Repeat each cell this often, whatever the file says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Only the I-th of N parts of the matrix; all parts together are the whole
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
}

impl SelectionArgs {
    fn selection(&self) -> Selection {
        Selection { only: self.only.clone(), repeat: self.repeat, shard: self.shard.clone() }
    }
}

/// Which lab is used.
#[derive(Debug, Args)]
struct LabArgs {
    /// The nodes: `local`, namespaces of this machine; `vagrant`, the machines of the Vagrantfile here, in
    /// `vagrant/` or where `VAGRANT_CWD` says; or the file of an inventory, hosts that are reached by SSH
    #[arg(long, value_name = "LAB", default_value = "local")]
    lab: String,
}

impl LabArgs {
    fn choice(&self) -> Choice {
        let Ok(choice) = self.lab.parse();
        choice
    }
}

impl ValueEnum for FormatName {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Which kernel guests boot.
#[derive(Debug, Args)]
struct KernelArgs {
    /// The guest's kernel: a path; `auto`, what setup has prepared, else the host's own
    #[arg(long, value_name = "KERNEL", default_value = "auto")]
    kernel: String,
    /// The folder of that kernel's modules, like /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
}

impl KernelArgs {
    fn choice(&self) -> KernelChoice {
        KernelChoice::from_options(Some(&self.kernel), self.modules.as_deref())
    }
}

/// Why a command failed, and with which exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The input is wrong; nothing was started.
    fn input(error: impl fmt::Display) -> Self {
        Self { code: 2, text: error.to_string() }
    }

    /// The lab, QEMU or the system failed.
    fn lab(error: impl fmt::Display) -> Self {
        Self { code: crate::results::verdict::EXIT_FAILED, text: error.to_string() }
    }
}

/// Why there is no lab: the user has to name another one, or it does not work.
fn lab_failure(error: crate::lab::Error) -> Failure {
    if error.is_input() { Failure::input(error) } else { Failure::lab(error) }
}

/// The command line's definition, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Report(args) => report::report(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Setup(args) => setup::setup(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Schema(args) => schema::schema(&args),
        Command::Lab(args) => lab::lab(&args),
        Command::Node(args) => node::node(&args),
        Command::Observe(args) => observe::observe(&args),
        Command::Enter(args) => enter::enter(&args),
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            let text = failure.text.trim_end();
            // Diagnostics of matrix files come with their own.
            let prefix = if text.starts_with("error: ") { "" } else { "error: " };
            eprintln!("{prefix}{text}");
            failure.code.into()
        }
    }
}

/// Reads a file that the user named.
fn read(path: &PathBuf) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::input(format!("cannot read {}: {e}", path.display())))
}

/// Prints results. A reader that has gone away is no error.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints a report, and what it has no place for to standard error.
fn show(report: &Rendered) {
    print(&report.text);
    for line in report.notes.iter().flat_map(|note| note.lines()) {
        eprintln!("note: {line}");
    }
}

/// The runtime of every command: one thread is plenty, and a process that was started by the main thread is
/// ended with it, not with some worker.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::lab)
}
