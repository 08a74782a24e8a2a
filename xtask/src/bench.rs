//! `cargo xtask bench instruments`: builds the programs and the benchmark, then runs the benchmark.
//!
//! The benchmark is `orchestrator/benches/instruments`. This module starts it directly, because `cargo bench`
//! would replace its exit code with its own.

use crate::{
    TaskError, artifacts,
    command::{cargo, output},
    dist::{self, DIST},
    guest_tests::{self, GUEST_TESTS},
    ready,
};
use clap::{Subcommand, ValueEnum};
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Measure how accurate and how fast the project's own tools are
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Measure the accuracy of the instruments: the stressor, the independent checks of what it dirties,
    /// the links, and links with many combinations of settings. Exit code: 0 whatever the figures are, 2 for
    /// bad input, 3 if an instrument could not be measured at all
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
    LinkMatrix,
}

pub(crate) fn bench(arguments: &Arguments) -> Result<(), TaskError> {
    let Benchmark::Instruments(arguments) = &arguments.benchmark;
    let programs = dist::dist()?;
    if !matches!(arguments.only, Some(Instrument::Netem | Instrument::LinkMatrix)) {
        ready::ensure::<&str>(&programs, arguments.yes, &[])?;
    }
    let program = build(&programs.workspace.root)?;
    let mut bench = Command::new(&program);
    bench.env(DIST, &programs.bin);
    if matches!(arguments.only, None | Some(Instrument::LinkMatrix)) {
        bench.env(GUEST_TESTS, guest_tests::stage(&programs.workspace)?);
    }
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
    command.args(["--message-format", "json-render-diagnostics"]);
    Ok(artifacts::find(&output(&mut command)?, "bench", "instruments")?)
}
