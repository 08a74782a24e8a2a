//! A figure over the dirty rate.
//!
//! Measured values are marks with the range of their attempts, the prediction is a dashed line, published
//! values are open diamonds. Attempts that were given up are crosses at the top.

use super::{Area, COLORS, Drawing, DrawnResult, INK, LINE, TITLE, text, times, title};
use crate::{
    matrix::Plan,
    measure::median,
    report::{
        html::chart::axis::{self, decimals, from_zero},
        threshold::{CIRCLE, Group, Level, OverRate, PUBLISHED, SHAPES, Shape},
    },
};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::iter::once;

/// The height of the plot with its axes.
const PLOT: i32 = 340;
/// The room for labels and titles of the horizontal and the vertical axis.
const LABELS: (i32, i32) = (58, 64);
/// The largest numbers of ticks.
const X_TICKS: usize = 7;
const Y_TICKS: usize = 6;
/// Half the size of a cross.
const CROSS: i32 = 6;
/// The color of the transition between convergence and its end.
const EDGE: RGBColor = RGBColor(0xf4, 0xe3, 0xd9);
const RULE: RGBColor = RGBColor(0xd3, 0xda, 0xe1);

/// A figure of a run.
pub(super) struct Threshold<'a> {
    pub(super) plan: &'a Plan,
    pub(super) groups: Vec<Group<'a>>,
    pub(super) over: OverRate,
}

impl Drawing for Threshold<'_> {
    fn height(&self) -> i32 {
        TITLE + PLOT + times(LINE, self.groups.len()) + LINE / 2
    }

    fn draw(&self, area: &Area<'_>) -> DrawnResult {
        let levels = || self.groups.iter().flat_map(|group| &group.levels);
        let shown = levels().flat_map(|level| self.values(level).into_iter().chain(self.published(level)));
        let fastest = levels().map(|level| level.rate).fold(0.0, f64::max);
        let x = -fastest * 0.03..fastest * 1.04;
        let y = from_zero(shown.fold(0.0, f64::max) * 1.15, 5);
        title(area, &format!("{}: {}", self.plan.name, self.over.figure.title()))?;
        let (_, rest) = area.split_vertically(TITLE);
        let (plot, legend) = rest.split_vertically(PLOT);
        let mut builder = ChartBuilder::on(&plot);
        builder.margin_left(6).margin_right(20).x_label_area_size(LABELS.0).y_label_area_size(LABELS.1);
        let mut chart = builder.build_cartesian_2d(x.clone(), y.clone())?;

        if let [group] = &self.groups[..]
            && let Some((below, above)) = group.edge()
        {
            let corners = [(below.unwrap_or(x.start), y.start), (above, y.end)];
            chart.draw_series(once(Rectangle::new(corners, EDGE.filled())))?;
        }
        let labels = text(14.0).color(&INK);
        let (x_decimals, y_decimals) = (decimals(&x, X_TICKS), decimals(&y, Y_TICKS));
        chart
            .configure_mesh()
            .disable_x_mesh()
            .set_all_tick_mark_size(4)
            .x_labels(X_TICKS)
            .y_labels(Y_TICKS)
            .bold_line_style(RULE)
            .light_line_style(TRANSPARENT)
            .axis_style(INK.stroke_width(2))
            .label_style(labels.clone())
            .x_label_formatter(&|rate: &f64| axis::text(*rate, x_decimals))
            .y_label_formatter(&|value: &f64| axis::text(*value, y_decimals))
            .x_desc("dirty rate, MB/s")
            .draw()?;
        for (at, group) in self.groups.iter().enumerate() {
            let color = COLORS[at].stroke_width(2);
            let predicted = group.prediction(&self.over, x.end).into_iter();
            let predicted: Vec<(f64, f64)> = predicted.take_while(|(_, value)| *value <= y.end).collect();
            chart.draw_series(DashedLineSeries::new(predicted, 8, 6, color))?;
            for level in &group.levels {
                let place = |value| chart.backend_coord(&(level.rate, value));
                if let Some(value) = self.published(level) {
                    open_mark(area, place(value), color)?;
                }
                let values = self.values(level);
                if let (Some(middle), [least, .., most] | [least @ most]) = (median(&values), &values[..]) {
                    let style = COLORS[at].stroke_width(3);
                    let range = PathElement::new([(level.rate, *least), (level.rate, *most)], style);
                    chart.plotting_area().draw(&range)?;
                    mark(area, place(middle), SHAPES[at], COLORS[at].filled())?;
                }
                if level.is_given_up() {
                    let top = place(y.end);
                    let center = (top.0, top.1 + 2 * CROSS + times(16, at));
                    area.use_screen_coord().draw(&Cross::new(center, CROSS, COLORS[at].stroke_width(3)))?;
                }
            }
        }
        self.legend(&legend)
    }
}

impl Threshold<'_> {
    fn values(&self, level: &Level<'_>) -> Vec<f64> {
        level.values(&self.over.figure)
    }

    fn published(&self, level: &Level<'_>) -> Option<f64> {
        self.over.published(self.plan, level.cell)
    }

    fn legend(&self, area: &Area<'_>) -> DrawnResult {
        let style = text(16.0).pos(Pos::new(HPos::Left, VPos::Center));
        for (at, group) in self.groups.iter().enumerate() {
            let y = times(LINE, at) + LINE / 2;
            let (left, top) = area.get_base_pixel();
            mark(area, (left + 80, top + y), SHAPES[at], COLORS[at].filled())?;
            let name = if group.name.is_empty() { "measured" } else { &group.name };
            let predicted = if group.is_predicted() { " · dashed: predicted" } else { "" };
            let is_published = group.levels.iter().any(|level| self.published(level).is_some());
            let published = if is_published { " · open: published" } else { "" };
            let words = format!("{name}{predicted} · cross: given up{published}");
            area.draw_text(&words, &style, (98, y))?;
        }
        Ok(())
    }
}

/// Returns the corners of a shape around a point, in pixels.
fn corners((x, y): (i32, i32), shape: Shape) -> Vec<(i32, i32)> {
    shape.iter().map(|(dx, dy)| (x + dx, y + dy)).collect()
}

/// Draws a mark at a pixel of the whole document.
fn mark(area: &Area<'_>, at: (i32, i32), shape: Shape, style: ShapeStyle) -> DrawnResult {
    let area = area.use_screen_coord();
    if shape.is_empty() {
        area.draw(&Circle::new(at, CIRCLE, style))
    } else {
        area.draw(&Polygon::new(corners(at, shape), style))
    }
}

/// Draws the mark of a published value at a pixel of the whole document.
fn open_mark(area: &Area<'_>, at: (i32, i32), style: ShapeStyle) -> DrawnResult {
    mark(area, at, PUBLISHED, WHITE.filled())?;
    let mut outline = corners(at, PUBLISHED);
    outline.push(outline[0]);
    area.use_screen_coord().draw(&PathElement::new(outline, style))
}
