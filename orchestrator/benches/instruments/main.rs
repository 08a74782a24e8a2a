//! `cargo xtask bench instruments`: how good the project's instruments are, on the machine it runs on.
//!
//! Three parts: the stressor (what it was asked for against what it achieved, on the host and in a guest,
//! beside `mm_dirty`), the independent witness of what is dirtied in a guest, and the links. Each line says
//! what is wanted and what was got. It is a benchmark and not a test: the exit code is 0 whatever the figures
//! are, 2 for bad input, and 3 when a part could not measure anything.
//!
//! The figures mean something on a machine that does nothing else, as root.

mod cpu;
mod guest;
mod links;
mod memory;
mod report;
mod stressing;
mod windows;
mod witness;

use clap::{Parser, ValueEnum};
use report::Report;
use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};
use testbed::host;

/// What every part of this program fails with; it is printed and no more.
type Failure = Box<dyn std::error::Error>;
type Result<T> = std::result::Result<T, Failure>;

const EXIT_BAD_INPUT: u8 = 2;
const EXIT_NOTHING_MEASURED: u8 = 3;

/// Where `cargo xtask` has put the programs.
const PROGRAMS_VARIABLE: &str = "TESTBED_DIST";

/// Measure the instruments
#[derive(Parser)]
#[command(name = "instruments")]
struct Arguments {
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
    /// What `cargo bench` passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Stressor,
    Witness,
    Netem,
}

/// What the parts need to know.
struct Setting {
    /// The directory of the programs `stressor` and `netem`.
    programs: PathBuf,
    mig_mon: Option<PathBuf>,
    /// How long one figure is measured.
    span: Duration,
    quick: bool,
}

fn main() -> ExitCode {
    // The nodes of a lab are this very program.
    if std::env::args().nth(1).is_some_and(|word| word == "node") {
        return testbed::cli::main();
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
            "{PROGRAMS_VARIABLE} does not say where the programs are; run `cargo xtask bench instruments`"
        ));
    };
    let report = match Report::new(arguments.out.as_deref()) {
        Ok(report) => report,
        Err(error) => return bad_input(format!("--out: cannot write: {error}")),
    };
    let setting = Setting {
        programs,
        mig_mon: arguments.mig_mon,
        span: Duration::from_secs(if arguments.quick { 2 } else { 10 }),
        quick: arguments.quick,
    };
    match measure(&setting, arguments.only, &report) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NOTHING_MEASURED),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_NOTHING_MEASURED)
        }
    }
}

/// Measures the parts that are wanted; whether each of them measured something.
fn measure(setting: &Setting, only: Option<Part>, report: &Report) -> Result<bool> {
    describe_machine(setting, report);
    // One thread, because the nodes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all_measured = true;
    for part in [Part::Stressor, Part::Witness, Part::Netem] {
        if only.is_some_and(|only| only != part) {
            continue;
        }
        let measured = match part {
            Part::Stressor => stressing::measure(setting, report, &runtime),
            Part::Witness => runtime.block_on(witness::measure(setting, report)),
            Part::Netem => runtime.block_on(links::measure(setting, report)),
        };
        if let Err(error) = measured {
            report.say(&format!("cannot measure: {error}"));
            all_measured = false;
        }
    }
    Ok(all_measured)
}

fn describe_machine(setting: &Setting, report: &Report) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let load = read("/proc/loadavg");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit =
        commit.map_or_else(|| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_string());
    report.say(&format!(
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
        setting.span.as_secs(),
        if setting.quick { " (--quick: rough)" } else { "" },
    ));
}
