//! The stall detector, which finds migrations that cannot finish before their deadline.
//!
//! While the bandwidth `B` exceeds the dirty rate `R`, a pass that starts with `X` bytes takes `X / B`
//! seconds and leaves `X R / B` bytes, so that the remaining memory falls by `B - R` per second: a straight
//! line over time. Otherwise, each pass starts with the whole working set again. The detector looks at the
//! most recent passes, at the end of which QEMU throttles the guest equally: at least [`MIN_PASSES`] that
//! span at least [`MIN_WINDOW_MS`], or a longer time that the caller gives. A migration counts as stalled
//! only if both of these hold for them:
//!
//! - No pass made progress: each starts with at least [`NO_PROGRESS_SHARE`] of the remaining memory with
//!   which the largest of them starts. A single smaller pass would show that the link can outrun the
//!   workload.
//! - The deadline is out of reach: even if the remaining memory fell as steeply as the scatter of the passes
//!   allows, which is the fitted slope less [`SLOPE_MARGIN`] standard errors, it would not fall below the
//!   limit (bandwidth times downtime limit) before the deadline.
//!
//! A migration that converges slowly is left alone as long as it may still finish in time. So is a migration
//! with too few passes, and one whose guest is throttled more and more.

use super::passes::Pass;

/// The smallest number of passes on which a decision is based.
pub const MIN_PASSES: usize = 16;

/// The shortest time that these passes must span, in milliseconds.
pub const MIN_WINDOW_MS: f64 = 8_000.0;

/// The number of whole periods of a repeating link and workload over which a stall is judged. A single period
/// may be unlucky: in the next one, passes begin at other moments.
pub const PERIODS: f64 = 2.0;

/// The margin for error of the fitted slope, in standard errors: the real fall is assumed to be this much
/// steeper.
pub const SLOPE_MARGIN: f64 = 4.0;

/// The share of the largest pass, by remaining memory at its start, from which a pass counts as having made
/// no progress.
pub const NO_PROGRESS_SHARE: f64 = 0.97;

/// The first pass that is considered: pass 1 sends all memory and says nothing about the dirty rate.
const FIRST_INFORMATIVE_PASS: u64 = 2;

/// Returns whether a migration, judging by its passes so far, cannot finish on its own before `deadline_ms`.
///
/// `limit_bytes` is the largest remaining memory with which QEMU stops the guest: bandwidth times downtime
/// limit. Times are in milliseconds since the migrate command. The passes span at least `window_ms`.
pub fn is_stalled(passes: &[Pass], limit_bytes: f64, deadline_ms: f64, window_ms: f64) -> bool {
    let throttle = passes.last().map(|p| p.throttle_percent);
    let throttled_alike = passes.iter().rev().take_while(|p| Some(p.throttle_percent) == throttle).count();
    let informative: Vec<&Pass> = passes[passes.len() - throttled_alike..]
        .iter()
        .filter(|p| p.number >= FIRST_INFORMATIVE_PASS && p.remaining_bytes > 0)
        .collect();
    let Some(recent) = recent_window(&informative, window_ms) else { return false };
    let level = recent.iter().map(|p| p.remaining_bytes).max().unwrap_or(0) as f64 * NO_PROGRESS_SHARE;
    if recent.iter().any(|p| (p.remaining_bytes as f64) < level) {
        return false;
    }
    let points: Vec<(f64, f64)> =
        recent.iter().map(|p| (p.started_at_ms, p.remaining_bytes as f64)).collect();
    let line = Line::fit(&points);
    let now_ms = points[points.len() - 1].0;
    let steepest = line.slope - SLOPE_MARGIN * line.slope_error;
    let to_fall = line.at(now_ms) - limit_bytes;
    // The limit is reached when to_fall + steepest * time == 0; never, if the slope is not negative.
    to_fall > 0.0 && (steepest >= 0.0 || now_ms + to_fall / -steepest > deadline_ms)
}

