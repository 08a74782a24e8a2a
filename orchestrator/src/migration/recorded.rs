//! Conversions from the types in which nodes, links and the stressor report measurements to the record's
//! types.

use crate::{
    driver::control_port::TelemetrySample,
    measure::{End, round_micros},
    node::{
        protocol::ProgressWindow,
        round_trip,
        server::probe::{self, Latencies},
    },
    results::{
        client::{LiveWindow, ProbeWindow},
        record::{
            BadPage, DiskVerification, LinkLateness, MemoryArea, Probe, RoundTrip, RoundTrips, Verification,
        },
        telemetry::{DiskReport, GuestReport, PageWriteTimes},
    },
};
use netem::userspace::Lateness;
use stressor::{disk, protocol::Latency, verify, workload::PAGE_BYTES};
use tokio::time::Instant;

impl From<Lateness> for LinkLateness {
    fn from(late: Lateness) -> Self {
        Self {
            deliveries: late.deliveries,
            late_mean_ms: round_micros(late.mean().as_millis_f64()),
            late_worst_ms: round_micros(late.worst.as_millis_f64()),
        }
    }
}

impl From<probe::ProbeReport> for Probe {
    fn from(report: probe::ProbeReport) -> Self {
        let probe::ProbeReport {
            interval_ns,
            sent,
            received,
            largest_gap_ns,
            median_gap_ns,
            open_gap_ns,
            ..
        } = report;
        Self { interval_ns, sent, received, largest_gap_ns, median_gap_ns, open_gap_ns }
    }
}

impl From<round_trip::RoundTrip> for RoundTrip {
    fn from(trip: round_trip::RoundTrip) -> Self {
        Self { least_ms: trip.least_ms, median_ms: trip.median_ms }
    }
}

impl From<round_trip::RoundTrips> for RoundTrips {
    fn from(trips: round_trip::RoundTrips) -> Self {
        Self {
            controller: trips.controller.into(),
            source: trips.source.into(),
            destination: trips.destination.into(),
        }
    }
}

impl From<verify::Verification> for Verification {
    fn from(found: verify::Verification) -> Self {
        Self {
            pages_checked: found.pages_checked,
            pages_bad: found.pages_bad,
            first_bad: found.first_bad.map(Into::into),
        }
    }
}

impl From<disk::DiskVerification> for DiskVerification {
    fn from(found: disk::DiskVerification) -> Self {
        Self {
            blocks_checked: found.blocks_checked,
            blocks_bad: found.blocks_bad,
            first_bad: found.first_bad.map(|block| block.to_string()),
            reads_bad: found.reads_bad,
            first_bad_read: found.first_bad_read.map(|block| block.to_string()),
            io_errors: found.io_errors,
            first_error: found.first_error,
        }
    }
}

impl From<verify::BadPage> for BadPage {
    fn from(page: verify::BadPage) -> Self {
        let area = match page.area {
            verify::Area::WorkingSet => MemoryArea::WorkingSet,
            verify::Area::Ballast => MemoryArea::Ballast,
        };
        Self { area, index: page.index, expected_generation: page.expected_generation, held: page.held }
    }
}

/// Returns a report from the guest that came through this end, timed from the start of the migration.
pub(super) fn guest_report(sample: &TelemetrySample, end: End, started: Instant) -> GuestReport {
    let TelemetrySample { received, telemetry } = sample;
    let millis = |ns: u64| round_micros(ns as f64 / 1e6);
    let after = |later: Instant, earlier: Instant| later.duration_since(earlier).as_secs_f64() * 1e3;
    let at_ms = if *received < started { -after(started, *received) } else { after(*received, started) };
    GuestReport {
        at_ms: round_micros(at_ms),
        end,
        clock_ms: millis(telemetry.clock_ns),
        dirtied_bytes: telemetry.pages_dirtied * PAGE_BYTES,
        longest_stall_ms: millis(telemetry.longest_stall_ns),
        longest_page_write_ms: millis(telemetry.write_latency.max_ns),
        page_write: page_write_times(telemetry.write_latency),
        disk: telemetry.disk.map(|disk| DiskReport {
            written_bytes: disk.bytes_written,
            read_bytes: disk.bytes_read,
            longest_write_ms: millis(disk.longest_write_ns),
            longest_read_ms: millis(disk.longest_read_ns),
        }),
    }
}

/// Returns the percentiles of a distribution; nothing if there were no writes.
fn page_write_times(latency: Latency) -> Option<PageWriteTimes> {
    // A write takes a fraction of a microsecond, so its time is not rounded.
    let millis = |ns: u64| ns as f64 / 1e6;
    let Latency { p50_ns, p99_ns, p999_ns, max_ns } = latency;
    (max_ns > 0).then(|| PageWriteTimes {
        median_ms: millis(p50_ns),
        p99_ms: millis(p99_ns),
        p999_ms: millis(p999_ns),
    })
}

