//! The record of one attempt: its settings, its outcome and its measurements.
//!
//! These types are plain data and define the format of `cells.jsonl`. None of them is part of a protocol
//! between programs, so a change of a protocol does not change the files.
//! [`RecordBuilder`](super::builder::RecordBuilder) fills a record while its attempt runs. The definition of
//! each figure (what it is, where it starts and ends, what it leaves out) is in [`figures`](super::figures)
//! only.

use super::format::FormatVersion;
use crate::{
    matrix::{Settings, is_default},
    measure::{
        End,
        link::{LinkSetting, StorageSetting},
        passes::Pass,
        samples::Completion,
    },
    outcome::Outcome,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stressor::workload::{PAGE_BYTES, Rate};

/// The record of one attempt at one cell of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The version of the results format. Absent in the oldest records, which have none.
    #[serde(default, skip_serializing_if = "FormatVersion::is_unversioned")]
    pub format: FormatVersion,
    /// The version and the commit of the `testbed` that made the record. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The cell's identifier in the matrix, such as `stress.rate=64MBps`.
    pub cell: String,
    /// The number of the cell's repetition, from 1.
    pub attempt: u32,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// The reason for the outcome, in words; absent if the migration converged before its deadline.
    pub reason: Option<String>,
    /// When the attempt started.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// The cell's value on each axis of the matrix.
    pub axes: IndexMap<String, String>,
    /// All settings of the cell, including defaults.
    pub settings: Settings,
    /// Everything that was measured in the attempt.
    #[serde(flatten)]
    pub measured: Measured,
}

/// The kernel's messages for a full disk and for an exhausted quota, in the words of both common C libraries.
const DISK_IS_FULL: [&str; 2] = ["no space left on device", "quota exceeded"];

impl Record {
    /// Returns whether the attempt has a result. If not, a resumed run repeats it.
    pub fn is_result(&self) -> bool {
        self.outcome != Outcome::Interrupted && !self.lacked_disk()
    }

    /// Makes a record of an older version what one of this version would be: derives figures that it lacks,
    /// and drops those that were not measured.
    pub(super) fn revise(&mut self) {
        self.measured.aids.derive_deltas();
        if self.outcome == Outcome::Skipped {
            self.measured.wall_time_ms = None;
            self.measured.obtained.shift_remove("wall_time_ms");
        }
    }

    /// Returns whether the attempt failed because a disk was full, on this host or on a node. That says
    /// nothing about the migration.
    pub fn lacked_disk(&self) -> bool {
        let reason = self.reason.as_deref().filter(|_| self.outcome == Outcome::Failed);
        reason.is_some_and(|reason| {
            let reason = reason.to_lowercase();
            DISK_IS_FULL.iter().any(|words| reason.contains(words))
        })
    }
}

/// The measurements of one attempt. Figures that the attempt did not reach are absent.
///
/// [`FIGURES`](super::figures::FIGURES) defines each figure; the JSON Schema and `docs/figures.md` repeat its
/// definitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// The figure `total_time_ms`.
    pub total_time_ms: Option<f64>,
    /// The figure `past_deadline_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past_deadline_ms: Option<f64>,
    /// The downtime, as measured by QEMU, by the guest and by a client, in milliseconds.
    pub downtime_ms: Downtime,
    /// The data that the migration moved, as counted by QEMU and on the migration link, in bytes.
    pub transferred: Transferred,
    /// What happened to the guest's disk. Absent if it has none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub storage: StorageMeasured,
    /// What the aids of the migration did. Absent without any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aids: AidsMeasured,
    /// The CPU time that the two QEMU processes used for the migration. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu: CpuMeasured,
    /// What happened in post-copy. Absent if the guest did not move by post-copy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub postcopy: PostcopyMeasured,
    /// What is known of the file through which the guest migrated. Absent in other modes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub file: FileMeasured,
    /// The figure `iterations`.
    pub iterations: Vec<Pass>,
    /// The figure `timeline`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<AppliedChange>,
    /// The load on the guest's memory, as counted by the stressor.
    pub stress: Stress,
    /// The figure `verified`.
    pub verified: Option<Verification>,
    /// The figure `qemu`.
    pub qemu: Option<Completion>,
    /// The results of the downtime probe, which runs from before the migration until after it.
    pub probe: Option<Probe>,
    /// How the migration link was shaped at first, and by which backend: `link_setting` in words.
    pub link: Option<String>,
    /// How the migration link was shaped at first. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_setting: Option<LinkSetting>,
    /// The figure `link_lateness`.
    pub link_lateness: Option<LinkLateness>,
    /// The figure `phases_ms`.
    pub phases_ms: IndexMap<Phase, f64>,
    /// The figure `wall_time_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_time_ms: Option<f64>,
    /// Pairs of measurements of the same quantity that disagree, in words. Both are kept as measured.
    pub disagreements: Vec<String>,
    /// The round-trip times of messages to the nodes, measured when the lab started. They bound the message
    /// delays that `obtained` names in `ways`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<RoundTrips>,
    /// How each duration of this record was measured, by the figure's key. Absent in records of older
    /// versions.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub obtained: IndexMap<String, Provenance>,
}

