//! How long the guest's writes took, and how long a client of the guest waited for its replies.
//!
//! Where nothing was written or answered, there is nothing to draw: the curve has a gap there, and does not
//! fall to zero.

use super::{Curve, Lane};
use crate::{
    report::html::chart::Point,
    results::{
        client::ProbeWindow,
        telemetry::{GuestReport, PageWriteTimes},
    },
};

/// Returns the lanes of latencies.
pub(super) fn lanes(reports: &[GuestReport], windows: &[ProbeWindow]) -> [Lane; 4] {
    [
        Lane { title: "Longest delays in the guest, ms", curves: delays(reports), is_log: false },
        Lane { title: "Time to write a page in the guest, ms", curves: page_writes(reports), is_log: true },
        Lane { title: "Round trips of a client, ms", curves: round_trips(windows), is_log: true },
        Lane { title: "Requests of a client without a reply, %", curves: unanswered(windows), is_log: false },
    ]
}

/// Returns the longest delays that the guest reported: between two writes to memory, and of writes to the
/// disk. In results of older versions, which have no percentiles, the delays of page writes are here too.
///
/// A delay is reported when it has ended, and a report of none is 0.
fn delays(reports: &[GuestReport]) -> Vec<Curve> {
    let point =
        |report: &GuestReport, ms: f64| Point { x: report.at_ms, y: if ms > 0.0 { ms } else { Point::GAP } };
    let memory = reports.iter().map(|report| point(report, report.longest_stall_ms));
    let disk = reports.iter().filter_map(|report| Some(point(report, report.disk?.longest_write_ms)));
    let mut curves = vec![
        Curve { name: "between two writes", class: "c0", points: memory.collect(), is_stairs: false },
        Curve { name: "write to the disk", class: "c1", points: disk.collect(), is_stairs: false },
    ];
    if reports.iter().all(|report| report.page_write.is_none()) {
        let page = reports.iter().map(|report| point(report, report.longest_page_write_ms));
        curves.push(Curve { name: "write of a page", class: "c2", points: page.collect(), is_stairs: false });
    }
    curves
}

/// Returns the percentiles of the time that writing a page took, and the longest time.
fn page_writes(reports: &[GuestReport]) -> Vec<Curve> {
    let curve = |name, class, value: fn(&PageWriteTimes, &GuestReport) -> f64| {
        let points = reports.iter().map(|report| {
            let written = report.page_write.as_ref().map(|times| value(times, report));
            // A logarithmic axis has no zero.
            Point { x: report.at_ms, y: written.filter(|ms| *ms > 0.0).unwrap_or(Point::GAP) }
        });
        Curve { name, class, points: points.collect(), is_stairs: false }
    };
    vec![
        curve("longest", "c1", |_, report| report.longest_page_write_ms),
        curve("99.9 %", "c3", |times, _| times.p999_ms),
        curve("99 %", "c2", |times, _| times.p99_ms),
        curve("median", "c0", |times, _| times.median_ms),
    ]
}

fn round_trips(windows: &[ProbeWindow]) -> Vec<Curve> {
    let points = over(windows, |window| window.longest_round_trip_ms.filter(|ms| *ms > 0.0));
    vec![Curve { name: "longest", class: "c0", points, is_stairs: true }]
}

/// Returns the share of a client's requests without a reply; nothing if every request had one.
fn unanswered(windows: &[ProbeWindow]) -> Vec<Curve> {
    if windows.iter().all(|window| window.unanswered == 0) {
        return Vec::new();
    }
    let share = |window: &ProbeWindow| Some(100.0 * window.unanswered as f64 / window.requests as f64);
    vec![Curve { name: "lost", class: "c1", points: over(windows, share), is_stairs: true }]
}

/// Returns a value of each window, from its beginning to its end. There is a gap where windows have no value.
fn over(windows: &[ProbeWindow], value: impl Fn(&ProbeWindow) -> Option<f64>) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::with_capacity(windows.len() + 1);
    for (i, window) in windows.iter().enumerate() {
        let (at_ms, end_ms) = (window.at_ms, window.at_ms + window.duration_ms);
        let Some(y) = value(window) else { continue };
        points.push(Point { x: at_ms, y });
        let next = windows.get(i + 1).filter(|next| value(next).is_some());
        // Times are rounded.
        if next.is_none_or(|next| next.at_ms - end_ms > window.duration_ms / 2.0) {
            points.extend([Point { x: end_ms, y }, Point { x: end_ms, y: Point::GAP }]);
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measure::End, results::telemetry::DiskReport};

    fn window(at_ms: f64, unanswered: u64, longest_round_trip_ms: Option<f64>) -> ProbeWindow {
        ProbeWindow { at_ms, duration_ms: 50.0, requests: 5, unanswered, longest_round_trip_ms }
    }

    /// Returns the points of a curve as text, with `-` for a gap.
    fn shown(points: &[Point]) -> String {
        let point = |p: &Point| if p.y.is_nan() { "-".into() } else { format!("{}:{}", p.x, p.y) };
        points.iter().map(point).collect::<Vec<String>>().join(" ")
    }

    #[test]
    fn a_window_without_a_reply_is_a_gap_and_a_loss() {
        let windows = [
            window(0.0, 0, Some(1.0)),
            window(50.0, 2, Some(7.0)),
            window(100.0, 5, None),
            window(150.0, 0, Some(2.0)),
        ];
        assert_eq!(shown(&round_trips(&windows)[0].points), "0:1 50:7 100:7 - 150:2 200:2 -");
        let lost = &unanswered(&windows)[0].points;
        assert_eq!(shown(lost), "0:0 50:40 100:100 150:0 200:0 -");
        assert!(unanswered(&windows[..1]).is_empty(), "nothing was lost");
    }

    /// While the guest is stuck, no write ends.
    #[test]
    fn a_report_in_which_no_write_has_ended_is_a_gap() {
        let report = |at_ms, ms, disk_ms: f64| {
            let disk = DiskReport {
                written_bytes: 0,
                read_bytes: 0,
                longest_write_ms: disk_ms,
                longest_read_ms: 0.0,
            };
            GuestReport {
                at_ms,
                end: End::Source,
                clock_ms: at_ms,
                dirtied_bytes: 0,
                longest_stall_ms: ms,
                longest_page_write_ms: ms,
                page_write: None,
                disk: Some(disk),
            }
        };
        let reports = [report(0.0, 1.0, 3.0), report(50.0, 0.0, 0.0), report(100.0, 60.0, 4.0)];
        let curves: Vec<String> = delays(&reports).iter().map(|curve| shown(&curve.points)).collect();
        assert_eq!(curves, ["0:1 - 100:60", "0:3 - 100:4", "0:1 - 100:60"]);
    }

    #[test]
    fn a_window_without_a_request_is_a_gap() {
        let windows = [window(0.0, 1, Some(1.0)), window(100.0, 0, Some(1.0))];
        assert_eq!(shown(&unanswered(&windows)[0].points), "0:20 50:20 - 100:0 150:0 -");
    }
}
