//! `cargo xtask bench instruments`: measures how accurate the project's instruments are on this host.
//!
//! There are four parts: the stressor (requested and achieved rates, on the host and in a guest, compared
//! with `mm_dirty`), independent checks of what the stressor dirties in a guest (`witness`), the links
//! (`netem`), and links with many combinations of settings (`link-matrix`). Each line shows the target and
//! the measured value. This is a benchmark and not a test: the exit code is 0 whatever the figures are, 2 for
//! bad input, and 3 if an instrument could not be measured at all.
//!
//! Run it as root on a host that does nothing else; otherwise the figures mean little.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output of a benchmark is its result")]

mod cpu;
mod guest;
mod links;
mod matrix;
mod memory;
#[path = "../../tests/common/netem_guest.rs"]
mod netem_guest;
mod report;
mod stressing;
mod windows;
mod witness;

use clap::{Parser, ValueEnum};
use report::ReportWriter;
use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};
use testbed::host;

/// The error of all functions here. It is only ever printed.
type BoxedError = Box<dyn std::error::Error>;
type Result<T> = std::result::Result<T, BoxedError>;

const EXIT_BAD_INPUT: u8 = 2;
const EXIT_NOTHING_MEASURED: u8 = 3;

/// The environment variable in which `cargo xtask` passes the directory of the programs.
const PROGRAMS_VARIABLE: &str = "TESTBED_DIST";
/// The environment variable with the directory of the programs that a guest runs.
const GUEST_TESTS_VARIABLE: &str = "TESTBED_GUEST_TESTS";

/// Measure the accuracy of the instruments
#[derive(Parser)]
#[command(name = "instruments")]
struct Arguments {
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
    /// Ignored; `cargo bench` passes it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Instrument {
    Stressor,
    Witness,
    Netem,
    LinkMatrix,
}

/// The settings shared by all measurements.
struct BenchConfig {
    /// The directory of the programs `stressor` and `netem`.
    programs: PathBuf,
    /// The directory of the programs that a guest runs.
    guest_tests: Option<PathBuf>,
    mig_mon: Option<PathBuf>,
    /// How long each figure is measured.
    span: Duration,
    quick: bool,
}

fn main() -> ExitCode {
    // A lab starts its nodes by running the current executable, which is this benchmark.
    if std::env::args().nth(1).is_some_and(|word| word == "node") {
        return testbed::cli::main(env!("CARGO_PKG_VERSION"));
    }
    let arguments = Arguments::parse();
    let bad_input = |problem: String| {
        eprintln!("error: {problem}");
        ExitCode::from(EXIT_BAD_INPUT)
    };
    if let Some(path) = arguments.mig_mon.as_ref().filter(|path| !path.is_file()) {
        return bad_input(format!("--mig-mon: {} is not a file", path.display()));
    }
    let Some(programs) = std::env::var_os(PROGRAMS_VARIABLE).map(PathBuf::from) else {
        return bad_input(format!(
            "{PROGRAMS_VARIABLE} is not set; run this as `cargo xtask bench instruments`"
        ));
    };
    let report = match ReportWriter::new(arguments.out.as_deref()) {
        Ok(report) => report,
        Err(error) => return bad_input(format!("--out: cannot write: {error}")),
    };
    let config = BenchConfig {
        programs,
        guest_tests: std::env::var_os(GUEST_TESTS_VARIABLE).map(PathBuf::from),
        mig_mon: arguments.mig_mon,
        span: Duration::from_secs(if arguments.quick { 2 } else { 10 }),
        quick: arguments.quick,
    };
    match measure(&config, arguments.only, &report) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NOTHING_MEASURED),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_NOTHING_MEASURED)
        }
    }
}

/// Measures all instruments, or only one. Returns whether each of them could be measured.
fn measure(config: &BenchConfig, only: Option<Instrument>, report: &ReportWriter) -> Result<bool> {
    describe_machine(config, report);
    // Single-threaded, because the nodes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all_measured = true;
    for instrument in [Instrument::Stressor, Instrument::Witness, Instrument::Netem, Instrument::LinkMatrix] {
        if only.is_some_and(|only| only != instrument) {
            continue;
        }
        let measured = match instrument {
            Instrument::Stressor => stressing::measure(config, report, &runtime),
            Instrument::Witness => runtime.block_on(witness::measure(config, report)),
            Instrument::Netem => runtime.block_on(links::measure(config, report)),
            Instrument::LinkMatrix => matrix::measure(config, report),
        };
        if let Err(error) = measured {
            report.text(&format!("cannot measure: {error}"));
            all_measured = false;
        }
    }
    Ok(all_measured)
}

fn describe_machine(config: &BenchConfig, report: &ReportWriter) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let load = read("/proc/loadavg");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit =
        commit.map_or_else(|| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_string());
    report.text(&format!(
        "Instruments, {}\n\n\
         commit        {commit}\n\
         CPU           {}, {} usable\n\
         memory        {:.1} GB, transparent huge pages {}\n\
         kernel        Linux {}\n\
         QEMU          {}\n\
         load average  {load} at start\n\
         duration      {} s for a figure{}",
        jiff::ZonedDateTime::now().strftime("%Y-%m-%d %H:%M %z"),
        host::cpu_model(),
        host::cpus(),
        host::memory().map_or(0.0, |memory| memory.total.get() as f64 / 1e9),
        read("/sys/kernel/mm/transparent_hugepage/enabled"),
        host::kernel_release().unwrap_or_else(|_| "unknown".into()),
        host::qemu_version().unwrap_or_else(|error| format!("none: {error}")),
        config.span.as_secs(),
        if config.quick { " (--quick: rough)" } else { "" },
    ));
}
