//! The content of tables: a row per cell of the matrix, with measured figures beside the published ones.
//!
//! If a cell was measured more than once, each figure is shown as the median, followed by the minimum and the
//! maximum. They are those of the attempts that converged or, if none did, of all that have a result.

use super::{figure::representative, remarks::MARK};
use crate::{
    matrix::{Cell, Plan, Subject},
    measure,
    outcome::OutcomeCounts,
    results::{
        figures::{FIGURES, Figure, TableColumn},
        record::Record,
    },
};
use frontend::one_line;

/// The text of a table, without its layout.
pub(super) struct Grid {
    /// The titles of the columns. Those of figures have the unit on a second line.
    pub(super) header: Vec<String>,
    /// The rows, one per cell of the matrix, each with as many columns as the header.
    pub(super) rows: Vec<Vec<String>>,
    /// The number of columns, from the left, that contain words. The others contain numbers.
    pub(super) words: usize,
}

impl Grid {
    pub(super) fn new(plan: &Plan, records: &[Record]) -> Self {
        let axes = plan.axis_paths();
        let attempts_of = |cell: &Cell| records.iter().filter(|r| r.cell == cell.id).collect();
        let attempts: Vec<Vec<&Record>> = plan.cells.iter().map(attempts_of).collect();
        let shown = attempts.iter().map(|attempts| representative(attempts.iter().copied()));
        let shown: Vec<Vec<&Record>> = shown.collect();
        let is_measured =
            |figure: &Figure| shown.iter().flatten().any(|r| (figure.value)(&r.measured).is_some());
        let figures: Vec<(&Figure, TableColumn)> = FIGURES
            .iter()
            .filter_map(|figure| Some((figure, figure.table?)))
            .filter(|(figure, column)| !column.optional || is_measured(figure))
            .collect();
        let rows_of_reference = || plan.reference.iter().flat_map(|reference| &reference.rows);
        let published: Vec<(&Figure, Subject, TableColumn)> = figures
            .iter()
            .filter_map(|(figure, column)| Some((*figure, figure.published_as?, *column)))
            .filter(|(_, subject, _)| rows_of_reference().any(|row| row.figure(*subject).is_some()))
            .collect();
        let titles = figures.iter().map(|(_, column)| column.header.to_string());
        let beside = published.iter().flat_map(|(_, _, column)| {
            [format!("published\n{}", column.header.replace('\n', " ")), "ratio".into()]
        });
        let names = axes.iter().map(ToString::to_string).chain(["outcome".to_string()]);
        let rows = plan.cells.iter().zip(&attempts).zip(&shown).map(|((cell, attempts), shown)| {
            let row = plan.reference.as_ref().and_then(|r| r.row_for(&cell.settings));
            let values = axes
                .iter()
                .map(|axis| cell.axes.get(*axis).map_or_else(String::new, |value| one_line(value)));
            let measured = figures.iter().map(|(figure, column)| spread(shown, figure, column));
            let beside = published.iter().flat_map(|(figure, subject, column)| {
                let value = row.and_then(|row| row.figure(*subject));
                let ratio = value.and_then(|value| ratio(shown, figure, value));
                [value.map(|value| column.show(value)), ratio].map(Option::unwrap_or_default)
            });
            let disagree = attempts.iter().any(|record| !record.measured.disagreements.is_empty());
            let outcomes: OutcomeCounts = attempts.iter().map(|record| record.outcome).collect();
            let outcome = outcomes.field() + if disagree { MARK } else { "" };
            values.chain([outcome]).chain(measured).chain(beside).collect()
        });
        Self {
            words: axes.len() + 1,
            rows: rows.collect(),
            header: names.chain(titles).chain(beside).collect(),
        }
    }
}

/// Returns the median of a figure over the attempts that measured it, with the range if there are several.
/// A value that is only a lower bound is shown after `>`, and counts as larger than all others.
fn spread(attempts: &[&Record], figure: &Figure, column: &TableColumn) -> String {
    let values = sorted(attempts, figure);
    let show = |shown: Shown| shown.to_text(|value| column.show(value));
    match (&values[..], median(&values)) {
        ([low, .., high], Some(median)) => format!("{} ({}–{})", show(median), show(*low), show(*high)),
        (_, Some(only)) => show(only),
        (_, None) => "-".into(),
    }
}

/// Returns the ratio of the median of a figure to the published value.
fn ratio(attempts: &[&Record], figure: &Figure, published: f64) -> Option<String> {
    let median = median(&sorted(attempts, figure)).filter(|_| published > 0.0)?;
    Some(median.to_text(|value| format!("{:.2}", value / published)))
}

/// Returns the values that the attempts have measured for a figure, the smallest first.
fn sorted(attempts: &[&Record], figure: &Figure) -> Vec<Shown> {
    let mut values: Vec<Shown> = attempts.iter().filter_map(|r| Shown::new(figure, r)).collect();
    values.sort_unstable_by(|a, b| a.is_open.cmp(&b.is_open).then(a.value.total_cmp(&b.value)));
    values
}

/// Returns the median of sorted values.
fn median(sorted: &[Shown]) -> Option<Shown> {
    let values: Vec<f64> = sorted.iter().map(|shown| shown.value).collect();
    Some(Shown { value: measure::median(&values)?, is_open: sorted[sorted.len() / 2].is_open })
}

/// A value as a table shows it.
#[derive(Clone, Copy)]
struct Shown {
    value: f64,
    /// Whether it is only a lower bound.
    is_open: bool,
}

impl Shown {
    fn new(figure: &Figure, record: &Record) -> Option<Self> {
        let interval = figure.interval(&record.measured)?;
        let value = interval.most.unwrap_or(interval.least);
        Some(Self { value, is_open: interval.most.is_none() })
    }

    /// Returns the value as `show` formats it, with a sign before it if it is only a lower bound.
    fn to_text(self, show: impl Fn(f64) -> String) -> String {
        format!("{}{}", if self.is_open { ">" } else { "" }, show(self.value))
    }
}
