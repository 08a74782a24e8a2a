//! The definition of every figure of a record: what it is, which clock measures it, the events at which it
//! starts and ends, what it leaves out, its value, and where it is shown.
//!
//! [`FIGURES`] is the only list of figures. Everything else is generated from it: the columns of tables, CSV
//! and Markdown, the values that expectations check, the published figures beside them, `obtained` in each
//! record, the descriptions in the JSON Schema of records, and `docs/figures.md`. To add a
//! figure, add its field to [`Measured`] and its entry here.
//!
//! No duration is the difference between the clocks of two hosts. A duration by the orchestrator's clock
//! includes the delays of the messages that start or end it. [`RoundTrips`](super::record::RoundTrips) bounds
//! them: a one-way delay is at most the round trip.

use super::record::{Clock, Measured, Provenance};
use crate::{
    matrix::{Interval, Settings, StorageKind, Subject},
    mode::Mode,
};
use indexmap::IndexMap;
use std::fmt;

/// A figure of a record.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// The dotted path of its field in a record, for example `downtime_ms.guest`.
    pub key: &'static str,
    /// What it is, in one to three sentences.
    pub description: &'static str,
    /// The unit of [`value`](Self::value).
    pub unit: Unit,
    /// The clock that measures it; absent if it is not a duration.
    pub clock: Option<Clock>,
    /// The event at which it starts; empty if no event delimits it.
    pub from: &'static str,
    /// The event at which it ends; empty if no event delimits it.
    pub to: &'static str,
    /// What it leaves out; empty if nothing.
    pub leaves_out: &'static str,
    /// The message delays between the orchestrator and the nodes that it includes, if any.
    pub ways: Option<&'static str>,
    /// The event at which it ends, and the message delays, if the guest has moved by post-copy and that
    /// changes them.
    pub after_postcopy: Option<(&'static str, &'static str)>,
    /// Returns its value in one attempt: for a list, the number of entries; for a group of values, the one
    /// that represents the group. Absent if it was not measured.
    pub value: fn(&Measured) -> Option<f64>,
    /// Its column in terminal and Markdown tables.
    pub table: Option<TableColumn>,
    /// Its column in CSV files.
    pub csv: Option<CsvColumn>,
    /// Returns a lower bound of what is measured, if the value is only an upper bound of it.
    pub at_least: Option<fn(&Measured) -> Option<f64>>,
    /// The subjects of expectations for which it is checked. If several measured figures have the same
    /// subject, the last one in the list counts.
    pub expected_as: &'static [Subject],
    /// The published figure (`reference` in the matrix) that tables show beside it.
    pub published_as: Option<Subject>,
}

impl Figure {
    /// Returns the bounds of what is measured. Both are the value, unless it is only an upper bound. Returns
    /// nothing if it was not measured.
    pub fn interval(&self, measured: &Measured) -> Option<Interval> {
        let value = (self.value)(measured);
        match self.at_least.and_then(|at_least| at_least(measured)) {
            Some(least) => Some(Interval { least, most: value }),
            None => value.map(Interval::exactly),
        }
    }
}

/// A column of a terminal or Markdown table.
#[derive(Debug, Clone, Copy)]
pub struct TableColumn {
    /// Its title; the unit, if any, is on a second line.
    pub header: &'static str,
    /// The divisor from the figure's unit to the column's: 1000 to show milliseconds as seconds.
    pub per: f64,
    /// The number of digits after the decimal point.
    pub decimals: usize,
    /// Whether the column is left out of tables in which no attempt has the figure.
    pub optional: bool,
}

impl TableColumn {
    /// Returns the text for a value in the figure's unit.
    pub fn show(&self, value: f64) -> String {
        format!("{:.*}", self.decimals, value / self.per)
    }
}

/// A column of a CSV file.
#[derive(Debug, Clone, Copy)]
pub struct CsvColumn {
    /// Its name, which contains the figure's unit.
    pub name: &'static str,
    /// Whether its values are rounded to whole numbers.
    pub whole: bool,
}

impl CsvColumn {
    /// Returns the text for a value in the figure's unit, without changing the unit.
    pub fn show(&self, value: f64) -> String {
        if self.whole { format!("{value:.0}") } else { value.to_string() }
    }
}

/// The unit of a figure's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds; a value may have a fraction.
    Milliseconds,
    /// Whole bytes, not multiples of 1000 or 1024.
    Bytes,
    /// Bytes dirtied per second of the guest's clock; each dirtied page counts as a whole.
    BytesPerSecond,
    /// Memory pages of 4 KiB.
    Pages,
    /// Blocks of a disk, of 4 KiB each.
    Blocks,
    /// Passes of pre-copy over the guest's memory.
    Passes,
    /// The number of entries of a list.
    Entries,
    /// Microseconds; a value may have a fraction.
    Microseconds,
    /// Requests of the destination for a page.
    Requests,
    /// Percent of time.
    Percent,
    /// A ratio of two sizes.
    Ratio,
    /// Milliseconds of CPU time per 10^9 bytes that QEMU sent.
    MillisecondsPerGigabyte,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milliseconds => "milliseconds",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes per second of the guest's clock",
            Self::Pages => "pages of 4 KiB",
            Self::Blocks => "blocks of 4 KiB",
            Self::Passes => "passes",
            Self::Entries => "entries",
            Self::Microseconds => "microseconds",
            Self::Requests => "requests",
            Self::Percent => "percent",
            Self::Ratio => "ratio",
            Self::MillisecondsPerGigabyte => "milliseconds per 10^9 bytes",
        })
    }
}

