//! Measures links of many kinds with each backend, with the test program `link_matrix` of `netem`: the
//! emulator on this host, the kernel in a guest, because the host's kernel may have no `sch_netem`.

use crate::{
    BenchConfig, Result, netem_guest,
    report::{ReportWriter, progress},
};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const PROGRAM: &str = "link_matrix";
/// Tells the program to measure delays and rates for longer.
const FULL: (&str, &str) = ("LINK_MATRIX", "full");
/// One CPU, whose instructions are the clock: delays in the guest do not depend on how busy the host is.
const CPUS: [&str; 4] = ["-smp", "1", "-icount", "shift=1,sleep=off"];
/// The time limit for the guest. It took 4 minutes on two busy cores.
const GUEST_LIMIT: Duration = Duration::from_secs(1200);

const EXPLANATION: &str = "\
Datagrams of 106 bytes cross a link in one direction, one every 0.3 ms. First table: `lost` of those sent, and
`again`, lost of those that followed a lost one; the bounds of both are five standard deviations. `overtaken`
arrived after a later one: none are wanted with exponential jitter, some with uniform. Mean, median and spread
(distance of the quartiles) of the delay are in ms. Median and spread are wanted within five standard
deviations of a measurement of this length, and 0.5 ms for the host. The mean is shown only: a busy host holds
some packets for longer. The clock of the guest is not affected by that. `Mbit/s` is the rate of frames of
1514 bytes sent at 1.5 times the link's rate, wanted within 1 % and what jitter moves the first and the last
of them. Second table: the same jitter at four packet rates.";

pub(crate) fn measure(config: &BenchConfig, report: &ReportWriter) -> Result<()> {
    report.heading("Links of many kinds: requested and measured");
    report.text(EXPLANATION);
    let programs = config.guest_tests.as_deref().ok_or("TESTBED_GUEST_TESTS is not set")?;
    let full = !config.quick;
    let emulator = "the emulator on this host";
    let emulator = show(report, "userspace", emulator, || emulated(programs, full));
    let kernel = "the kernel in a guest, whose clock counts instructions";
    let kernel = show(report, "kernel", kernel, || in_guest(programs, full));
    match (emulator, kernel) {
        (Err(one), Err(other)) => Err(format!("{one}\n{other}").into()),
        (emulator, kernel) => emulator.and(kernel),
    }
}

/// Measures with one backend and prints its rows, which begin with `| ` and its name in the output of the
/// program.
fn show(
    report: &ReportWriter,
    backend: &str,
    what: &str,
    run: impl FnOnce() -> Result<String>,
) -> Result<()> {
    progress(what);
    let since = Instant::now();
    let text = run().map_err(|error| format!("{what}: {error}"))?;
    let rows = text.lines().filter_map(|line| Some(line.split_once("| ")?.1));
    let rows: Vec<&str> = rows.filter(|row| row.starts_with(backend)).collect();
    let count = |word: &str| rows.iter().filter(|row| row.ends_with(word)).count();
    let (held, missed) = (count("holds"), count("misses"));
    if held + missed == 0 {
        return Err(format!("{what}: nothing was measured:\n{text}").into());
    }
    report.text(&format!(
        "\n{what}: {held} of {} hold, measured in {} s\n{}",
        held + missed,
        since.elapsed().as_secs(),
        rows.join("\n")
    ));
    Ok(())
}

fn emulated(programs: &Path, full: bool) -> Result<String> {
    let mut command = Command::new(programs.join(PROGRAM));
    command.args(["--nocapture", "--test-threads", "1", "emulated"]);
    if full {
        command.env(FULL.0, FULL.1);
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("skipped: ") || !output.status.success() {
        return Err(format!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(text)
}

fn in_guest(programs: &Path, full: bool) -> Result<String> {
    let image = netem_guest::image(programs, &[PROGRAM])?;
    let environment = if full { format!("{}={}", FULL.0, FULL.1) } else { String::new() };
    let text = netem_guest::console(&image, &CPUS, &[PROGRAM], &environment, GUEST_LIMIT);
    if !text.contains(&format!("run-programs: {PROGRAM} ended: exit status: 0")) {
        return Err(format!("the guest says:\n{text}").into());
    }
    Ok(format!("| kernel {}\n{text}", image.kernel.release))
}
