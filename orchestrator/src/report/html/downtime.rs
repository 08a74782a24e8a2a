//! The downtime of each cell by its three witnesses, with the bounds of each.

use super::{
    Detail, Section,
    chart::{
        axis::{Axis, from_zero},
        svg::{WIDTH, percent},
    },
    table::{Field, Table},
    view::{View, cell_name},
};
use crate::{matrix::Cell, results::record::Downtime};
use maud::{Markup, html};
use plotters::coord::ranged1d::Ranged as _;

/// The smallest and the largest downtime that are consistent with a witness's figures of several attempts, in
/// milliseconds.
#[derive(Clone, Copy)]
struct Range {
    least: f64,
    most: f64,
}

/// The accuracy of the guest's figure, in milliseconds.
const GUEST_ACCURACY_MS: f64 = 1.0;

/// The witnesses, each with its class and the range that it gives for one attempt.
type Witness = (&'static str, &'static str, fn(&Downtime) -> Option<Range>);

const WITNESSES: [Witness; 3] = [
    ("QEMU", "w0", |d| d.qemu.map(|ms| Range { least: ms, most: ms })),
    ("guest", "w1", |d| {
        let guest =
            |ms: f64| Range { least: (ms - GUEST_ACCURACY_MS).max(0.0), most: ms + GUEST_ACCURACY_MS };
        d.guest.map(guest)
    }),
    ("client", "w2", |d| {
        let most = d.client?;
        Some(Range { least: d.client_at_least.unwrap_or(most), most })
    }),
];

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let rows: Vec<(&Cell, [Option<Range>; 3])> = view
        .plan
        .cells
        .iter()
        .map(|cell| {
            let attempts = view.attempts_of(cell);
            let range = |(_, _, range): Witness| {
                let ranges = attempts.iter().filter_map(|(_, r)| range(&r.measured.downtime_ms));
                ranges.reduce(|a, b| Range { least: a.least.min(b.least), most: a.most.max(b.most) })
            };
            (cell, WITNESSES.map(range))
        })
        .filter(|(_, ranges)| ranges.iter().any(Option::is_some))
        .collect();
    let most = rows.iter().flat_map(|(_, ranges)| ranges.iter().flatten()).map(|range| range.most);
    let axis = Axis::from(from_zero(most.reduce(f64::max)?, 4));
    let header = ["cell", "limit asked, ms", "QEMU, ms", "guest, ms", "client, ms"].map(String::from);
    let last = format!("0 to {:.0} ms", axis.range().end);
    let header: Vec<String> = header.into_iter().chain([last]).collect();
    let row = |(cell, ranges): (&Cell, [Option<Range>; 3])| {
        let limit = cell.settings.migrate.downtime_limit.as_millis_f64();
        let figures = ranges.map(|range| Field::text(range.map_or_else(|| "-".into(), text)));
        let name = Field { content: html! { (cell_name(cell)) }, key: None };
        let picture = Field::markup(picture(&axis, limit, &ranges));
        [name, Field::number(Some(limit), 0)].into_iter().chain(figures).chain([picture]).collect()
    };
    let table = Table {
        id: &view.id("downtime-table"),
        caption: "The downtime by each witness: the smallest and the largest that all attempts allow",
        header: &header,
        words: 1,
        rows: rows.into_iter().map(row).collect(),
    };
    let body = html! {
        p {
            "QEMU counts from the stop at the source until its migration completes. The guest counts the \
             time for which none of its code ran, to about a millisecond. A client waits longest, until the \
             network delivers to the new place. Its two bounds are an interval of its probe apart."
        }
        ul.legend {
            @for (name, class, _) in WITNESSES { li { i.key.(class) {} (name) } }
            li { i.key.limit {} "limit asked for" }
        }
        (table.render())
    };
    Some(Section { id: "downtime", title: "Downtime by its witnesses", body })
}

fn text(range: Range) -> String {
    let (least, most) = (format!("{:.0}", range.least), format!("{:.0}", range.most));
    if least == most { most } else { format!("{least}–{most}") }
}

/// Returns the ranges as stacked bars, pale between the bounds, and the limit as a line.
fn picture(axis: &Axis, limit: f64, ranges: &[Option<Range>; 3]) -> Markup {
    let place = |ms: f64| percent(axis.map(&ms, (0, WIDTH)));
    let bars = ranges.iter().zip(WITNESSES).enumerate();
    html! {
        svg.bars width="100%" height="30" aria-hidden="true" {
            @for (at, (range, (_, class, _))) in bars {
                @if let Some(range) = range {
                    @let (y, least, most) = (6 + at * 9, place(range.least), place(range.most));
                    line.(class) x1="0" x2=(least) y1=(y) y2=(y) {}
                    line.(class).between x1=(least) x2=(most) y1=(y) y2=(y) {}
                }
            }
            @if limit <= axis.range().end {
                line.limit x1=(place(limit)) x2=(place(limit)) y1="0" y2="30" {}
            }
        }
    }
}
