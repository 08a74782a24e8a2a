//! The messages between the host and the stressor in a guest: one JSON object per line, over the
//! virtio-serial port named [`PORT`], the control port.
//!
//! The host sends [`Request`]s with unique numbers. The stressor answers each with one [`Message::Reply`] of
//! the same number. On its own, it also sends [`Message::Hello`] once it is ready and [`Message::Telemetry`]
//! at a fixed interval. A migration can truncate a line; both sides skip truncated lines, and nothing depends
//! on any single line of telemetry.

use crate::{
    disk::{DiskLoad, DiskVerification},
    verify::Verification,
    workload::Workload,
};
use serde::{Deserialize, Serialize};

/// The name of the virtio-serial port that serves as the control port.
pub const PORT: &str = "testbed.stressor";

/// The default interval between telemetry lines, in milliseconds. [`Command::TelemetryEvery`] changes it.
pub const TELEMETRY_INTERVAL_MS: u64 = 50;

/// A request from the host to the stressor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The number of the request, chosen by the host and repeated in the reply.
    pub id: u64,
    /// The operation to carry out.
    pub command: Command,
}

/// An operation that the host can request from the stressor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Replace the workload: allocate and fill its memory. If the stressor was dirtying, it continues with
    /// the new workload; otherwise it stays stopped. Answered when the memory is ready. Allowed at any time.
    Set(Workload),
    /// Describe the disk and replace the load on it. The disk must match the description. If the stressor was
    /// started, the load runs; otherwise it waits for [`Command::Start`]. Once the load has written to the
    /// disk, only its rates and its working set can change. Answered when the disk is open. Allowed at any
    /// time.
    SetDisk(DiskLoad),
    /// Start dirtying, and the load on the disk if there is one. Answered immediately.
    Start,
    /// Stop dirtying and the load on the disk, and keep the memory. Answered when all threads have stopped
    /// writing, and when no write to the disk is in flight, which depends on the disk.
    Stop,
    /// Set the interval between telemetry lines, from 1 to 1000 milliseconds. A short interval resolves short
    /// events but costs CPU time: about half a millisecond per line under emulation. Answered immediately.
    TelemetryEvery(u64),
    /// Compare all memory, including the ballast, with its expected content. The stressor stops dirtying
    /// first and stays stopped; the load on the disk continues. Answered with [`Answer::Verified`].
    Verify,
    /// Compare the whole disk with its expected content, once no write to it is in flight. The load on it
    /// stops first and stays stopped; dirtying continues. Answered with [`Answer::DiskVerified`].
    VerifyDisk,
}

/// A message from the stressor to the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// A greeting, sent once, when the stressor is ready for requests.
    Hello(Hello),
    /// The answer to a request.
    Reply {
        /// The number of the request that is answered.
        id: u64,
        /// The outcome of that request.
        answer: Answer,
    },
    /// Counters, sent every [`TELEMETRY_INTERVAL_MS`] or at the interval set by [`Command::TelemetryEvery`].
    Telemetry(Telemetry),
}

/// A description of the stressor and of the guest that it runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the stressor, such as `1.2.3`.
    pub version: String,
    /// The release of the guest's kernel, as `uname -r` prints it.
    pub kernel: String,
    /// The number of CPUs that the stressor can use.
    pub cpus: usize,
    /// The total memory of the guest's kernel, in bytes. 0 if it cannot be determined.
    pub memory_bytes: u64,
    /// The guest's clock (monotonic, since boot) when the stressor became ready, in nanoseconds.
    pub clock_ns: u64,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The request was carried out.
    Done,
    /// The memory was verified, with this result.
    Verified(Verification),
    /// The disk was verified, with this result.
    DiskVerified(DiskVerification),
    /// The request was refused or failed, with the error message. A refused workload leaves the current one
    /// in place.
    Failed(String),
}

/// The activity of the stressor since it started and since its last telemetry line, by the guest's clock.
///
/// The guest's clock stops while the guest is stopped. Therefore a stopped guest does not show up as a stall
/// here, but as time that the guest's clock loses against the host's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// The number of the telemetry line. Starts at 0 and has no gaps.
    pub sequence: u64,
    /// The guest's clock (monotonic, since boot) when the line was created, in nanoseconds.
    pub clock_ns: u64,
    /// Whether the stressor is started. A started stressor dirties memory, unless the rate is 0.
    pub running: bool,
    /// The number of 4 KiB pages dirtied since the stressor started. A page counts each time it is written.
    pub pages_dirtied: u64,
    /// The number of pages that were due during stalls and were dropped, since the stressor started.
    #[serde(default)]
    pub pages_forgone: u64,
    /// The longest delay between two consecutive writes since the last telemetry line, in nanoseconds,
    /// not counting the pauses that pacing inserts.
    pub longest_stall_ns: u64,
    /// The latency of the writes since the last telemetry line.
    pub write_latency: Latency,
    /// How many writes took how long since the stressor started: entry `n` counts the writes that took 2^n to
    /// 2^(n+1) microseconds, and the first entry includes the shorter ones. Entries after the last write are
    /// left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write_latencies: Vec<u64>,
    /// The activity of the load on the disk. Absent until a load is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTelemetry>,
}

/// The activity of the load on the disk since the stressor started, and the slowest write and read since the
/// last telemetry line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskTelemetry {
    /// The number of bytes written, in blocks of 4 KiB. A block counts each time it is written.
    pub bytes_written: u64,
    /// The number of bytes read.
    pub bytes_read: u64,
    /// The number of bytes that were due while the disk was too slow, or the guest was stopped, and were
    /// dropped.
    pub bytes_forgone: u64,
    /// The longest time taken by a write that has ended since the last telemetry line, in nanoseconds; 0 if
    /// no write has ended. One write consists of the consecutive blocks that were due, at most 256 KiB.
    pub longest_write_ns: u64,
    /// The longest time taken by a read that has ended since the last telemetry line, in nanoseconds; 0 if no
    /// read has ended.
    pub longest_read_ns: u64,
    /// The number of writes and reads that failed. The answer to [`Command::VerifyDisk`] has the first
    /// message.
    pub io_errors: u64,
    /// The number of reads that returned wrong content.
    pub reads_bad: u64,
}

/// The distribution of the time that one page write takes. All fields are 0 if nothing was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The median latency in nanoseconds, accurate to 3 %.
    pub p50_ns: u64,
    /// The 99th percentile in nanoseconds, accurate to 3 %.
    pub p99_ns: u64,
    /// The 99.9th percentile in nanoseconds, accurate to 3 %.
    pub p999_ns: u64,
    /// The longest write in nanoseconds; exact.
    pub max_ns: u64,
}
