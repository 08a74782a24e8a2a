//! The command line of `testbed`: one definition, from which help, man pages and completions are generated.
//!
//! Results go to standard output, progress and errors to standard error. Each command's help ends with
//! examples, the environment and files it uses, and its exit codes; the manual pages show the same text.

use crate::{
    image::{self, Cache, KernelChoice},
    input,
    lab::{
        LabChoice,
        hosts::{ssh::SshHosts, uploads},
    },
    matrix::{MAX_REPEAT, selection::Selection},
    report::{FigureName, FormatName, RenderedReport},
};
use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use frontend::{Printer, Text, one_line};
use serde::Serialize;
use std::{
    ffi::OsStr,
    fmt, io,
    path::{Path, PathBuf},
    process::ExitCode,
};
use terminal::Color;

mod doctor;
mod enter;
mod generate;
mod lab;
mod nfs;
mod node;
mod observe;
mod plan;
mod report;
mod run;
mod schema;
mod setup;
mod terminal;
mod watch;

/// Measures live migrations of QEMU guests
///
/// A matrix file describes a guest, a link, a workload and a way to migrate, and the axes along which they
/// vary. testbed migrates a real guest for every combination, over a traffic-shaped link between two nodes,
/// and reports migration time, downtime, transferred data and whether pre-copy converged.
#[derive(Debug, Parser)]
#[command(name = "testbed", version, max_term_width = 100, after_long_help = AFTER_HELP)]
struct Cli {
    /// Color the output: on a terminal only (auto), always, or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    #[arg(display_order = 100)]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Examples:
  testbed doctor
  testbed plan scenarios/smoke.yaml
  testbed run scenarios/smoke.yaml

Environment:
  NO_COLOR           set to anything: no colors, unless --color says otherwise
  TESTBED_STRESSOR   the stressor program [default: the one beside testbed]
  VAGRANT_CWD        the folder of the Vagrantfile, for --lab vagrant
  XDG_CACHE_HOME     where the cache is [default: ~/.cache]

Files:
  results/NAME-TIME  the results of a run; see testbed run --help
  ~/.cache/testbed   guest kernels, guest images, and whether KVM works

Exit codes:
  0    the command succeeded
  1    an expectation does not hold, or doctor found a problem
  2    bad input; nothing was started
  3    the lab or QEMU failed
  130  interrupted";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a matrix of migrations and report the results
    #[command(after_help = run::AFTER_HELP)]
    Run(run::RunArgs),
    /// Show the cells of a matrix, the predicted result of each, and which would be skipped
    #[command(after_help = plan::AFTER_HELP)]
    Plan(plan::PlanArgs),
    /// Show the results of finished or unfinished runs again
    #[command(after_help = report::AFTER_HELP)]
    Report(report::ReportArgs),
    /// Show a run as a live page in a browser
    #[command(after_help = watch::AFTER_HELP)]
    Watch(watch::WatchArgs),
    /// Check what a run needs, and show the command that fixes each problem
    #[command(after_help = doctor::AFTER_HELP)]
    Doctor(doctor::DoctorArgs),
    /// Install what is missing: QEMU, a guest kernel, the guest image
    #[command(after_help = setup::AFTER_HELP)]
    Setup(setup::SetupArgs),
    /// Look into a lab: its state, or a shell in a node
    #[command(after_help = lab::AFTER_HELP)]
    Lab(lab::LabCommand),
    /// Print the JSON Schema of matrix files or records
    #[command(after_help = schema::AFTER_HELP)]
    Schema(schema::SchemaArgs),
    /// Serve as a node of a lab; started by `testbed run`
    #[command(hide = true)]
    Node(node::NodeArgs),
    /// Serve the disk image on standard input by NFS; started by a node
    #[command(hide = true)]
    Nfs(nfs::NfsArgs),
    /// Report what is on this host; started by `testbed lab` and `testbed doctor`
    #[command(hide = true)]
    Observe(observe::ObserveArgs),
    /// Remove old uploads from folders on a host
    #[command(hide = true)]
    PruneUploads { folders: Vec<PathBuf> },
    /// Run a program in a node; started by `testbed lab shell`
    #[command(hide = true)]
    Enter(enter::EnterArgs),
    /// Write manual pages and completions of all three programs below a folder
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

/// Options that select cells of a matrix.
#[derive(Debug, Clone, Args)]
struct SelectionArgs {
    /// Select the cells for which EXPR holds, such as "stress.rate <= 96MB/s and link.delay == 0"
    #[arg(long, value_name = "EXPR")]
    only: Option<String>,
    /// Repeat each cell N times, at most 1000, instead of as often as the file says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_REPEAT)))]
    repeat: Option<u32>,
    /// Select the I-th of N parts of the matrix; the parts together make up the whole
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
}

impl SelectionArgs {
    fn selection(&self) -> Selection {
        Selection { only: self.only.clone(), repeat: self.repeat, shard: self.shard.clone() }
    }
}

/// The option that selects a lab.
#[derive(Debug, Clone, Args)]
struct LabArgs {
    /// Where the nodes are: `local`, namespaces of this host; `vagrant`, the virtual machines of the
    /// Vagrantfile in this folder, in `vagrant/` or in `VAGRANT_CWD`; or an inventory file of hosts to reach
    /// by SSH, `-` for standard input
    #[arg(long, value_name = "LAB", default_value = "local", value_parser = words(&["local", "vagrant"]))]
    #[arg(hide_possible_values = true)]
    lab: String,
}

/// Parses any text; completions offer the words.
fn words(known: &'static [&'static str]) -> impl TypedValueParser<Value = String> {
    #[derive(Clone)]
    struct Words(&'static [&'static str]);
    impl TypedValueParser for Words {
        type Value = String;

        fn parse_ref(
            &self,
            command: &clap::Command,
            argument: Option<&clap::Arg>,
            value: &OsStr,
        ) -> Result<String, clap::Error> {
            StringValueParser::new().parse_ref(command, argument, value)
        }

        fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
            Some(Box::new(self.0.iter().map(PossibleValue::new)))
        }
    }
    Words(known)
}

