//! The content of a heat map: a figure for each cell of a matrix with two axes.

use super::figure::{DATA, DOWNTIME, Figure, TOTAL_TIME};
use crate::{
    matrix::{Cell, Plan},
    measure::median,
    outcome::Outcome,
    results::record::Record,
};
use indexmap::IndexSet;

/// The number of shades.
pub(super) const SHADES: usize = 7;

/// The figures that have a map.
pub(super) const FIGURES: [Figure; 3] = [TOTAL_TIME, DOWNTIME, DATA];

/// The two axes of a matrix, each with several values.
pub(super) struct Axes<'a> {
    plan: &'a Plan,
    records: &'a [Record],
    /// The setting that varies between columns.
    pub(super) across: &'a str,
    /// The setting that varies between rows.
    pub(super) down: &'a str,
    pub(super) columns: IndexSet<&'a str>,
    pub(super) rows: IndexSet<&'a str>,
}

/// The map of a figure.
pub(super) struct HeatMap<'a> {
    pub(super) figure: &'a Figure,
    axes: &'a Axes<'a>,
    /// The smallest and the largest value that an attempt has measured.
    range: (f64, f64),
}

/// A field of a map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field {
    /// The matrix has no such cell.
    Absent,
    NotTried,
    /// No attempt has converged and measured the figure. The worst outcome explains why.
    Without(Outcome),
    Measured {
        /// The median of the attempts that converged.
        median: f64,
        /// The shade, from 0 to [`SHADES`] - 1.
        shade: usize,
        /// The worst outcome, if some attempts did not converge.
        other: Option<Outcome>,
    },
}

impl<'a> Axes<'a> {
    /// Returns the axes of a run; nothing if it does not have two.
    pub(super) fn of(plan: &'a Plan, records: &'a [Record]) -> Option<Self> {
        let [across, down] = plan.axis_paths()[..] else { return None };
        let values = |path| {
            let values = plan.cells.iter().map(|cell| cell.axes.get(path).map(String::as_str));
            values.collect::<Option<IndexSet<&str>>>().filter(|values| values.len() > 1)
        };
        let (columns, rows) = (values(across)?, values(down)?);
        Some(Self { plan, records, across, down, columns, rows })
    }

    /// Returns the attempts of a cell that have a result, or all if none has one. An attempt without a result
    /// is made again.
    fn attempts(&self, cell: &Cell) -> Vec<&'a Record> {
        let attempts = self.records.iter().filter(|record| record.cell == cell.id);
        let results: Vec<&Record> = attempts.clone().filter(|record| record.is_result()).collect();
        if results.is_empty() { attempts.collect() } else { results }
    }
}

impl<'a> HeatMap<'a> {
    /// Returns the map of a figure; nothing if no attempt has measured it.
    pub(super) fn new(axes: &'a Axes<'a>, figure: &'a Figure) -> Option<Self> {
        let values = figure.values(axes.records);
        Some(Self { axes, figure, range: (*values.first()?, *values.last()?) })
    }

    pub(super) fn field(&self, column: &str, row: &str) -> Field {
        let Axes { across, down, .. } = *self.axes;
        let is_here = |cell: &&Cell| cell.axes[across] == *column && cell.axes[down] == *row;
        let Some(cell) = self.axes.plan.cells.iter().find(is_here) else { return Field::Absent };
        let attempts = self.axes.attempts(cell);
        let Some(worst) = attempts.iter().map(|record| record.outcome).max() else { return Field::NotTried };
        let Some(median) = median(&self.figure.values(attempts)) else { return Field::Without(worst) };
        let (least, most) = self.range;
        let part = if most > least { (median - least) / (most - least) } else { 0.0 };
        let shade = (part * (SHADES - 1) as f64).round() as usize;
        Field::Measured { median, shade, other: (worst != Outcome::Converged).then_some(worst) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, results::builder::RecordBuilder};

    #[test]
    fn an_interruption_does_not_count_beside_a_result() {
        use Outcome::{Converged, Interrupted, NotConverged};
        let matrix = "name: n\naxes: { guest.vcpus: [1, 2], link.delay: [0, 1ms] }\n";
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap();
        let record = |cell: usize, outcome| {
            let mut record = RecordBuilder::start().freeze(&plan.cells[cell], 1, outcome, None);
            record.measured.total_time_ms = (outcome == Converged).then_some(1_000.0);
            record
        };
        let records = vec![
            record(0, Interrupted),
            record(0, Converged),
            record(1, Interrupted),
            record(1, NotConverged),
            record(2, Interrupted),
            record(3, Converged),
            record(3, NotConverged),
        ];
        let axes = Axes::of(&plan, &records).unwrap();
        let map = HeatMap::new(&axes, &TOTAL_TIME).unwrap();
        let fields =
            plan.cells.iter().map(|cell| map.field(&cell.axes["guest.vcpus"], &cell.axes["link.delay"]));
        let measured = |other| Field::Measured { median: 1.0, shade: 0, other };
        let expected = [
            measured(None),
            Field::Without(NotConverged),
            Field::Without(Interrupted),
            measured(Some(NotConverged)),
        ];
        assert_eq!(fields.collect::<Vec<_>>(), expected);
    }
}
