//! A heat map: a field for each cell of a matrix with two axes.

use super::{Area, Drawing, DrawnResult, INK, TITLE, WIDTH, text, times, title};
use crate::{
    matrix::Plan,
    report::{
        figure::Figure,
        heat_map::{Axes, Field, HeatMap, SHADES},
    },
};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// The left and the right edge of the fields, unless labels of rows need more room.
const EDGES: (i32, i32) = (90, WIDTH - 20);
/// The height of the names of axes and columns.
const HEADER: i32 = 56;
/// The height of a row.
const ROW: i32 = 40;
/// The maximum width of a character of a label.
const CHARACTER: i32 = 9;
/// The color of the darkest shade, which is light enough for dark text.
const DARKEST: RGBColor = RGBColor(0x58, 0x98, 0xd3);
/// The color of a field without a value.
const EMPTY: RGBColor = RGBColor(0xf4, 0xf6, 0xf8);

/// The map of a figure of a run.
pub(super) struct Map<'a> {
    pub(super) plan: &'a Plan,
    pub(super) axes: Axes<'a>,
    pub(super) figure: Figure,
}

impl Drawing for Map<'_> {
    fn height(&self) -> i32 {
        TITLE + HEADER + times(ROW, self.axes.rows.len()) + 48
    }

    fn draw(&self, area: &Area<'_>) -> DrawnResult {
        let axes = &self.axes;
        let Some(map) = HeatMap::new(axes, &self.figure) else { return Ok(()) };
        let longest = axes.rows.iter().map(|row| row.chars().count()).max().unwrap_or(0);
        let left = EDGES.0.max(times(CHARACTER, longest).saturating_add(30)).min(EDGES.1 / 2);
        let columns = times(1, axes.columns.len());
        let column = |at: usize| left + times(EDGES.1 - left, at) / columns;
        let width = (EDGES.1 - left) / columns;
        let top = TITLE + HEADER;
        let bottom = top + times(ROW, axes.rows.len());
        let write = |words: &str, room: i32, at: HPos, place: (i32, i32)| {
            area.draw_text(words, &text(size(words, room)).pos(Pos::new(at, VPos::Center)), place)
        };

        title(area, &format!("{}: {}", self.plan.name, self.figure.title()))?;
        write(axes.across, EDGES.1 - left, HPos::Center, (i32::midpoint(left, EDGES.1), TITLE + 14))?;
        write(axes.down, left + 60, HPos::Left, (20, TITLE + 40))?;
        for (at, name) in axes.columns.iter().enumerate() {
            write(name, width, HPos::Center, (column(at) + width / 2, TITLE + 40))?;
        }
        for (row_at, row) in axes.rows.iter().enumerate() {
            let y = top + times(ROW, row_at);
            write(row, left - 20, HPos::Right, (left - 10, y + ROW / 2))?;
            for (at, name) in axes.columns.iter().enumerate() {
                let (words, color) = shown(&map, map.field(name, row));
                let field = [(column(at), y), (column(at + 1) - 2, y + ROW - 2)];
                area.draw(&Rectangle::new(field, color.filled()))?;
                write(&words, width, HPos::Center, (column(at) + width / 2, y + ROW / 2))?;
            }
        }
        let others = if has_others(axes, &map) { " · *: some did not" } else { "" };
        let words = format!("median of the migrations that converged{others}");
        let style = text(16.0).color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(&words, &style, (left, bottom + 24))
    }
}

/// Returns the text and the color of a field.
fn shown(map: &HeatMap<'_>, field: Field) -> (String, RGBAColor) {
    match field {
        Field::Absent => (String::new(), WHITE.to_rgba()),
        Field::NotTried => ("not tried".into(), EMPTY.to_rgba()),
        Field::Without(worst) => (worst.to_string(), EMPTY.to_rgba()),
        Field::Measured { median, shade, other } => {
            let mark = if other.is_some() { " *" } else { "" };
            (map.figure.show(median) + mark, DARKEST.mix((shade + 1) as f64 / SHADES as f64))
        }
    }
}

/// Returns whether some attempts of a field with a value did not converge.
fn has_others(axes: &Axes<'_>, map: &HeatMap<'_>) -> bool {
    let fields = axes.rows.iter().flat_map(|row| axes.columns.iter().map(|column| map.field(column, row)));
    fields.into_iter().any(|field| matches!(field, Field::Measured { other: Some(_), .. }))
}

/// Returns the size, in pixels, at which a text fits into this width.
fn size(words: &str, width: i32) -> f64 {
    let fitting = f64::from(width) / (words.chars().count().max(1) as f64) / 0.6;
    fitting.clamp(7.0, 16.0)
}