/// Returns what the probe saw over time, from the probe's report, which arrived at this moment.
pub(super) fn probe_windows(
    report: &probe::ProbeReport,
    arrived: Instant,
    started: Instant,
) -> Vec<ProbeWindow> {
    let Latencies { began_before_end_ns, window_ns, windows } = &report.latencies;
    let millis = |ns: u64| ns as f64 / 1e6;
    let began_ms = arrived.duration_since(started).as_secs_f64() * 1e3 - millis(*began_before_end_ns);
    let windows = windows.iter().enumerate().filter(|(_, window)| window.requests > 0);
    let windows = windows.map(|(i, window)| ProbeWindow {
        at_ms: round_micros(began_ms + i as f64 * millis(*window_ns)),
        duration_ms: millis(*window_ns),
        requests: window.requests,
        unanswered: window.unanswered,
        longest_round_trip_ms: window.longest_ns.map(|ns| round_micros(millis(ns))),
    });
    windows.collect()
}

/// Returns what has happened so far in a window of the probe. Each window has this width, and the first one
/// began at `began_ms`.
pub(super) fn live_window(window: &ProgressWindow, began_ms: f64, window_ns: u64) -> LiveWindow {
    let millis = |ns: u64| ns as f64 / 1e6;
    let round_trip = |ns: Option<u64>| ns.map(|ns| round_micros(millis(ns)));
    let ProgressWindow { number, requests, unanswered, longest_ns, median_ns } = *window;
    LiveWindow {
        window: ProbeWindow {
            at_ms: round_micros(began_ms + number as f64 * millis(window_ns)),
            duration_ms: millis(window_ns),
            requests,
            unanswered,
            longest_round_trip_ms: round_trip(longest_ns),
        },
        median_round_trip_ms: round_trip(median_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::to_value;
    use std::time::Duration;
    use units::Span;

    #[test]
    fn the_records_types_serialize_like_the_reports() {
        let report = probe::ProbeReport {
            interval_ns: 10_000_000,
            sent: 9,
            received: 8,
            largest_gap_ns: Some(20_000_000),
            median_gap_ns: Some(10_000_000),
            open_gap_ns: Some(5_000_000_000),
            surely_gone_ns: None,
            latencies: Latencies::default(),
        };
        assert_eq!(to_value(Probe::from(report.clone())).unwrap(), to_value(report).unwrap());
        for area in [verify::Area::WorkingSet, verify::Area::Ballast] {
            let page = verify::BadPage { area, index: 7, expected_generation: 3, held: "zeros".into() };
            let found = verify::Verification { pages_checked: 9, pages_bad: 1, first_bad: Some(page) };
            assert_eq!(to_value(Verification::from(found.clone())).unwrap(), to_value(found).unwrap());
        }
    }

    #[test]
    fn windows_of_the_probe_are_on_the_clock_of_the_migration() {
        let window = |requests, unanswered, longest_ns| probe::Window { requests, unanswered, longest_ns };
        let windows = vec![
            window(5, 0, Some(400_000)),
            window(0, 0, None),
            window(5, 5, None),
            window(5, 1, Some(7_000)),
        ];
        let latencies = Latencies { began_before_end_ns: 1_200_000_000, window_ns: 50_000_000, windows };
        let report = probe::ProbeReport {
            interval_ns: 10_000_000,
            sent: 15,
            received: 9,
            largest_gap_ns: None,
            median_gap_ns: None,
            open_gap_ns: None,
            surely_gone_ns: None,
            latencies,
        };
        let started = Instant::now();
        let found = probe_windows(&report, started + Duration::from_secs(1), started);
        let expected = |at_ms, unanswered, longest_round_trip_ms| ProbeWindow {
            at_ms,
            duration_ms: 50.0,
            requests: 5,
            unanswered,
            longest_round_trip_ms,
        };
        let expected =
            [expected(-200.0, 0, Some(0.4)), expected(-100.0, 5, None), expected(-50.0, 1, Some(0.007))];
        assert_eq!(found, expected);
    }

    #[test]
    fn nothing_written_has_no_percentiles() {
        assert_eq!(page_write_times(Latency::default()), None);
        let latency = Latency { p50_ns: 312, p99_ns: 4_000, p999_ns: 50_000, max_ns: 1_000_000 };
        let times = PageWriteTimes { median_ms: 0.000_312, p99_ms: 0.004, p999_ms: 0.05 };
        assert_eq!(page_write_times(latency), Some(times));
    }

    #[test]
    fn lateness_is_recorded_as_mean_and_maximum_in_milliseconds() {
        let late =
            Lateness { deliveries: 4, total: Span::from_millis(6), worst: Span::from_nanos(2_500_400) };
        let kept = LinkLateness { deliveries: 4, late_mean_ms: 1.5, late_worst_ms: 2.5 };
        assert_eq!(LinkLateness::from(late), kept);
    }
}