/// The downtime of one migration, measured in three ways, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Downtime {
    /// The figure `downtime_ms.qemu`.
    pub qemu: Option<f64>,
    /// The figure `downtime_ms.guest`.
    pub guest: Option<f64>,
    /// The figure `downtime_ms.client`.
    pub client: Option<f64>,
    /// The figure `downtime_ms.client_at_least`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_at_least: Option<f64>,
}

impl Downtime {
    /// Returns the downtime in words and whose figure it is, such as `1220 ms (guest)`: the guest's or, if
    /// that was not measured, the client's or QEMU's. QEMU's leaves out the most.
    pub fn in_words(&self) -> Option<String> {
        let figures = [(self.guest, "guest"), (self.client, "client"), (self.qemu, "QEMU")];
        figures.into_iter().find_map(|(ms, witness)| Some(format!("{:.0} ms ({witness})", ms?)))
    }
}

/// The data that one migration moved, counted in two places, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transferred {
    /// The figure `transferred.qemu_bytes`.
    pub qemu_bytes: Option<u64>,
    /// The figure `transferred.memory_bytes`. Absent if the disk was not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The figure `transferred.disk_bytes`. Absent if the disk was not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The figure `transferred.wire_bytes`.
    pub wire_bytes: Option<u64>,
    /// The figure `transferred.storage`. Absent if the disk is not shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageTraffic>,
    /// The figure `transferred.while_running`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub while_running: Option<SentWhileRunning>,
}

/// What the links between a shared disk and the compute nodes carried, in bytes with all headers, both
/// directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageTraffic {
    /// The bytes on the link to the source.
    pub source_bytes: u64,
    /// The bytes on the link to the destination.
    pub destination_bytes: u64,
}

/// What happened to the guest's disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StorageMeasured {
    /// How the links to a shared disk were shaped at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_setting: Option<StorageSetting>,
    /// The figure `storage.bulk_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk_ms: Option<f64>,
    /// The figure `storage.bulk_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk_bytes: Option<u64>,
    /// The figure `storage.memory_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_ms: Option<f64>,
    /// The figure `storage.switchover_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover_ms: Option<f64>,
    /// The figure `storage.write_rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_rate: Option<f64>,
    /// The figure `storage.read_rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_rate: Option<f64>,
    /// The figure `storage.longest_write_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_write_ms: Option<f64>,
    /// The figure `storage.longest_read_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_read_ms: Option<f64>,
    /// How the server of a shared disk exited during the attempt, such as `signal: 9 (SIGKILL)`, each time
    /// that it did. It was started again each time, one second later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_failures: Vec<String>,
    /// The figure `storage.verified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<DiskVerification>,
}

