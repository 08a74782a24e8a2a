//! `cargo xtask bench instruments`: builds the programs and the benchmark, and runs it.
//!
//! The benchmark is `orchestrator/benches/instruments`. It is run here rather than by `cargo bench`, which
//! would replace its exit code.

use crate::{Failure, command::cargo, dist, ready};
use clap::{Subcommand, ValueEnum};
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where the benchmark finds the programs.
const DIST: &str = "TESTBED_DIST";

/// Measure the project itself
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// How good the instruments are: the stressor, what witnesses it, and the links. Exit code: 0 whatever
    /// the figures are, 2 for bad input, 3 when a part could not measure anything
    Instruments(Instruments),
}

#[derive(clap::Args)]
struct Instruments {
    /// Write the text to this file as well
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The program of the repository `xzpeter/mig_mon`, to compare the stressor with
    #[arg(long, value_name = "PATH")]
    mig_mon: Option<PathBuf>,
    /// Measure for a short time: shows that it works, the figures are rough
    #[arg(long)]
    quick: bool,
    /// Only this part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Install what is missing without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Stressor,
    Witness,
    Netem,
}

pub(crate) fn bench(arguments: &Arguments) -> Result<(), Failure> {
    let Subject::Instruments(arguments) = &arguments.subject;
    let staged = dist::dist()?;
    if arguments.only != Some(Part::Netem) {
        ready::ensure(&staged, arguments.yes)?;
    }
    let program = build(&staged.workspace.root)?;
    let mut bench = Command::new(&program);
    bench.env(DIST, &staged.bin);
    for (option, path) in [("--out", &arguments.out), ("--mig-mon", &arguments.mig_mon)] {
        if let Some(path) = path {
            bench.arg(option).arg(path);
        }
    }
    if arguments.quick {
        bench.arg("--quick");
    }
    if let Some(part) = arguments.only.and_then(|part| part.to_possible_value()) {
        bench.args(["--only", part.get_name()]);
    }
    // Replaces this process, so that a signal reaches the benchmark and its exit code is this one's.
    let error = bench.exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}

/// Builds the benchmark; where it is.
fn build(root: &Path) -> Result<PathBuf, Failure> {
    let mut command = cargo();
    command.current_dir(root).args(["bench", "-p", "testbed", "--bench", "instruments", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("cannot run cargo bench: {error}"))?;
    if !output.status.success() {
        return Err(Failure::Reported(crate::command::exit_code(output.status)));
    }
    executable(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| "cargo bench does not say where the benchmark is".to_owned().into())
}

/// The program that cargo's messages name, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    let program = |line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == "instruments";
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    };
    messages.lines().find_map(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_is_found_among_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"units"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"testbed"},"executable":"/t/testbed"}
            {"reason":"compiler-artifact","target":{"name":"instruments"},"executable":"/t/instruments-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/t/instruments-1".into()));
        assert_eq!(executable("nothing"), None);
    }
}
