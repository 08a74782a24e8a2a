//! The disk of the program: prepared before the load begins, reported alongside memory, and verified at the
//! end.

use super::Nanos;
use crate::{
    cli::DiskArgs,
    disk::{BLOCK_BYTES, DiskError, DiskLoad, DiskVerification, Target},
    disk_engine::{self, DiskEngine, DiskMeter},
    error::Error,
    protocol::DiskTelemetry,
    workload::Rate,
};
use frontend::one_line;
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use units::{ByteRate, counted};

/// A disk that has been checked but not changed yet, and the load on it.
pub(super) struct DiskPlan {
    path: PathBuf,
    target: Target,
    load: DiskLoad,
}

/// A load on a disk in progress.
pub(super) struct DiskRun {
    engine: DiskEngine,
    meter: Arc<DiskMeter>,
    /// Keeps other stressors from using the disk.
    _disk: File,
    /// The counters when they were last reported.
    reported: DiskTelemetry,
    longest_write_ns: u64,
    longest_read_ns: u64,
}

/// The statistics of a period of time. The field names are keys of the JSON output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DiskStats {
    written_bytes_per_s: u64,
    read_bytes_per_s: u64,
    #[serde(flatten)]
    counted: DiskTelemetry,
}

/// The statistics of the whole time, and the result of the verification.
#[derive(Debug, Clone, Serialize)]
pub(super) struct DiskSummary {
    #[serde(flatten)]
    stats: DiskStats,
    /// The message about the first write or read that failed.
    first_error: Option<String>,
    /// `None` with `--no-verify`.
    verification: Option<DiskVerification>,
    load: DiskLoad,
}

impl DiskPlan {
    /// Checks the disk and the load that the options describe, if they describe any. Changes nothing.
    pub(super) fn new(args: &DiskArgs) -> Result<Option<Self>, Error> {
        let (Some(path), Some(target)) = (args.path.clone(), args.target()?) else {
            return Ok(None);
        };
        let load = args.load.on_disk_of(target.size);
        if load.size.is_zero() {
            return Err(DiskError::NoSize { path }.into());
        }
        disk_engine::check(&load)?;
        Ok(Some(Self { path, target, load }))
    }

    /// Writes the disk and prepares it for the load.
    pub(super) fn prepare(self) -> Result<DiskRun, Error> {
        let disk = self.target.prepare(&self.load)?;
        let mut engine = DiskEngine::new(Some(self.path));
        let is_idle = self.load.is_idle();
        engine.set(self.load)?;
        if is_idle {
            frontend::try_tell(
                "note: --disk-write and --disk-read are 0, so the disk is only written beforehand",
            );
        }
        Ok(DiskRun {
            meter: engine.meter(),
            engine,
            _disk: disk,
            reported: DiskTelemetry::default(),
            longest_write_ns: 0,
            longest_read_ns: 0,
        })
    }
}

impl DiskRun {
    pub(super) fn start(&mut self) -> Result<(), Error> {
        self.engine.start()
    }

    /// Requests the load to stop, without waiting for the disk.
    pub(super) fn request_stop(&self) {
        self.engine.request_stop();
    }

    /// Reads the counters, and remembers the slowest write and read.
    fn read(&mut self) -> DiskTelemetry {
        let now = self.meter.read().unwrap_or_default();
        self.longest_write_ns = self.longest_write_ns.max(now.longest_write_ns);
        self.longest_read_ns = self.longest_read_ns.max(now.longest_read_ns);
        now
    }

    /// Returns the statistics since the last call of this method, `took` ago.
    pub(super) fn since_last(&mut self, took: Duration) -> DiskStats {
        let (now, before) = (self.read(), self.reported);
        self.reported = now;
        let counted = DiskTelemetry {
            bytes_written: now.bytes_written - before.bytes_written,
            bytes_read: now.bytes_read - before.bytes_read,
            bytes_forgone: now.bytes_forgone - before.bytes_forgone,
            io_errors: now.io_errors - before.io_errors,
            reads_bad: now.reads_bad - before.reads_bad,
            ..now
        };
        DiskStats::new(counted, took)
    }

    /// Stops the load, verifies the disk if requested, and returns the summary.
    pub(super) fn finish(mut self, took: Duration, verify: bool) -> Result<DiskSummary, Error> {
        self.engine.stop();
        let now = self.read();
        let (longest_write_ns, longest_read_ns) = (self.longest_write_ns, self.longest_read_ns);
        Ok(DiskSummary {
            stats: DiskStats::new(DiskTelemetry { longest_write_ns, longest_read_ns, ..now }, took),
            first_error: self.meter.first_error(),
            verification: if verify { Some(self.engine.verify()?) } else { None },
            load: self.engine.load().clone(),
        })
    }
}