/// What the aids of a migration did. Figures that an aid does not have are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AidsMeasured {
    /// The figure `aids.throttle_percent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_percent: Option<u64>,
    /// The figure `aids.throttled_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_ms: Option<f64>,
    /// The figure `aids.compression_ratio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression_ratio: Option<f64>,
    /// The figure `aids.multifd_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multifd_bytes: Option<u64>,
    /// The figure `aids.connection_bytes`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connection_bytes: Vec<u64>,
    /// The figure `aids.xbzrle_deltas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xbzrle_deltas: Option<u64>,
    /// The figure `aids.xbzrle_delta_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xbzrle_delta_bytes: Option<u64>,
    /// The figure `aids.xbzrle_pages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xbzrle_pages: Option<u64>,
    /// The figure `aids.xbzrle_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xbzrle_bytes: Option<u64>,
    /// The figure `aids.xbzrle_misses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xbzrle_misses: Option<u64>,
    /// The figure `aids.xbzrle_overflows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xbzrle_overflows: Option<u64>,
}

impl AidsMeasured {
    /// Derives what XBZRLE sent as changes from QEMU's counters, which include pages that were sent in full.
    pub(crate) fn derive_deltas(&mut self) {
        let without_overflows = |all: Option<u64>, per_overflow: u64| {
            let overflows = self.xbzrle_overflows?.checked_mul(per_overflow)?;
            all?.checked_sub(overflows)
        };
        self.xbzrle_deltas = without_overflows(self.xbzrle_pages, 1);
        self.xbzrle_delta_bytes = without_overflows(self.xbzrle_bytes, PAGE_BYTES);
    }
}

/// The CPU time that the two QEMU processes used for a migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuMeasured {
    /// The figure `cpu.source_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ms: Option<f64>,
    /// The figure `cpu.destination_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ms: Option<f64>,
    /// The figure `cpu.source_ms_per_gb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ms_per_gb: Option<f64>,
    /// The figure `cpu.destination_ms_per_gb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ms_per_gb: Option<f64>,
}

/// What happened to a guest that moved by post-copy, before its memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PostcopyMeasured {
    /// The figure `postcopy.started_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<f64>,
    /// The figure `postcopy.duration_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// The figure `postcopy.bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The figure `postcopy.page_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_requests: Option<u64>,
    /// The figure `postcopy.all_blocked_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_blocked_ms: Option<u64>,
    /// The figure `postcopy.vcpus_blocked_ms`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vcpus_blocked_ms: Vec<u64>,
    /// The figure `postcopy.fault_latency_us`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_latency_us: Option<f64>,
    /// The figure `postcopy.fault_latencies`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fault_latencies: Vec<u64>,
    /// The figure `postcopy.write_latencies`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write_latencies: Vec<u64>,
    /// The figure `postcopy.rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The figure `postcopy.recoveries`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recoveries: Option<u64>,
    /// The figure `postcopy.paused_ms`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<f64>,
}

/// The file through which a guest migrated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FileMeasured {
    /// The figure `file.bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The figure `file.allocated_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<u64>,
    /// The figure `file.save_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_ms: Option<f64>,
    /// The figure `file.load_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<f64>,
}

/// The result of the check of the guest's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskVerification {
    /// The number of blocks of 4 KiB compared: all blocks of the disk.
    pub blocks_checked: u64,
    /// The number of blocks that did not hold what was written to them.
    pub blocks_bad: u64,
    /// The first block that did not hold what was written to it, in words; absent if there is none.
    pub first_bad: Option<String>,
    /// The number of reads by the workload that returned data other than what was written.
    pub reads_bad: u64,
    /// What the first of these reads returned, in words; absent if there is none.
    pub first_bad_read: Option<String>,
    /// The number of writes and reads by the workload that failed.
    pub io_errors: u64,
    /// The message about the first failure; absent if there is none.
    pub first_error: Option<String>,
}

/// The data that QEMU sent while the guest still ran at the source, which is when QEMU's own bandwidth limit
/// applies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SentWhileRunning {
    /// The data sent, in bytes as QEMU counts them.
    pub bytes: u64,
    /// The time in which it was sent, in milliseconds.
    pub duration_ms: f64,
}

