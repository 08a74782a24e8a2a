//! `cargo xtask bench instruments`: builds the programs and the benchmark, then runs the benchmark.
//!
//! The benchmark is `orchestrator/benches/instruments`. This module starts it directly, because `cargo bench`
//! would replace its exit code with its own.

use crate::{TaskError, command::cargo, dist, ready};
use clap::{Subcommand, ValueEnum};
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The environment variable that tells the benchmark the directory of the programs.
const DIST: &str = "TESTBED_DIST";

/// Measure how accurate and how fast the project's own tools are
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Measure the accuracy of the instruments: the stressor, the independent checks of what it dirties,
    /// and the links. Exit code: 0 whatever the figures are, 2 for bad input, 3 if an instrument could not
    /// be measured at all
    Instruments(InstrumentsArguments),
}

#[derive(clap::Args)]
struct InstrumentsArguments {
    /// Also write the output to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Path of the program of the repository `xzpeter/mig_mon`, to compare the stressor with its `mm_dirty`
    #[arg(long, value_name = "PATH")]
    mig_mon: Option<PathBuf>,
    /// Measure each figure for a short time only: enough to see that everything works, but the figures are
    /// rough
    #[arg(long)]
    quick: bool,
    /// Measure only this instrument
    #[arg(long, value_name = "INSTRUMENT")]
    only: Option<Instrument>,
    /// Install missing packages without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Instrument {
    Stressor,
    Witness,
    Netem,
}

pub(crate) fn bench(arguments: &Arguments) -> Result<(), TaskError> {
    let Benchmark::Instruments(arguments) = &arguments.benchmark;
    let programs = dist::dist()?;
    if arguments.only != Some(Instrument::Netem) {
        ready::ensure(&programs, arguments.yes)?;
    }
    let program = build(&programs.workspace.root)?;
    let mut bench = Command::new(&program);
    bench.env(DIST, &programs.bin);
    for (option, path) in [("--out", &arguments.out), ("--mig-mon", &arguments.mig_mon)] {
        if let Some(path) = path {
            bench.arg(option).arg(path);
        }
    }
    if arguments.quick {
        bench.arg("--quick");
    }
    if let Some(value) = arguments.only.and_then(|instrument| instrument.to_possible_value()) {
        bench.args(["--only", value.get_name()]);
    }
    // `exec` replaces this process: signals reach the benchmark, and its exit code becomes ours.
    let error = bench.exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}

/// Builds the benchmark. Returns the path of its executable.
fn build(root: &Path) -> Result<PathBuf, TaskError> {
    let mut command = cargo();
    command.current_dir(root).args(["bench", "-p", "testbed", "--bench", "instruments", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("cannot run cargo bench: {error}"))?;
    if !output.status.success() {
        return Err(TaskError::AlreadyReported(crate::command::exit_code(output.status)));
    }
    executable(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| "cargo bench did not report the path of the benchmark".to_owned().into())
}

/// Finds the benchmark's executable in cargo's messages (one JSON object per line).
fn executable(messages: &str) -> Option<PathBuf> {
    let program = |line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_benchmark = message["target"]["name"] == "instruments";
        message["executable"].as_str().filter(|_| is_benchmark).map(PathBuf::from)
    };
    messages.lines().find_map(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_is_found_in_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"units"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"testbed"},"executable":"/t/testbed"}
            {"reason":"compiler-artifact","target":{"name":"instruments"},"executable":"/t/instruments-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/t/instruments-1".into()));
        assert_eq!(executable("nothing"), None);
    }
}
