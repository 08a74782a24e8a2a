//! The record of one attempt: what was asked, what happened, what was measured.
//!
//! A record is a [`Draft`] while the attempt runs and is frozen by [`Draft::freeze`], once, with its outcome;
//! after that nothing changes it. Every figure says where it starts and ends and what it leaves out.

use super::obtained::{self, Obtained};
use crate::{
    matrix::{Cell, Settings},
    measure::{End, passes::Pass, samples::Completion},
    node::{round_trip::RoundTrips, server::probe},
    outcome::Outcome,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use netem::userspace::Lateness;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use stressor::{verify::Verification, workload::Rate};

/// One attempt at one cell of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The cell's identity in the matrix.
    pub cell: String,
    /// Which of the cell's repetitions this is, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so, in words; absent for a migration that simply converged.
    pub reason: Option<String>,
    /// When it started.
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// From the migrate command until the guest runs at the destination (QEMU's `RESUME` event there), in
    /// milliseconds of the orchestrator's clock. Absent where the guest never ran there.
    pub total_time_ms: Option<f64>,
    /// The downtime, seen from three sides.
    pub downtime_ms: Downtime,
    /// The data moved, counted in two places.
    pub transferred: Transferred,
    /// One entry per pass over the memory.
    pub iterations: Vec<Pass>,
    /// The entries of the timeline that were carried out, in order. Those that the end of the migration came
    /// before are not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Carried>,
    /// The load, as the stressor counted it.
    pub stress: Stress,
    /// Whether the guest's memory held exactly what the stressor wrote, checked after the migration (or at
    /// the source, where it was given up).
    pub verified: Option<Verification>,
    /// QEMU's own account of a completed migration.
    pub qemu: Option<Completion>,
    /// What the downtime probe saw, from before the migration until after it.
    pub probe: Option<probe::Report>,
    /// How the migration link was shaped, as set, and by which backend.
    pub link: Option<String>,
    /// How well it was emulated, from just before the migrate command until after the verdict; absent where the
    /// kernel shaped it.
    pub link_lateness: Option<LinkLateness>,
    /// How long each phase of the attempt took, in milliseconds, in order.
    pub phases_ms: IndexMap<Phase, f64>,
    /// The whole attempt, from the first QEMU's start until both are gone, in milliseconds.
    pub wall_time_ms: f64,
    /// Two measurements of one thing that do not agree, in words. Both stand as they were measured.
    pub disagreements: Vec<String>,
    /// How far away the nodes were when the lab started: what the ways in [`Obtained::ways`] are parts of. Absent in
    /// records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<RoundTrips>,
    /// How each duration here was obtained, by its key. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub obtained: IndexMap<String, Obtained>,
}

/// The downtime of one migration, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Downtime {
    /// QEMU's figure: from the stop at the source to the end of the migration there. Leaves out the start at
    /// the destination.
    pub qemu: Option<f64>,
    /// The time the guest's clock lost against the host's: while no guest code could run. Good to about a
    /// millisecond.
    pub guest: Option<f64>,
    /// The longest time without a probe reply at a client: includes the time until the network has found the
    /// guest again. Good to the probe's interval.
    pub client: Option<f64>,
}

/// The data that one migration moved, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// QEMU's figure: payload of the migration stream.
    pub qemu_bytes: Option<u64>,
    /// What the source sent over the migration link, Ethernet, IP and TCP headers included: see
    /// [`Traffic::sent_bytes`](crate::node::protocol::Traffic::sent_bytes) for what each backend counts.
    pub wire_bytes: Option<u64>,
}

/// The scheduling error of the link emulator (backend `userspace`): by how much packets were delivered later than
/// was computed for them, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinkLateness {
    /// Packets delivered; one that is not segmented yet, of up to 64 KiB, counts as one.
    pub deliveries: u64,
    /// How late they were on average, in milliseconds.
    pub late_mean_ms: f64,
    /// How late the worst of them was, in milliseconds.
    pub late_worst_ms: f64,
}

impl From<Lateness> for LinkLateness {
    fn from(late: Lateness) -> Self {
        Self {
            deliveries: late.deliveries,
            late_mean_ms: round_micros(late.mean().as_millis_f64()),
            late_worst_ms: round_micros(late.worst.as_millis_f64()),
        }
    }
}

/// An entry of the timeline that was carried out. Times are in milliseconds since the migrate command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stress {
    /// What was asked for at first; absent where the rate is unlimited.
    pub requested: Option<u64>,
    /// As it settled: over the last half second before the migration.
    pub before: Option<f64>,
    /// From the migrate command until the guest stopped, or the migration was given up.
    pub during: Option<f64>,
    /// The same time in parts, where the timeline changed the rate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stretches: Vec<Stretch>,
    /// After it, wherever the guest runs.
    pub after: Option<f64>,
    /// What was due to be dirtied during the migration and was not, in bytes: a guest that is throttled or
    /// starved of CPU dirties less than it was asked to.
    pub forgone_bytes: Option<u64>,
    /// The longest time between two writes during the migration, by the guest's clock, in milliseconds: what
    /// throttling or a slow page fault does to an application.
    pub longest_stall_ms: Option<f64>,
}

