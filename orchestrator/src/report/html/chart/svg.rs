//! The backend of plotters that writes SVG for the page.
//!
//! plotters places an element, and its template writes it: with a class of the page's style, so that one
//! drawing suffices for light, dark and print, and with a name for the pointer and for screen readers.

use super::axis::Axis;
use maud::{Markup, PreEscaped};
use plotters::{
    coord::cartesian::Cartesian2d,
    drawing::{DrawingArea, IntoDrawingArea as _},
    element::{Drawable, PointCollection},
};
use plotters_backend::{BackendColor, BackendCoord, DrawingBackend, DrawingErrorKind};
use std::{fmt, ops::Range};

/// The width of a plane that fills the width of the page. One step is a hundredth of a percent.
pub(in super::super) const WIDTH: i32 = 10_000;
/// How far elements may be outside of the plane. The page cuts them off.
pub(in super::super) const FARTHEST: i32 = 1_000_000_000;

/// Returns a horizontal position or width on a plane of [`WIDTH`].
pub(in super::super) fn percent(steps: i32) -> String {
    format!("{}%", f64::from(steps) / 100.0)
}

/// A drawing area of plotters.
pub(in super::super) struct Chart<'a>(DrawingArea<Svg<'a>, Cartesian2d<Axis, Axis>>);

impl Chart<'_> {
    /// Returns the drawing on a plane with these axes.
    pub(in super::super) fn drawn(
        x: Range<f64>,
        y: Range<f64>,
        plane: (Range<i32>, Range<i32>),
        draw: impl FnOnce(&Chart<'_>),
    ) -> Markup {
        let mut text = String::new();
        let area = Svg(&mut text).into_drawing_area();
        let area = area.margin(-FARTHEST, -FARTHEST, -FARTHEST, -FARTHEST);
        draw(&Chart(area.apply_coord_spec(Cartesian2d::new(x, y, plane))));
        drop(area);
        PreEscaped(text)
    }

    /// Draws an element at these points. The template gets their places on the plane.
    pub(in super::super) fn draw(&self, points: &[(f64, f64)], template: impl Fn(&[BackendCoord]) -> Markup) {
        self.0.draw(&Element { points, template }).expect("a string takes everything");
    }
}

/// The text to which a [`Chart`] draws.
struct Svg<'a>(&'a mut String);

impl DrawingBackend for Svg<'_> {
    type ErrorType = fmt::Error;

    fn get_size(&self) -> (u32, u32) {
        (0, 0)
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<fmt::Error>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<fmt::Error>> {
        Ok(())
    }

    /// Fails: a pixel has no class.
    fn draw_pixel(&mut self, _: BackendCoord, _: BackendColor) -> Result<(), DrawingErrorKind<fmt::Error>> {
        Err(DrawingErrorKind::DrawingError(fmt::Error))
    }
}

struct Element<'a, T> {
    points: &'a [(f64, f64)],
    template: T,
}

impl<'a, T> PointCollection<'a, (f64, f64)> for &'a Element<'_, T> {
    type Point = &'a (f64, f64);
    type IntoIter = &'a [(f64, f64)];

    fn point_iter(self) -> Self::IntoIter {
        self.points
    }
}

impl<T: Fn(&[BackendCoord]) -> Markup> Drawable<Svg<'_>> for Element<'_, T> {
    fn draw<I: Iterator<Item = BackendCoord>>(
        &self,
        places: I,
        svg: &mut Svg<'_>,
        _: (u32, u32),
    ) -> Result<(), DrawingErrorKind<fmt::Error>> {
        let places: Vec<BackendCoord> = places.collect();
        svg.0.push_str(&(self.template)(&places).into_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maud::html;

    #[test]
    fn elements_are_placed_and_keep_their_names() {
        let drawn = Chart::drawn(0.0..200.0, 0.0..10.0, (0..WIDTH, Range { start: 100, end: 0 }), |chart| {
            chart.draw(&[(50.0, 10.0), (300.0, 0.0)], |at| {
                html! { line.rule x1=(percent(at[0].0)) x2=(percent(at[1].0)) y1=(at[0].1) y2=(at[1].1) {} }
            });
            chart.draw(&[(0.1, 5.0)], |at| html! { svg x=(percent(at[0].0)) aria-label="<5" {} });
        });
        let expected = "<line class=\"rule\" x1=\"25%\" x2=\"150%\" y1=\"0\" y2=\"100\"></line>\
                        <svg x=\"0.05%\" aria-label=\"&lt;5\"></svg>";
        assert_eq!(drawn.into_string(), expected);
    }
}
