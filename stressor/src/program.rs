//! The stressor as an ordinary program: runs one workload for a given time or until it is interrupted, prints
//! a status every second, and verifies the memory and the disk at the end.

mod disk;

use crate::{
    cli::Cli,
    control,
    disk_engine::DiskEngine,
    engine::{Engine, HugePages},
    error::Error,
    meter::{Interval, Reader},
    protocol::Latency,
    verify::Verification,
    workload::{PAGE_BYTES, Rate, Workload},
};
use disk::{DiskPlan, DiskRun, DiskStats, DiskSummary};
use frontend::{Printer, Stdout, Text, termination_signals};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::SigSet,
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    io,
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};
use units::{ByteRate, Span, counted};

/// The interval between status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The exit code if the memory or the disk had wrong content or something failed.
const FAILED: u8 = 1;
/// The exit code if the settings are invalid or there is not enough memory.
const BAD_SETTINGS: u8 = 2;

/// A line of JSON output.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
enum OutputLine<'a> {
    /// The statistics since the previous status line, about a second.
    Status {
        #[serde(flatten)]
        stats: Stats,
        #[serde(skip_serializing_if = "Option::is_none")]
        disk: Option<DiskStats>,
    },
    /// The statistics of the whole time, and the result of the verification.
    Summary {
        #[serde(flatten)]
        stats: Stats,
        /// `None` with `--no-verify`.
        verification: Option<Verification>,
        workload: &'a Workload,
        #[serde(skip_serializing_if = "Option::is_none")]
        disk: Option<Box<DiskSummary>>,
    },
}

/// The statistics of a period of time. The field names are keys of the JSON output.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Stats {
    /// The end of the period, in seconds since the start.
    at_s: f64,
    /// The dirty rate; each page counts as 4 KiB.
    achieved_bytes_per_s: u64,
    pages_dirtied: u64,
    pages_forgone: u64,
    longest_stall_ns: u64,
    write_latency: Latency,
}

/// Runs the program with the given command line. Returns its exit code.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = if cli.control { serve_control(&cli) } else { Runner::new(cli).and_then(Runner::finish) };
    outcome.unwrap_or_else(|error| {
        let code = failed(&error);
        if error.is_bad_settings() { ExitCode::from(BAD_SETTINGS) } else { code }
    })
}

/// Reports an error. Returns the exit code.
pub fn failed(error: impl fmt::Display) -> ExitCode {
    frontend::try_tell(format!("error: {error}"));
    ExitCode::from(FAILED)
}

fn serve_control(cli: &Cli) -> Result<ExitCode, Error> {
    let mut engine = Engine::new(HugePages::Reserved);
    let _target = cli.disk.target()?;
    let mut disk = DiskEngine::new(cli.disk.path.clone());
    let (input, output) = (("standard input", io::stdin()), ("standard output", Stdout));
    control::serve(&mut engine, &mut disk, input, output).map(|()| ExitCode::SUCCESS)
}

/// A workload in progress, with everything needed to report on it and to stop it.
struct Runner {
    cli: Cli,
    engine: Engine,
    /// Whether the workload has memory; otherwise its statistics are not shown.
    has_memory: bool,
    meter: Reader,
    disk: Option<DiskRun>,
    signals: SignalFd,
    printer: Printer,
    started: Instant,
}

impl Runner {
    /// Allocates and fills the memory, prepares the disk, and starts dirtying and the load on the disk.
    fn new(cli: Cli) -> Result<Self, Error> {
        let workload = Workload::from(cli.workload.clone());
        let has_memory =
            !(workload.working_set.is_zero() && workload.ballast.is_zero() && workload.dirties_nothing());
        if !has_memory && cli.disk.path.is_none() {
            return Err(Error::NothingToDo);
        }
        // Everything is checked before the first change to the disk.
        let disk = DiskPlan::new(&cli.disk)?;
        let is_idle = !workload.working_set.is_zero() && workload.dirties_nothing();
        let mut engine = Engine::new(HugePages::Reserved);
        engine.set(workload)?;
        if is_idle {
            frontend::try_tell("note: --rate is 0, so the working set is allocated but not dirtied");
        }
        let mut disk = disk.map(DiskPlan::prepare).transpose()?;
        let started = Instant::now();
        engine.start()?;
        if let Some(disk) = &mut disk {
            disk.start()?;
        }
        // Until here there is nothing to summarize, so an interruption may simply end the program, whatever
        // it is doing.
        let signals = block_signals().map_err(|errno| Error::system("catch signals", errno))?;
        let printer = Printer::start().map_err(Error::thread)?;
        let meter = Reader::new(engine.meter());
        Ok(Self { cli, engine, has_memory, meter, disk, signals, printer, started })
    }

