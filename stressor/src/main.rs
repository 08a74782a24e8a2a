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
    frontend::survive_size_limits();
    let matches = cli::command().version(units::version!()).try_get_matches();
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => program::run(cli),
        Err(message) => frontend::parser(&message).map_or_else(program::failed, ExitCode::from),
    }
}