/// The scheduling error of the link emulator (backend `userspace`): how much later than computed it delivered
/// packets, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkLateness {
    /// The number of packets delivered. A packet of up to 64 KiB that is not segmented yet counts as one.
    pub deliveries: u64,
    /// The mean lateness of the packets, in milliseconds.
    pub late_mean_ms: f64,
    /// The largest lateness of any packet, in milliseconds.
    pub late_worst_ms: f64,
}

/// The results of the downtime probe, which sends ICMP echo requests to the guest at a fixed interval and
/// measures the gaps between their replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// The interval at which requests are sent, in nanoseconds.
    pub interval_ns: u64,
    /// The number of requests sent.
    pub sent: u64,
    /// The number of replies received.
    pub received: u64,
    /// The longest gap between two consecutive replies, in nanoseconds. Absent with fewer than two replies.
    pub largest_gap_ns: Option<u64>,
    /// The median gap between two consecutive replies, in nanoseconds. Absent with fewer than two replies.
    pub median_gap_ns: Option<u64>,
    /// The time from the last reply until the probe ended without another one, in nanoseconds. Absent if the
    /// guest answered until the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_gap_ns: Option<u64>,
}

/// The result of the check of the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// The number of pages of 4 KiB compared, in the working set and the ballast.
    pub pages_checked: u64,
    /// The number of pages that did not hold what was written to them.
    #[serde(default)]
    pub pages_bad: u64,
    /// The first page that did not hold what was written to it; absent if there is none.
    pub first_bad: Option<BadPage>,
}

/// A page that does not hold what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadPage {
    /// The part of the stressor's memory that the page belongs to.
    #[serde(default)]
    pub area: MemoryArea,
    /// The page's index within that part, from 0, in pages of 4 KiB.
    pub index: u64,
    /// How often the page was written after it was filled.
    pub expected_generation: u32,
    /// What the page held instead, in a few words.
    pub held: String,
}

/// A part of the stressor's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryArea {
    /// The working set: the memory that the stressor dirties.
    #[default]
    WorkingSet,
    /// The ballast: memory that is filled and then left unchanged.
    Ballast,
}

/// The round-trip time of a call to a node that does nothing, over the same streams as all other messages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// The shortest round trip of several calls, in milliseconds.
    pub least_ms: f64,
    /// The median round trip of several calls, in milliseconds.
    pub median_ms: f64,
}

/// The round-trip times between the orchestrator and its nodes, measured when the lab started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrips {
    /// From the orchestrator to the controller and back.
    pub controller: RoundTrip,
    /// From the orchestrator to the source and back.
    pub source: RoundTrip,
    /// From the orchestrator to the destination and back.
    pub destination: RoundTrip,
}

/// The provenance of a duration: which clock measured it, and the events at which it starts and ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// The clock that measured it.
    pub clock: Clock,
    /// The event at which the duration starts.
    pub from: String,
    /// The event at which the duration ends.
    pub to: String,
    /// The message delays between the orchestrator and the nodes that the duration includes, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ways: Option<String>,
}

/// The clock that measures a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The clock of the orchestrator's host.
    Orchestrator,
    /// The clock of the source's host.
    Source,
    /// The clock of the destination's host.
    Destination,
    /// The clock of the controller's host.
    Controller,
    /// The guest's clock, which stops while the guest is stopped.
    Guest,
    /// The guest's and the orchestrator's clocks: how far the guest's fell behind the orchestrator's.
    GuestAndOrchestrator,
}

