//! A row per attempt, for a spreadsheet.

use super::{Ended, Format, Rendered, composition, origin, summary};
use crate::results::{
    figures::{self, FIGURES},
    parts::Run,
    record::Record,
};
use std::{io, path::Path};

/// One header, and all records.
pub(super) struct Csv;

impl Format for Csv {
    fn ended(&self, run: &Ended<'_>) -> io::Result<Rendered> {
        let notes = vec![format!("results: {}", run.folder.display())];
        Ok(Rendered { text: summary(run.records)?, notes })
    }

    fn stored(&self, runs: &[Run]) -> io::Result<Rendered> {
        let several = runs.iter().map(|run| run.composition.parts.len()).sum::<usize>() > 1;
        let records = runs.iter().flat_map(|run| {
            let placed = run.records.iter().enumerate();
            placed.map(move |(place, record)| (several.then(|| origin(run, place)), record))
        });
        let text = rows(records)?;
        let notes = runs.iter().flat_map(|run| composition::sentences(&run.composition)).collect();
        Ok(Rendered { text, notes })
    }
}

/// The columns of figures, with their names and values.
fn columns() -> impl Iterator<Item = (&'static figures::Figure, figures::Csv)> + Clone {
    FIGURES.iter().filter_map(|figure| Some((figure, figure.csv?)))
}

/// Returns the records as CSV, with a header. An axis that a record does not have is left empty, and so is a
/// figure that was not measured. Where records of several folders come together, each with its own, that is
/// the first column.
pub(super) fn rows<'a>(
    records: impl Iterator<Item = (Option<&'a Path>, &'a Record)> + Clone,
) -> io::Result<String> {
    let axes: indexmap::IndexSet<&str> =
        records.clone().flat_map(|(_, record)| record.axes.keys().map(String::as_str)).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let folder = records.clone().find_map(|(folder, _)| folder).map(|_| "results");
    let names = columns().map(|(_, column)| column.name);
    let header = folder.into_iter().chain(["cell"]).chain(axes.iter().copied());
    writer.write_record(header.chain(["attempt", "outcome"]).chain(names).chain(["started_at", "reason"]))?;
    for (folder, record) in records {
        let folder = folder.map(|folder| folder.display().to_string());
        let place = folder.into_iter().chain([record.cell.clone()]);
        let values = axes.iter().map(|axis| record.axes.get(*axis).cloned().unwrap_or_default());
        let ended = [record.attempt.to_string(), record.outcome.to_string()];
        let measured = columns().map(|(figure, column)| {
            (figure.value)(&record.measured).map(|value| column.show(value)).unwrap_or_default()
        });
        let rest = [record.started_at.to_string(), record.reason.clone().unwrap_or_default()];
        writer.write_record(place.chain(values).chain(ended).chain(measured).chain(rest))?;
    }
    let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, outcome::Outcome, results::builder::RecordBuilder};

    /// The rows after the header, as maps from column to value.
    fn rows(matrix: &str, change: impl Fn(&mut Record)) -> Vec<indexmap::IndexMap<String, String>> {
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let mut records: Vec<Record> =
            plan.cells.iter().map(|c| RecordBuilder::start().freeze(c, 1, Outcome::Failed, None)).collect();
        records.iter_mut().for_each(change);
        let text = summary(&records).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
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
        let filled: Vec<&str> =
            rows[0].iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(filled, ["cell", "attempt", "outcome", "wall_time_ms", "started_at"]);
    }

    #[test]
    fn a_reason_survives_commas_quotes_and_line_ends() {
        let reason = "QEMU ended (signal: 9): \"no\", it said\n| the end";
        let rows = rows("name: n\n", |record| record.reason = Some(reason.into()));
        assert_eq!(rows[0]["reason"], reason);
    }
}
