//! Conversions from the types in which nodes, links and the stressor report measurements to the record's
//! types.

use crate::{
    driver::control_port::TelemetrySample,
    measure::End,
    node::{round_trip, server::probe},
    results::{
        record::{
            BadPage, DiskVerification, LinkLateness, MemoryArea, Probe, RoundTrip, RoundTrips, Verification,
            round_micros,
        },
        telemetry::{DiskReport, GuestReport},
    },
};
use netem::userspace::Lateness;
use stressor::{disk, verify, workload::PAGE_BYTES};
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
        let probe::ProbeReport { interval_ns, sent, received, largest_gap_ns, median_gap_ns, open_gap_ns } =
            report;
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

/// Returns a report of the guest that came from this end, timed from the start of the migration.
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
        disk: telemetry.disk.map(|disk| DiskReport {
            written_bytes: disk.bytes_written,
            read_bytes: disk.bytes_read,
            longest_write_ms: millis(disk.longest_write_ns),
            longest_read_ms: millis(disk.longest_read_ns),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::to_value;
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
        };
        assert_eq!(to_value(Probe::from(report.clone())).unwrap(), to_value(report).unwrap());
        for area in [verify::Area::WorkingSet, verify::Area::Ballast] {
            let page = verify::BadPage { area, index: 7, expected_generation: 3, held: "zeros".into() };
            let found = verify::Verification { pages_checked: 9, pages_bad: 1, first_bad: Some(page) };
            assert_eq!(to_value(Verification::from(found.clone())).unwrap(), to_value(found).unwrap());
        }
    }

    #[test]
    fn lateness_is_recorded_as_mean_and_maximum_in_milliseconds() {
        let late =
            Lateness { deliveries: 4, total: Span::from_millis(6), worst: Span::from_nanos(2_500_400) };
        let kept = LinkLateness { deliveries: 4, late_mean_ms: 1.5, late_worst_ms: 2.5 };
        assert_eq!(LinkLateness::from(late), kept);
    }
}
