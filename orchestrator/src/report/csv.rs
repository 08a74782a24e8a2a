//! The report as CSV, with one row per attempt, for spreadsheets.
//!
//! An axis is a column with the text of the matrix. If the values of the axis are quantities, a column with
//! their numbers follows, named after the unit: `stress.rate`, `stress.rate_bytes_per_s`. An axis whose
//! values may be either of two quantities has a column for each.

use super::{FinishedRun, Format, RenderedReport, composition, origin, summary};
use crate::{
    matrix::NumberUnit,
    results::{
        figures::{self, FIGURES},
        parts::Run,
        record::Record,
    },
};
use frontend::Text;
use indexmap::IndexSet;
use std::{io, path::Path};

/// The format `csv`: one header, then the records of all runs.
pub(super) struct Csv;

impl Format for Csv {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let notes = vec![format!("results: {}", run.folder.display())];
        Ok(RenderedReport { text: summary(run.records)?.into(), notes })
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

/// A column of an axis.
struct AxisColumn<'a> {
    path: &'a str,
    /// The unit of the numbers in the column; `None` for the texts.
    unit: Option<NumberUnit>,
}

impl<'a> AxisColumn<'a> {
    /// Returns the columns of all axes of these records.
    fn of(records: &(impl Iterator<Item = &'a Record> + Clone)) -> Vec<Self> {
        let paths: IndexSet<&str> =
            records.clone().flat_map(|record| record.axes.keys().map(String::as_str)).collect();
        let columns = paths.into_iter().flat_map(|path| {
            let records = records.clone().filter(move |record| record.axes.contains_key(path));
            let are_numbers = records.clone().all(|record| record.axes[path].parse::<f64>().is_ok());
            let numbers = records.filter_map(|record| Some(record.settings.number(path)?.0));
            let units: IndexSet<NumberUnit> = numbers.collect();
            // Numbers without a unit are already in the column of texts.
            let units = units.into_iter().filter(move |unit| *unit != NumberUnit::Plain || !are_numbers);
            [None].into_iter().chain(units.map(Some)).map(move |unit| Self { path, unit })
        });
        columns.collect()
    }

    fn name(&self) -> String {
        match self.unit {
            None => self.path.to_owned(),
            Some(NumberUnit::Plain) => format!("{}_number", self.path),
            Some(unit) => format!("{}{}", self.path, unit.suffix()),
        }
    }

    /// Returns the value of a record; nothing if the record does not have the axis, or no number of this
    /// unit.
    fn show(&self, record: &Record) -> String {
        let Some(text) = record.axes.get(self.path) else { return String::new() };
        let Some(wanted) = self.unit else { return text.clone() };
        let number = record.settings.number(self.path).filter(|(unit, _)| *unit == wanted);
        number.and_then(|(_, number)| shortest(&number)).unwrap_or_default()
    }
}

/// Returns a number without a zero fraction.
fn shortest(number: &serde_json::Number) -> Option<String> {
    number.as_u64().map(|whole| whole.to_string()).or_else(|| number.as_f64().map(|float| float.to_string()))
}

/// Returns the records as CSV, with a header. A field is empty if the record does not have the axis, or if
/// the figure was not measured. If folders are given with the records, they are the first column.
pub(super) fn rows<'a>(
    records: impl Iterator<Item = (Option<&'a Path>, &'a Record)> + Clone,
) -> io::Result<Text> {
    let axes = AxisColumn::of(&records.clone().map(|(_, record)| record));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let folder = records.clone().find_map(|(folder, _)| folder).map(|_| "results");
    let names = columns().map(|(_, column)| column.name);
    let axis_names: Vec<String> = axes.iter().map(AxisColumn::name).collect();
    let header = folder.into_iter().chain(["cell"]).chain(axis_names.iter().map(String::as_str));
    writer.write_record(header.chain(["attempt", "outcome"]).chain(names).chain([
        "started_at",
        "reason",
        "disagreements",
    ]))?;
    for (folder, record) in records {
        let folder = folder.map(|folder| folder.display().to_string());
        let names = folder.into_iter().chain([record.cell.clone()]);
        let values = axes.iter().map(|axis| axis.show(record));
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
    // The output is also a file, and any program may show it.
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(text.into())
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
        let columns: Vec<&String> = rows[0].keys().take(5).collect();
        assert_eq!(columns, ["cell", "stress.rate", "stress.rate_bytes_per_s", "guest.vcpus", "attempt"]);
        let values = |column: &str| rows.iter().map(|row| row[column].clone()).collect::<Vec<_>>();
        assert_eq!(values("stress.rate"), ["1MB/s", ""]);
        assert_eq!(values("guest.vcpus"), ["", "2"]);
    }

    #[test]
    fn quantities_of_an_axis_are_numbers_beside_their_text() {
        let matrix = "name: n\nstress: { working_set: 1MB }\nguest: { accel: tcg }\naxes:\n  \
                      stress.rate: [16MB/s, 112MB/s, unlimited]\n  \
                      migrate.max_bandwidth: [100MB/s, 1gbit]\n  link.delay: [0, 1500us]\n  \
                      migrate.max_passes: [none, 2]\n  guest.accel: [tcg]\n  \
                      link.loss: [0, 0.1%]\n";
        let rows = rows(matrix, |_| ());
        let columns: Vec<&str> =
            rows[0].keys().map(String::as_str).skip(1).take_while(|name| *name != "attempt").collect();
        let expected = [
            "stress.rate stress.rate_bytes_per_s",
            "migrate.max_bandwidth migrate.max_bandwidth_bytes_per_s migrate.max_bandwidth_bits_per_s",
            "link.delay link.delay_ms",
            "migrate.max_passes migrate.max_passes_number",
            "guest.accel",
            "link.loss link.loss_percent",
        ];
        assert_eq!(columns.join(" "), expected.join(" "));
        let values = |row: usize| columns.iter().map(|name| rows[row][*name].as_str()).collect::<Vec<_>>();
        let first = "16MB/s 16000000 100MB/s 100000000 - 0 0 none - tcg 0 0";
        let last = "unlimited - 1gbit - 1000000000 1500us 1.5 2 2 tcg 0.1% 0.1";
        for (row, expected) in [(0, first), (rows.len() - 1, last)] {
            let expected: Vec<&str> = expected.split(' ').map(|text| text.trim_matches('-')).collect();
            assert_eq!(values(row), expected);
        }
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
