//! A plot with two axes, whose width is that of the page, while texts and marks keep their size.
//!
//! Horizontal positions are percentages and vertical ones pixels. Curves are in an SVG of their own that is
//! stretched to the plot.

use super::{
    axis::{Axis, ticks},
    svg::{Chart, WIDTH, percent},
};
use maud::{Markup, html};
use plotters::coord::ranged1d::Ranged as _;
use std::ops::Range;

/// A plot without content.
pub(in super::super) struct Plot<'a> {
    /// The quantity on its vertical axis, with the unit.
    pub(in super::super) title: &'a str,
    /// The quantity on its horizontal axis, with the unit.
    pub(in super::super) x_title: &'a str,
    pub(in super::super) x: Range<f64>,
    pub(in super::super) y: Range<f64>,
    /// The largest numbers of ticks on the horizontal and the vertical axis.
    pub(in super::super) most_ticks: (usize, usize),
    /// The height of the plot in pixels, without axes.
    pub(in super::super) height: i32,
}

/// Returns a vertical position in pixels. The plane of a plot is in tenths of a pixel.
pub(in super::super) fn pixels(steps: i32) -> f64 {
    f64::from(steps) / 10.0
}

impl Plot<'_> {
    /// Returns the plot with the content that `draw` draws.
    pub(in super::super) fn render(self, draw: impl FnOnce(&Chart<'_>)) -> Markup {
        let Self { title, x_title, x, y, most_ticks, height } = self;
        let plane = (0..WIDTH, height * 10..0);
        let placed = |range: &Range<f64>, most: usize, from: i32, to: i32| -> Vec<(i32, String)> {
            let axis = Axis::from(range.clone());
            ticks(range, most).into_iter().map(|(value, text)| (axis.map(&value, (from, to)), text)).collect()
        };
        let across = placed(&x, most_ticks.0, plane.0.start, plane.0.end);
        let up = placed(&y, most_ticks.1, plane.1.start, plane.1.end);
        html! {
            figure.plot {
                figcaption { (title) }
                div.grid {
                    svg.y width="52" height=(height) aria-hidden="true" {
                        @for (at, text) in &up { text x="46" y=(pixels(*at)) { (text) } }
                    }
                    svg.area width="100%" height=(height) role="group" aria-label=(title) {
                        @for (at, _) in &up {
                            line.rule x1="0" x2="100%" y1=(pixels(*at)) y2=(pixels(*at)) {}
                        }
                        (Chart::drawn(x, y, plane, draw))
                    }
                    svg.x width="100%" height="46" aria-hidden="true" {
                        @for (at, text) in &across { text x=(percent(*at)) y="18" { (text) } }
                        text.title x="50%" y="40" { (x_title) }
                    }
                }
            }
        }
    }
}

impl Chart<'_> {
    /// Draws a curve through these points into a plot of this height in pixels.
    pub(in super::super) fn curve(&self, points: &[(f64, f64)], class: &str, height: i32) {
        self.draw(points, |places| {
            let places: Vec<String> = places.iter().map(|(x, y)| format!("{x},{y}")).collect();
            html! {
                svg.curves width="100%" height=(height) preserveAspectRatio="none"
                    viewBox=(format!("0 0 {WIDTH} {}", height * 10)) {
                    polyline class={ "curve " (class) } points=(places.join(" ")) {}
                }
            }
        });
    }
}
