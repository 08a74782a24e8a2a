//! The time that the guest lost: its downtime by its own clock.
//!
//! A guest's clock stands still while the guest is stopped, so the guest cannot see the stop; it falls back
//! behind the host's clock instead, by exactly the time for which no guest code could run. Each telemetry
//! line carries the guest's clock and is stamped with the host's when it comes in. The difference of the two
//! is the guest's offset plus a delivery delay that is never negative, so the least difference over a while
//! is close to the offset. What it grows by across the switchover is the time lost.
//!
//! A guest that calibrates its clock against an emulated timer runs some hundred parts per million off. The
//! drift is estimated from the telemetry before the stop, where nothing else changes the offset, and
//! taken out. Only the host's clock and differences of the guest's are used, so this holds between two hosts
//! as well as on one.

use tokio::time::Instant;

/// A reading of the guest's clock and when it came in, in seconds by any fixed origin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The host's monotonic clock.
    pub host_s: f64,
    /// The guest's monotonic clock.
    pub guest_s: f64,
}

impl Reading {
    /// A telemetry line's reading, its host time counted from `origin`.
    pub fn new(seen: Instant, clock_ns: u64, origin: Instant) -> Self {
        let host_s = match seen.checked_duration_since(origin) {
            Some(later) => later.as_secs_f64(),
            None => -(origin - seen).as_secs_f64(),
        };
        Self { host_s, guest_s: clock_ns as f64 / 1e9 }
    }

    fn offset_s(self) -> f64 {
        self.host_s - self.guest_s
    }
}

/// How long a stretch's least offset is taken over, in seconds.
const STRETCH_S: f64 = 0.4;

/// How far the result may be off, in seconds. Below zero by more than this it is no measurement.
const ACCURACY_S: f64 = 0.005;

/// The time that the guest's clock lost between the last of `before` and the first of `after`, in seconds.
///
/// `None` with fewer than two stretches of 0.4 s before or less than one after, or when the clock seems to
/// have gained time: then the clock's drift, or its offset, would be a guess.
pub fn time_lost_s(before: &[Reading], after: &[Reading]) -> Option<f64> {
    let minima = least_offsets(before);
    let [first, .., last] = minima[..] else { return None };
    let resumed_at = after.first()?.host_s;
    let early_after: Vec<Reading> =
        after.iter().copied().take_while(|r| r.host_s < resumed_at + 2.0 * STRETCH_S).collect();
    let (after_at, after_offset) = least(&early_after)?;
    if early_after.last()?.host_s - resumed_at < STRETCH_S {
        return None;
    }
    let drift = (last.1 - first.1) / (last.0 - first.0);
    // A clock that stands still does not drift: lost = difference - drift * (elapsed - lost).
    let lost_s = (after_offset - last.1 - drift * (after_at - last.0)) / (1.0 - drift);
    (lost_s >= -ACCURACY_S).then_some(lost_s.max(0.0))
}

/// The least offset of each whole stretch, with its time.
fn least_offsets(readings: &[Reading]) -> Vec<(f64, f64)> {
    let Some(start) = readings.first().map(|r| r.host_s) else { return Vec::new() };
    let stretch = |r: &Reading| ((r.host_s - start) / STRETCH_S) as u64;
    readings.chunk_by(|a, b| stretch(a) == stretch(b)).filter_map(least).collect()
}

fn least(readings: &[Reading]) -> Option<(f64, f64)> {
    readings.iter().map(|r| (r.host_s, r.offset_s())).min_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Telemetry every 50 ms of host time with a delivery delay of up to 8 ms, one in three prompt.
    fn readings(from_s: f64, to_s: f64, guest_s: impl Fn(f64) -> f64) -> Vec<Reading> {
        let count = ((to_s - from_s) / 0.05) as u64;
        let at = |i: u64| {
            let sent = from_s + i as f64 * 0.05;
            let delay = if i.is_multiple_of(3) { 0.0002 } else { 0.001 * (1 + i % 8) as f64 };
            Reading { host_s: sent + delay, guest_s: guest_s(sent) }
        };
        (0..count).map(at).collect()
    }

    #[test]
    fn a_stop_is_found_to_a_millisecond_whatever_the_drift() {
        for drift in [-0.001, 0.0, 0.0004] {
            for stop in [0.0, 0.030, 0.25, 2.0] {
                let clock = |t: f64| t * (1.0 + drift);
                let before = readings(0.0, 8.0, clock);
                let after = readings(8.0 + stop, 10.0 + stop, |t| clock(t - stop));
                let lost = time_lost_s(&before, &after).unwrap();
                assert!((lost - stop).abs() < 0.001, "drift {drift}, stop {stop}: {lost}");
            }
        }
    }

    #[test]
    fn too_little_telemetry_gives_no_figure() {
        let after = readings(5.0, 7.0, |t| t);
        assert_eq!(time_lost_s(&[], &after), None);
        assert_eq!(time_lost_s(&readings(4.6, 5.0, |t| t), &after), None);
        assert_eq!(time_lost_s(&readings(0.0, 5.0, |t| t), &readings(5.0, 5.3, |t| t)), None);
        assert_eq!(time_lost_s(&readings(0.0, 5.0, |t| t), &[]), None);
    }

    #[test]
    fn a_clock_that_gained_time_gives_no_figure() {
        let before = readings(0.0, 5.0, |t| t);
        assert_eq!(time_lost_s(&before, &readings(5.0, 7.0, |t| t + 0.05)), None);
        assert_eq!(time_lost_s(&before, &readings(5.0, 7.0, |t| t + 0.001)), Some(0.0));
    }
}
