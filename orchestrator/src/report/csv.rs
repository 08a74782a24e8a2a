//! The report as CSV, with one row per attempt, for spreadsheets.

use super::{FinishedRun, Format, RenderedReport, composition, origin, summary};
use crate::results::{
    figures::{self, FIGURES},
    parts::Run,
    record::Record,
};
use frontend::Text;
use std::{io, path::Path};

/// The format `csv`: one header, then the records of all runs.
pub(super) struct Csv;

impl Format for Csv {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let notes = vec![format!("results: {}", run.folder.display())];
        Ok(RenderedReport { text: summary(run.records)?, notes })
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        let several = runs.iter().map(|run| run.composition.parts.len()).sum::<usize>() > 1;
        let records = runs.iter().flat_map(|run| {
            let indexed = run.records.iter().enumerate();
            indexed.map(move |(index, record)| (several.then(|| origin(run, index)), record))
        });
        let text = rows(records)?;
        let notes = runs.iter().flat_map(|run| composition::sentences(&run.composition)).collect();
        Ok(RenderedReport { text, notes })
    }
}

/// Returns the figures that have a column in CSV, with the column.
fn columns() -> impl Iterator<Item = (&'static figures::Figure, figures::CsvColumn)> + Clone {
    FIGURES.iter().filter_map(|figure| Some((figure, figure.csv?)))
}

/// Returns the records as CSV, with a header. A field is empty if the record does not have the axis, or if
/// the figure was not measured. If the records come with their folders, these are the first column.
pub(super) fn rows<'a>(
    records: impl Iterator<Item = (Option<&'a Path>, &'a Record)> + Clone,
) -> io::Result<String> {
    let axes: indexmap::IndexSet<&str> =
        records.clone().flat_map(|(_, record)| record.axes.keys().map(String::as_str)).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let folder = records.clone().find_map(|(folder, _)| folder).map(|_| "results");
    let names = columns().map(|(_, column)| column.name);
    let header = folder.into_iter().chain(["cell"]).chain(axes.iter().copied());
    writer.write_record(header.chain(["attempt", "outcome"]).chain(names).chain([
        "started_at",
        "reason",
        "disagreements",
    ]))?;
    for (folder, record) in records {
        let folder = folder.map(|folder| folder.display().to_string());
        let names = folder.into_iter().chain([record.cell.clone()]);
        let values = axes.iter().map(|axis| record.axes.get(*axis).cloned().unwrap_or_default());
        let ended = [record.attempt.to_string(), record.outcome.to_string()];
        let measured = columns().map(|(figure, column)| {
            (figure.value)(&record.measured).map(|value| column.show(value)).unwrap_or_default()
        });
        let rest = [
            record.started_at.to_string(),
            record.reason.clone().unwrap_or_default(),
            record.measured.disagreements.join(" | "),
        ];
        writer.write_record(names.chain(values).chain(ended).chain(measured).chain(rest))?;
    }
    let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    // It is a file as well, and may be shown by any program.
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(Text::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, outcome::Outcome, results::builder::RecordBuilder};

    /// Returns the rows after the header, as maps from column to value.
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
    fn an_axis_is_a_column_which_is_empty_for_cells_without_it() {
        let matrix = "name: n\naxes: { stress.rate: [1MB/s] }\ninclude: [{ guest.vcpus: 2 }]\n";
        let rows = rows(matrix, |_| ());
        let columns: Vec<&String> = rows[0].keys().take(4).collect();
        assert_eq!(columns, ["cell", "stress.rate", "guest.vcpus", "attempt"]);
        let values = |column: &str| rows.iter().map(|row| row[column].clone()).collect::<Vec<_>>();
        assert_eq!(values("stress.rate"), ["1MB/s", ""]);
        assert_eq!(values("guest.vcpus"), ["", "2"]);
    }

    #[test]
    fn a_figure_that_was_not_measured_is_empty_rather_than_zero() {
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