/// Returns the latest passes, no more than are needed in number and in time.
fn recent_window<'a>(passes: &'a [&'a Pass], window_ms: f64) -> Option<&'a [&'a Pass]> {
    let last = passes.last()?;
    let long_enough = |start: usize| {
        passes.len() - start >= MIN_PASSES && last.started_at_ms - passes[start].started_at_ms >= window_ms
    };
    let start = (0..passes.len()).rev().find(|&start| long_enough(start))?;
    Some(&passes[start..])
}

/// A least-squares regression line.
struct Line {
    slope: f64,
    slope_error: f64,
    mean: (f64, f64),
}

impl Line {
    /// Fits a line to points. At least three are needed, at different x.
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

    /// Returns a pseudorandom number in [-1, 1], always the same for a seed.
    fn scatter(seed: u64) -> f64 {
        ((mix(seed.wrapping_mul(STEP)) >> 11) as f64 / (1u64 << 52) as f64) - 1.0
    }

    /// Simulates the pre-copy of a working set that is dirtied at `rate`, in bytes per second, over a link
    /// whose bandwidth varies by `noise`. Returns whether it finished before the deadline, and whether the
    /// detector ever reported a stall.
    fn run(rate: f64, noise: f64, deadline_ms: f64, seed: u64) -> (bool, bool) {
        let mut passes: Vec<Pass> = Vec::new();
        let (mut now, mut remaining) = (0.0, 472e6);
        let mut reported = false;
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
                return (true, reported);
            }
            if now > deadline_ms {
                return (false, reported);
            }
            reported |= is_stalled(&passes, LIMIT, deadline_ms, MIN_WINDOW_MS);
            let bandwidth = BANDWIDTH * (1.0 + noise * scatter(seed * 1000 + number));
            let seconds = remaining / bandwidth;
            now += seconds * 1e3;
            remaining = (rate * seconds).min(rate);
        }
        unreachable!()
    }

    #[test]
    fn no_stall_is_reported_in_a_migration_that_finishes_in_time() {
        for seed in 0..200 {
            for rate in [16e6, 64e6, 96e6, 100e6, 104e6, 107e6, 109e6, 110e6] {
                for noise in [0.0, 0.02, 0.1, 0.3] {
                    let (converged, reported) = run(rate, noise, 60_000.0, seed);
                    assert!(!(converged && reported), "rate {rate}, noise {noise}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_stall_is_reported_if_the_workload_outruns_the_link() {
        for rate in [116e6, 128e6, 256e6] {
            assert_eq!(run(rate, 0.01, 60_000.0, 1), (false, true), "rate {rate}");
        }
    }

    /// Returns a pass that starts with as much remaining memory as all others.
    fn pass(number: u64, started_at_ms: f64) -> Pass {
        Pass {
            number,
            started_at_ms,
            duration_ms: 0.0,
            remaining_bytes: 128_000_000,
            sent_bytes: 0,
            dirtied_bytes: None,
            bandwidth_bytes_per_s: 0,
            throttle_percent: 0,
        }
    }

    #[test]
    fn no_stall_is_reported_before_there_are_enough_passes() {
        assert!(!is_stalled(&[], LIMIT, 60_000.0, MIN_WINDOW_MS));
        let few: Vec<Pass> = (1..MIN_PASSES as u64).map(|n| pass(n, n as f64 * 5_000.0)).collect();
        assert!(!is_stalled(&few, LIMIT, 60_000.0, MIN_WINDOW_MS));
        let brief: Vec<Pass> = (1..40).map(|n| pass(n, n as f64 * 100.0)).collect();
        assert!(!is_stalled(&brief, LIMIT, 60_000.0, MIN_WINDOW_MS));
        let enough: Vec<Pass> = (1..MIN_PASSES as u64 + 3).map(|n| pass(n, n as f64 * 1_000.0)).collect();
        assert!(is_stalled(&enough, LIMIT, 60_000.0, MIN_WINDOW_MS));
    }

    #[test]
    fn no_stall_is_reported_while_the_guest_is_throttled_more_and_more() {
        // A step every two passes, as with auto-converge, up to QEMU's 99 %.
        let throttled = |n: u64| Pass { throttle_percent: (n / 2 * 10).min(99), ..pass(n, n as f64 * 1e3) };
        let passes: Vec<Pass> = (1..=60).map(throttled).collect();
        let stalled = |to: usize| is_stalled(&passes[..to], LIMIT, 600_000.0, MIN_WINDOW_MS);
        let first = (1..=passes.len()).find(|to| stalled(*to)).unwrap();
        let at_the_end = passes.iter().position(|p| p.throttle_percent == 99).unwrap();
        assert_eq!(first, at_the_end + MIN_PASSES);
    }
}
