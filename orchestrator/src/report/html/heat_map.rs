//! A heat map of a matrix with two axes, for each of its main figures.

use super::{
    Detail, Section,
    view::{View, class, sign},
};
use crate::{
    matrix::Cell,
    measure::median,
    outcome::Outcome,
    results::record::{Measured, Record},
};
use indexmap::IndexSet;
use maud::{Markup, html};

/// The number of shades.
const SHADES: f64 = 7.0;

/// A figure that has a map.
struct Figure {
    title: &'static str,
    value: fn(&Measured) -> Option<f64>,
    decimals: usize,
}

const FIGURES: [Figure; 3] = [
    Figure { title: "Total time, s", value: |m| Some(m.total_time_ms? / 1e3), decimals: 1 },
    Figure { title: "Downtime by QEMU, ms", value: |m| m.downtime_ms.qemu, decimals: 0 },
    Figure { title: "Data sent, MB", value: |m| Some(m.transferred.qemu_bytes? as f64 / 1e6), decimals: 0 },
];

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let [across, down] = view.plan.axis_paths()[..] else { return None };
    let values = |path| {
        let values = view.plan.cells.iter().map(|cell| cell.axes.get(path).map(String::as_str));
        values.collect::<Option<IndexSet<&str>>>().filter(|values| values.len() > 1)
    };
    let (columns, rows) = (values(across)?, values(down)?);
    let maps = FIGURES.iter().enumerate().filter_map(|(at, figure)| {
        let id = view.id(&format!("heat-map-{}", at + 1));
        let converged = |record: &&Record| record.outcome == Outcome::Converged;
        let values: Vec<f64> =
            view.records.iter().filter(converged).filter_map(|r| (figure.value)(&r.measured)).collect();
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        let cell = |column: &str, row: &str| {
            let at = |cell: &&Cell| cell.axes[across] == *column && cell.axes[down] == *row;
            let cell = view.plan.cells.iter().find(at);
            html! {
                @match cell {
                    Some(cell) => (field(view, cell, figure, (least, most))),
                    None => td.absent { "not in the matrix" },
                }
            }
        };
        Some(html! {
            div {
                div.tools { button type="button" data-csv=(id) { "CSV" } }
                div.scroll tabindex="0" role="region" aria-label=(figure.title) {
                    table.heat #(id) data-fixed="" {
                        caption { (figure.title) ", median of the migrations that converged" }
                        thead {
                            tr {
                                th scope="col" { (down) " ╲ " (across) }
                                @for column in &columns { th scope="col" { (column) } }
                            }
                        }
                        tbody {
                            @for row in &rows {
                                tr {
                                    th scope="row" { (row) }
                                    @for column in &columns { (cell(column, row)) }
                                }
                            }
                        }
                    }
                }
            }
        })
    });
    let maps: Vec<Markup> = maps.collect();
    (!maps.is_empty()).then(|| Section {
        id: "heat-map",
        title: "Heat map",
        body: html! { div.maps { @for map in maps { (map) } } },
    })
}

fn field(view: &View<'_>, cell: &Cell, figure: &Figure, range: (f64, f64)) -> Markup {
    let attempts = view.attempts_of(cell);
    let converged = attempts.iter().filter(|(_, record)| record.outcome == Outcome::Converged);
    let mut values: Vec<f64> = converged.filter_map(|(_, r)| (figure.value)(&r.measured)).collect();
    values.sort_unstable_by(f64::total_cmp);
    let worst = attempts.iter().map(|(_, record)| record.outcome).max();
    let other = worst.filter(|outcome| *outcome != Outcome::Converged);
    let Some(median) = median(&values) else {
        return html! {
            @match worst {
                Some(worst) => td class=(class(worst)) { (sign(worst)) " " (worst.as_str()) },
                None => td.none { "· not tried" },
            }
        };
    };
    let share = if range.1 > range.0 { (median - range.0) / (range.1 - range.0) } else { 0.0 };
    let level = (share * (SHADES - 1.0)).round();
    let decimals = figure.decimals;
    html! {
        td class={ "h" (level) } {
            (format!("{median:.decimals$}"))
            @if let Some(other) = other { " " span title=(other.as_str()) { (sign(other)) } }
        }
    }
}
