//! Dirty rates computed from the stressor's telemetry: the rate that was actually reached, and whether it has
//! settled.

use crate::{
    driver::control_port::TelemetrySample,
    measure::millis,
    results::record::{AppliedChange, RateInterval},
};
use std::{iter, time::Duration};
use stressor::workload::{PAGE_BYTES, Rate};
use tokio::time::Instant;
use units::ByteRate;

/// The number of consecutive windows of telemetry that must agree for a rate to count as settled.
const WINDOWS: usize = 2;

/// The number of telemetry intervals in a window.
const SAMPLES_PER_WINDOW: usize = 4;

/// The largest relative difference between a window's rate and the requested rate.
const TOLERANCE: f64 = 0.02;

/// The time by the guest's clock after which any rate is accepted, in nanoseconds: by then, the guest or its
/// host evidently cannot reach the requested rate. A number of samples would not do, because a guest that
/// sends samples slowly is slow at everything.
const PATIENCE_NS: u64 = 10_000_000_000;

/// The shortest time over which a rate is meaningful, in milliseconds: ten samples of telemetry.
const MIN_INTERVAL_MS: f64 = 500.0;

/// The shortest time by the guest's clock between the first and the last sample of such a time, in
/// nanoseconds: a guest that was silent for more than half of it yields no rate.
const MIN_COVERED_NS: u64 = 250_000_000;

/// Returns the bytes dirtied per second of the guest's clock, from the first to the last of these samples.
pub fn rate(telemetry: &[TelemetrySample]) -> Option<f64> {
    let (first, last) = (&telemetry.first()?.telemetry, &telemetry.last()?.telemetry);
    let seconds = last.clock_ns.checked_sub(first.clock_ns).filter(|ns| *ns > 0)? as f64 / 1e9;
    Some((last.pages_dirtied.saturating_sub(first.pages_dirtied) * PAGE_BYTES) as f64 / seconds)
}

/// Returns the telemetry that arrived between two moments, both included.
pub fn between(telemetry: &[TelemetrySample], from: Instant, to: Instant) -> &[TelemetrySample] {
    let start = telemetry.partition_point(|sample| sample.received < from);
    let end = telemetry.partition_point(|sample| sample.received <= to);
    &telemetry[start.min(end)..end]
}

/// Returns how long after `since` the rate first returned to this share of `goal`, in bytes per second, over
/// a window of `SAMPLES_PER_WINDOW` intervals: the time until the window begins. Returns nothing if it never
/// did, or if the goal is zero.
pub fn recovered(telemetry: &[TelemetrySample], since: Instant, goal: f64, share: f64) -> Option<Duration> {
    let mut windows = telemetry.windows(SAMPLES_PER_WINDOW + 1);
    let first = windows.find(|window| rate(window).is_some_and(|rate| goal > 0.0 && rate >= goal * share))?;
    Some(first[0].received.saturating_duration_since(since))
}

/// Returns the number of bytes that should have been dirtied between the first and the last of these samples,
/// but were skipped.
pub fn forgone_bytes(telemetry: &[TelemetrySample]) -> Option<u64> {
    let [first, .., last] = telemetry else { return None };
    let (first, last) = (&first.telemetry, &last.telemetry);
    Some(last.pages_forgone.saturating_sub(first.pages_forgone) * PAGE_BYTES)
}

/// Returns the longest stall that any of these samples reports, in milliseconds. Returns nothing if nothing
/// was written, and for a single sample, which is about the time before it.
pub fn longest_stall_ms(telemetry: &[TelemetrySample]) -> Option<f64> {
    let [_, _, ..] = telemetry else { return None };
    let longest = telemetry.iter().map(|sample| sample.telemetry.longest_stall_ns).max();
    longest.filter(|ns| *ns > 0).map(|ns| ns as f64 / 1e6)
}

/// Returns the numbers of writes between two samples, by how long they took: see
/// [`Telemetry::write_latencies`](stressor::protocol::Telemetry::write_latencies).
pub fn write_latencies(before: &TelemetrySample, last: &TelemetrySample) -> Vec<u64> {
    let before = before.telemetry.write_latencies.iter().copied().chain(iter::repeat(0));
    last.telemetry
        .write_latencies
        .iter()
        .zip(before)
        .map(|(last, before)| last.saturating_sub(before))
        .collect()
}

/// Returns a rate in bytes per second; nothing if it is unlimited.
pub fn bytes_per_s(rate: Rate) -> Option<u64> {
    match rate {
        Rate::Limited(rate) => Some(rate.get()),
        Rate::Unlimited => None,
    }
}