/// A change of the matrix's `timeline`, or of a rate that changes by itself, that was applied. Times are in
/// milliseconds since the start of the migration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppliedChange {
    /// When the change was due, according to the matrix.
    pub due_ms: f64,
    /// When its first part was requested.
    pub began_ms: f64,
    /// When its last part was confirmed.
    pub done_ms: f64,
    /// How the link was shaped, in words; absent if the link does not change.
    pub link: Option<String>,
    /// The rate that was requested for the link, in bits per second; absent if the link does not change or
    /// has no rate. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_bits_per_s: Option<u64>,
    /// The dirty rate requested from then on; absent if the workload does not change.
    pub rate: Option<Rate>,
    /// The end that confirmed the change of the workload. It is the destination if the guest stopped at the
    /// source before it could answer there, so that the change had to be requested again.
    pub by: Option<End>,
}

/// An interval of the migration in which one dirty rate was requested. Times are in milliseconds since the
/// start of the migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RateInterval {
    /// When the rate was confirmed.
    pub from_ms: f64,
    /// When the next rate was requested, the guest stopped, or the migration was given up.
    pub to_ms: f64,
    /// The requested dirty rate, in bytes per second of the guest's clock; absent if unlimited.
    pub requested: Option<u64>,
    /// The achieved dirty rate, in bytes per second of the guest's clock. Absent if the interval is shorter
    /// than half a second, which is too short for a meaningful figure.
    pub achieved: Option<f64>,
}

/// The load on the guest's memory, in bytes dirtied per second of the guest's clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stress {
    /// The figure `stress.requested`.
    pub requested: Option<u64>,
    /// The figure `stress.before`.
    pub before: Option<f64>,
    /// The figure `stress.during`.
    pub during: Option<f64>,
    /// The figure `stress.stretches`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stretches: Vec<RateInterval>,
    /// The figure `stress.after`.
    pub after: Option<f64>,
    /// The figure `stress.recovered_ms`. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_ms: Option<f64>,
    /// The figure `stress.forgone_bytes`.
    pub forgone_bytes: Option<u64>,
    /// The figure `stress.longest_stall_ms`.
    pub longest_stall_ms: Option<f64>,
}

/// A phase of an attempt. An attempt goes through the phases in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Both QEMU processes start; the source's restores the guest from a state saved after booting. The first
    /// attempt with a VM configuration boots the guest and saves that state.
    Boot,
    /// The stressor fills the working set and the ballast.
    Fill,
    /// The stressor dirties memory until its dirty rate is steady.
    Settle,
    /// The guest migrates, until the migration completes or is given up.
    Migrate,
    /// The guest is observed at the end where it now is: it must run, and it must dirty memory unless the
    /// requested rate is 0.
    Observe,
    /// The stressor checks its memory, while the guest is still observed.
    Verify,
    /// The probe is stopped and both QEMU processes are ended.
    TearDown,
}

impl Phase {
    /// Returns what happens in the phase, in a word or two, for progress messages.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Boot => "booting",
            Self::Fill => "filling memory",
            Self::Settle => "settling",
            Self::Migrate => "migrating",
            Self::Observe => "observing",
            Self::Verify => "verifying",
            Self::TearDown => "tearing down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_xbzrle_sent_in_full_are_no_deltas() {
        let deltas = |pages, bytes, overflows| {
            let mut aids = AidsMeasured {
                xbzrle_pages: pages,
                xbzrle_bytes: bytes,
                xbzrle_overflows: overflows,
                ..AidsMeasured::default()
            };
            aids.derive_deltas();
            (aids.xbzrle_deltas, aids.xbzrle_delta_bytes)
        };
        assert_eq!(deltas(Some(28_662), Some(390_560), Some(0)), (Some(28_662), Some(390_560)));
        let mostly_full = deltas(Some(2_193_219), Some(8_962_145_052), Some(2_187_609));
        assert_eq!(mostly_full, (Some(5_610), Some(1_698_588)));
        assert_eq!(deltas(Some(2), Some(4_095), Some(1)), (Some(1), None), "counters that cannot be true");
        assert_eq!(deltas(Some(1), None, Some(2)), (None, None));
        assert_eq!(deltas(Some(1), Some(1), None), (None, None));
        assert_eq!(deltas(Some(1), Some(1), Some(u64::MAX)), (None, None));
    }
}
