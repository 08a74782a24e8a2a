//! The project's own tasks, one file each: `cargo xtask run`, `test`, `bench`, `vagrant-test`,
//! `install`, `dist`.
//!
//! They need a Rust toolchain and a linker, and nothing that is not in this repository. What a machine lacks
//! beyond that, `testbed setup` installs; see [`ready`] for when it may do so unasked.

mod bench;
mod command;
mod dist;
mod guest_tests;
mod install;
mod ready;
mod run;
mod test;
mod vagrant_test;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own tasks
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
    Bench(bench::Arguments),
    VagrantTest(vagrant_test::Arguments),
    Install(install::Arguments),
    /// Build the three programs into target/dist/bin
    Dist,
}

/// Why a task ended early: an exit code that was reported already, or a message.
enum Failure {
    /// A program that was run failed, and has said why.
    Reported(u8),
    /// To be printed.
    Message(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Run(arguments) => run::run(&arguments),
        Task::Test(arguments) => test::test(&arguments),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::VagrantTest(arguments) => vagrant_test::vagrant_test(&arguments),
        Task::Install(arguments) => install::install(&arguments),
        Task::Dist => dist::dist().map(|staged| println!("{}", staged.bin.display())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported(code)) => ExitCode::from(code),
        Err(Failure::Message(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
