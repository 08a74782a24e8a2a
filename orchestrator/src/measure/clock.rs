//! The guest's downtime, computed from the time that its clock lost.
//!
//! The guest's clock stops with the guest, so the guest cannot notice the stop. Instead, its clock falls
//! behind the host's, by exactly the time for which no guest code could run. Each line of telemetry carries a
//! reading of the guest's clock, and is stamped with the host's clock when it is received. The difference
//! between the two is the offset of the guest's clock plus a delivery delay, which is never negative. So the
//! smallest difference over some time is close to the offset, and the growth of the offset across the
//! switchover is the time lost.
//!
//! A guest that calibrates its clock against an emulated timer is some hundred parts per million too fast or
//! too slow. This drift is estimated from the telemetry before the stop, where nothing else changes the
//! offset, and subtracted. Only the host's clock and differences of the guest's clock are used, so the method
//! works between two hosts as well as on one.

use tokio::time::Instant;

/// A reading of the guest's clock, and the time at which it was received. Both are in seconds, each since any
/// fixed origin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockReading {
    /// The time of receipt, by the monotonic clock of the host that runs the orchestrator.
    pub host_s: f64,
    /// The reading of the guest's monotonic clock.
    pub guest_s: f64,
}

impl ClockReading {
    /// Converts the clock of a telemetry sample, in nanoseconds. The time of receipt is counted from
    /// `origin`.
    pub fn new(received: Instant, clock_ns: u64, origin: Instant) -> Self {
        let host_s = match received.checked_duration_since(origin) {
            Some(later) => later.as_secs_f64(),
            None => -(origin - received).as_secs_f64(),
        };
        Self { host_s, guest_s: clock_ns as f64 / 1e9 }
    }

    fn offset_s(self) -> f64 {
        self.host_s - self.guest_s
    }
}

/// The length of the windows for which the smallest offset is taken, in seconds.
const WINDOW_S: f64 = 0.4;

/// The accuracy of the result, in seconds. A result that is negative by more than this is not a measurement.
const ACCURACY_S: f64 = 0.005;

/// Returns the time that the guest's clock lost between the last reading of `before` and the first of
/// `after`, in seconds.
///
/// Returns `None` if `before` covers less than two windows of 0.4 s or `after` less than one, or if the clock
/// seems to have gained time. In these cases, the drift or the offset of the clock would be a guess.
pub fn time_lost_s(before: &[ClockReading], after: &[ClockReading]) -> Option<f64> {
    let minima = smallest_offsets(before);
    let [first, .., last] = minima[..] else { return None };
    let resumed_at = after.first()?.host_s;
    let early_after: Vec<ClockReading> =
        after.iter().copied().take_while(|r| r.host_s < resumed_at + 2.0 * WINDOW_S).collect();
    let (after_at, after_offset) = smallest_offset(&early_after)?;
    if early_after.last()?.host_s - resumed_at < WINDOW_S {
        return None;
    }
    let drift = (last.1 - first.1) / (last.0 - first.0);
    // A stopped clock does not drift: lost = difference - drift * (elapsed - lost).
    let lost_s = (after_offset - last.1 - drift * (after_at - last.0)) / (1.0 - drift);
    (lost_s >= -ACCURACY_S).then_some(lost_s.max(0.0))
}

/// Returns the smallest offset in each window, with its time.
fn smallest_offsets(readings: &[ClockReading]) -> Vec<(f64, f64)> {
    let Some(start) = readings.first().map(|r| r.host_s) else { return Vec::new() };
    let window = |r: &ClockReading| ((r.host_s - start) / WINDOW_S) as u64;
    readings.chunk_by(|a, b| window(a) == window(b)).filter_map(smallest_offset).collect()
}

fn smallest_offset(readings: &[ClockReading]) -> Option<(f64, f64)> {
    readings.iter().map(|r| (r.host_s, r.offset_s())).min_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns readings for every 50 ms of host time. One in three arrives promptly, the others after up to 8
    /// ms.
    fn readings(from_s: f64, to_s: f64, guest_s: impl Fn(f64) -> f64) -> Vec<ClockReading> {
        let count = ((to_s - from_s) / 0.05) as u64;
        let at = |i: u64| {
            let sent = from_s + i as f64 * 0.05;
            let delay = if i.is_multiple_of(3) { 0.0002 } else { 0.001 * (1 + i % 8) as f64 };
            ClockReading { host_s: sent + delay, guest_s: guest_s(sent) }
        };
        (0..count).map(at).collect()
    }

    #[test]
    fn a_stop_is_measured_to_a_millisecond_despite_drift() {
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
    fn too_little_telemetry_gives_no_result() {
        let after = readings(5.0, 7.0, |t| t);
        assert_eq!(time_lost_s(&[], &after), None);
        assert_eq!(time_lost_s(&readings(4.6, 5.0, |t| t), &after), None);
        assert_eq!(time_lost_s(&readings(0.0, 5.0, |t| t), &readings(5.0, 5.3, |t| t)), None);
        assert_eq!(time_lost_s(&readings(0.0, 5.0, |t| t), &[]), None);
    }

    #[test]
    fn a_clock_that_gained_time_gives_no_result() {
        let before = readings(0.0, 5.0, |t| t);
        assert_eq!(time_lost_s(&before, &readings(5.0, 7.0, |t| t + 0.05)), None);
        assert_eq!(time_lost_s(&before, &readings(5.0, 7.0, |t| t + 0.001)), Some(0.0));
    }
}
