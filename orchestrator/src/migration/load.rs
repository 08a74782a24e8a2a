//! Rates out of the stressor's telemetry: what was really dirtied, and whether it has settled.

use crate::workload::Beat;
use std::time::Instant;
use stressor::workload::{PAGE_BYTES, Rate};

/// A rate counts as settled when this many stretches of telemetry in a row agree.
const STRETCHES: usize = 2;

/// Telemetry lines in a stretch.
const BEATS_PER_STRETCH: usize = 4;

/// How far stretches may be from what they are compared with.
const TOLERANCE: f64 = 0.02;

/// After this many lines of telemetry, ten seconds, any rate will do: the guest, or the machine, cannot keep the
/// one asked for.
const PATIENCE_BEATS: usize = 200;

/// Bytes dirtied per second of the guest's clock, from the first to the last of these beats.
pub fn rate(beats: &[Beat]) -> Option<f64> {
    let (first, last) = (&beats.first()?.telemetry, &beats.last()?.telemetry);
    let seconds = last.clock_ns.checked_sub(first.clock_ns).filter(|ns| *ns > 0)? as f64 / 1e9;
    Some((last.pages_dirtied.saturating_sub(first.pages_dirtied) * PAGE_BYTES) as f64 / seconds)
}

/// The beats that came in between two moments.
pub fn between(beats: &[Beat], from: Instant, to: Instant) -> &[Beat] {
    let start = beats.partition_point(|b| b.seen < from);
    let end = beats.partition_point(|b| b.seen <= to);
    &beats[start.min(end)..end]
}

/// What was due to be dirtied between the first and the last of these beats and was not, in bytes.
pub fn forgone_bytes(beats: &[Beat]) -> Option<u64> {
    let (first, last) = (&beats.first()?.telemetry, &beats.last()?.telemetry);
    Some(last.pages_forgone.saturating_sub(first.pages_forgone) * PAGE_BYTES)
}

/// The longest stall that any of these beats reports, in milliseconds.
pub fn longest_stall_ms(beats: &[Beat]) -> Option<f64> {
    beats.iter().map(|b| b.telemetry.longest_stall_ns).max().map(|ns| ns as f64 / 1e6)
}

/// The rate that the stressor has settled at, if it has, judged by its telemetry since it was started.
///
/// It has when its last two stretches are each within 2 % of the rate asked for. An unlimited rate, and one that
/// cannot be reached, is taken as it is after a while; the record has both rates.
pub fn settled(beats: &[Beat], wanted: Rate) -> Option<f64> {
    let needed = STRETCHES * BEATS_PER_STRETCH + 1;
    let recent = beats.get(beats.len().checked_sub(needed)?..)?;
    let stretches: Vec<f64> = (0..STRETCHES)
        .filter_map(|i| rate(&recent[i * BEATS_PER_STRETCH..=(i + 1) * BEATS_PER_STRETCH]))
        .collect();
    let near = |goal: f64| {
        stretches.len() == STRETCHES && stretches.iter().all(|s| (s - goal).abs() <= goal * TOLERANCE)
    };
    let reached = match wanted {
        Rate::Limited(wanted) => near(wanted.get() as f64),
        Rate::Unlimited => false,
    };
    if reached || beats.len() >= PATIENCE_BEATS { rate(recent) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use stressor::protocol::{Latency, Telemetry};
    use units::ByteRate;

    /// Beats 50 ms apart, each with the pages of its number.
    fn beats(pages: impl IntoIterator<Item = u64>) -> Vec<Beat> {
        let start = Instant::now();
        let beat = |(i, pages_dirtied)| Beat {
            seen: start + Duration::from_millis(50) * i as u32,
            telemetry: Telemetry {
                sequence: i as u64,
                clock_ns: i as u64 * 50_000_000,
                running: true,
                pages_dirtied,
                pages_forgone: i as u64,
                longest_stall_ns: i as u64,
                write_latency: Latency::default(),
            },
        };
        pages.into_iter().enumerate().map(beat).collect()
    }

    const WANTED: Rate = Rate::Limited(ByteRate::new(1000 * PAGE_BYTES * 20));

    #[test]
    fn a_rate_is_counted_by_the_guests_clock() {
        assert_eq!(rate(&beats([0, 1000, 2000])), Some((1000 * PAGE_BYTES * 20) as f64));
        assert_eq!(rate(&beats([5])), None);
        assert_eq!(rate(&[]), None);
    }

    #[test]
    fn it_has_settled_once_it_stays_at_what_was_asked_for() {
        assert_eq!(settled(&beats((0..8).map(|i| i * 1000)), WANTED), None, "too soon");
        assert!(settled(&beats((0..9).map(|i| i * 1000)), WANTED).is_some());
        let half = |n: usize| beats((0..n as u64).map(|i| i * 500));
        let patient = PATIENCE_BEATS;
        assert_eq!(settled(&half(patient - 1), WANTED), None, "steady, but not what was asked for");
        assert!(settled(&half(patient), WANTED).is_some());
        assert!(settled(&half(patient), Rate::Unlimited).is_some());
        let unsteady = |n: usize| beats((0..n as u64).map(|i| i / 5 * 5000));
        assert_eq!(settled(&unsteady(patient - 1), WANTED), None);
        assert!(settled(&unsteady(patient), WANTED).is_some(), "no machine is waited for for ever");
    }

    #[test]
    fn an_idle_stressor_settles_at_zero() {
        assert_eq!(settled(&beats([7; 12]), Rate::Limited(ByteRate::ZERO)), Some(0.0));
    }

    #[test]
    fn only_beats_between_the_moments_count() {
        let all = beats(0..10);
        let inner = between(&all, all[2].seen, all[5].seen);
        assert_eq!(inner.len(), 4);
        assert_eq!(longest_stall_ms(inner), Some(5e-6));
        assert_eq!(forgone_bytes(inner), Some(3 * PAGE_BYTES));
        assert!(between(&all, all[5].seen, all[2].seen).is_empty());
    }
}
