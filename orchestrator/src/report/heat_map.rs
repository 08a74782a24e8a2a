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

    fn attempts<'b>(&'b self, cell: &'b Cell) -> impl Iterator<Item = &'b Record> + Clone {
        self.records.iter().filter(|record| record.cell == cell.id)
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
        let Some(worst) = attempts.clone().map(|record| record.outcome).max() else { return Field::NotTried };
        let Some(median) = median(&self.figure.values(attempts)) else { return Field::Without(worst) };
        let (least, most) = self.range;
        let part = if most > least { (median - least) / (most - least) } else { 0.0 };
        let shade = (part * (SHADES - 1) as f64).round() as usize;
        Field::Measured { median, shade, other: (worst != Outcome::Converged).then_some(worst) }
    }
}