/// Divides the time between two moments into intervals with one requested rate each, starting with `wanted`.
/// Returns no intervals if none of the changes in `applied` changes the rate. The time that a change itself
/// takes does not belong to any interval.
pub fn rate_intervals(
    telemetry: &[TelemetrySample],
    from: Instant,
    to: Instant,
    wanted: Rate,
    applied: &[AppliedChange],
) -> Vec<RateInterval> {
    let changes: Vec<(&AppliedChange, Rate)> =
        applied.iter().filter_map(|change| Some((change, change.rate?))).collect();
    if changes.is_empty() {
        return Vec::new();
    }
    let end_ms = millis(to - from);
    let starts =
        [(0.0, wanted)].into_iter().chain(changes.iter().map(|(change, rate)| (change.done_ms, *rate)));
    let ends = changes.iter().map(|(change, _)| change.began_ms).chain([end_ms]);
    let interval = |((from_ms, requested), to_ms): ((f64, Rate), f64)| {
        let to_ms = to_ms.min(end_ms);
        let moment = |ms: f64| from + Duration::from_secs_f64(ms / 1e3);
        let long_enough = to_ms - from_ms >= MIN_INTERVAL_MS;
        let within = between(telemetry, moment(from_ms), moment(to_ms));
        let achieved = rate(within).filter(|_| long_enough && clock_ns(within) >= MIN_COVERED_NS);
        let requested = bytes_per_s(requested);
        // A change that was completed after the end does not start an interval.
        (from_ms < to_ms).then_some(RateInterval { from_ms, to_ms, requested, achieved })
    };
    starts.zip(ends).filter_map(interval).collect()
}

/// Returns the rate at which the stressor has settled, or nothing if it has not yet. `telemetry` is
/// everything since the stressor was started.
///
/// The rate has settled when each of the last two windows is within 2 % of the requested rate, or within one
/// page of it. An unlimited rate, or a requested one that is not reached, is accepted as measured after ten
/// seconds of the guest's clock; the record contains both the requested and the reached rate.
pub fn settled(telemetry: &[TelemetrySample], wanted: Rate) -> Option<f64> {
    let needed = WINDOWS * SAMPLES_PER_WINDOW + 1;
    let recent = telemetry.get(telemetry.len().checked_sub(needed)?..)?;
    let near = |goal: f64| {
        let mut windows =
            (0..WINDOWS).map(|i| &recent[i * SAMPLES_PER_WINDOW..=(i + 1) * SAMPLES_PER_WINDOW]);
        windows.all(|telemetry| {
            // Only whole pages are counted, so the rate is known to within one page in this time.
            let page = PAGE_BYTES as f64 / (clock_ns(telemetry) as f64 / 1e9);
            rate(telemetry).is_some_and(|rate| (rate - goal).abs() <= page.max(goal * TOLERANCE))
        })
    };
    let reached = match wanted {
        // At a requested rate of zero not even one page may be dirtied.
        Rate::Limited(ByteRate::ZERO) => rate(recent) == Some(0.0),
        Rate::Limited(wanted) => near(wanted.get() as f64),
        Rate::Unlimited => false,
    };
    if reached || clock_ns(telemetry) >= PATIENCE_NS { rate(recent) } else { None }
}

