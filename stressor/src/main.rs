//! The program `stressor`. Runs as the init of a guest if it is PID 1, and as an ordinary program otherwise.

use clap::FromArgMatches;
use std::process::{self, ExitCode};
use stressor::{
    cli::{self, Cli},
    init, program,
};

/// The version and the commit that the program was built from.
const VERSION: &str = git_version::git_version!(
    args = ["--always", "--abbrev=10", "--dirty=-modified", "--exclude=*"],
    prefix = concat!(env!("CARGO_PKG_VERSION"), " ("),
    suffix = ")",
    fallback = concat!(env!("CARGO_PKG_VERSION"), " (unknown commit)")
);

fn main() -> ExitCode {
    if process::id() == 1 {
        init::run();
    }
    let matches = cli::command().version(VERSION).get_matches();
    program::run(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}