impl LabArgs {
    fn choice(&self) -> LabChoice {
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

impl ValueEnum for FigureName {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// The options that select the guest's kernel.
#[derive(Debug, Clone, Args)]
struct KernelArgs {
    /// The guest's kernel: a path, or `auto`, the kernel that setup prepared, else the host's own
    #[arg(long, value_name = "KERNEL", default_value = "auto", value_parser = words(&["auto"]))]
    #[arg(hide_possible_values = true)]
    kernel: String,
    /// The folder of that kernel's modules, such as /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
}

impl KernelArgs {
    /// Returns the choice. A kernel that the user names must be usable: `testbed setup` cannot make it so.
    fn choice(&self, cache: &Cache) -> Result<KernelChoice, Failure> {
        let choice = self.unchecked();
        match &choice {
            KernelChoice::Given { .. } => {
                check_kernel(&self.kernel, &choice, cache, &["auto"])?;
            }
            _ if self.modules.is_some() => {
                return Err(modules_without_kernel(&self.kernel));
            }
            _ => {}
        }
        Ok(choice)
    }

    /// Returns the choice without checking the kernel.
    fn unchecked(&self) -> KernelChoice {
        KernelChoice::from_options(Some(&self.kernel), self.modules.as_deref())
    }
}

/// Checks that a kernel that the user names has everything that guests need. `words` are the values of the
/// option that are not paths.
fn check_kernel(name: &str, choice: &KernelChoice, cache: &Cache, words: &[&str]) -> Result<(), Failure> {
    let Err(error) = image::find_kernel(choice, cache) else { return Ok(()) };
    let absent =
        matches!(&error, image::Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
    Err(Failure::input(match similar(name, words).filter(|_| absent) {
        Some(word) => format!("--kernel: {error}; did you mean `{word}`?"),
        None => format!("--kernel: {error}"),
    }))
}

/// Reports modules given for a kernel that has its own.
fn modules_without_kernel(kernel: &str) -> Failure {
    Failure::input(format!(
        "--modules belongs to a kernel that --kernel names by its path, not to `{kernel}`"
    ))
}

/// Returns the word that is similar to a mistyped one.
fn similar<'a>(mistyped: &str, words: &[&'a str]) -> Option<&'a str> {
    let close = |word: &&&str| strsim::damerau_levenshtein(mistyped, word) <= 2 && mistyped.len() > 2;
    words.iter().filter(close).min_by_key(|word| strsim::damerau_levenshtein(mistyped, word)).copied()
}

/// A command's failure: its message and exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// Reports wrong input; nothing was started.
    fn input(error: impl fmt::Display) -> Self {
        Self { code: 2, text: error.to_string() }
    }