    /// Prints a status every second until the time is over or a signal arrives, then the summary. If no one
    /// has read the output for long, no status is printed: the next one covers the whole time since the last.
    fn finish(mut self) -> Result<ExitCode, Error> {
        let (mut total, mut since_last) = (Interval::empty(), Interval::empty());
        let end = self.cli.duration.and_then(|duration| self.started.checked_add(duration.into()));
        let mut last = self.started;
        let mut took;
        let mut next = self.started + STATUS_INTERVAL;
        loop {
            let until = end.map_or(next, |end| end.min(next));
            let interrupted = self.wait_until(until)?;
            let ended = interrupted || end.is_some_and(|end| Instant::now() >= end);
            let now = Instant::now();
            if ended {
                if let Some(disk) = &self.disk {
                    disk.request_stop();
                }
                self.engine.stop();
            }
            let interval = self.meter.interval();
            total.add(&interval);
            since_last.add(&interval);
            took = now - self.started;
            if ended {
                break;
            }
            if !self.printer.is_behind() {
                self.print_status(&since_last, now, now - last);
                since_last = Interval::empty();
                last = now;
            }
            while next <= now {
                next += STATUS_INTERVAL;
            }
        }
        // A second interruption ends the program immediately, even while a disk does not answer.
        let _ = termination_signals().collect::<SigSet>().thread_unblock();
        self.finish_summary(&total, took)
    }

    /// Waits until a time or a signal. Returns whether a signal arrived.
    fn wait_until(&self, until: Instant) -> Result<bool, Error> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut watched = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            // Rounded up to whole milliseconds; otherwise the loop would spin during the last one.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut watched, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                // The signal is consumed, so that it does not end the program once signals are unblocked.
                Ok(_) => return Ok(self.signals.read_signal().is_ok_and(|signal| signal.is_some())),
                Err(errno) => return Err(Error::system("wait for signals", errno)),
            }
        }
    }

    fn print_status(&mut self, interval: &Interval, now: Instant, took: Duration) {
        let stats = Stats::new(interval, (now - self.started).as_secs_f64(), took);
        let disk = self.disk.as_mut().map(|disk| disk.since_last(took));
        if self.cli.json {
            return self.printer.print(json(&OutputLine::Status { stats, disk }));
        }
        let width = terminal_width();
        let memory = self.has_memory.then(|| stats.line(width));
        let disk = disk.map(|disk| disk.line(stats.at_s, width));
        self.printer.print(memory.into_iter().chain(disk).map(|line| line + "\n").collect::<String>());
    }

    /// Verifies the memory and the disk if requested, prints the summary, and returns the exit code.
    fn finish_summary(mut self, total: &Interval, took: Duration) -> Result<ExitCode, Error> {
        let verification = (!self.cli.no_verify).then(|| self.engine.verify());
        let disk = self.disk.take().map(|disk| disk.finish(took, !self.cli.no_verify)).transpose()?;
        let disk = disk.map(Box::new);
        let good = verification.as_ref().is_none_or(Verification::is_good)
            && disk.as_deref().is_none_or(DiskSummary::is_good);
        let stats = Stats::new(total, took.as_secs_f64(), took);
        let summary = if self.cli.json {
            json(&OutputLine::Summary { stats, verification, workload: self.engine.workload(), disk })
        } else {
            self.summary(&stats, verification.as_ref(), disk.as_deref()).into()
        };
        let written = self.printer.finish(summary);
        written.map_err(|cause| Error::system("write to standard output", cause))?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }

    fn summary(
        &self,
        stats: &Stats,
        verification: Option<&Verification>,
        disk: Option<&DiskSummary>,
    ) -> String {
        let mut text = String::from("\n");
        if self.has_memory {
            self.describe_memory(&mut text, stats, verification).expect("writing to a string");
        }
        if let Some(disk) = disk {
            disk.describe(&mut text, stats.at_s).expect("writing to a string");
        }
        text
    }

    fn describe_memory(
        &self,
        out: &mut String,
        stats: &Stats,
        verification: Option<&Verification>,
    ) -> fmt::Result {
        let workload = self.engine.workload();
        let requested = match workload.rate {
            Rate::Limited(rate) if workload.phases.is_empty() => {
                format!(" of {:.1} MB/s requested", rate.as_mb_per_s())
            }
            _ => String::new(),
        };
        writeln!(
            out,
            "achieved      {:.1} MB/s{requested}: {} in {:.2} s",
            stats.mb_per_s(),
            counted(stats.pages_dirtied, "page"),
            stats.at_s
        )?;
        if stats.pages_forgone > 0 {
            let pages = counted(stats.pages_forgone, "page");
            writeln!(out, "forgone       {pages}, dropped because of stalls")?;
        }
        writeln!(out, "longest stall {}", Nanos(stats.longest_stall_ns))?;
        writeln!(out, "write latency {}", percentiles(&stats.write_latency).join("  "))?;
        match verification {
            None => writeln!(out, "memory        not verified"),
            Some(Verification { pages_checked, first_bad: None, .. }) => {
                writeln!(out, "memory        {}, all as written", counted(*pages_checked, "page"))
            }
            Some(Verification { pages_checked, pages_bad, first_bad: Some(first) }) => {
                let pages = counted(*pages_checked, "page");
                writeln!(out, "memory        CORRUPT: {pages_bad} of {pages}; {first}")
            }
        }
    }
}

