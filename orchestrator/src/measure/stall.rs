//! The stall detector: will this migration, as it goes, end before its deadline?
//!
//! While bandwidth `B` exceeds the dirty rate `R`, a pass that starts with `X` bytes takes `X / B` and leaves
//! `X R / B`, so that what remains falls by `B - R` per second: a straight line over time. Otherwise each
//! pass starts with the whole working set again. A migration is called stalled only when both are so over its
//! most recent passes, [`MIN_PASSES`] of them over at least [`MIN_WINDOW_MS`]:
//!
//! - every pass starts at the level of the largest of them ([`LEVEL`]): one pass below it would show that the
//!   link can outrun the load;
//! - even the steepest fall that the scatter of the points leaves possible (the fitted slope less [`CAUTION`]
//!   standard errors) would not bring the remaining memory below the downtime limit before the deadline.
//!
//! A migration that converges slowly is left alone as long as it can still make it, and so is one that has
//! not shown enough yet.

use super::passes::Pass;

/// Passes that must be seen before anything is said.
pub const MIN_PASSES: usize = 16;

/// The time those passes must cover, in milliseconds.
pub const MIN_WINDOW_MS: f64 = 8_000.0;

/// How many standard errors steeper than the fitted line the fall may really be.
pub const CAUTION: f64 = 4.0;

/// The share of the largest pass's start at which a pass counts as having made no progress.
pub const LEVEL: f64 = 0.97;

/// The first pass sends all of the memory and says nothing about the dirty rate.
const FIRST_TELLING_PASS: u64 = 2;

/// Whether the migration has no chance to end by itself before `deadline_ms`, judged by its passes so far.
///
/// `limit_bytes` is what may be left when the guest is stopped: bandwidth times downtime limit. Times are in
/// milliseconds since the migrate command.
pub fn is_stalled(passes: &[Pass], limit_bytes: f64, deadline_ms: f64) -> bool {
    let telling: Vec<&Pass> =
        passes.iter().filter(|p| p.number >= FIRST_TELLING_PASS && p.remaining_bytes > 0).collect();
    let Some(recent) = recent_window(&telling) else { return false };
    let level = recent.iter().map(|p| p.remaining_bytes).max().unwrap_or(0) as f64 * LEVEL;
    if recent.iter().any(|p| (p.remaining_bytes as f64) < level) {
        return false;
    }
    let points: Vec<(f64, f64)> =
        recent.iter().map(|p| (p.started_at_ms, p.remaining_bytes as f64)).collect();
    let line = Line::fit(&points);
    let now_ms = points[points.len() - 1].0;
    let steepest = line.slope - CAUTION * line.slope_error;
    let to_fall = line.at(now_ms) - limit_bytes;
    // Reached when to_fall + steepest * time == 0; never, if nothing falls.
    to_fall > 0.0 && (steepest >= 0.0 || now_ms + to_fall / -steepest > deadline_ms)
}

/// The shortest run of the latest passes that is long enough in number and in time.
fn recent_window<'a>(passes: &'a [&'a Pass]) -> Option<&'a [&'a Pass]> {
    let last = passes.last()?;
    let long_enough = |start: usize| {
        passes.len() - start >= MIN_PASSES
            && last.started_at_ms - passes[start].started_at_ms >= MIN_WINDOW_MS
    };
    let start = (0..passes.len()).rev().find(|&start| long_enough(start))?;
    Some(&passes[start..])
}

/// A least-squares line.
struct Line {
    slope: f64,
    slope_error: f64,
    mean: (f64, f64),
}

impl Line {
    /// Fits at least three points that differ in x.
    fn fit(points: &[(f64, f64)]) -> Self {
        let n = points.len() as f64;
        let mean = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let sxx: f64 = points.iter().map(|p| (p.0 - mean.0).powi(2)).sum();
        let sxy: f64 = points.iter().map(|p| (p.0 - mean.0) * (p.1 - mean.1)).sum();
        let slope = sxy / sxx;
        let residue: f64 = points.iter().map(|p| (p.1 - mean.1 - slope * (p.0 - mean.0)).powi(2)).sum();
        Self { slope, slope_error: (residue / (n - 2.0) / sxx).sqrt(), mean }
    }

    fn at(&self, x: f64) -> f64 {
        self.mean.1 + self.slope * (x - self.mean.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::random::{STEP, mix};

    const BANDWIDTH: f64 = 111e6;
    const LIMIT: f64 = BANDWIDTH * 0.1;

    /// Deterministic scatter in [-1, 1].
    fn scatter(seed: u64) -> f64 {
        ((mix(seed.wrapping_mul(STEP)) >> 11) as f64 / (1u64 << 52) as f64) - 1.0
    }

    /// Runs a pre-copy of a working set that is dirtied at `rate` over a link whose bandwidth scatters by
    /// `noise`; whether it ended before the deadline, and whether the detector ever spoke.
    fn run(rate: f64, noise: f64, deadline_ms: f64, seed: u64) -> (bool, bool) {
        let mut passes: Vec<Pass> = Vec::new();
        let (mut now, mut remaining) = (0.0, 472e6);
        let mut spoke = false;
        for number in 1.. {
            passes.push(Pass {
                number,
                started_at_ms: now,
                duration_ms: 0.0,
                remaining_bytes: remaining as u64,
                sent_bytes: 0,
                dirtied_bytes: None,
                bandwidth_bytes_per_s: 0,
                throttle_percent: 0,
            });
            if remaining <= LIMIT {
                return (true, spoke);
            }
            if now > deadline_ms {
                return (false, spoke);
            }
            spoke |= is_stalled(&passes, LIMIT, deadline_ms);
            let bandwidth = BANDWIDTH * (1.0 + noise * scatter(seed * 1000 + number));
            let seconds = remaining / bandwidth;
            now += seconds * 1e3;
            remaining = (rate * seconds).min(rate);
        }
        unreachable!()
    }

    #[test]
    fn it_never_speaks_in_a_migration_that_ends_in_time() {
        for seed in 0..200 {
            for rate in [16e6, 64e6, 96e6, 100e6, 104e6, 107e6, 109e6, 110e6] {
                for noise in [0.0, 0.02, 0.1, 0.3] {
                    let (converged, spoke) = run(rate, noise, 60_000.0, seed);
                    assert!(!(converged && spoke), "rate {rate}, noise {noise}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn it_speaks_where_the_load_exceeds_the_link() {
        for rate in [116e6, 128e6, 256e6] {
            assert_eq!(run(rate, 0.01, 60_000.0, 1), (false, true), "rate {rate}");
        }
    }

    #[test]
    fn it_waits_until_it_has_seen_enough() {
        assert!(!is_stalled(&[], LIMIT, 60_000.0));
        let pass = |number: u64, started_at_ms| Pass {
            number,
            started_at_ms,
            duration_ms: 0.0,
            remaining_bytes: 128_000_000,
            sent_bytes: 0,
            dirtied_bytes: None,
            bandwidth_bytes_per_s: 0,
            throttle_percent: 0,
        };
        let few: Vec<Pass> = (1..MIN_PASSES as u64).map(|n| pass(n, n as f64 * 5_000.0)).collect();
        assert!(!is_stalled(&few, LIMIT, 60_000.0));
        let brief: Vec<Pass> = (1..40).map(|n| pass(n, n as f64 * 100.0)).collect();
        assert!(!is_stalled(&brief, LIMIT, 60_000.0));
        let enough: Vec<Pass> = (1..MIN_PASSES as u64 + 3).map(|n| pass(n, n as f64 * 1_000.0)).collect();
        assert!(is_stalled(&enough, LIMIT, 60_000.0));
    }
}
