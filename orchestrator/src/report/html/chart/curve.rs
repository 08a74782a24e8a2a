//! Curves as SVG paths whose coordinates are whole numbers, relative to the previous point, which takes a
//! third of the space of decimal fractions.
//!
//! The script adds up the numbers of a path to get its points. It reads values off a curve and writes tables.

use super::Point;
use plotters_backend::BackendCoord;
use std::fmt::Write as _;

/// The largest whole number on the vertical axis: about three digits, which is more than a screen shows.
const FINEST: f64 = 2_000.0;

/// Returns the value of one step on the vertical axis, a power of ten, for values up to `max`.
pub(in super::super) fn unit(max: f64) -> f64 {
    if max > 0.0 { 10f64.powf((max / FINEST).log10().ceil()) } else { 1.0 }
}

/// Returns the `d` of a path through these points, which are at these places, including its gaps.
pub(in super::super) fn path(points: &[(f64, f64)], places: &[BackendCoord]) -> String {
    let mut d = String::new();
    let mut before = (0, 0);
    let mut in_piece = 0;
    for (&(_, y), &at) in points.iter().zip(places) {
        if y.is_nan() {
            in_piece = 0;
            continue;
        }
        let (dx, dy) = (at.0 - before.0, at.1 - before.1);
        // The first letter is absolute, and a sign separates as well as a space.
        let command = match in_piece {
            0 if d.is_empty() => "M",
            0 => "m",
            1 => "l",
            _ if dx < 0 => "",
            _ => " ",
        };
        let blank = if dy < 0 { "" } else { " " };
        let _ = write!(d, "{command}{dx}{blank}{dy}");
        before = at;
        in_piece += 1;
    }
    d
}

/// Returns the corners of a curve that keeps each value until the next point.
pub(in super::super) fn stairs(points: &[Point]) -> Vec<Point> {
    let mut corners = Vec::with_capacity(points.len() * 2);
    for (i, point) in points.iter().enumerate() {
        if i > 0 && points[i - 1].y.total_cmp(&point.y).is_ne() {
            corners.push(Point { x: point.x, y: points[i - 1].y });
        }
        corners.push(*point);
    }
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(points: &[(f64, f64)]) -> String {
        let places: Vec<BackendCoord> = points.iter().map(|(x, y)| (*x as i32, *y as i32)).collect();
        path(points, &places)
    }

    #[test]
    fn a_curve_is_relative_and_adds_up() {
        let curve = [(-50.0, 100.0), (0.0, 50.0), (50.0, 75.0), (100.0, 75.0)];
        assert_eq!(drawn(&curve), "M-50 100l50-50 50 25 50 0");
    }

    #[test]
    fn pieces_have_gaps_between_them() {
        let gap = (0.0, Point::GAP);
        let curve = [gap, (0.0, 5.0), (50.0, 5.0), gap, gap, (150.0, 8.0), (200.0, 8.0), (250.0, 1.0)];
        assert_eq!(drawn(&curve), "M0 5l50 0m100 3l50 0 50-7");
    }

    #[test]
    fn a_step_is_a_power_of_ten() {
        assert_eq!(unit(1_073.5).to_string(), "1");
        assert_eq!(unit(112.0).to_string(), "0.1");
        assert_eq!(unit(25_000.0).to_string(), "100");
        assert_eq!(unit(0.0).to_string(), "1");
    }

    #[test]
    fn stairs_keep_a_value_until_the_next() {
        let points = |values: &[(f64, f64)]| -> Vec<Point> {
            values.iter().map(|(x, y)| Point { x: *x, y: *y }).collect()
        };
        let stairs = stairs(&points(&[(0.0, 1.0), (5.0, 2.0), (9.0, 2.0)]));
        assert_eq!(stairs, points(&[(0.0, 1.0), (5.0, 1.0), (5.0, 2.0), (9.0, 2.0)]));
    }
}