impl DiskStats {
    fn new(counted: DiskTelemetry, took: Duration) -> Self {
        let rate = |bytes: u64| (bytes as f64 / took.as_secs_f64().max(1e-9)).round() as u64;
        Self {
            written_bytes_per_s: rate(counted.bytes_written),
            read_bytes_per_s: rate(counted.bytes_read),
            counted,
        }
    }

    /// Returns the statistics on one line. On a terminal that is too narrow, the slowest write and read are
    /// left out.
    pub(super) fn line(&self, at_s: f64, width: Option<usize>) -> String {
        let DiskTelemetry { longest_write_ns, longest_read_ns, io_errors, reads_bad, .. } = self.counted;
        let [written, read] = [self.written_bytes_per_s, self.read_bytes_per_s].map(mb_per_s);
        let start = format!("{at_s:>5.0} s {written:>9.1} MB/s written {read:>9.1} MB/s read");
        let [write, read] = [longest_write_ns, longest_read_ns].map(Nanos);
        let slowest = format!("   slowest {write:>8} {read:>8}");
        let problems = [(io_errors, "error"), (reads_bad, "wrong read")].map(|(count, noun)| match count {
            0 => String::new(),
            count => format!("   {}", counted(count, noun)),
        });
        let end = problems.concat();
        let full = format!("{start}{slowest}{end}");
        match width {
            Some(width) if full.chars().count() > width => format!("{start}{end}"),
            _ => full,
        }
    }
}

fn mb_per_s(bytes_per_s: u64) -> f64 {
    ByteRate::new(bytes_per_s).as_mb_per_s()
}

impl DiskSummary {
    /// Returns whether the disk held what it should, and no write and no read failed.
    pub(super) fn is_good(&self) -> bool {
        let DiskTelemetry { io_errors, reads_bad, .. } = self.stats.counted;
        io_errors == 0 && reads_bad == 0 && self.verification.as_ref().is_none_or(DiskVerification::is_good)
    }

    /// Writes the lines of the summary.
    pub(super) fn describe(&self, out: &mut String, at_s: f64) -> fmt::Result {
        let DiskStats { written_bytes_per_s, read_bytes_per_s, counted: totals } = &self.stats;
        for (label, asked, achieved, bytes) in [
            ("disk written  ", self.load.write, *written_bytes_per_s, totals.bytes_written),
            ("disk read     ", self.load.read, *read_bytes_per_s, totals.bytes_read),
        ] {
            let requested = match asked {
                Rate::Limited(rate) if rate.is_zero() => continue,
                Rate::Limited(rate) => format!(" of {:.1} MB/s requested", rate.as_mb_per_s()),
                Rate::Unlimited => String::new(),
            };
            let (achieved, blocks) = (mb_per_s(achieved), counted(bytes / BLOCK_BYTES, "block"));
            writeln!(out, "{label}{achieved:.1} MB/s{requested}: {blocks} in {at_s:.2} s")?;
        }
        if totals.bytes_forgone > 0 {
            let blocks = counted(totals.bytes_forgone / BLOCK_BYTES, "block");
            writeln!(out, "disk forgone  {blocks}, dropped because the disk was too slow")?;
        }
        let (write, read) = (Nanos(totals.longest_write_ns), Nanos(totals.longest_read_ns));
        writeln!(out, "disk slowest  write {write}  read {read}")?;
        if let Some(error) = &self.first_error {
            writeln!(out, "disk errors   {}; the first: {}", totals.io_errors, one_line(error))?;
        }
        match &self.verification {
            None => writeln!(out, "disk          not verified"),
            Some(DiskVerification {
                blocks_checked,
                blocks_bad,
                reads_bad,
                first_bad,
                first_bad_read,
                ..
            }) => {
                let blocks = counted(*blocks_checked, "block");
                if let Some(first) = first_bad_read {
                    writeln!(out, "disk          WRONG READS: {reads_bad}; the first: {first}")?;
                }
                match first_bad {
                    None => writeln!(out, "disk          {blocks}, all as written"),
                    Some(first) => writeln!(out, "disk          CORRUPT: {blocks_bad} of {blocks}; {first}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_not_wider_than_the_terminal() {
        let counted = DiskTelemetry {
            bytes_written: 5_000_000,
            bytes_read: 20_000_000,
            longest_write_ns: 1_234_500,
            longest_read_ns: 300_000,
            ..DiskTelemetry::default()
        };
        let stats = DiskStats::new(counted, Duration::from_secs(1));
        let full = "   12 s       5.0 MB/s written      20.0 MB/s read   slowest   1.2 ms 300.0 us";
        assert_eq!(stats.line(12.0, None), full);
        assert_eq!(stats.line(12.0, Some(80)), full);
        assert_eq!(stats.line(12.0, Some(60)), full.split("   slowest").next().unwrap());
        let bad =
            DiskStats::new(DiskTelemetry { io_errors: 2, reads_bad: 1, ..counted }, Duration::from_secs(1));
        assert!(bad.line(12.0, None).ends_with("300.0 us   2 errors   1 wrong read"));
    }
}
