//! The short form of the records: a row per attempt, for a spreadsheet.

use super::record::Record;
use std::io;

/// The columns after the axes, with their values.
type Column = (&'static str, fn(&Record) -> String);

const COLUMNS: &[Column] = &[
    ("attempt", |r| r.attempt.to_string()),
    ("outcome", |r| r.outcome.to_string()),
    ("total_time_ms", |r| number(r.measured.total_time_ms)),
    ("downtime_qemu_ms", |r| number(r.measured.downtime_ms.qemu)),
    ("downtime_guest_ms", |r| number(r.measured.downtime_ms.guest)),
    ("downtime_client_ms", |r| number(r.measured.downtime_ms.client)),
    ("transferred_qemu_bytes", |r| number(r.measured.transferred.qemu_bytes)),
    ("transferred_wire_bytes", |r| number(r.measured.transferred.wire_bytes)),
    ("passes", |r| r.measured.iterations.last().map(|p| p.number.to_string()).unwrap_or_default()),
    ("stress_requested_bytes_per_s", |r| number(r.measured.stress.requested)),
    ("stress_before_bytes_per_s", |r| rounded(r.measured.stress.before)),
    ("stress_during_bytes_per_s", |r| rounded(r.measured.stress.during)),
    ("stress_after_bytes_per_s", |r| rounded(r.measured.stress.after)),
    ("pages_verified", |r| number(r.measured.verified.as_ref().map(|v| v.pages_checked))),
    ("wall_time_ms", |r| r.measured.wall_time_ms.to_string()),
    ("started_at", |r| r.started_at.to_string()),
    ("reason", |r| r.reason.clone().unwrap_or_default()),
];

/// The records as CSV, with a header. An axis that a record does not have is left empty.
pub fn csv(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut axes: Vec<&str> = Vec::new();
    for axis in records.iter().flat_map(|r| r.axes.keys()) {
        if !axes.contains(&axis.as_str()) {
            axes.push(axis);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = COLUMNS.iter().map(|(name, _)| *name);
    writer.write_record(["cell"].into_iter().chain(axes.iter().copied()).chain(names))?;
    for record in records {
        let values = axes.iter().map(|axis| record.axes.get(*axis).cloned().unwrap_or_default());
        let columns = COLUMNS.iter().map(|(_, value)| value(record));
        writer.write_record([record.cell.clone()].into_iter().chain(values).chain(columns))?;
    }
    writer.into_inner().map_err(csv::IntoInnerError::into_error)
}

fn number(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

fn rounded(value: Option<f64>) -> String {
    value.map(|v| format!("{v:.0}")).unwrap_or_default()
}