impl Stats {
    fn new(interval: &Interval, at_s: f64, took: Duration) -> Self {
        let bytes = interval.pages_dirtied as f64 * PAGE_BYTES as f64;
        Self {
            at_s,
            achieved_bytes_per_s: (bytes / took.as_secs_f64().max(1e-9)).round() as u64,
            pages_dirtied: interval.pages_dirtied,
            pages_forgone: interval.pages_forgone,
            longest_stall_ns: interval.longest_stall_ns,
            write_latency: interval.latency(),
        }
    }

    fn mb_per_s(&self) -> f64 {
        ByteRate::new(self.achieved_bytes_per_s).as_mb_per_s()
    }
}

impl Stats {
    /// Returns the statistics on one line. On a terminal that is too narrow for all of them, the percentiles
    /// of the write latency are left out, the least important first.
    fn line(&self, width: Option<usize>) -> String {
        let start = format!(
            "{:>5.0} s {:>9.1} MB/s   stall {:>8}   write",
            self.at_s,
            self.mb_per_s(),
            Nanos(self.longest_stall_ns)
        );
        let percentiles = percentiles(&self.write_latency);
        let line = |shown: &[bool; 4]| {
            let shown =
                percentiles.iter().zip(shown).filter(|(_, shown)| **shown).map(|(text, _)| text.as_str());
            format!("{start} {}", shown.collect::<Vec<_>>().join("  "))
        };
        // Leave out p99.9 first, then the median, then the maximum.
        let choices =
            [[true; 4], [true, true, false, true], [false, true, false, true], [false, true, false, false]];
        let mut lines = choices.iter().map(line);
        let all = lines.next().unwrap_or_default();
        let Some(width) = width.filter(|width| all.chars().count() > *width) else { return all };
        let mut shorter = all;
        for candidate in lines {
            shorter = candidate;
            if shorter.chars().count() <= width {
                break;
            }
        }
        shorter
    }
}

/// Returns the width of the terminal, or `None` if standard output is not a terminal.
fn terminal_width() -> Option<usize> {
    const USUAL: usize = 80;
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(if size.ws_col == 0 { USUAL } else { usize::from(size.ws_col) })
}

/// Returns the percentiles of a latency as text, each with its name.
fn percentiles(latency: &Latency) -> [String; 4] {
    let Latency { p50_ns, p99_ns, p999_ns, max_ns } = *latency;
    [("p50", p50_ns), ("p99", p99_ns), ("p99.9", p999_ns), ("max", max_ns)]
        .map(|(name, ns)| format!("{name} {:>8}", Nanos(ns)))
}

/// Formats a time in nanoseconds with a suitable unit, from ns to s.
struct Nanos(u64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            ns @ 0..1_000 => format!("{ns} ns"),
            ns @ 1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
            ns @ 1_000_000..1_000_000_000 => format!("{:.1} ms", Span::from_nanos(ns).as_millis_f64()),
            ns => format!("{:.2} s", Span::from_nanos(ns).as_secs_f64()),
        };
        f.pad(&text)
    }
}

fn json(output: &OutputLine) -> Text {
    let mut line = Text::json(&serde_json::to_string(output).expect("output lines have only string keys"));
    line += "\n";
    line
}

/// Blocks the termination signals, so that they do not end the program, and returns a descriptor to read
/// them.
fn block_signals() -> Result<SignalFd, Errno> {
    let signals: SigSet = termination_signals().collect();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_not_wider_than_the_terminal() {
        let write_latency = Latency { p50_ns: 1_200, p99_ns: 12_300, p999_ns: 123_400, max_ns: 1_234_500 };
        let stats = Stats {
            at_s: 12.0,
            achieved_bytes_per_s: 96_000_000,
            pages_dirtied: 1,
            pages_forgone: 0,
            longest_stall_ns: 5_600_000,
            write_latency,
        };
        let full = stats.line(None);
        assert_eq!(
            full,
            "   12 s      96.0 MB/s   stall   5.6 ms   \
             write p50   1.2 us  p99  12.3 us  p99.9 123.4 us  max   1.2 ms"
        );
        assert_eq!(stats.line(Some(200)), full);
        for width in 60..110 {
            let line = stats.line(Some(width));
            assert!(line.chars().count() <= width, "{width}: {line}");
            assert!(line.starts_with("   12 s      96.0 MB/s   stall   5.6 ms   write "), "{line}");
        }
        assert!(stats.line(Some(80)).ends_with("p99  12.3 us  max   1.2 ms"), "{}", stats.line(Some(80)));
    }
}
