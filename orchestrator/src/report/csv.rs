//! The short form of the records: a row per attempt, for a spreadsheet.

use crate::results::record::Record;
use std::{io, path::Path};

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

/// The records as CSV, with a header. An axis that a record does not have is left empty. Where records of several
/// folders come together, each with its own, that is the first column.
pub fn csv<'a>(rows: impl Iterator<Item = (Option<&'a Path>, &'a Record)> + Clone) -> io::Result<Vec<u8>> {
    let mut axes: Vec<&str> = Vec::new();
    for axis in rows.clone().flat_map(|(_, record)| record.axes.keys()) {
        if !axes.contains(&axis.as_str()) {
            axes.push(axis);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let folder = rows.clone().find_map(|(folder, _)| folder).map(|_| "results");
    let names = COLUMNS.iter().map(|(name, _)| *name);
    writer.write_record(folder.into_iter().chain(["cell"]).chain(axes.iter().copied()).chain(names))?;
    for (folder, record) in rows {
        let values = axes.iter().map(|axis| record.axes.get(*axis).cloned().unwrap_or_default());
        let columns = COLUMNS.iter().map(|(_, value)| value(record));
        let folder = folder.map(|folder| folder.display().to_string());
        writer.write_record(folder.into_iter().chain([record.cell.clone()]).chain(values).chain(columns))?;
    }
    writer.into_inner().map_err(csv::IntoInnerError::into_error)
}

fn number(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

fn rounded(value: Option<f64>) -> String {
    value.map(|v| format!("{v:.0}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, outcome::Outcome, results::record::Draft};

    /// The rows after the header, as maps from column to value.
    fn rows(matrix: &str, change: impl Fn(&mut Record)) -> Vec<indexmap::IndexMap<String, String>> {
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let mut records: Vec<Record> =
            plan.cells.iter().map(|c| Draft::start().freeze(c, 1, Outcome::Failed, None)).collect();
        records.iter_mut().for_each(change);
        let text = csv(records.iter().map(|record| (None, record))).unwrap();
        let mut reader = csv::Reader::from_reader(&text[..]);
        reader.deserialize().map(Result::unwrap).collect()
    }

    #[test]
    fn an_axis_is_a_column_and_empty_where_a_cell_has_none() {
        let matrix = "name: n\naxes: { stress.rate: [1MB/s] }\ninclude: [{ guest.vcpus: 2 }]\n";
        let rows = rows(matrix, |_| ());
        let columns: Vec<&String> = rows[0].keys().take(4).collect();
        assert_eq!(columns, ["cell", "stress.rate", "guest.vcpus", "attempt"]);
        let values = |column: &str| rows.iter().map(|row| row[column].clone()).collect::<Vec<_>>();
        assert_eq!(values("stress.rate"), ["1MB/s", ""]);
        assert_eq!(values("guest.vcpus"), ["", "2"]);
    }

    #[test]
    fn what_was_not_measured_is_empty_rather_than_zero() {
        let rows = rows("name: n\n", |_| ());
        let empty = |name: &&&str| rows[0][**name].is_empty();
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        let filled: Vec<&str> = names.iter().filter(|name| !empty(name)).copied().collect();
        assert_eq!(filled, ["attempt", "outcome", "wall_time_ms", "started_at"]);
    }

    #[test]
    fn a_reason_survives_commas_quotes_and_line_ends() {
        let reason = "QEMU ended (signal: 9): \"no\", it said\n| the end";
        let rows = rows("name: n\n", |record| record.reason = Some(reason.into()));
        assert_eq!(rows[0]["reason"], reason);
    }
}
