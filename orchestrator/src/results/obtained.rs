//! How each duration of a record was obtained: by whose clock, from what event to what event.
//!
//! [`DURATIONS`] is the one list of them. A record says it of each duration that it has, and the table in
//! ARCHITECTURE.md is held against it by a test. No duration is the difference of two hosts' clocks. Those by the
//! orchestrator's clock contain what lines took to it, which [`RoundTrips`](crate::node::round_trip::RoundTrips) bounds:
//! a way is a part of a round trip.

use super::record::Measured;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Whose clock a duration is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orchestrator => "orchestrator",
            Self::Source => "source",
            Self::Controller => "controller",
            Self::Guest => "guest",
            Self::GuestAndOrchestrator => "guest, orchestrator",
        })
    }
}

/// How a duration was obtained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// A duration in a record: its key, its clock, the event that it starts with, the one that ends it, and the ways in it.
type Duration = (&'static str, Clock, &'static str, &'static str, Option<&'static str>);

/// Every duration that a record can have.
pub const DURATIONS: [Duration; 12] = [
    (
        "total_time_ms",
        Clock::Orchestrator,
        "`migrate` is about to be sent to the source",
        "the line of `RESUME` comes in from the destination",
        Some("to the source, and from the destination"),
    ),
    (
        "downtime_ms.qemu",
        Clock::Source,
        "QEMU stops the guest at the source",
        "the migration has ended at the source",
        None,
    ),
    (
        "downtime_ms.guest",
        Clock::GuestAndOrchestrator,
        "the last telemetry before `STOP` comes in from the source",
        "the first telemetry after `RESUME` comes in from the destination",
        Some("from the destination, less from the source; of each the shortest of some"),
    ),
    (
        "downtime_ms.client",
        Clock::Controller,
        "a reply comes in at the controller's kernel",
        "the next reply comes in there",
        None,
    ),
    (
        "iterations",
        Clock::Orchestrator,
        "the first sample with the pass's number comes in from the source",
        "the first sample with the next number comes in from the source",
        Some("from the source, as far as two differ"),
    ),
    (
        "timeline",
        Clock::Orchestrator,
        "`migrate` is about to be sent to the source",
        "an entry's first change is asked for; its last one is confirmed",
        Some("from the nodes that confirm"),
    ),
    (
        "stress.stretches",
        Clock::Orchestrator,
        "`migrate` is about to be sent to the source",
        "a rate is confirmed; the next is asked for, or the line of `STOP` comes in",
        Some("from the source"),
    ),
    ("stress.longest_stall_ms", Clock::Guest, "the stressor writes", "it writes again", None),
    (
        "qemu",
        Clock::Source,
        "QEMU begins to migrate at the source",
        "the migration has ended at the source",
        None,
    ),
    (
        "link_lateness",
        Clock::Source,
        "a packet is due at the far end of the emulated link",
        "it is written to the far end",
        None,
    ),
    (
        "phases_ms",
        Clock::Orchestrator,
        "the orchestrator enters the phase",
        "it enters the next",
        Some("to and from the nodes that it waits for"),
    ),
    (
        "wall_time_ms",
        Clock::Orchestrator,
        "the attempt begins",
        "both QEMUs are gone",
        Some("to and from the nodes that it waits for"),
    ),
];

/// How each of the durations that were measured was obtained, by its key.
pub fn of(measured: &Measured) -> IndexMap<String, Obtained> {
    let Ok(measured) = serde_json::to_value(measured) else { return IndexMap::new() };
    let is_there = |key: &str| {
        let pointer = format!("/{}", key.replace('.', "/"));
        measured.pointer(&pointer).is_some_and(|value| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            _ => true,
        })
    };
    let there = DURATIONS.into_iter().filter(|(key, ..)| is_there(key));
    there
        .map(|(key, clock, from, to, ways)| {
            let obtained = Obtained { clock, from: from.into(), to: to.into(), ways: ways.map(Into::into) };
            (key.to_string(), obtained)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measure::{passes::Pass, samples::Completion},
        results::record::{Carried, LinkLateness, Phase, Stretch},
    };

    /// Everything that can be measured.
    fn all() -> Measured {
        let mut measured = Measured { total_time_ms: Some(1.0), ..Measured::default() };
        measured.downtime_ms.qemu = Some(1.0);
        measured.downtime_ms.guest = Some(1.0);
        measured.downtime_ms.client = Some(1.0);
        measured.iterations.push(Pass {
            number: 1,
            started_at_ms: 0.0,
            duration_ms: 1.0,
            remaining_bytes: 0,
            sent_bytes: 0,
            dirtied_bytes: None,
            bandwidth_bytes_per_s: 0,
            throttle_percent: 0,
        });
        measured.timeline.push(Carried {
            due_ms: 1.0,
            began_ms: 1.0,
            done_ms: 1.0,
            link: None,
            rate: None,
            by: None,
        });
        measured.stress.stretches.push(Stretch { from_ms: 0.0, to_ms: 1.0, requested: None, achieved: None });
        measured.stress.longest_stall_ms = Some(1.0);
        measured.qemu =
            Some(Completion { total_time_ms: Some(1), downtime_ms: Some(1), setup_time_ms: Some(1) });
        measured.link_lateness = Some(LinkLateness { deliveries: 1, late_mean_ms: 1.0, late_worst_ms: 1.0 });
        measured.phases_ms.insert(Phase::Boot, 1.0);
        measured
    }

    #[test]
    fn what_was_measured_says_how_and_nothing_else_does() {
        let keys: Vec<&str> = DURATIONS.iter().map(|(key, ..)| *key).collect();
        assert_eq!(of(&all()).keys().collect::<Vec<_>>(), keys);
        assert_eq!(of(&Measured::default()).keys().collect::<Vec<_>>(), ["wall_time_ms"]);
    }

    /// Keys of a record that are durations by their names, or hold such.
    fn durations(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                    if value.is_number() && (name.ends_with("_ms") || key.starts_with("downtime_ms.")) {
                        found.push(key.clone());
                    }
                    durations(value, &key, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| durations(item, at, found)),
            _ => {}
        }
    }

    #[test]
    fn no_duration_of_a_record_is_without_its_origin() {
        let value = serde_json::to_value(all()).unwrap();
        let mut found = Vec::new();
        durations(&value, "", &mut found);
        assert!(found.len() > 12, "{found:?}");
        for key in found {
            let covered =
                DURATIONS.iter().any(|(known, ..)| key == *known || key.starts_with(&format!("{known}.")));
            assert!(covered, "{key} is in no row");
        }
    }

    #[test]
    fn the_table_in_the_architecture_has_the_same_clocks() {
        let text = include_str!("../../../ARCHITECTURE.md");
        let (_, text) = text.split_once("## How each figure is measured").unwrap();
        for (key, clock, ..) in DURATIONS {
            let row = text.lines().find(|line| line.starts_with(&format!("| `{key}`")));
            let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {key}"));
            assert_eq!(row.split('|').nth(2).map(str::trim), Some(clock.to_string().as_str()), "{row}");
        }
    }
}
