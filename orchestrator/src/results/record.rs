//! The record of one attempt: what was asked, what happened, what was measured.
//!
//! Plain data, and the format of `cells.jsonl`: no type here is one that programs say to each other, so that
//! a change of a protocol changes no file. [`RecordBuilder`](super::builder::RecordBuilder) writes a record
//! while its attempt runs. What each figure is, where it starts and ends and what it leaves out is in
//! [`figures`](super::figures), once.

use super::format::FormatVersion;
use crate::{
    matrix::Settings,
    measure::{End, link::LinkSetting, passes::Pass, samples::Completion},
    outcome::Outcome,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stressor::workload::Rate;

/// One attempt at one cell of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The version of the results format; absent in records of older versions.
    #[serde(default, skip_serializing_if = "FormatVersion::is_unversioned")]
    pub format: FormatVersion,
    /// The cell's identity in the matrix.
    pub cell: String,
    /// Which of the cell's repetitions this is, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so, in words; absent for a migration that simply converged.
    pub reason: Option<String>,
    /// When it started.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// The values of the matrix's axes in this cell.
    pub axes: IndexMap<String, String>,
    /// All settings of the cell, defaults included.
    pub settings: Settings,
    /// Everything that was measured.
    #[serde(flatten)]
    pub measured: Measured,
}

/// What an attempt measured; what it did not reach is absent.
///
/// What each figure is, [`FIGURES`](super::figures::FIGURES) says, and from there the JSON Schema and
/// `docs/figures.md`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// The figure `total_time_ms`.
    pub total_time_ms: Option<f64>,
    /// The downtime, seen from three sides.
    pub downtime_ms: Downtime,
    /// The data moved, counted in two places.
    pub transferred: Transferred,
    /// The figure `iterations`.
    pub iterations: Vec<Pass>,
    /// The figure `timeline`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Carried>,
    /// The load, as the stressor counted it.
    pub stress: Stress,
    /// The figure `verified`.
    pub verified: Option<Verification>,
    /// The figure `qemu`.
    pub qemu: Option<Completion>,
    /// What the downtime probe saw, from before the migration until after it.
    pub probe: Option<Probe>,
    /// How the migration link was shaped, as set, and by which backend: [`Self::link_setting`] in words.
    pub link: Option<String>,
    /// How the migration link was set at first. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_setting: Option<LinkSetting>,
    /// The figure `link_lateness`.
    pub link_lateness: Option<LinkLateness>,
    /// The figure `phases_ms`.
    pub phases_ms: IndexMap<Phase, f64>,
    /// The figure `wall_time_ms`.
    pub wall_time_ms: f64,
    /// Two measurements of one thing that do not agree, in words. Both stand as they were measured.
    pub disagreements: Vec<String>,
    /// How far away the nodes were when the lab started: what the ways in [`Obtained::ways`] are parts of.
    /// Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<RoundTrips>,
    /// How each duration here was obtained, by its key. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub obtained: IndexMap<String, Obtained>,
}

/// The downtime of one migration, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Downtime {
    /// The figure `downtime_ms.qemu`.
    pub qemu: Option<f64>,
    /// The figure `downtime_ms.guest`.
    pub guest: Option<f64>,
    /// The figure `downtime_ms.client`.
    pub client: Option<f64>,
}

/// The data that one migration moved, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transferred {
    /// The figure `transferred.qemu_bytes`.
    pub qemu_bytes: Option<u64>,
    /// The figure `transferred.wire_bytes`.
    pub wire_bytes: Option<u64>,
}

/// The scheduling error of the link emulator (backend `userspace`): by how much packets were delivered later
/// than was computed for them, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkLateness {
    /// Packets delivered; one that is not segmented yet, of up to 64 KiB, counts as one.
    pub deliveries: u64,
    /// How late they were on average, in milliseconds.
    pub late_mean_ms: f64,
    /// How late the worst of them was, in milliseconds.
    pub late_worst_ms: f64,
}

/// What the downtime probe saw: ICMP echo requests at a fixed interval, and the times between their replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// The interval between requests, in nanoseconds.
    pub interval_ns: u64,
    /// Requests sent.
    pub sent: u64,
    /// Replies received.
    pub received: u64,
    /// The longest time between two consecutive replies, in nanoseconds.
    pub largest_gap_ns: u64,
    /// The median time between two consecutive replies, in nanoseconds.
    pub median_gap_ns: u64,
}

