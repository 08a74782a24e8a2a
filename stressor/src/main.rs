//! The program `stressor`. Runs as the init of a guest if it is PID 1, and as an ordinary program otherwise.

use clap::FromArgMatches;
use std::process::{self, ExitCode};
use stressor::{
    cli::{self, Cli},
    init, program,
};

fn main() -> ExitCode {
    if process::id() == 1 {
        init::run();
    }
    let matches = cli::command().version(units::version!()).get_matches();
    program::run(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}