/// The values of the fields that an entry of [`FIGURES`] does not set.
const DEFAULTS: Figure = Figure {
    key: "",
    description: "",
    unit: Unit::Milliseconds,
    clock: None,
    from: "",
    to: "",
    leaves_out: "",
    ways: None,
    after_postcopy: None,
    value: |_| None,
    table: None,
    csv: None,
    at_least: None,
    expected_as: &[],
    published_as: None,
};

/// The event at which a migration starts, unless something precedes the command `migrate`.
const START: &str = "just before the orchestrator sends `migrate` to the source";

/// The event at which the guest runs at the destination.
const RESUMED: &str = "the orchestrator receives the event `RESUME` from the destination";

/// The event at which the source has sent everything: the end of saving to a file, and of post-copy.
const COMPLETED: &str = "the orchestrator learns from the source that the migration has completed";

/// Every figure that a record can have, in the order in which tables and files show them.
pub const FIGURES: &[Figure] = &[
    Figure {
        key: "total_time_ms",
        description: "The total migration time: from the start of the migration until the guest runs at the \
                      destination, which QEMU reports there with the event `RESUME`. With post-copy, until \
                      all of its memory is there too, and the migration completes at the source. Absent if \
                      the guest never ran at the destination.",
        clock: Some(Clock::Orchestrator),
        from: START,
        to: RESUMED,
        ways: Some("to the source, and from the destination"),
        after_postcopy: Some((COMPLETED, "to the source, and from the source")),
        value: |m| m.total_time_ms,
        table: Some(TableColumn { header: "total time\ns", per: 1e3, decimals: 1, optional: false }),
        csv: Some(CsvColumn { name: "total_time_ms", whole: false }),
        expected_as: &[Subject::TotalTime],
        published_as: Some(Subject::TotalTime),
        ..DEFAULTS
    },
    Figure {
        key: "past_deadline_ms",
        description: "How long after the deadline (`migrate.timeout`) the guest ran at the destination, with \
                      post-copy with all of its memory. The migration could not be given up any more: at the \
                      deadline, the guest was stopped for the switchover, or post-copy had been asked for. \
                      Absent if the migration ended before its deadline, or was given up.",
        clock: Some(Clock::Orchestrator),
        from: "the deadline, counted from just before the orchestrator sends `migrate` to the source",
        to: RESUMED,
        ways: Some("from the destination"),
        after_postcopy: Some((COMPLETED, "from the source")),
        value: |m| m.past_deadline_ms,
        ..DEFAULTS
    },
    Figure {
        key: "downtime_ms.qemu",
        description: "The downtime as QEMU reports it at the source, in `query-migrate`. Absent if the guest \
                      was paused first, or migrated through a file.",
        clock: Some(Clock::Source),
        from: "QEMU stops the guest at the source",
        to: "the migration completes at the source",
        leaves_out: "the time until the destination has received the last data, loaded the device state and \
                     started the guest",
        value: |m| m.downtime_ms.qemu,
        table: Some(TableColumn { header: "downtime\nQEMU ms", per: 1.0, decimals: 0, optional: false }),
        csv: Some(CsvColumn { name: "downtime_qemu_ms", whole: false }),
        expected_as: &[Subject::DowntimeQemu, Subject::Downtime],
        published_as: Some(Subject::Downtime),
        ..DEFAULTS
    },
    Figure {
        key: "downtime_ms.guest",
        description: "The time for which no guest code could run: how far the guest's clock, which stands \
                      still while the guest is stopped, fell behind the orchestrator's. Accurate to about a \
                      millisecond.",
        clock: Some(Clock::GuestAndOrchestrator),
        from: "the orchestrator receives the last telemetry sample before the event `STOP` from the source",
        to: "the orchestrator receives the first telemetry sample after the event `RESUME` from the \
             destination",
        leaves_out: "time in which the guest ran, but slowly",
        ways: Some(
            "from the destination, minus from the source; of each, the shortest among several telemetry \
             samples",
        ),
        value: |m| m.downtime_ms.guest,
        table: Some(TableColumn { header: "downtime\nguest ms", per: 1.0, decimals: 0, optional: false }),
        csv: Some(CsvColumn { name: "downtime_guest_ms", whole: false }),
        expected_as: &[Subject::DowntimeGuest],
        ..DEFAULTS
    },
    Figure {
        key: "downtime_ms.client",
        description: "The longest downtime that is possible for a client of the guest: the longest gap \
                      between two replies to the probe, an ICMP echo client in the controller node. It \
                      includes the time until the network delivers packets to the guest's new location. A \
                      longer gap anywhere between the phases `settle` and `verify` counts instead. `probe` \
                      has its other results. Absent if the guest never ran at the destination, and if it \
                      did not answer any more when the probe was stopped.",
        clock: Some(Clock::Controller),
        from: "the controller's kernel receives a reply",
        to: "the controller's kernel receives the next reply",
        value: |m| m.downtime_ms.client,
        table: Some(TableColumn { header: "downtime\nclient ms", per: 1.0, decimals: 0, optional: false }),
        csv: Some(CsvColumn { name: "downtime_client_ms", whole: false }),
        at_least: Some(|m| m.downtime_ms.client_at_least),
        expected_as: &[Subject::DowntimeClient, Subject::Downtime],
        published_as: Some(Subject::DowntimeClient),
        ..DEFAULTS
    },
    Figure {
        key: "downtime_ms.client_at_least",
        description: "The shortest downtime that the replies allow for a client of the guest: the longest \
                      gap less one interval of the probe, since replies come that far apart when nothing is \
                      wrong. If the probe made no request for longer than an interval in a gap, that time is \
                      left out instead. A gap that was still open when the probe was stopped counts, too; \
                      then there is no `downtime_ms.client`, and tables show this figure after `>`. \
                      Expectations about the client's downtime hold only if both figures meet them. Absent \
                      if the guest never ran at the destination.",
        clock: Some(Clock::Controller),
        from: "the controller's kernel receives a reply",
        to: "the controller's kernel receives the next reply, or the probe ends without one",
        value: |m| m.downtime_ms.client_at_least,
        csv: Some(CsvColumn { name: "downtime_client_at_least_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "transferred.qemu_bytes",
        description: "The payload that QEMU sent: the migration stream as QEMU counts it, which is the \
                      largest `ram.transferred` of all samples, and the copy of the disk if there is one.",
        unit: Unit::Bytes,
        leaves_out: "TCP, IP and Ethernet headers",
        value: |m| Some(m.transferred.qemu_bytes? as f64),
        table: Some(TableColumn { header: "data\nMB", per: 1e6, decimals: 0, optional: false }),
        csv: Some(CsvColumn { name: "transferred_qemu_bytes", whole: true }),
        expected_as: &[Subject::Transferred],
        published_as: Some(Subject::Transferred),
        ..DEFAULTS
    },
    Figure {
        key: "transferred.memory_bytes",
        description: "The payload of the migration stream alone, if the disk was copied.",
        unit: Unit::Bytes,
        leaves_out: "TCP, IP and Ethernet headers",
        value: |m| Some(m.transferred.memory_bytes? as f64),
        table: Some(TableColumn { header: "memory\nMB", per: 1e6, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "transferred_memory_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "transferred.disk_bytes",
        description: "What the source sent to copy the disk to the destination, as the source's kernel \
                      counts it for the NBD connection. A block that the guest writes again is sent again; \
                      blocks that have never been written cost some bytes together.",
        unit: Unit::Bytes,
        leaves_out: "TCP, IP and Ethernet headers",
        value: |m| Some(m.transferred.disk_bytes? as f64),
        table: Some(TableColumn { header: "disk\nMB", per: 1e6, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "transferred_disk_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "transferred.wire_bytes",
        description: "The bytes that the source sent over the migration link, including Ethernet, IP and TCP \
                      headers. The queueing discipline at the source's end counts them; on an emulated link, \
                      the emulator counts what it delivers and adds 14 bytes per frame for the Ethernet \
                      header. Retransmitted data counts each time.",
        unit: Unit::Bytes,
        from: START,
        to: "the orchestrator knows how the migration ended",
        leaves_out: "the opposite direction; lost and dropped packets; on an emulated link, packets that are \
                     still in transit",
        value: |m| Some(m.transferred.wire_bytes? as f64),
        csv: Some(CsvColumn { name: "transferred_wire_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "transferred.storage",
        description: "The bytes on the links between a shared disk and the two compute nodes during the \
                      migration, both directions together, with all headers. The value is their sum. Absent \
                      if the disk is not shared.",
        unit: Unit::Bytes,
        from: START,
        to: "the orchestrator knows how the migration ended",
        value: |m| {
            let both = m.transferred.storage?;
            Some(both.source_bytes as f64 + both.destination_bytes as f64)
        },
        table: Some(TableColumn { header: "storage\nMB", per: 1e6, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "storage_wire_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "transferred.while_running",
        description: "The payload of the migration stream that QEMU sent while the guest still ran at the \
                      source (`bytes`), and the time in which it did (`duration_ms`). QEMU's own limit, \
                      `migrate.max_bandwidth`, applies during this time only.",
        unit: Unit::Bytes,
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator receives the first sample of a pass from the source",
        to: "the orchestrator receives the last sample before the event `STOP` from the source, or before it \
             gives the migration up",
        leaves_out: "TCP, IP and Ethernet headers; what is sent before the first sample; the switchover",
        ways: Some("the difference between two delays from the source"),
        value: |m| Some(m.transferred.while_running?.bytes as f64),
        ..DEFAULTS
    },
    Figure {
        key: "storage.bulk_ms",
        description: "The time until the copy of the disk is up to date for the first time. Memory is not \
                      sent before.",
        clock: Some(Clock::Orchestrator),
        from: "just before the orchestrator connects the source to the destination's disk",
        to: "the orchestrator learns from the source that the mirror job is ready",
        ways: Some("to the source, and from the source"),
        value: |m| m.storage.bulk_ms,
        csv: Some(CsvColumn { name: "storage_bulk_ms", whole: false }),
        expected_as: &[Subject::StorageBulk],
        ..DEFAULTS
    },
    Figure {
        key: "storage.bulk_bytes",
        description: "The part of `transferred.disk_bytes` that was sent until the copy was up to date for \
                      the first time. The rest was sent while memory migrated, and shared the link with it.",
        unit: Unit::Bytes,
        leaves_out: "TCP, IP and Ethernet headers",
        value: |m| Some(m.storage.bulk_bytes? as f64),
        csv: Some(CsvColumn { name: "storage_bulk_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "storage.memory_ms",
        description: "The time in which memory migrates while the copy of the disk is kept up to date.",
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator learns from the source that the mirror job is ready, and sends `migrate`",
        to: "the orchestrator learns from the source that the guest is stopped for the switchover",
        ways: Some("the difference between two delays from the source"),
        value: |m| m.storage.memory_ms,
        csv: Some(CsvColumn { name: "storage_memory_ms", whole: false }),
        expected_as: &[Subject::StorageMemory],
        ..DEFAULTS
    },
    Figure {
        key: "storage.switchover_ms",
        description: "The part of the downtime in which the copy of the disk is completed and the \
                      destination's QEMU takes the disk over.",
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator learns from the source that the guest is stopped for the switchover",
        to: "the source has ended the mirror, the destination its export, and the source continues with the \
             switchover",
        ways: Some("to both ends and back, several times"),
        value: |m| m.storage.switchover_ms,
        csv: Some(CsvColumn { name: "storage_switchover_ms", whole: false }),
        expected_as: &[Subject::StorageSwitchover],
        ..DEFAULTS
    },
    Figure {
        key: "storage.write_rate",
        description: "The rate at which the guest wrote to its disk during the migration.",
        unit: Unit::BytesPerSecond,
        from: "just before the orchestrator starts the migration",
        to: "the orchestrator receives the event `STOP` from the source, or gives the migration up",
        value: |m| m.storage.write_rate,
        csv: Some(CsvColumn { name: "storage_write_bytes_per_s", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "storage.read_rate",
        description: "The rate at which the guest read from its disk during the migration.",
        unit: Unit::BytesPerSecond,
        from: "just before the orchestrator starts the migration",
        to: "the orchestrator receives the event `STOP` from the source, or gives the migration up",
        value: |m| m.storage.read_rate,
        csv: Some(CsvColumn { name: "storage_read_bytes_per_s", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "storage.longest_write_ms",
        description: "The longest time that a write to the disk took during the migration.",
        clock: Some(Clock::Guest),
        from: "the stressor submits a write",
        to: "the write has ended",
        leaves_out: "the time for which the guest is stopped",
        value: |m| m.storage.longest_write_ms,
        csv: Some(CsvColumn { name: "storage_longest_write_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "storage.longest_read_ms",
        description: "The longest time that a read from the disk took during the migration.",
        clock: Some(Clock::Guest),
        from: "the stressor submits a read",
        to: "the read has ended",
        leaves_out: "the time for which the guest is stopped",
        value: |m| m.storage.longest_read_ms,
        csv: Some(CsvColumn { name: "storage_longest_read_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "storage.verified",
        description: "Whether the guest's disk holds exactly what was written to it: each block is compared \
                      with the content that follows from its index and from how often it was written. \
                      Checked where the guest runs after the migration. The value in CSV is the number of \
                      blocks checked.",
        unit: Unit::Blocks,
        value: |m| Some(m.storage.verified.as_ref()?.blocks_checked as f64),
        csv: Some(CsvColumn { name: "blocks_verified", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.throttle_percent",
        description: "The largest share of time for which QEMU stopped the virtual CPUs to let the migration \
                      converge. Each pass in `iterations` and each sample has its own. Absent without \
                      `auto_converge`.",
        unit: Unit::Percent,
        value: |m| Some(m.aids.throttle_percent? as f64),
        table: Some(TableColumn { header: "throttle\n%", per: 1.0, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "throttle_percent", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.throttled_ms",
        description: "The time for which QEMU throttled the virtual CPUs at all, as the samples show it. \
                      Absent without `auto_converge`.",
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator receives a sample with a throttle from the source",
        to: "the orchestrator receives the next sample",
        ways: Some("the difference between two delays from the source"),
        value: |m| m.aids.throttled_ms,
        csv: Some(CsvColumn { name: "throttled_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.compression_ratio",
        description: "How many times smaller `multifd` made memory: the size of all pages that were sent in \
                      full, divided by the bytes over the connections of `multifd`. Absent without \
                      `multifd_compression`.",
        unit: Unit::Ratio,
        leaves_out: "zero pages, which are not compressed",
        value: |m| m.aids.compression_ratio,
        table: Some(TableColumn { header: "compr.\nratio", per: 1.0, decimals: 2, optional: true }),
        csv: Some(CsvColumn { name: "compression_ratio", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.multifd_bytes",
        description: "The part of the migration stream that QEMU sent over the connections of `multifd`; the \
                      rest went over the main one. Absent without `multifd`.",
        unit: Unit::Bytes,
        leaves_out: "TCP, IP and Ethernet headers",
        value: |m| Some(m.aids.multifd_bytes? as f64),
        csv: Some(CsvColumn { name: "multifd_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.connection_bytes",
        description: "What the source sent over each TCP connection of the migration, as its kernel counts \
                      it, the largest first: those of `multifd`, and the main one. They are counted with \
                      each sample. Absent without `multifd`.",
        unit: Unit::Entries,
        leaves_out: "TCP, IP and Ethernet headers; what was sent after the last sample before QEMU closed \
                     the connections",
        value: |m| count(&m.aids.connection_bytes),
        ..DEFAULTS
    },
    Figure {
        key: "aids.xbzrle_deltas",
        description: "The number of pages of which XBZRLE sent only the changes, or nothing if they had not \
                      changed: `aids.xbzrle_pages` less `aids.xbzrle_overflows`. Derived for records of \
                      older versions. Absent without `xbzrle`.",
        unit: Unit::Pages,
        value: |m| Some(m.aids.xbzrle_deltas? as f64),
        table: Some(TableColumn { header: "XBZRLE\ndeltas", per: 1.0, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "xbzrle_deltas", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.xbzrle_delta_bytes",
        description: "The bytes that XBZRLE sent for the pages of `aids.xbzrle_deltas`: `aids.xbzrle_bytes` \
                      without 4,096 bytes for each of `aids.xbzrle_overflows`. Derived for records of older \
                      versions. Absent without `xbzrle`.",
        unit: Unit::Bytes,
        leaves_out: "8 bytes of header for each page",
        value: |m| Some(m.aids.xbzrle_delta_bytes? as f64),
        csv: Some(CsvColumn { name: "xbzrle_delta_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.xbzrle_pages",
        description: "QEMU's counter `pages`: the number of pages that XBZRLE had in its cache, whether it \
                      then sent their changes, sent them in full (`aids.xbzrle_overflows`), or found no \
                      change. Absent without `xbzrle`.",
        unit: Unit::Pages,
        value: |m| Some(m.aids.xbzrle_pages? as f64),
        csv: Some(CsvColumn { name: "xbzrle_pages", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.xbzrle_bytes",
        description: "QEMU's counter `bytes`: the bytes that the pages of `aids.xbzrle_pages` took, with \
                      4,096 for each that was sent in full. Absent without `xbzrle`.",
        unit: Unit::Bytes,
        leaves_out: "8 bytes of header for each page",
        value: |m| Some(m.aids.xbzrle_bytes? as f64),
        csv: Some(CsvColumn { name: "xbzrle_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.xbzrle_misses",
        description: "The number of pages that XBZRLE did not have in its cache, so that they were sent in \
                      full. Absent without `xbzrle`.",
        unit: Unit::Pages,
        value: |m| Some(m.aids.xbzrle_misses? as f64),
        table: Some(TableColumn { header: "XBZRLE\nmisses", per: 1.0, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "xbzrle_misses", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "aids.xbzrle_overflows",
        description: "The number of pages whose changes XBZRLE could not make smaller than the page, so that \
                      they were sent in full. Absent without `xbzrle`.",
        unit: Unit::Pages,
        value: |m| Some(m.aids.xbzrle_overflows? as f64),
        csv: Some(CsvColumn { name: "xbzrle_overflows", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "cpu.source_ms",
        description: "The CPU time that the source's QEMU used during the migration, with all its threads. \
                      With TCG that includes the guest's own work.",
        clock: Some(Clock::Source),
        from: START,
        to: "the orchestrator knows how the migration ended",
        value: |m| m.cpu.source_ms,
        csv: Some(CsvColumn { name: "cpu_source_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "cpu.destination_ms",
        description: "The CPU time that the destination's QEMU used during the migration, with all its \
                      threads. Absent if it ended with the migration.",
        clock: Some(Clock::Destination),
        from: START,
        to: "the orchestrator knows how the migration ended",
        value: |m| m.cpu.destination_ms,
        csv: Some(CsvColumn { name: "cpu_destination_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "cpu.source_ms_per_gb",
        description: "`cpu.source_ms` for each 10^9 bytes of `transferred.qemu_bytes`.",
        unit: Unit::MillisecondsPerGigabyte,
        value: |m| m.cpu.source_ms_per_gb,
        csv: Some(CsvColumn { name: "cpu_source_ms_per_gb", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "cpu.destination_ms_per_gb",
        description: "`cpu.destination_ms` for each 10^9 bytes of `transferred.qemu_bytes`.",
        unit: Unit::MillisecondsPerGigabyte,
        value: |m| m.cpu.destination_ms_per_gb,
        csv: Some(CsvColumn { name: "cpu_destination_ms_per_gb", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.started_ms",
        description: "The time from the start of the migration until post-copy was asked for. Absent if it \
                      was not, or if pre-copy completed before post-copy began.",
        clock: Some(Clock::Orchestrator),
        from: START,
        to: "just before the orchestrator sends `migrate-start-postcopy` to the source",
        value: |m| m.postcopy.started_ms,
        csv: Some(CsvColumn { name: "postcopy_started_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.duration_ms",
        description: "The time for which the guest ran at the destination without all of its memory.",
        clock: Some(Clock::Orchestrator),
        from: RESUMED,
        to: COMPLETED,
        ways: Some("from the source, minus from the destination"),
        value: |m| m.postcopy.duration_ms,
        table: Some(TableColumn { header: "post-copy\ns", per: 1e3, decimals: 1, optional: true }),
        csv: Some(CsvColumn { name: "postcopy_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.bytes",
        description: "The part of the migration stream that QEMU sent after post-copy had moved the guest.",
        unit: Unit::Bytes,
        leaves_out: "TCP, IP and Ethernet headers",
        value: |m| Some(m.postcopy.bytes? as f64),
        csv: Some(CsvColumn { name: "postcopy_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.page_requests",
        description: "The number of pages that the destination requested because the guest needed them, as \
                      the source counts the requests.",
        unit: Unit::Requests,
        value: |m| Some(m.postcopy.page_requests? as f64),
        table: Some(TableColumn { header: "page\nrequests", per: 1.0, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "page_requests", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.all_blocked_ms",
        description: "The time for which all virtual CPUs waited for pages simultaneously, as QEMU reports \
                      it at the destination (`postcopy-blocktime`).",
        clock: Some(Clock::Destination),
        from: "the last virtual CPU that ran needs a page",
        to: "the first of the pages that they need is there",
        value: |m| Some(m.postcopy.all_blocked_ms? as f64),
        table: Some(TableColumn { header: "blocked\nms", per: 1.0, decimals: 0, optional: true }),
        csv: Some(CsvColumn { name: "postcopy_all_blocked_ms", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.vcpus_blocked_ms",
        description: "The time for which each virtual CPU waited for pages, as QEMU reports it at the \
                      destination (`postcopy-vcpu-blocktime`). The value is the largest.",
        clock: Some(Clock::Destination),
        from: "the virtual CPU needs a page",
        to: "the page is there; the times of all its waits are added",
        value: |m| m.postcopy.vcpus_blocked_ms.iter().max().map(|ms| *ms as f64),
        csv: Some(CsvColumn { name: "postcopy_vcpu_blocked_ms", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.fault_latency_us",
        description: "The mean time that a page fault took, as QEMU 10.1 and later report it at the \
                      destination (`postcopy-latency`).",
        unit: Unit::Microseconds,
        clock: Some(Clock::Destination),
        from: "the guest or QEMU needs a page",
        to: "the page is there",
        value: |m| m.postcopy.fault_latency_us,
        csv: Some(CsvColumn { name: "fault_latency_us", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.fault_latencies",
        description: "The numbers of page faults by the time that they took, as QEMU 10.1 and later report \
                      them at the destination (`postcopy-latency-dist`): entry n, counted from 0, is about \
                      2^n to 2^(n+1) microseconds.",
        unit: Unit::Entries,
        value: |m| count(&m.postcopy.fault_latencies),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.write_latencies",
        description: "The numbers of pages that the stressor wrote while the guest ran at the destination \
                      without all of its memory, by the time that the write took: entry n, counted from 0, \
                      is 2^n to 2^(n+1) microseconds, as in `postcopy.fault_latencies`. The first entry has \
                      all shorter times, and entries after the longest time are absent. A write that needs \
                      a page waits for it.",
        unit: Unit::Entries,
        from: "the orchestrator receives the last telemetry sample before the event `STOP` from the source",
        to: "the orchestrator receives the first telemetry sample after it has learned from the source that \
             the migration has completed",
        value: |m| count(&m.postcopy.write_latencies),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.rate",
        description: "The dirty rate that the guest achieved while it ran at the destination without all of \
                      its memory.",
        unit: Unit::BytesPerSecond,
        from: RESUMED,
        to: COMPLETED,
        value: |m| m.postcopy.rate,
        csv: Some(CsvColumn { name: "postcopy_bytes_per_s", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.recoveries",
        description: "How many times the link failed after post-copy had moved the guest, and the rest of \
                      the memory followed over new connections.",
        unit: Unit::Entries,
        value: |m| Some(m.postcopy.recoveries? as f64),
        csv: Some(CsvColumn { name: "postcopy_recoveries", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "postcopy.paused_ms",
        description: "The time for which no memory arrived because the link had failed, in all recoveries \
                      together. The failure itself is not reported, so the time begins with the last \
                      progress seen; progress is checked once per second. Absent without a recovery.",
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator learns from the source or from the link that memory has passed",
        to: "the orchestrator learns from the source that memory follows again",
        ways: Some("the difference between two delays from the source"),
        value: |m| m.postcopy.paused_ms,
        table: Some(TableColumn { header: "link down\ns", per: 1e3, decimals: 1, optional: true }),
        csv: Some(CsvColumn { name: "postcopy_paused_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "file.bytes",
        description: "The length of the file to which the guest was saved, with `mode: file`. With \
                      `mapped_ram`, it includes holes where zero pages would be.",
        unit: Unit::Bytes,
        value: |m| Some(m.file.bytes? as f64),
        table: Some(TableColumn { header: "file\nMB", per: 1e6, decimals: 1, optional: true }),
        csv: Some(CsvColumn { name: "file_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "file.allocated_bytes",
        description: "The disk space that the file takes, with `mode: file`; holes take none.",
        unit: Unit::Bytes,
        value: |m| Some(m.file.allocated_bytes? as f64),
        csv: Some(CsvColumn { name: "file_allocated_bytes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "file.save_ms",
        description: "The time until the guest was saved to the file, with `mode: file`. The guest is \
                      stopped meanwhile, unless it was saved while it ran (`save_live`).",
        clock: Some(Clock::Orchestrator),
        from: START,
        to: COMPLETED,
        leaves_out: "the time until the operating system has written the file to its disk, unless QEMU \
                     bypasses the page cache (`direct_io`)",
        value: |m| m.file.save_ms,
        table: Some(TableColumn { header: "saving\ns", per: 1e3, decimals: 2, optional: true }),
        csv: Some(CsvColumn { name: "file_save_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "file.load_ms",
        description: "The time from the end of saving until the guest ran at the destination, with `mode: \
                      file`.",
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator learns from the source that the migration has completed, and is about to \
               send `migrate-incoming` to the destination",
        to: RESUMED,
        ways: Some("to the destination and back"),
        value: |m| m.file.load_ms,
        table: Some(TableColumn { header: "loading\ns", per: 1e3, decimals: 2, optional: true }),
        csv: Some(CsvColumn { name: "file_load_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "iterations",
        description: "The passes of pre-copy over the guest's memory (QEMU's iterations), one entry each, \
                      with times in milliseconds. The value in tables and CSV is the number of the last \
                      pass. Absent if the guest is stopped from the start: with `mode: cpr-transfer`, and \
                      with `mode: file` without `save_live`.",
        unit: Unit::Passes,
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator receives the first sample with the pass's number from the source",
        to: "the orchestrator receives the first sample with the next number from the source; for the last \
             pass, its own last sample",
        leaves_out: "passes too short to be sampled, which appear only as gaps in the numbering",
        ways: Some("the difference between two delays from the source"),
        value: |m| Some(m.iterations.last()?.number as f64),
        table: Some(TableColumn { header: "passes", per: 1.0, decimals: 0, optional: false }),
        csv: Some(CsvColumn { name: "passes", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "timeline",
        description: "The changes that were applied, in order, with times in milliseconds since the start of \
                      the migration: the entries of the matrix's `timeline`, and the rates of \
                      `stress.phases`, `stress.wave`, `stress.trace` and `link.trace` after the first. \
                      Changes that were not due before the migration ended are absent, and so are rates that \
                      were left out because the next one was due already.",
        unit: Unit::Entries,
        clock: Some(Clock::Orchestrator),
        from: START,
        to: "the orchestrator requests the first part of a change (`began_ms`); its last part is confirmed \
             (`done_ms`)",
        ways: Some("from the nodes that confirm the changes"),
        value: |m| count(&m.timeline),
        ..DEFAULTS
    },
    Figure {
        key: "stress.requested",
        description: "The dirty rate that was requested at the start of the migration. Absent if it was \
                      unlimited.",
        unit: Unit::BytesPerSecond,
        value: |m| Some(m.stress.requested? as f64),
        csv: Some(CsvColumn { name: "stress_requested_bytes_per_s", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "stress.before",
        description: "The dirty rate that the guest achieved before the migration, once it had settled: over \
                      the last nine telemetry samples, 0.2 s.",
        unit: Unit::BytesPerSecond,
        value: |m| m.stress.before,
        csv: Some(CsvColumn { name: "stress_before_bytes_per_s", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "stress.during",
        description: "The dirty rate that the guest achieved during the migration.",
        unit: Unit::BytesPerSecond,
        from: START,
        to: "the orchestrator receives the event `STOP` from the source, or gives the migration up",
        value: |m| m.stress.during,
        csv: Some(CsvColumn { name: "stress_during_bytes_per_s", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "stress.stretches",
        description: "The dirty rate that the guest achieved during the migration, split into intervals of \
                      one requested rate each, with times in milliseconds since the start of the migration. \
                      Present only if the rate changed: by `timeline`, `stress.phases`, `stress.wave` or \
                      `stress.trace`.",
        unit: Unit::Entries,
        clock: Some(Clock::Orchestrator),
        from: START,
        to: "the rate is confirmed (`from_ms`); the next rate is requested, the event `STOP` is received \
             from the source, or the migration is given up (`to_ms`)",
        leaves_out: "the time that each change takes; the achieved rate of intervals under half a second",
        ways: Some("from the source"),
        value: |m| count(&m.stress.stretches),
        ..DEFAULTS
    },
    Figure {
        key: "stress.after",
        description: "The dirty rate that the guest achieved after the migration, at the end where it then \
                      runs.",
        unit: Unit::BytesPerSecond,
        from: "the orchestrator receives the event `RESUME` from the destination, or gives the migration \
               up; after post-copy, the orchestrator learns from the source that the migration has completed",
        to: "the phase `observe` ends",
        value: |m| m.stress.after,
        csv: Some(CsvColumn { name: "stress_after_bytes_per_s", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "stress.recovered_ms",
        description: "The time after the switchover until the guest's dirty rate was back: until it dirtied, \
                      over four telemetry intervals, at least 95 % of what it did before the migration. \
                      Absent if that was not seen.",
        clock: Some(Clock::Orchestrator),
        from: RESUMED,
        to: "the orchestrator receives the telemetry sample with which the first of these intervals begins",
        ways: Some("the difference between two delays from the destination"),
        value: |m| m.stress.recovered_ms,
        csv: Some(CsvColumn { name: "stress_recovered_ms", whole: false }),
        ..DEFAULTS
    },
    Figure {
        key: "stress.forgone_bytes",
        description: "The bytes that were due to be dirtied during the migration but were not, as the \
                      stressor counts them: a guest that is throttled or short of CPU time dirties less than \
                      requested.",
        unit: Unit::Bytes,
        value: |m| Some(m.stress.forgone_bytes? as f64),
        ..DEFAULTS
    },
    Figure {
        key: "stress.longest_stall_ms",
        description: "The longest time between two writes of the stressor during the migration: what \
                      throttling or a slow page fault does to an application.",
        clock: Some(Clock::Guest),
        from: "the stressor writes",
        to: "the stressor writes again",
        leaves_out: "the pauses that the requested rate calls for; the time for which the guest is stopped",
        value: |m| m.stress.longest_stall_ms,
        ..DEFAULTS
    },
    Figure {
        key: "verified",
        description: "Whether the guest's memory holds exactly what the stressor wrote: each page is \
                      compared with the content that follows from its seed, index and generation. Checked \
                      after the migration at the destination, or at the source if the migration was given \
                      up, or failed and left the guest running there. The value in CSV is the number of \
                      pages checked.",
        unit: Unit::Pages,
        leaves_out: "the memory of the guest's kernel",
        value: |m| Some(m.verified.as_ref()?.pages_checked as f64),
        csv: Some(CsvColumn { name: "pages_verified", whole: true }),
        ..DEFAULTS
    },
    Figure {
        key: "qemu",
        description: "QEMU's own times of a migration that completed, in milliseconds: total, downtime and \
                      setup.",
        clock: Some(Clock::Source),
        from: "QEMU starts to migrate at the source",
        to: "the migration completes at the source",
        value: |m| m.qemu?.total_time_ms.map(|ms| ms as f64),
        ..DEFAULTS
    },
    Figure {
        key: "link_lateness",
        description: "How much later than computed the link emulator delivered packets, both directions \
                      together, from the start of the migration until the orchestrator knows how the \
                      migration ended. Absent if the kernel shapes the link.",
        clock: Some(Clock::Source),
        from: "a packet is due at the far end of the emulated link",
        to: "the emulator writes the packet to the far end",
        value: |m| Some(m.link_lateness?.late_worst_ms),
        ..DEFAULTS
    },
    Figure {
        key: "phases_ms",
        description: "The duration of each phase of the attempt, in order.",
        clock: Some(Clock::Orchestrator),
        from: "the orchestrator enters the phase",
        to: "the orchestrator enters the next phase; for the last phase, the attempt ends",
        ways: Some("to and from the nodes that the orchestrator waits for"),
        value: |m| (!m.phases_ms.is_empty()).then(|| m.phases_ms.values().sum()),
        ..DEFAULTS
    },
    Figure {
        key: "wall_time_ms",
        description: "The duration of the whole attempt, from the start of the QEMU processes until both \
                      have ended. Absent if the attempt was skipped.",
        clock: Some(Clock::Orchestrator),
        from: "the attempt starts",
        to: "both QEMU processes have ended",
        ways: Some("to and from the nodes that the orchestrator waits for"),
        value: |m| m.wall_time_ms,
        csv: Some(CsvColumn { name: "wall_time_ms", whole: false }),
        ..DEFAULTS
    },
];

fn count<T>(entries: &[T]) -> Option<f64> {
    (!entries.is_empty()).then_some(entries.len() as f64)
}

/// Returns the event at which a migration with these settings starts.
fn start(settings: &Settings) -> &'static str {
    let Settings { storage, migrate, .. } = settings;
    if storage.kind == StorageKind::Block {
        "just before the orchestrator connects the source to the destination's disk, to copy the disk first"
    } else if migrate.mode == Mode::File && !migrate.save_live {
        "just before the orchestrator stops the guest, to save it"
    } else {
        START
    }
}

/// Returns the provenance of each duration that was measured with these settings, by the figure's key.
pub fn provenance(measured: &Measured, settings: &Settings) -> IndexMap<String, Provenance> {
    let has_moved_first = measured.postcopy.started_ms.is_some();
    let durations = FIGURES.iter().filter_map(|figure| {
        let clock = figure.clock.filter(|_| (figure.value)(measured).is_some())?;
        let (to, ways) = match figure.after_postcopy {
            Some((to, ways)) if has_moved_first => (to, Some(ways)),
            _ => (figure.to, figure.ways),
        };
        let provenance = Provenance {
            clock,
            from: figure.from.replace(START, start(settings)),
            to: to.into(),
            ways: ways.map(Into::into),
        };
        Some((figure.key.to_string(), provenance))
    });
    durations.collect()
}

/// Returns the figures for which an expectation about `subject` is checked. The first one that was measured
/// counts.
pub fn measuring(subject: Subject) -> impl Iterator<Item = &'static Figure> {
    FIGURES.iter().rev().filter(move |figure| figure.expected_as.contains(&subject))
}

/// Returns what an expectation about `subject` checks, in the figure's unit: milliseconds or bytes. Returns
/// nothing if no figure with that subject was measured.
pub fn interval_for(subject: Subject, measured: &Measured) -> Option<Interval> {
    measuring(subject).find_map(|figure| figure.interval(measured))
}

#[cfg(test)]
mod tests;
