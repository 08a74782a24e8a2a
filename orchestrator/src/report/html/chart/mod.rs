//! Charts as SVG, drawn by plotters.
//!
//! plotters chooses ticks, places elements and draws them on a backend of the page ([`svg`]), which writes
//! classes of the page's style where other backends write colors and pixels. [`axis`] has ranges and the
//! texts of ticks, [`plot`] draws a plot with two axes, [`curve`] writes curves whose values the script
//! reads, and [`thin`] reduces their points.

pub(in crate::report) mod axis;
pub(super) mod curve;
pub(super) mod plot;
pub(super) mod svg;
pub(super) mod thin;

/// A point of a curve, in the units of its axes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    /// [`GAP`](Self::GAP) where the value is unknown.
    pub(super) y: f64,
}

impl Point {
    /// The `y` of a point at which a curve has a gap.
    pub(super) const GAP: f64 = f64::NAN;
}
