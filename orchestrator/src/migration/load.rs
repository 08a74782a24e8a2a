//! Rates out of the stressor's telemetry: what was really dirtied, and whether it has settled.

use crate::{
    driver::control_port::TelemetrySample,
    results::record::{Carried, Stretch, round_micros},
};
use std::time::Duration;
use stressor::workload::{PAGE_BYTES, Rate};
use tokio::time::Instant;
use units::ByteRate;

/// A rate counts as settled when this many stretches of telemetry in a row agree.
const STRETCHES: usize = 2;

/// Telemetry lines in a stretch.
const SAMPLES_PER_STRETCH: usize = 4;

/// How far stretches may be from what they are compared with.
const TOLERANCE: f64 = 0.02;

/// After this time by the guest's clock, any rate will do: the guest, or the machine, cannot keep the one
/// asked for. Not after a number of lines: a guest that is slow to send them is slow to do anything.
const PATIENCE_NS: u64 = 10_000_000_000;

/// The shortest time over which a rate says something, in milliseconds: ten lines of telemetry.
const TELLING_MS: f64 = 500.0;

/// Bytes dirtied per second of the guest's clock, from the first to the last of these samples.
pub fn rate(telemetry: &[TelemetrySample]) -> Option<f64> {
    let (first, last) = (&telemetry.first()?.telemetry, &telemetry.last()?.telemetry);
    let seconds = last.clock_ns.checked_sub(first.clock_ns).filter(|ns| *ns > 0)? as f64 / 1e9;
    Some((last.pages_dirtied.saturating_sub(first.pages_dirtied) * PAGE_BYTES) as f64 / seconds)
}

/// The telemetry that came in between two moments.
pub fn between(telemetry: &[TelemetrySample], from: Instant, to: Instant) -> &[TelemetrySample] {
    let start = telemetry.partition_point(|b| b.seen < from);
    let end = telemetry.partition_point(|b| b.seen <= to);
    &telemetry[start.min(end)..end]
}

/// What was due to be dirtied between the first and the last of these samples and was not, in bytes.
pub fn forgone_bytes(telemetry: &[TelemetrySample]) -> Option<u64> {
    let (first, last) = (&telemetry.first()?.telemetry, &telemetry.last()?.telemetry);
    Some(last.pages_forgone.saturating_sub(first.pages_forgone) * PAGE_BYTES)
}

/// The longest stall that any of these samples reports, in milliseconds.
pub fn longest_stall_ms(telemetry: &[TelemetrySample]) -> Option<f64> {
    telemetry.iter().map(|b| b.telemetry.longest_stall_ns).max().map(|ns| ns as f64 / 1e6)
}

/// The rate in bytes per second, if there is one.
pub fn limit(rate: Rate) -> Option<u64> {
    match rate {
        Rate::Limited(rate) => Some(rate.get()),
        Rate::Unlimited => None,
    }
}

/// The parts of the time between two moments in which one rate was asked for, `wanted` being the first; none
/// where the entries of the timeline that were carried out change no rate. The time that a change itself
/// takes is in no part.
pub fn stretches(
    telemetry: &[TelemetrySample],
    from: Instant,
    to: Instant,
    wanted: Rate,
    carried: &[Carried],
) -> Vec<Stretch> {
    let changes: Vec<(&Carried, Rate)> = carried.iter().filter_map(|c| Some((c, c.rate?))).collect();
    if changes.is_empty() {
        return Vec::new();
    }
    let end_ms = round_micros((to - from).as_secs_f64() * 1e3);
    let starts = [(0.0, wanted)].into_iter().chain(changes.iter().map(|(c, rate)| (c.done_ms, *rate)));
    let ends = changes.iter().map(|(c, _)| c.began_ms).chain([end_ms]);
    let stretch = |((from_ms, requested), to_ms): ((f64, Rate), f64)| {
        let to_ms = to_ms.min(end_ms);
        let moment = |ms: f64| from + Duration::from_secs_f64(ms / 1e3);
        let long_enough = to_ms - from_ms >= TELLING_MS;
        let achieved =
            long_enough.then(|| rate(between(telemetry, moment(from_ms), moment(to_ms)))).flatten();
        // A change that was completed after the end has no part.
        (from_ms < to_ms).then(|| Stretch { from_ms, to_ms, requested: limit(requested), achieved })
    };
    starts.zip(ends).filter_map(stretch).collect()
}

/// The rate that the stressor has settled at, if it has, judged by its telemetry since it was started.
///
/// It has when its last two stretches are each within 2 % of the rate asked for, or within a page of what
/// that makes. An unlimited rate, and one that cannot be reached, is taken as it is after a while; the record
/// has both rates.
pub fn settled(telemetry: &[TelemetrySample], wanted: Rate) -> Option<f64> {
    let needed = STRETCHES * SAMPLES_PER_STRETCH + 1;
    let recent = telemetry.get(telemetry.len().checked_sub(needed)?..)?;
    let near = |goal: f64| {
        let mut stretches =
            (0..STRETCHES).map(|i| &recent[i * SAMPLES_PER_STRETCH..=(i + 1) * SAMPLES_PER_STRETCH]);
        stretches.all(|telemetry| {
            // Nothing finer can be counted.
            let page = PAGE_BYTES as f64 / (clock_ns(telemetry) as f64 / 1e9);
            rate(telemetry).is_some_and(|rate| (rate - goal).abs() <= page.max(goal * TOLERANCE))
        })
    };
    let reached = match wanted {
        // Where nothing is wanted, nothing is to be written, not even a page.
        Rate::Limited(ByteRate::ZERO) => rate(recent) == Some(0.0),
        Rate::Limited(wanted) => near(wanted.get() as f64),
        Rate::Unlimited => false,
    };
    if reached || clock_ns(telemetry) >= PATIENCE_NS { rate(recent) } else { None }
}

