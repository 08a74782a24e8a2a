//! The stressor: PID 1 of a guest, or an ordinary program.

use clap::Parser;
use std::process::{self, ExitCode};
use stressor::{cli::Cli, init, program};

fn main() -> ExitCode {
    if process::id() == 1 {
        init::run();
    }
    program::run(Cli::parse())
}