    /// Reports a failure of the lab, of QEMU or of the system.
    fn lab(error: impl fmt::Display) -> Self {
        Self { code: crate::results::verdict::EXIT_FAILED, text: error.to_string() }
    }
}

/// Reports a lab that cannot be used: because of the user's input, or because it failed.
fn lab_failure(error: crate::lab::Error) -> Failure {
    if error.is_input() { Failure::input(error) } else { Failure::lab(error) }
}

/// Returns the definition of the command line, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program under this version, and returns its exit code.
pub fn main(version: &'static str) -> ExitCode {
    frontend::survive_size_limits();
    let color = Color::among(std::env::args_os());
    let matches = command().version(version).color(color.for_clap()).try_get_matches();
    let result = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => execute(cli, version),
        Err(message) => frontend::parser(&message).map_err(Failure::lab),
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            let text = failure.text.trim_end();
            // Diagnostics of matrix files already begin with the prefix.
            let text = text.strip_prefix(ERROR).unwrap_or(text);
            let mut line = Text::from(ERROR.trim_end());
            if terminal::colored(&io::stderr()) {
                line = line.painted("1;31");
            }
            line += format!(" {text}");
            frontend::tell(line);
            failure.code.into()
        }
    }
}

fn execute(cli: Cli, version: &'static str) -> Result<u8, Failure> {
    cli.color.choose();
    match cli.command {
        Command::Run(args) => run::run(&args, version),
        Command::Plan(args) => plan::plan(&args),
        Command::Report(args) => report::report(&args),
        Command::Watch(args) => watch::watch(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Setup(args) => setup::setup(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Schema(args) => schema::schema(&args),
        Command::Lab(args) => lab::lab(&args),
        Command::Node(args) => node::node(&args),
        Command::Nfs(args) => nfs::nfs(&args),
        Command::Observe(args) => observe::observe(&args),
        Command::PruneUploads { folders } => {
            for folder in &folders {
                uploads::prune(folder);
            }
            Ok(0)
        }
        Command::Enter(args) => enter::enter(&args),
    }
}

/// The prefix of error messages, of all three programs.
const ERROR: &str = "error: ";

/// Reads a file that the user named, or standard input for `-`. Returns its text, and its name for messages.
fn read(path: &Path) -> Result<(String, String), Failure> {
    let (text, name) = input::read(path);
    let name = name.display().to_string();
    let text = text.map_err(|e| Failure::input(format!("cannot read {name}: {e}")))?;
    Ok((text, name))
}

/// Prints results.
fn print(text: impl Into<Text>) -> Result<(), Failure> {
    frontend::print(text).map_err(Failure::lab)
}

/// Prints a value as indented JSON.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(Text::json(&(serde_json::to_string_pretty(value).map_err(Failure::lab)? + "\n")))
}

/// Returns the failure to make a report: there is nothing to show in its format, or its text cannot be made.
fn report_failure(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::InvalidInput { Failure::input(error) } else { Failure::lab(error) }
}

/// Prints a report, and its notes to standard error.
fn show(report: RenderedReport) -> Result<(), Failure> {
    print(report.text)?;
    for note in report.notes {
        frontend::tell(note_line(&note));
    }
    Ok(())
}

/// Does the same as [`show`] in a program that must end: a stream that takes nothing for 400 ms gets no more.
fn try_show(report: RenderedReport) -> Result<(), Failure> {
    let printed = Printer::start().and_then(|printer| printer.finish(report.text));
    for note in report.notes {
        frontend::try_tell(note_line(&note));
    }
    printed.map_err(Failure::lab)
}

fn note_line(note: &str) -> String {
    format!("note: {}", one_line(note))
}

/// Shows what the login shells of hosts have printed before running anything.
fn tell_greetings(hosts: &SshHosts) {
    for greeting in hosts.access.greetings() {
        frontend::tell(greeting);
    }
}

/// Creates the runtime of a command. It has one thread: a node asks the kernel to be killed when the *thread*
/// that started it ends, and a worker thread may end before the program does.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::lab)
}