/// A phase of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// The stressor checks its memory.
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

/// A record that is still being written.
pub struct Draft {
    /// What has been measured so far.
    pub measured: Measured,
    started_at: Timestamp,
    started: Instant,
    phase: Option<(Phase, Instant)>,
}

impl Draft {
    /// Starts the record, and the clock.
    pub fn start() -> Self {
        Self {
            measured: Measured::default(),
            started_at: Timestamp::now(),
            started: Instant::now(),
            phase: None,
        }
    }

    /// Ends the current phase and enters the next.
    pub fn enter(&mut self, phase: Phase) {
        self.end_phase();
        self.phase = Some((phase, Instant::now()));
    }

    fn end_phase(&mut self) {
        if let Some((phase, since)) = self.phase.take() {
            self.measured.phases_ms.insert(phase, millis(since));
        }
    }

    /// Ends the record.
    pub fn freeze(mut self, cell: &Cell, attempt: u32, outcome: Outcome, reason: Option<String>) -> Record {
        self.end_phase();
        self.measured.wall_time_ms = millis(self.started);
        self.measured.obtained = obtained::of(&self.measured);
        Record {
            cell: cell.id.clone(),
            attempt,
            outcome,
            reason,
            started_at: self.started_at,
            axes: cell.axes.clone(),
            settings: cell.settings.clone(),
            measured: self.measured,
        }
    }
}

/// Milliseconds since, to the microsecond: finer would suggest an accuracy that is not there.
pub fn millis(since: Instant) -> f64 {
    round_micros(since.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds rounded to the microsecond.
pub fn round_micros(millis: f64) -> f64 {
    (millis * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::File;
    use serde_json::json;
    use std::{thread::sleep, time::Duration};

    fn frozen(phases: &[Phase]) -> Record {
        let plan =
            File::parse("name: n\n", "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let mut draft = Draft::start();
        for phase in phases {
            draft.enter(*phase);
            sleep(Duration::from_millis(2));
        }
        draft.freeze(&plan.cells[0], 2, Outcome::Interrupted, Some("it was interrupted".into()))
    }

    #[test]
    fn every_phase_that_was_entered_has_its_time_in_order() {
        let record = frozen(&[Phase::Boot, Phase::Fill, Phase::TearDown]);
        let phases: Vec<Phase> = record.measured.phases_ms.keys().copied().collect();
        assert_eq!(phases, [Phase::Boot, Phase::Fill, Phase::TearDown]);
        let sum: f64 = record.measured.phases_ms.values().sum();
        assert!(record.measured.phases_ms.values().all(|ms| *ms >= 2.0), "{:?}", record.measured.phases_ms);
        assert!(sum <= record.measured.wall_time_ms + 0.01, "{sum} of {}", record.measured.wall_time_ms);
    }

    #[test]
    fn a_record_has_the_names_that_others_read() {
        let json = serde_json::to_value(frozen(&[Phase::Boot])).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "cell",
                "attempt",
                "outcome",
                "reason",
                "started_at",
                "axes",
                "settings",
                "total_time_ms",
                "downtime_ms",
                "transferred",
                "iterations",
                "stress",
                "verified",
                "qemu",
                "probe",
                "link",
                "link_lateness",
                "phases_ms",
                "wall_time_ms",
                "disagreements",
                "obtained",
            ]
        );
        assert_eq!(json["downtime_ms"], json!({ "qemu": null, "guest": null, "client": null }));
        assert_eq!(json["transferred"], json!({ "qemu_bytes": null, "wire_bytes": null }));
        assert_eq!((&json["cell"], &json["outcome"]), (&json!("base"), &json!("interrupted")));
        assert!(json["phases_ms"]["boot"].is_f64());
    }

    #[test]
    fn a_record_of_an_older_version_can_be_read() {
        let old = include_str!("../../../results/reference/icclab-threshold-tcg/cells.jsonl");
        let old = old.lines().next().unwrap();
        let record: Record = serde_json::from_str(old).unwrap();
        assert!(record.measured.obtained.is_empty() && record.measured.round_trips.is_none());
        let again = serde_json::to_value(&record).unwrap();
        assert!(again.get("obtained").is_none(), "what is not known is not made up");
    }

    #[test]
    fn milliseconds_are_kept_to_the_microsecond() {
        assert_eq!(round_micros(1.234_567_8).to_string(), "1.235");
    }
}
