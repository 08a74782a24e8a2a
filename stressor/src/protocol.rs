//! What the host and the stressor in a guest say to each other, one JSON object a line, over a
//! virtio-serial port named [`PORT`].
//!
//! The host sends [`Request`]s, each with a number of its own; the stressor answers each with one
//! [`Message::Reply`] that carries the same number, and besides sends [`Message::Hello`] once it runs and
//! [`Message::Telemetry`] at a fixed interval, whether it is asked or not. A line that is cut short (a
//! migration can cut one) is skipped by both sides: nothing depends on any single telemetry line.

use crate::{verify::Verification, workload::Workload};
use serde::{Deserialize, Serialize};

/// The name of the virtio-serial port the conversation takes place on.
pub const PORT: &str = "testbed.stressor";

/// How often the stressor sends telemetry, in milliseconds, until [`Command::TelemetryEvery`] says otherwise.
pub const TELEMETRY_INTERVAL_MS: u64 = 50;

/// A numbered request of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host; the reply carries it back.
    pub id: u64,
    /// What is asked.
    pub command: Command,
}

/// What the host can ask of the stressor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Make this the workload, from now on: allocate, fill, and go on dirtying (or not) as before. Answered
    /// once the memory is as the workload says. May be sent while the stressor runs.
    Set(Workload),
    /// Start dirtying. Answered at once.
    Start,
    /// Stop dirtying; the memory stays. Answered once no thread writes any more.
    Stop,
    /// Send telemetry every so many milliseconds from now on, from 1 to 1000: to see what happens in short
    /// windows of time. Each line takes CPU time, under emulation about half a millisecond. Answered at once.
    TelemetryEvery(u64),
    /// Compare all of the memory, ballast included, with what was written to it. The stressor stops
    /// dirtying for it and does not start again. Answered with [`Answer::Verified`].
    Verify,
}

/// What the stressor sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// Sent once, when the stressor is ready for requests.
    Hello(Hello),
    /// The answer to the request of the same number.
    Reply {
        /// The request's number.
        id: u64,
        /// Its outcome.
        answer: Answer,
    },
    /// Sent every [`TELEMETRY_INTERVAL_MS`], or as [`Command::TelemetryEvery`] says.
    Telemetry(Telemetry),
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The stressor's version.
    pub version: String,
    /// The guest kernel's release.
    pub kernel: String,
    /// CPUs that are online.
    pub cpus: usize,
    /// Memory the kernel has in all, in bytes.
    pub memory_bytes: u64,
    /// The guest's clock (monotonic since its boot) when the stressor started, in nanoseconds.
    pub clock_ns: u64,
}

/// The outcome of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done as asked.
    Done,
    /// Done; this is what the memory held.
    Verified(Verification),
    /// Not done, in words; the workload is as it was.
    Failed(String),
}

/// What the stressor did since it started and since its last telemetry, by its own clock.
///
/// The guest's clock stands still while the guest is stopped, so a stop does not show as a stall here; it
/// shows as time that the guest's clock lost against the host's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// Counts the telemetry lines, from 0, without gaps.
    pub sequence: u64,
    /// The guest's clock (monotonic since its boot) when the line was made, in nanoseconds.
    pub clock_ns: u64,
    /// Whether the stressor is dirtying.
    pub running: bool,
    /// Pages of 4 KiB dirtied since the stressor started; the same page counts each time.
    pub pages_dirtied: u64,
    /// Pages that were due while the stressor was stalled and that are not made up for, since it started.
    #[serde(default)]
    pub pages_forgone: u64,
    /// The longest time between two writes that should have followed each other, since the last telemetry,
    /// in nanoseconds, the pause that pacing asks for not counted.
    pub longest_stall_ns: u64,
    /// Latency of the writes since the last telemetry.
    pub write_latency: Latency,
}

/// A distribution of the time one page write takes, in nanoseconds; all zero when nothing was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// The largest.
    pub max_ns: u64,
}
