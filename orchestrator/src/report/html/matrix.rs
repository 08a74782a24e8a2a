//! The matrix: a row for each cell, with its outcomes and figures.

use super::{
    Detail, Section,
    table::{Field, Table},
    view::{View, outcome},
};
use crate::{outcome::OutcomeCounts, report::grid::Grid};
use maud::{Markup, html};

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let Grid { header, rows, words } = Grid::new(view.plan, view.records);
    let header: Vec<String> = header.iter().map(|title| title.replacen('\n', ", ", 1)).collect();
    let row = |(cell, row): (&crate::matrix::Cell, Vec<String>)| {
        let field = |(at, text): (usize, String)| match at {
            at if at + 1 < words => Field::axis(&text),
            at if at < words => Field::markup(outcomes(view, cell)),
            _ => Field::text(text),
        };
        row.into_iter().enumerate().map(field).collect()
    };
    let table = Table {
        id: &view.id("matrix-table"),
        caption: "Every cell of the matrix: outcomes, and the median of each figure with its range",
        header: &header,
        words,
        rows: view.plan.cells.iter().zip(rows).map(row).collect(),
    };
    Some(Section { id: "matrix", title: "Matrix", body: table.render() })
}

/// Returns the outcomes of a cell's attempts, each with a link to the first attempt with that outcome.
fn outcomes(view: &View<'_>, cell: &crate::matrix::Cell) -> Markup {
    let attempts = view.attempts_of(cell);
    let counts: OutcomeCounts = attempts.iter().map(|(_, record)| record.outcome).collect();
    let disagree = attempts.iter().any(|(_, record)| !record.measured.disagreements.is_empty());
    html! {
        @if attempts.is_empty() {
            span.outcome.none { "· not tried" }
        }
        @for (kind, count) in counts.iter() {
            @let first = attempts.iter().find(|(_, record)| record.outcome == kind);
            @if let Some((index, _)) = first {
                a href={ "#" (view.attempt_id(*index)) } { (outcome(kind)) }
            }
            @if count > 1 || counts.kinds() > 1 { " " (count) " " }
        }
        @if disagree { " " a href={ "#" (view.id("notes")) } title="its measurements disagree" { "*" } }
    }
}
