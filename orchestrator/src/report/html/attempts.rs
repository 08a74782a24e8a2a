//! Every attempt with its timeline.

use super::{
    Detail, Section,
    pack::{BLOCK, pack},
    view::{View, attempt_name, outcome},
};
use crate::results::record::Record;
use maud::{Markup, html};

pub(super) fn section(view: &View<'_>, detail: Detail) -> Option<Section> {
    if view.records.is_empty() && view.in_progress.is_empty() {
        return None;
    }
    let shown = most_telling(view.records);
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
        @for (index, (name, curves)) in view.in_progress.iter().enumerate() {
            details.attempt id=(view.id(&format!("p{index}"))) open {
                summary { span.name { (name) } " " span.outcome { "… in progress" } }
                @if detail.points > 0 { (curves.render(None, detail.points)) }
            }
        }
        @for (index, record) in view.records.iter().enumerate() {
            details.attempt id=(view.attempt_id(index)) open[index == shown && view.in_progress.is_empty()] {
                summary {
                    span.name { (attempt_name(record)) } " " (outcome(record.outcome)) " " (figures(record))
                }
                @if let Some(reason) = &record.reason { p { (reason) } }
                @for note in &record.measured.disagreements { p.note { (note) } }
                @if detail.is_packed {
                    @let (block, at) = (index / BLOCK, index % BLOCK);
                    div data-pack=(view.id(&format!("pack{block}"))) data-at=(at) {}
                } @else if detail.points > 0 {
                    (view.curves[index].render(Some(&record.measured), detail.points))
                }
            }
        }
        @if detail.is_packed {
            noscript { p { "The timelines of so many attempts need the page's script." } }
            @for (block, packed) in packed(view, detail).iter().enumerate() {
                template id=(view.id(&format!("pack{block}"))) { (packed) }
            }
        }
    };
    Some(Section { id: "attempts", title: "Attempts", body })
}

/// Returns the timelines of all attempts, in compressed blocks.
fn packed(view: &View<'_>, detail: Detail) -> Vec<String> {
    let timelines = view.records.iter().zip(&view.curves);
    let timelines = timelines.map(|(record, curves)| curves.render(Some(&record.measured), detail.points));
    let timelines: Vec<Markup> = timelines.collect();
    // Compression in memory does not fail.
    timelines.chunks(BLOCK).map(|block| pack(block).unwrap_or_default()).collect()
}

/// Returns the main figures of an attempt on one line.
fn figures(record: &Record) -> Markup {
    let measured = &record.measured;
    let figures = [
        measured.total_time_ms.map(|ms| format!("{:.1} s", ms / 1e3)),
        measured.downtime_ms.in_words().map(|downtime| format!("downtime {downtime}")),
        measured.transferred.qemu_bytes.map(|bytes| format!("{:.0} MB", bytes as f64 / 1e6)),
    ];
    html! { span.figures { (figures.into_iter().flatten().collect::<Vec<_>>().join(", ")) } }
}

/// Returns the index of the attempt that is shown first: the longest migration that converged, which is the
/// closest to the threshold.
fn most_telling(records: &[Record]) -> usize {
    let time = |record: &Record| record.measured.total_time_ms.unwrap_or_default();
    let longest = records.iter().enumerate().max_by(|(_, a), (_, b)| time(a).total_cmp(&time(b)));
    longest.map_or(0, |(index, _)| index)
}
