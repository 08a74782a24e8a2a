//! The program `stressor`. Runs as the init of a guest if it is PID 1, and as an ordinary program otherwise.

use clap::Parser;
use std::process::{self, ExitCode};
use stressor::{cli::Cli, init, program};

fn main() -> ExitCode {
    if process::id() == 1 {
        init::run();
    }
    program::run(Cli::parse())
}
