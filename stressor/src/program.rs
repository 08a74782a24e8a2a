//! The stressor as an ordinary program: runs one workload until its time is up or it is interrupted, says
//! once a second what it achieved, and at the end checks the memory.

use crate::{
    cli::Cli,
    control,
    engine::{Engine, HugePages},
    error::Error,
    meter::{Interval, Reader},
    protocol::Latency,
    verify::Verification,
    workload::{PAGE_BYTES, Rate, Workload},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde::Serialize;
use std::{
    fmt,
    io::{self, Write},
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};
use units::{ByteRate, Span};

/// How often to say what was achieved.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Memory was not as it was written, or something failed.
const FAILED: u8 = 1;
/// The settings contradict themselves or do not fit the machine.
const BAD_SETTINGS: u8 = 2;

/// A line of output.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Report<'a> {
    /// The second that has passed.
    Status(Figures),
    /// The whole run.
    Summary {
        #[serde(flatten)]
        figures: Figures,
        /// Nothing, when it was not asked for.
        verification: Option<Verification>,
        workload: &'a Workload,
    },
}

/// What was achieved in some time.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Figures {
    /// When that time ended, in seconds since the start.
    at_s: f64,
    /// Bytes of dirtied pages per second.
    achieved_bytes_per_s: u64,
    pages_dirtied: u64,
    pages_forgone: u64,
    longest_stall_ns: u64,
    write_latency: Latency,
}

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = if cli.control { converse() } else { Run::new(cli).and_then(Run::finish) };
    outcome.unwrap_or_else(|error| {
        eprintln!("stressor: {error}");
        ExitCode::from(if error.is_bad_settings() { BAD_SETTINGS } else { FAILED })
    })
}

fn converse() -> Result<ExitCode, Error> {
    let mut engine = Engine::new(HugePages::Reserved);
    // Each line is written at once, and as a whole: standard output's own buffer would end at each newline.
    control::serve(&mut engine, io::stdin(), io::stdout())
        .map(|()| ExitCode::SUCCESS)
        .map_err(|cause| Error::system("read requests from standard input", cause))
}

/// A run of one workload.
struct Run {
    cli: Cli,
    engine: Engine,
    meter: Reader,
    interruptions: SignalFd,
    started: Instant,
}

impl Run {
    /// Allocates and fills the memory and starts dirtying.
    fn new(cli: Cli) -> Result<Self, Error> {
        let mut engine = Engine::new(HugePages::Reserved);
        engine.set(cli.load.clone().into())?;
        // Until here there was nothing to sum up, and an interruption just ended the program. The threads to
        // come inherit this.
        let interruptions = catch_interruptions().map_err(|errno| Error::system("catch signals", errno))?;
        engine.start()?;
        let meter = Reader::new(engine.meter());
        Ok(Self { cli, engine, meter, interruptions, started: Instant::now() })
    }

    fn finish(mut self) -> Result<ExitCode, Error> {
        let mut total = Interval::empty();
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
                self.engine.stop();
            }
            let interval = self.meter.interval();
            total.add(&interval);
            took = now - self.started;
            if ended {
                break;
            }
            let status = self.report_status(&interval, now, now - last);
            if status.is_err() {
                // Nobody reads any more.
                break;
            }
            last = now;
            while next <= now {
                next += STATUS_INTERVAL;
            }
        }
        // From here on a second interruption ends the program at once.
        let _ = interrupting_signals().thread_unblock();
        self.sum_up(&total, took)
    }

    /// Waits, and says whether it was interrupted.
    fn wait_until(&self, until: Instant) -> Result<bool, Error> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut watched = [PollFd::new(self.interruptions.as_fd(), PollFlags::POLLIN)];
            // Rounded up to whole milliseconds, lest it spin through the last one.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut watched, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                // Taken in, lest it end the program when it is let through again.
                Ok(_) => return Ok(self.interruptions.read_signal().is_ok_and(|signal| signal.is_some())),
                Err(errno) => return Err(Error::system("wait for signals", errno)),
            }
        }
    }

    fn report_status(&self, interval: &Interval, now: Instant, took: Duration) -> io::Result<()> {
        let figures = Figures::new(interval, (now - self.started).as_secs_f64(), took);
        if self.cli.json {
            return print_json(&Report::Status(figures));
        }
        writeln!(io::stdout(), "{figures}")
    }

    fn sum_up(mut self, total: &Interval, took: Duration) -> Result<ExitCode, Error> {
        let verification = (!self.cli.no_verify).then(|| self.engine.verify());
        let good = verification.as_ref().is_none_or(Verification::is_good);
        let figures = Figures::new(total, took.as_secs_f64(), took);
        let printed = if self.cli.json {
            print_json(&Report::Summary { figures, verification, workload: self.engine.workload() })
        } else {
            self.print_summary(&figures, verification.as_ref())
        };
        match printed {
            Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::system("write to standard output", cause))
            }
            _ if good => Ok(ExitCode::SUCCESS),
            _ => Ok(ExitCode::from(FAILED)),
        }
    }

    fn print_summary(&self, figures: &Figures, verification: Option<&Verification>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let workload = self.engine.workload();
        let asked = match workload.rate {
            Rate::Limited(rate) if workload.phases.is_empty() => {
                format!(" of {:.1} asked for", rate.as_mb_per_s())
            }
            _ => String::new(),
        };
        writeln!(out)?;
        writeln!(
            out,
            "achieved      {:.1} MB/s{asked}: {} pages in {:.2} s",
            figures.mb_per_s(),
            figures.pages_dirtied,
            figures.at_s
        )?;
        if figures.pages_forgone > 0 {
            writeln!(out, "forgone       {} pages, not made up for after stalls", figures.pages_forgone)?;
        }
        writeln!(out, "longest stall {}", Nanos(figures.longest_stall_ns))?;
        writeln!(out, "a write took  {}", Percentiles(&figures.write_latency))?;
        match verification {
            None => writeln!(out, "memory        not checked"),
            Some(Verification { pages_checked, first_bad: None, .. }) => {
                writeln!(out, "memory        {pages_checked} pages, all as written")
            }
            Some(Verification { pages_checked, pages_bad, first_bad: Some(first) }) => {
                writeln!(out, "memory        CORRUPT: {pages_bad} of {pages_checked} pages; {first}")
            }
        }
    }
}

impl Figures {
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

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>5.0} s {:>9.1} MB/s   stall {:>8}   write {}",
            self.at_s,
            self.mb_per_s(),
            Nanos(self.longest_stall_ns),
            Percentiles(&self.write_latency)
        )
    }
}

/// The percentiles of a latency, in a line.
struct Percentiles<'a>(&'a Latency);

impl fmt::Display for Percentiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { p50_ns, p99_ns, p999_ns, max_ns } = *self.0;
        let [p50, p99, p999, max] = [p50_ns, p99_ns, p999_ns, max_ns].map(Nanos);
        write!(f, "p50 {p50:>8}  p99 {p99:>8}  p99.9 {p999:>8}  max {max:>8}")
    }
}

/// A time to read, in the unit that suits it.
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

fn print_json(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_string(report).expect("reports have only string keys");
    line.push('\n');
    io::stdout().write_all(line.as_bytes())
}

fn interrupting_signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// From now on interruptions can be read, and do not end the program.
fn catch_interruptions() -> Result<SignalFd, Errno> {
    let signals = interrupting_signals();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
