//! Charts as SVG.
//!
//! [`scale`] chooses ranges and ticks, [`thin`] reduces the points of a curve, [`path`] writes curves, and
//! [`plot`] draws axes with marks. Colors, fonts and line widths are the style's.

pub(super) mod path;
pub(super) mod plot;
pub(in crate::report) mod scale;
pub(super) mod thin;

/// A point of a curve, in the units of its axes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    /// [`GAP`](Self::GAP) where nothing is known.
    pub(super) y: f64,
}

impl Point {
    /// The `y` of a point at which a curve has a gap.
    pub(super) const GAP: f64 = f64::NAN;
}
