//! The project's development tasks, one file each: `cargo xtask run`, `test`, `storm`, `bench`,
//! `vagrant-test`, `install`, `dist`.
//!
//! They need a Rust toolchain, a linker and this repository. Anything else this host lacks is installed by
//! `testbed setup`; [`ready`] explains when that happens without asking.

mod artifacts;
mod bench;
mod busy;
mod command;
mod dist;
mod guest_tests;
mod install;
mod programs;
mod ready;
mod repeat;
mod run;
mod storm;
mod test;
mod vagrant_test;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, run, test and install the project
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Run(run::Arguments),
    Test(test::Arguments),
    Storm(storm::Arguments),
    Bench(bench::Arguments),
    VagrantTest(vagrant_test::Arguments),
    Install(install::Arguments),
    /// Build the three programs into target/dist/bin
    Dist,
}

/// An error that ends a task.
enum TaskError {
    /// A program failed with this exit code and has already printed the reason.
    AlreadyReported(u8),
    /// A message for `main` to print.
    Message(String),
}

impl From<String> for TaskError {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

fn main() -> ExitCode {
    frontend::survive_size_limits();
    let done = match Arguments::parse().task {
        Task::Run(arguments) => run::run(&arguments),
        Task::Test(arguments) => test::test(&arguments),
        Task::Storm(arguments) => storm::storm(&arguments),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::VagrantTest(arguments) => vagrant_test::vagrant_test(&arguments),
        Task::Install(arguments) => install::install(&arguments),
        Task::Dist => dist::dist().and_then(|programs| {
            frontend::print(format!("{}\n", programs.bin.display()))
                .map_err(|error| TaskError::Message(error.to_string()))
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(TaskError::AlreadyReported(code)) => ExitCode::from(code),
        Err(TaskError::Message(message)) => {
            frontend::tell(format!("error: {message}"));
            ExitCode::FAILURE
        }
    }
}