/// Returns the time from the first to the last of these samples by the guest's clock, in nanoseconds.
fn clock_ns(telemetry: &[TelemetrySample]) -> u64 {
    let clock = |sample: Option<&TelemetrySample>| sample.map_or(0, |sample| sample.telemetry.clock_ns);
    clock(telemetry.last()).saturating_sub(clock(telemetry.first()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stressor::protocol::{Latency, Telemetry};

    /// Returns samples 50 ms apart, with these counts of dirtied pages.
    fn telemetry(pages: impl IntoIterator<Item = u64>) -> Vec<TelemetrySample> {
        let start = Instant::now();
        let sample = |(i, pages_dirtied)| TelemetrySample {
            received: start + Duration::from_millis(50) * i as u32,
            telemetry: Telemetry {
                sequence: i as u64,
                clock_ns: i as u64 * 50_000_000,
                running: true,
                pages_dirtied,
                pages_forgone: i as u64,
                longest_stall_ns: i as u64,
                write_latency: Latency::default(),
                write_latencies: Vec::new(),
                disk: None,
            },
        };
        pages.into_iter().enumerate().map(sample).collect()
    }

    const WANTED: Rate = Rate::Limited(ByteRate::new(1000 * PAGE_BYTES * 20));

    #[test]
    fn a_rate_is_per_second_of_the_guests_clock() {
        assert_eq!(rate(&telemetry([0, 1000, 2000])), Some((1000 * PAGE_BYTES * 20) as f64));
        assert_eq!(rate(&telemetry([5])), None);
        assert_eq!(rate(&[]), None);
    }

    #[test]
    fn a_rate_settles_at_the_requested_rate_or_after_ten_seconds() {
        assert_eq!(settled(&telemetry((0..8).map(|i| i * 1000)), WANTED), None, "too soon");
        assert!(settled(&telemetry((0..9).map(|i| i * 1000)), WANTED).is_some());
        let half = |n: usize| telemetry((0..n as u64).map(|i| i * 500));
        let samples_in_ten_seconds = 201;
        assert_eq!(settled(&half(samples_in_ten_seconds - 1), WANTED), None, "steady, but too slow");
        assert!(settled(&half(samples_in_ten_seconds), WANTED).is_some());
        assert!(settled(&half(samples_in_ten_seconds), Rate::Unlimited).is_some());
        let unsteady = |n: usize| telemetry((0..n as u64).map(|i| i / 5 * 5000));
        assert_eq!(settled(&unsteady(samples_in_ten_seconds - 1), WANTED), None);
        assert!(settled(&unsteady(samples_in_ten_seconds), WANTED).is_some(), "waiting must end");
    }

    #[test]
    fn a_slow_rate_settles_although_one_page_is_more_than_the_tolerance() {
        // Ten pages per window, and sometimes one more or one less.
        let slow = Rate::Limited(ByteRate::new(50 * PAGE_BYTES));
        assert!(settled(&telemetry([0, 2, 5, 7, 11, 12, 15, 17, 20]), slow).is_some());
        assert_eq!(settled(&telemetry([0, 2, 5, 7, 13, 14, 15, 17, 20]), slow), None);
    }

    #[test]
    fn a_guest_that_sends_few_samples_is_not_given_more_time() {
        let mut telemetry = telemetry((0..20).map(|i| i * 500));
        for (i, sample) in telemetry.iter_mut().enumerate() {
            sample.telemetry.clock_ns = i as u64 * 600_000_000;
        }
        assert_eq!(settled(&telemetry[..17], WANTED), None);
        assert!(settled(&telemetry, WANTED).is_some());
    }

    #[test]
    fn an_idle_stressor_settles_at_zero() {
        assert_eq!(settled(&telemetry([7; 12]), Rate::Limited(ByteRate::ZERO)), Some(0.0));
    }

    #[test]
    fn only_samples_in_the_interval_count() {
        let all = telemetry(0..10);
        let inner = between(&all, all[2].received, all[5].received);
        assert_eq!(inner.len(), 4);
        assert_eq!(longest_stall_ms(inner), Some(5e-6));
        assert_eq!((longest_stall_ms(&all[5..6]), longest_stall_ms(&[])), (None, None));
        let mut idle = all.clone();
        for sample in &mut idle {
            sample.telemetry.longest_stall_ns = 0;
        }
        assert_eq!(longest_stall_ms(&idle), None, "nothing was written");
        assert_eq!(forgone_bytes(inner), Some(3 * PAGE_BYTES));
        assert!(between(&all, all[5].received, all[2].received).is_empty());
    }

    #[test]
    fn each_requested_rate_has_its_own_interval_of_the_migration() {
        // 1000 pages a sample for 2 s, 100 for the next 2 s.
        let all = telemetry((0..80).map(|i| if i < 40 { i * 1000 } else { 40_000 + (i - 40) * 100 }));
        let (from, to) = (all[0].received, all[79].received);
        let change = |began_ms, done_ms, rate| AppliedChange {
            due_ms: began_ms,
            began_ms,
            done_ms,
            rate,
            ..AppliedChange::default()
        };
        let slower = Rate::Limited(ByteRate::new(100 * PAGE_BYTES * 20));
        let applied = [
            change(100.0, 101.0, None),
            change(1_960.0, 2_010.0, Some(slower)),
            change(3_900.0, 4_000.0, Some(Rate::Unlimited)),
        ];
        let interval = |from_ms, to_ms, pages: u64| {
            let rate = pages * PAGE_BYTES * 20;
            RateInterval { from_ms, to_ms, requested: Some(rate), achieved: Some(rate as f64) }
        };
        // The last change was completed after the guest had stopped.
        let expected = [interval(0.0, 1_960.0, 1000), interval(2_010.0, 3_900.0, 100)];
        assert_eq!(rate_intervals(&all, from, to, WANTED, &applied), expected);
        assert_eq!(rate_intervals(&all, from, to, WANTED, &applied[..1]), []);
        let short = rate_intervals(&all, from, all[45].received, WANTED, &applied[..2]);
        assert_eq!(short[1].achieved, None, "{short:?}");
        // The guest falls silent after 0.2 s of the first interval.
        let silent = rate_intervals(&all[..5], from, to, WANTED, &applied);
        assert_eq!((silent.len(), silent[0].achieved), (2, None), "{silent:?}");
    }
}
