//! A plot with two axes, whose width is that of the page, while texts and marks keep their size.
//!
//! Horizontal positions are percentages and vertical ones pixels. Curves are in an SVG of their own that is
//! stretched to the plot.

use super::{Point, scale::Scale};
use maud::{Markup, html};

/// The width of the plane in which curves are drawn before they are stretched.
const PLANE: f64 = 1_000.0;

/// A plot without content.
pub(in super::super) struct Plot<'a> {
    /// What its vertical axis shows, with the unit.
    pub(in super::super) title: &'a str,
    /// What its horizontal axis shows, with the unit.
    pub(in super::super) x_title: &'a str,
    pub(in super::super) x: Scale,
    pub(in super::super) y: Scale,
    /// The height of the plot in pixels, without axes.
    pub(in super::super) height: u32,
}

/// What a plot shows.
pub(in super::super) struct Layers {
    /// Areas behind everything else.
    pub(in super::super) areas: Markup,
    /// Curves, as [`Plot::curve`] draws them.
    pub(in super::super) curves: Markup,
    /// Marks and texts.
    pub(in super::super) marks: Markup,
}

impl Plot<'_> {
    /// Returns a horizontal position.
    pub(in super::super) fn x(&self, value: f64) -> String {
        format!("{:.2}%", self.x.share(value) * 100.0)
    }

    /// Returns a vertical position.
    pub(in super::super) fn y(&self, value: f64) -> String {
        format!("{:.1}", (1.0 - self.y.share(value)) * f64::from(self.height))
    }

    /// Returns a curve through these points.
    pub(in super::super) fn curve(&self, points: &[Point], class: &str) -> Markup {
        let at = |point: &Point| format!("{:.1},{}", self.x.share(point.x) * PLANE, self.y(point.y));
        let points: Vec<String> = points.iter().map(at).collect();
        html! { polyline class={ "curve " (class) } points=(points.join(" ")) {} }
    }

    /// Returns the area between two horizontal positions, over the whole height.
    pub(in super::super) fn band(&self, from: f64, to: f64, class: &str) -> Markup {
        let width = (self.x.share(to) - self.x.share(from)) * 100.0;
        html! {
            rect class=(class) x=(self.x(from)) y="0" width=(format!("{width:.2}%")) height=(self.height) {}
        }
    }

    /// Returns the plot.
    pub(in super::super) fn render(&self, layers: &Layers) -> Markup {
        let height = f64::from(self.height);
        html! {
            figure.plot {
                figcaption { (self.title) }
                div.grid {
                    svg.y width="52" height=(self.height) aria-hidden="true" {
                        @for (value, text) in self.y.ticks() {
                            text x="46" y=(self.y(value)) { (text) }
                        }
                    }
                    svg.area width="100%" height=(self.height) role="group" aria-label=(self.title) {
                        (layers.areas)
                        @for (value, _) in self.y.ticks() {
                            line.rule x1="0" x2="100%" y1=(self.y(value)) y2=(self.y(value)) {}
                        }
                        svg.curves width="100%" height=(self.height) preserveAspectRatio="none"
                            viewBox=(format!("0 0 {PLANE} {height}")) { (layers.curves) }
                        (layers.marks)
                    }
                    svg.x width="100%" height="46" aria-hidden="true" {
                        @for (value, text) in self.x.ticks() {
                            text x=(self.x(value)) y="18" { (text) }
                        }
                        text.title x="50%" y="40" { (self.x_title) }
                    }
                }
            }
        }
    }
}
