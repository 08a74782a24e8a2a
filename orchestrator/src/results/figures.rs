//! Every figure of a record, once: what it is, by whose clock, from what event to what event, what it leaves
//! out, its number, and where it is shown.
//!
//! [`FIGURES`] is the only list. The table, the CSV, the markdown, what expectations are held against, what
//! is published beside it, `obtained` in each record, the descriptions in the records' JSON Schema and
//! `docs/figures.md` ([`document()`]) are made from it. To add a figure, add its field to [`Measured`] and
//! its entry here.
//!
//! No duration is the difference of two hosts' clocks. Those by the orchestrator's clock contain what lines
//! took to it, which [`RoundTrips`](super::record::RoundTrips) bounds: a way is a part of a round trip.

use super::record::{Clock, Measured, Obtained};
use crate::matrix::Subject;
use indexmap::IndexMap;
use std::fmt;

mod document;

pub use document::document;

/// A figure of a record.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Where it is in a record: `downtime_ms.guest`.
    pub key: &'static str,
    /// What it is, in a sentence or two.
    pub what: &'static str,
    /// What [`value`](Self::value) is in.
    pub unit: Unit,
    /// Whose clock it is by; absent where it is no duration.
    pub clock: Option<Clock>,
    /// The event that it starts with; empty where it does not depend on one.
    pub from: &'static str,
    /// The event that it ends with.
    pub to: &'static str,
    /// What it leaves out; empty where that is nothing.
    pub leaves_out: &'static str,
    /// Which ways between the orchestrator and the nodes are in it, where any are.
    pub ways: Option<&'static str>,
    /// Its number in an attempt. Of a list, how many it has; of a group, the one that stands for it. Absent
    /// where it was not measured.
    pub value: fn(&Measured) -> Option<f64>,
    /// Its column in tables for people.
    pub table: Option<Column>,
    /// Its column in CSV.
    pub csv: Option<Csv>,
    /// The subject of expectations that it answers. Where several figures answer one, the last of them that
    /// was measured counts.
    pub expected_as: Option<Subject>,
    /// The published figure that stands beside it.
    pub published_as: Option<Subject>,
}

/// A column in a table for people.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its title, in two lines where it has a unit.
    pub header: &'static str,
    /// How many of the figure's units are one of the column's.
    pub per: f64,
    /// Decimals.
    pub decimals: usize,
}

impl Column {
    /// Returns a number of the figure as the column shows it.
    pub fn show(&self, value: f64) -> String {
        format!("{:.*}", self.decimals, value / self.per)
    }
}

/// A column in CSV.
#[derive(Debug, Clone, Copy)]
pub struct Csv {
    /// Its name, with the figure's unit.
    pub name: &'static str,
    /// Whether it has whole numbers only.
    pub whole: bool,
}

impl Csv {
    /// Returns a number of the figure as the column has it.
    pub fn show(&self, value: f64) -> String {
        if self.whole { format!("{value:.0}") } else { value.to_string() }
    }
}

/// What a number is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
    /// Bytes of whole pages dirtied, per second of the guest's clock.
    BytesPerSecond,
    /// Pages of 4 KiB.
    Pages,
    /// Passes over the memory.
    Passes,
    /// Entries of a list.
    Entries,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milliseconds => "milliseconds",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes per second of the guest's clock",
            Self::Pages => "pages of 4 KiB",
            Self::Passes => "passes",
            Self::Entries => "entries",
        })
    }
}

/// What a figure is unless its entry says otherwise.
const PLAIN: Figure = Figure {
    key: "",
    what: "",
    unit: Unit::Milliseconds,
    clock: None,
    from: "",
    to: "",
    leaves_out: "",
    ways: None,
    value: |_| None,
    table: None,
    csv: None,
    expected_as: None,
    published_as: None,
};