/// What the check of the guest's memory found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// Pages of 4 KiB compared, working set and ballast.
    pub pages_checked: u64,
    /// How many of them were not as they were written.
    #[serde(default)]
    pub pages_bad: u64,
    /// The first of those.
    pub first_bad: Option<BadPage>,
}

/// A page that does not hold what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadPage {
    /// Which memory it belongs to.
    #[serde(default)]
    pub area: MemoryArea,
    /// Its index within that memory, from 0, in pages of 4 KiB.
    pub index: u64,
    /// How often it was written after it was filled.
    pub expected_generation: u32,
    /// What it held instead, in a few words.
    pub held: String,
}

/// A part of the stressor's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryArea {
    /// The memory that is dirtied.
    #[default]
    WorkingSet,
    /// The memory that is left alone.
    Ballast,
}

/// The times that a call which does nothing took to a node and back, through the streams that everything else
/// comes by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// The shortest, in milliseconds.
    pub least_ms: f64,
    /// The middle one, in milliseconds.
    pub median_ms: f64,
}

/// The round trips between the orchestrator and its nodes, when the lab started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrips {
    /// To the controller and back.
    pub controller: RoundTrip,
    /// To the source and back.
    pub source: RoundTrip,
    /// To the destination and back.
    pub destination: RoundTrip,
}

/// How a duration was obtained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Obtained {
    /// By whose clock.
    pub clock: Clock,
    /// From what event.
    pub from: String,
    /// To what event.
    pub to: String,
    /// Which ways between the orchestrator and the nodes are in it, where any are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ways: Option<String>,
}

/// Whose clock a duration is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The orchestrator's.
    Orchestrator,
    /// The source's host's.
    Source,
    /// The controller's host's.
    Controller,
    /// The guest's, which stands still while the guest is stopped.
    Guest,
    /// The guest's and the orchestrator's: what the one fell behind the other.
    GuestAndOrchestrator,
}

/// An entry of the timeline that was carried out. Times are in milliseconds since the migrate command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Carried {
    /// When the matrix has it.
    pub due_ms: f64,
    /// When the first of its changes was asked for.
    pub began_ms: f64,
    /// When the last of them was confirmed.
    pub done_ms: f64,
    /// How the link was shaped, as set; absent where the entry leaves the link alone.
    pub link: Option<String>,
    /// The rate asked for from then on; absent where the entry leaves the load alone.
    pub rate: Option<Rate>,
    /// Which end confirmed the change of the load: the destination, where the guest stopped before it could
    /// answer at the source and was asked again.
    pub by: Option<End>,
}

/// A part of the migration in which the load was asked for at one rate. Times are in milliseconds since the
/// migrate command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stretch {
    /// When the rate had been set.
    pub from_ms: f64,
    /// When another one was asked for, the guest stopped or the migration was given up.
    pub to_ms: f64,
    /// What was asked for, in bytes dirtied per second; absent where it is unlimited.
    pub requested: Option<u64>,
    /// What was achieved, in the same unit. Absent where the stretch is too short to tell, less than half a
    /// second.
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
    pub stretches: Vec<Stretch>,
    /// The figure `stress.after`.
    pub after: Option<f64>,
    /// The figure `stress.forgone_bytes`.
    pub forgone_bytes: Option<u64>,
    /// The figure `stress.longest_stall_ms`.
    pub longest_stall_ms: Option<f64>,
}

/// A phase of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Both QEMUs start, the source with a guest that was saved when it had booted. The first attempt on a
    /// machine boots that guest.
    Boot,
    /// The stressor fills its memory.
    Fill,
    /// The dirty rate settles.
    Settle,
    /// The migration, until it has completed or was given up.
    Migrate,
    /// The guest is watched where it is now.
    Observe,
    /// The stressor checks its memory, while the guest is still watched.
    Verify,
    /// Both QEMUs are ended.
    TearDown,
}

impl Phase {
    /// What happens in it, in a word or two.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Boot => "booting",
            Self::Fill => "filling memory",
            Self::Settle => "settling",
            Self::Migrate => "migrating",
            Self::Observe => "watching",
            Self::Verify => "verifying",
            Self::TearDown => "ending",
        }
    }
}

/// Returns milliseconds rounded to the microsecond: finer would suggest an accuracy that is not there.
pub fn round_micros(millis: f64) -> f64 {
    (millis * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_kept_to_the_microsecond() {
        assert_eq!(round_micros(1.234_567_8).to_string(), "1.235");
    }
}
