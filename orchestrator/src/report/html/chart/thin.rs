//! Thinning of curves without losing peaks.

use super::Point;

/// Returns at most about `most` of these points, which are in the order of `x`. In each interval, the lowest
/// and the highest point are kept, in order, and in the whole curve also the first and the last.
pub(in super::super) fn thin(points: &[Point], most: usize) -> Vec<Point> {
    let ([first, middle @ .., last], true) = (points, points.len() > most) else { return points.to_vec() };
    let intervals = (most.saturating_sub(2) / 2).max(1);
    let width = (last.x - first.x) / intervals as f64;
    let interval = |point: &Point| (((point.x - first.x) / width) as usize).min(intervals - 1);
    let mut kept = vec![*first];
    for chunk in middle.chunk_by(|a, b| interval(a) == interval(b)) {
        let lowest = extreme(chunk, |a, b| a < b);
        let highest = extreme(chunk, |a, b| a > b);
        kept.push(chunk[lowest.min(highest)]);
        if lowest != highest {
            kept.push(chunk[lowest.max(highest)]);
        }
    }
    kept.push(*last);
    kept
}

/// Returns the index of the first point that no other point beats.
fn extreme(points: &[Point], better: impl Fn(f64, f64) -> bool) -> usize {
    (1..points.len()).fold(0, |best, i| if better(points[i].y, points[best].y) { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(length: usize) -> Vec<Point> {
        let y = |i: usize| match i {
            1_234 => 1_000.0,
            4_321 => -7.0,
            _ => (i * 37 % 100) as f64,
        };
        (0..length).map(|i| Point { x: i as f64, y: y(i) }).collect()
    }

    #[test]
    fn peaks_and_both_ends_stay() {
        let points = curve(5_000);
        let thinned = thin(&points, 100);
        assert!(thinned.len() <= 100, "{}", thinned.len());
        assert!(thinned.contains(&points[1_234]) && thinned.contains(&points[4_321]));
        assert_eq!((thinned.first(), thinned.last()), (points.first(), points.last()));
        assert!(thinned.is_sorted_by(|a, b| a.x < b.x));
    }

    #[test]
    fn few_points_stay_as_they_are() {
        assert_eq!(thin(&curve(50), 50), curve(50));
        assert_eq!(thin(&[], 10), []);
        assert_eq!(thin(&curve(1), 0), curve(1));
    }

    #[test]
    fn points_at_one_moment_are_thinned() {
        let points: Vec<Point> = (0..100).map(|i| Point { x: 5.0, y: f64::from(i) }).collect();
        assert!(thin(&points, 10).len() <= 10);
    }
}