/// The time from the first to the last of these samples, by the guest's clock.
fn clock_ns(telemetry: &[TelemetrySample]) -> u64 {
    let clock = |sample: Option<&TelemetrySample>| sample.map_or(0, |sample| sample.telemetry.clock_ns);
    clock(telemetry.last()).saturating_sub(clock(telemetry.first()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stressor::protocol::{Latency, Telemetry};

    /// Telemetry 50 ms apart, each with the pages of its number.
    fn telemetry(pages: impl IntoIterator<Item = u64>) -> Vec<TelemetrySample> {
        let start = Instant::now();
        let sample = |(i, pages_dirtied)| TelemetrySample {
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
        pages.into_iter().enumerate().map(sample).collect()
    }

    const WANTED: Rate = Rate::Limited(ByteRate::new(1000 * PAGE_BYTES * 20));

    #[test]
    fn a_rate_is_counted_by_the_guests_clock() {
        assert_eq!(rate(&telemetry([0, 1000, 2000])), Some((1000 * PAGE_BYTES * 20) as f64));
        assert_eq!(rate(&telemetry([5])), None);
        assert_eq!(rate(&[]), None);
    }

    #[test]
    fn it_has_settled_once_it_stays_at_what_was_asked_for() {
        assert_eq!(settled(&telemetry((0..8).map(|i| i * 1000)), WANTED), None, "too soon");
        assert!(settled(&telemetry((0..9).map(|i| i * 1000)), WANTED).is_some());
        let half = |n: usize| telemetry((0..n as u64).map(|i| i * 500));
        // Lines of telemetry in that time.
        let patient = 201;
        assert_eq!(settled(&half(patient - 1), WANTED), None, "steady, but not what was asked for");
        assert!(settled(&half(patient), WANTED).is_some());
        assert!(settled(&half(patient), Rate::Unlimited).is_some());
        let unsteady = |n: usize| telemetry((0..n as u64).map(|i| i / 5 * 5000));
        assert_eq!(settled(&unsteady(patient - 1), WANTED), None);
        assert!(settled(&unsteady(patient), WANTED).is_some(), "no machine is waited for for ever");
    }

    #[test]
    fn a_slow_rate_settles_though_its_pages_can_be_counted() {
        // Ten pages a stretch, with one more or less now and then.
        let slow = Rate::Limited(ByteRate::new(50 * PAGE_BYTES));
        assert!(settled(&telemetry([0, 2, 5, 7, 11, 12, 15, 17, 20]), slow).is_some());
        assert_eq!(settled(&telemetry([0, 2, 5, 7, 13, 14, 15, 17, 20]), slow), None);
    }

    #[test]
    fn a_guest_that_says_little_is_not_waited_for_longer() {
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
    fn only_beats_between_the_moments_count() {
        let all = telemetry(0..10);
        let inner = between(&all, all[2].seen, all[5].seen);
        assert_eq!(inner.len(), 4);
        assert_eq!(longest_stall_ms(inner), Some(5e-6));
        assert_eq!(forgone_bytes(inner), Some(3 * PAGE_BYTES));
        assert!(between(&all, all[5].seen, all[2].seen).is_empty());
    }

    #[test]
    fn each_rate_is_held_against_its_own_part_of_the_migration() {
        // 1000 pages a sample for 2 s, 100 for the next 2 s.
        let all = telemetry((0..80).map(|i| if i < 40 { i * 1000 } else { 40_000 + (i - 40) * 100 }));
        let (from, to) = (all[0].seen, all[79].seen);
        let change = |began_ms, done_ms, rate| Carried {
            due_ms: began_ms,
            began_ms,
            done_ms,
            link: None,
            rate,
            by: None,
        };
        let slower = Rate::Limited(ByteRate::new(100 * PAGE_BYTES * 20));
        let carried = [
            change(100.0, 101.0, None),
            change(1_960.0, 2_010.0, Some(slower)),
            change(3_900.0, 4_000.0, Some(Rate::Unlimited)),
        ];
        let stretch = |from_ms, to_ms, pages: u64| {
            let rate = pages * PAGE_BYTES * 20;
            Stretch { from_ms, to_ms, requested: Some(rate), achieved: Some(rate as f64) }
        };
        // The last change was completed after the guest had stopped.
        let expected = [stretch(0.0, 1_960.0, 1000), stretch(2_010.0, 3_900.0, 100)];
        assert_eq!(stretches(&all, from, to, WANTED, &carried), expected);
        assert_eq!(stretches(&all, from, to, WANTED, &carried[..1]), []);
        let short = stretches(&all, from, all[45].seen, WANTED, &carried[..2]);
        assert_eq!(short[1].achieved, None, "{short:?}");
    }
}