/// Every figure that a record can have, in the order in which they are shown.
pub const FIGURES: &[Figure] = &[
    Figure {
        key: "total_time_ms",
        what: "The time until the guest runs at the destination (QEMU's `RESUME` event there). Absent where \
               it never ran there.",
        clock: Some(Clock::Orchestrator),
        from: "`migrate` is about to be sent to the source",
        to: "the line of `RESUME` comes in from the destination",
        ways: Some("to the source, and from the destination"),
        value: |m| m.total_time_ms,
        table: Some(Column { header: "total time\ns", per: 1e3, decimals: 1 }),
        csv: Some(Csv { name: "total_time_ms", whole: false }),
        expected_as: Some(Subject::TotalTime),
        published_as: Some(Subject::TotalTime),
        ..PLAIN
    },
    Figure {
        key: "downtime_ms.qemu",
        what: "QEMU's figure for the downtime, from `query-migrate`.",
        clock: Some(Clock::Source),
        from: "QEMU stops the guest at the source",
        to: "the migration has ended at the source",
        leaves_out: "the start at the destination",
        value: |m| m.downtime_ms.qemu,
        table: Some(Column { header: "downtime\nQEMU ms", per: 1.0, decimals: 0 }),
        csv: Some(Csv { name: "downtime_qemu_ms", whole: false }),
        expected_as: Some(Subject::Downtime),
        published_as: Some(Subject::Downtime),
        ..PLAIN
    },
    Figure {
        key: "downtime_ms.guest",
        what: "The time that the guest's clock lost against the host's, while no guest code could run. Good \
               to about a millisecond.",
        clock: Some(Clock::GuestAndOrchestrator),
        from: "the last telemetry before `STOP` comes in from the source",
        to: "the first telemetry after `RESUME` comes in from the destination",
        leaves_out: "time in which the guest was merely slow",
        ways: Some("from the destination, less from the source; of each the shortest of some"),
        value: |m| m.downtime_ms.guest,
        table: Some(Column { header: "downtime\nguest ms", per: 1.0, decimals: 0 }),
        csv: Some(Csv { name: "downtime_guest_ms", whole: false }),
        ..PLAIN
    },
    Figure {
        key: "downtime_ms.client",
        what: "The longest time without a probe reply at a client, by the stamps of its kernel. It includes \
               the time until the network has found the guest again, and a long gap anywhere between \
               settling and verifying counts as well. Good to the probe's interval; `probe` has the rest of \
               what the probe saw.",
        clock: Some(Clock::Controller),
        from: "a reply comes in at the controller's kernel",
        to: "the next reply comes in there",
        value: |m| m.downtime_ms.client,
        table: Some(Column { header: "downtime\nclient ms", per: 1.0, decimals: 0 }),
        csv: Some(Csv { name: "downtime_client_ms", whole: false }),
        expected_as: Some(Subject::Downtime),
        ..PLAIN
    },
    Figure {
        key: "transferred.qemu_bytes",
        what: "QEMU's count of the payload of the migration stream: the largest `ram.transferred` of any \
               sample.",
        unit: Unit::Bytes,
        leaves_out: "headers of TCP, IP and Ethernet",
        value: |m| Some(m.transferred.qemu_bytes? as f64),
        table: Some(Column { header: "data\nMB", per: 1e6, decimals: 0 }),
        csv: Some(Csv { name: "transferred_qemu_bytes", whole: true }),
        expected_as: Some(Subject::Transferred),
        published_as: Some(Subject::Transferred),
        ..PLAIN
    },
    Figure {
        key: "transferred.wire_bytes",
        what: "What the source sent over the migration link, Ethernet, IP and TCP headers included: as its \
               queueing discipline counted it, or as the emulator delivered it, with 14 bytes added for the \
               Ethernet header of each frame. What was sent again counts again.",
        unit: Unit::Bytes,
        from: "`migrate` is about to be sent to the source",
        to: "the verdict on the migration is known",
        leaves_out: "the other direction; what was lost or dropped; on an emulated link what is still in \
                     transit",
        value: |m| Some(m.transferred.wire_bytes? as f64),
        csv: Some(Csv { name: "transferred_wire_bytes", whole: true }),
        ..PLAIN
    },
    Figure {
        key: "iterations",
        what: "One entry for each pass over the memory, times in milliseconds. The number is the last \
               pass's.",
        unit: Unit::Passes,
        clock: Some(Clock::Orchestrator),
        from: "the first sample with the pass's number comes in from the source",
        to: "the first sample with the next number comes in from the source",
        leaves_out: "passes shorter than a sample, which show in the numbering only",
        ways: Some("from the source, as far as two differ"),
        value: |m| Some(m.iterations.last()?.number as f64),
        table: Some(Column { header: "passes", per: 1.0, decimals: 0 }),
        csv: Some(Csv { name: "passes", whole: true }),
        ..PLAIN
    },
    Figure {
        key: "timeline",
        what: "The entries of the timeline that were carried out, in order, times in milliseconds. Those \
               that the end of the migration came before are not here.",
        unit: Unit::Entries,
        clock: Some(Clock::Orchestrator),
        from: "`migrate` is about to be sent to the source",
        to: "an entry's first change is asked for; its last one is confirmed",
        ways: Some("from the nodes that confirm"),
        value: |m| count(&m.timeline),
        ..PLAIN
    },
    Figure {
        key: "stress.requested",
        what: "The rate of dirtying that was asked for at first. Absent where it is unlimited.",
        unit: Unit::BytesPerSecond,
        value: |m| Some(m.stress.requested? as f64),
        csv: Some(Csv { name: "stress_requested_bytes_per_s", whole: true }),
        ..PLAIN
    },
    Figure {
        key: "stress.before",
        what: "The rate of dirtying as it settled: over the last nine lines of telemetry, 0.2 s, before \
               the migration.",
        unit: Unit::BytesPerSecond,
        value: |m| m.stress.before,
        csv: Some(Csv { name: "stress_before_bytes_per_s", whole: true }),
        ..PLAIN
    },
    Figure {
        key: "stress.during",
        what: "The rate of dirtying while the migration went on.",
        unit: Unit::BytesPerSecond,
        from: "`migrate` is about to be sent to the source",
        to: "the line of `STOP` comes in, or the migration is given up",
        value: |m| m.stress.during,
        csv: Some(Csv { name: "stress_during_bytes_per_s", whole: true }),
        ..PLAIN
    },
    Figure {
        key: "stress.stretches",
        what: "The same in parts of one rate each, where the timeline changed the rate, times in \
               milliseconds.",
        unit: Unit::Entries,
        clock: Some(Clock::Orchestrator),
        from: "`migrate` is about to be sent to the source",
        to: "a rate is confirmed; the next is asked for, or the line of `STOP` comes in",
        leaves_out: "the time that a change takes; the rate in parts under half a second",
        ways: Some("from the source"),
        value: |m| count(&m.stress.stretches),
        ..PLAIN
    },
    Figure {
        key: "stress.after",
        what: "The rate of dirtying after the migration, wherever the guest runs.",
        unit: Unit::BytesPerSecond,
        from: "the line of `RESUME` comes in, or the migration is given up",
        to: "the observation ends",
        value: |m| m.stress.after,
        csv: Some(Csv { name: "stress_after_bytes_per_s", whole: true }),
        ..PLAIN
    },
    Figure {
        key: "stress.forgone_bytes",
        what: "What was due to be dirtied during the migration and was not, by the stressor's count: a guest \
               that is throttled or starved of CPU dirties less than it was asked to.",
        unit: Unit::Bytes,
        value: |m| Some(m.stress.forgone_bytes? as f64),
        ..PLAIN
    },
    Figure {
        key: "stress.longest_stall_ms",
        what: "The longest time between two writes during the migration: what throttling or a slow page \
               fault does to an application.",
        clock: Some(Clock::Guest),
        from: "the stressor writes",
        to: "it writes again",
        value: |m| m.stress.longest_stall_ms,
        ..PLAIN
    },
    Figure {
        key: "verified",
        what: "Whether the guest's memory held exactly what the stressor wrote: every page against what \
               seed, index and generation say, checked after the migration, or at the source where it was \
               given up. The number is that of pages checked.",
        unit: Unit::Pages,
        leaves_out: "memory of the guest's kernel",
        value: |m| Some(m.verified.as_ref()?.pages_checked as f64),
        csv: Some(Csv { name: "pages_verified", whole: true }),
        ..PLAIN
    },
    Figure {
        key: "qemu",
        what: "QEMU's own account of a migration that completed. The number is its total time.",
        clock: Some(Clock::Source),
        from: "QEMU begins to migrate at the source",
        to: "the migration has ended at the source",
        value: |m| m.qemu?.total_time_ms.map(|ms| ms as f64),
        ..PLAIN
    },
    Figure {
        key: "link_lateness",
        what: "How much later than computed the link's emulator delivered packets, both directions together, \
               from just before `migrate` until after the verdict. Absent where the kernel shapes the link. \
               The number is the worst.",
        clock: Some(Clock::Source),
        from: "a packet is due at the far end of the emulated link",
        to: "it is written to the far end",
        value: |m| Some(m.link_lateness?.late_worst_ms),
        ..PLAIN
    },
    Figure {
        key: "phases_ms",
        what: "How long each phase of the attempt took, in order. The number is their sum.",
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator enters the phase",
        to: "it enters the next",
        ways: Some("to and from the nodes that it waits for"),
        value: |m| (!m.phases_ms.is_empty()).then(|| m.phases_ms.values().sum()),
        ..PLAIN
    },
    Figure {
        key: "wall_time_ms",
        what: "The whole attempt, from the first QEMU's start until both are gone.",
        clock: Some(Clock::Orchestrator),
        from: "the attempt begins",
        to: "both QEMUs are gone",
        ways: Some("to and from the nodes that it waits for"),
        value: |m| Some(m.wall_time_ms),
        csv: Some(Csv { name: "wall_time_ms", whole: false }),
        ..PLAIN
    },
];

fn count<T>(entries: &[T]) -> Option<f64> {
    (!entries.is_empty()).then_some(entries.len() as f64)
}

/// Returns how each of the durations that were measured was obtained, by its key.
pub fn obtained(measured: &Measured) -> IndexMap<String, Obtained> {
    let durations = FIGURES.iter().filter_map(|figure| {
        let clock = figure.clock.filter(|_| (figure.value)(measured).is_some())?;
        let obtained = Obtained {
            clock,
            from: figure.from.into(),
            to: figure.to.into(),
            ways: figure.ways.map(Into::into),
        };
        Some((figure.key.to_string(), obtained))
    });
    durations.collect()
}

/// Returns what an expectation about `subject` is held against, in the figure's unit: milliseconds or bytes.
pub fn expected(subject: Subject, measured: &Measured) -> Option<f64> {
    let mut answers = FIGURES.iter().rev().filter(|figure| figure.expected_as == Some(subject));
    answers.find_map(|figure| (figure.value)(measured))
}

#[cfg(test)]
mod tests;
