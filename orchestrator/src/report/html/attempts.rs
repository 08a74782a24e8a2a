//! Every attempt with its timeline.

use super::{
    Detail, Section,
    view::{View, attempt_name, outcome},
};
use crate::results::record::Record;
use maud::{Markup, html};

pub(super) fn section(view: &View<'_>, detail: Detail) -> Option<Section> {
    if view.records.is_empty() {
        return None;
    }
    let longest = view.curves.iter().map(super::timeline::Curves::most_points).max().unwrap_or(0);
    let body = html! {
        @if detail.points == 0 {
            p { "The run has too many attempts for one page, so their timelines are left out." }
        } @else if longest > detail.points {
            p {
                "Each curve is thinned to at most " (detail.points) " points; of each interval, the lowest \
                 and the highest stay."
            }
        }
        @for (index, record) in view.records.iter().enumerate() {
            details.attempt id=(view.attempt_id(index)) open[index == 0] {
                summary {
                    span.name { (attempt_name(record)) } " " (outcome(record.outcome)) " " (figures(record))
                }
                @if let Some(reason) = &record.reason { p { (reason) } }
                @for note in &record.measured.disagreements { p.note { (note) } }
                @if detail.points > 0 { (view.curves[index].render(record, detail.points)) }
            }
        }
    };
    Some(Section { id: "attempts", title: "Attempts", body })
}

/// Returns the main figures of an attempt on one line.
fn figures(record: &Record) -> Markup {
    let measured = &record.measured;
    html! {
        span.figures {
            @if let Some(ms) = measured.total_time_ms { (format!("{:.1} s", ms / 1e3)) }
            @if let Some(ms) = measured.downtime_ms.qemu { (format!(", downtime {ms:.0} ms")) }
            @if let Some(bytes) = measured.transferred.qemu_bytes {
                (format!(", {:.0} MB", bytes as f64 / 1e6))
            }
        }
    }
}
