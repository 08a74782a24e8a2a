//! The guest's downtime, computed from the time that its clock lost.
//!
//! The guest's clock stops with the guest, so the guest cannot notice the stop. Instead, its clock falls
//! behind the host's, by exactly the time for which no guest code could run. Each line of telemetry carries a
//! reading of the guest's clock, and is stamped with the host's clock when it is received. The difference
//! between the two is the offset of the guest's clock plus a delivery delay, which is never negative. So the
//! smallest differences are close to the offset, and the growth of the offset across the switchover is the
//! time lost.
//!
//! A guest that calibrates its clock against an emulated timer is some hundred parts per million too fast or
//! too slow, so its offset drifts along a line. Before the stop, where nothing else changes the offset, this
//! is the line that lies below all differences and is closest to them on average (Moon, Skelly and Towsley,
//! "Estimation and Removal of Clock Skew from Network Delay Measurements", INFOCOM 1999). It needs a few
//! prompt deliveries at any time, and not in each part of a second: on a busy host there may be none for a
//! while. Only the host's clock and differences of the guest's clock are used, so the method works between
//! two hosts as well as on one.

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

/// How long before the stop the offset is followed, in seconds. The host's clock may run at another speed
/// earlier, while its time is being corrected.
const BEFORE_S: f64 = 5.0;

/// The least time before the stop that the offset must be followed, in seconds.
const LEAST_BEFORE_S: f64 = 0.8;

/// How long after the stop the offset is looked for, in seconds.
const AFTER_S: f64 = 0.8;

/// The least time after the stop that the offset must be followed, in seconds.
const LEAST_AFTER_S: f64 = 0.4;

/// How long after the stop a reading may come that makes up the least time, in seconds.
const MOST_AFTER_S: f64 = 2.0;

/// The accuracy of the result, in seconds. A result that is negative by more than this is not a measurement.
const ACCURACY_S: f64 = 0.005;

/// Returns the time that the guest's clock lost between the last reading of `before` and the first of
/// `after`, in seconds.
///
/// Returns `None` if `before` covers less than 0.8 s or the first 2 s of `after` less than 0.4 s, or if the
/// clock seems to have gained time. In these cases, the drift or the offset of the clock would be a guess.
pub fn time_lost_s(before: &[ClockReading], after: &[ClockReading]) -> Option<f64> {
    let (stopped_at, resumed_at) = (before.last()?.host_s, after.first()?.host_s);
    let recent = &before[before.partition_point(|r| r.host_s < stopped_at - BEFORE_S)..];
    if stopped_at - recent.first()?.host_s < LEAST_BEFORE_S {
        return None;
    }
    let line = OffsetLine::below(recent)?;
    let until = |after_s: f64| after.partition_point(|r| r.host_s < resumed_at + after_s);
    let enough = (until(LEAST_AFTER_S) + 1).min(until(MOST_AFTER_S));
    let early = &after[..until(AFTER_S).max(enough)];
    if early.last()?.host_s - resumed_at < LEAST_AFTER_S {
        return None;
    }
    let above = early.iter().map(|r| r.offset_s() - line.at(r.host_s)).min_by(f64::total_cmp)?;
    // A stopped clock does not drift: what it lost is above the line by less.
    let lost_s = above / (1.0 - line.drift);
    (lost_s >= -ACCURACY_S).then_some(lost_s.max(0.0))
}

/// The offset of the guest's clock over the host's time.
struct OffsetLine {
    /// A reading that was delivered promptly: its time and its offset, in seconds.
    through: (f64, f64),
    /// How much the offset grows per second.
    drift: f64,
}

impl OffsetLine {
    /// Returns the line below the offsets of these readings that is closest to them on average. This is the
    /// edge of their convex hull below the mean of their times. Returns nothing for fewer than two times.
    fn below(readings: &[ClockReading]) -> Option<Self> {
        let mut hull: Vec<(f64, f64)> = Vec::new();
        for next in readings.iter().map(|r| (r.host_s, r.offset_s())) {
            while let [.., a, b] = hull[..]
                && (b.0 - a.0) * (next.1 - a.1) <= (b.1 - a.1) * (next.0 - a.0)
            {
                hull.pop();
            }
            hull.push(next);
        }
        let mean = readings.iter().map(|r| r.host_s).sum::<f64>() / readings.len() as f64;
        let (from, to) = hull.iter().zip(hull.iter().skip(1)).find(|(_, to)| to.0 >= mean)?;
        let drift = (to.1 - from.1) / (to.0 - from.0);
        drift.is_finite().then_some(Self { through: *from, drift })
    }

    /// Returns the offset at a time, in seconds.
    fn at(&self, host_s: f64) -> f64 {
        self.through.1 + self.drift * (host_s - self.through.0)
    }
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

    /// On a busy host, deliveries are prompt now and then only, and none of them may be in the last second.
    #[test]
    fn a_stop_is_measured_on_a_busy_host() {
        let busy = |readings: Vec<ClockReading>, is_prompt: fn(usize) -> bool| -> Vec<ClockReading> {
            let late = |(i, r): (usize, ClockReading)| {
                let late_s = if is_prompt(i) { 0.0 } else { 0.012 + 0.005 * (i % 7) as f64 };
                ClockReading { host_s: r.host_s + late_s, ..r }
            };
            readings.into_iter().enumerate().map(late).collect()
        };
        for drift in [-0.0005, 0.0, 0.0004] {
            for stop in [0.003, 0.25] {
                let clock = |t: f64| t * (1.0 + drift);
                let before = busy(readings(0.0, 8.0, clock), |i| i % 15 == 0 && i < 140);
                let after = readings(8.0 + stop, 10.0 + stop, |t| clock(t - stop));
                let lost = time_lost_s(&before, &busy(after, |i| i == 9)).unwrap();
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
    fn a_stop_is_measured_although_telemetry_pauses_after_it() {
        let before = readings(0.0, 8.0, |t| t);
        let mut after = readings(8.25, 12.0, |t| t - 0.25);
        after.retain(|reading| !(8.6..9.5).contains(&reading.host_s));
        let lost = time_lost_s(&before, &after).unwrap();
        assert!((lost - 0.25).abs() < 0.001, "{lost}");
        after.retain(|reading| !(8.6..11.0).contains(&reading.host_s));
        assert_eq!(time_lost_s(&before, &after), None, "drift would be a guess");
    }

    #[test]
    fn a_clock_that_gained_time_gives_no_result() {
        let before = readings(0.0, 5.0, |t| t);
        assert_eq!(time_lost_s(&before, &readings(5.0, 7.0, |t| t + 0.05)), None);
        assert_eq!(time_lost_s(&before, &readings(5.0, 7.0, |t| t + 0.001)), Some(0.0));
    }
}
