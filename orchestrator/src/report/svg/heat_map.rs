//! A heat map: a field for each cell of a matrix with two axes.

use super::{INK, round};
use crate::{
    matrix::Plan,
    report::heat_map::{Axes, Field, HeatMap, SHADES},
};
use maud::{Markup, html};

/// The left and the right edge of the fields, unless labels of rows need more room.
const EDGES: (f64, f64) = (90.0, 740.0);
/// The top edge of the fields.
const TOP: f64 = 96.0;
/// The height of a row.
const ROW: f64 = 40.0;
/// The width of a character of a label, at most.
const CHARACTER: f64 = 9.0;
/// The colors of the shades, all light enough for dark text.
const COLORS: [&str; SHADES] = ["#eef5fc", "#d9e9f8", "#c1dbf3", "#a6cbec", "#8abae4", "#6fa9dc", "#5898d3"];
/// The color of a field without a value.
const EMPTY: &str = "#f4f6f8";

/// Draws a map. Returns it with its height.
pub(super) fn draw(plan: &Plan, axes: &Axes<'_>, map: &HeatMap<'_>) -> (Markup, f64) {
    let longest = axes.rows.iter().map(|row| row.chars().count()).max().unwrap_or(0) as f64;
    let left = EDGES.0.max(30.0 + longest * CHARACTER).min(EDGES.1 / 2.0);
    let width = (EDGES.1 - left) / axes.columns.len() as f64;
    let bottom = TOP + ROW * axes.rows.len() as f64;
    let column_x = |at: usize| round(left + width * (at as f64 + 0.5));
    let row_y = |at: usize| TOP + ROW * (at as f64 + 0.5) + 5.0;
    let drawing = html! {
        text x="20" y="30" font-size="18" font-weight="bold" { (plan.name) ": " (map.figure.title()) }
        text x=(f64::midpoint(left, EDGES.1)) y="58" text-anchor="middle" { (axes.across) }
        text x="20" y="82" { (axes.down) }
        @for (at, column) in axes.columns.iter().enumerate() {
            text x=(column_x(at)) y=(TOP - 10.0) text-anchor="middle" font-size=(size(column, width)) {
                (column)
            }
        }
        @for (at, row) in axes.rows.iter().enumerate() {
            text x=(left - 10.0) y=(row_y(at)) text-anchor="end" font-size=(size(row, left - 20.0)) { (row) }
            @for (column_at, column) in axes.columns.iter().enumerate() {
                @let (text, color) = shown(map, map.field(column, row));
                rect x=(round(left + width * column_at as f64)) y=(TOP + ROW * at as f64)
                    width=(round(width - 2.0)) height=(ROW - 2.0) fill=(color) {}
                text x=(column_x(column_at)) y=(row_y(at)) text-anchor="middle"
                    font-size=(size(&text, width)) { (text) }
            }
        }
        text x=(left) y=(bottom + 28.0) fill=(INK) {
            "median of the migrations that converged"
            @if has_others(axes, map) { " · *: some did not" }
        }
    };
    (drawing, bottom + 48.0)
}

/// Returns the text and the color of a field.
fn shown(map: &HeatMap<'_>, field: Field) -> (String, &'static str) {
    match field {
        Field::Absent => (String::new(), "#fff"),
        Field::NotTried => ("not tried".into(), EMPTY),
        Field::Without(worst) => (worst.to_string(), EMPTY),
        Field::Measured { median, shade, other } => {
            let mark = if other.is_some() { " *" } else { "" };
            (map.figure.show(median) + mark, COLORS[shade])
        }
    }
}

/// Returns whether some attempts of a field with a value did not converge.
fn has_others(axes: &Axes<'_>, map: &HeatMap<'_>) -> bool {
    let fields = axes.rows.iter().flat_map(|row| axes.columns.iter().map(|column| map.field(column, row)));
    fields.into_iter().any(|field| matches!(field, Field::Measured { other: Some(_), .. }))
}

/// Returns the size of a text in pixels that fits into this width.
fn size(text: &str, width: f64) -> f64 {
    let fitting = width / (text.chars().count().max(1) as f64) / 0.6;
    round(fitting.clamp(7.0, 15.0))
}
