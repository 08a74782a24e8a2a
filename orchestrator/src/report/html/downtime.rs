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
use crate::{matrix::Cell, report::figure::representative, results::record::Measured};
use maud::{Markup, html};
use plotters::coord::ranged1d::Ranged as _;

/// The smallest and the largest downtime that are consistent with a witness's figures of several attempts, in
/// milliseconds.
#[derive(Clone, Copy)]
struct Range {
    least: f64,
    /// A lower bound of the largest if `is_open` is set.
    most: f64,
    /// Whether an attempt has no upper bound.
    is_open: bool,
}

impl Range {
    fn closed(least: f64, most: f64) -> Self {
        Self { least, most, is_open: false }
    }

    /// Returns the range of the attempts of both. One without an upper bound is larger than all others.
    fn and(self, other: Self) -> Self {
        let most = match (self.is_open, other.is_open) {
            (true, false) => self.most,
            (false, true) => other.most,
            _ => self.most.max(other.most),
        };
        Self { least: self.least.min(other.least), most, is_open: self.is_open || other.is_open }
    }
}

/// The accuracy of the guest's figure on one host, in milliseconds.
const GUEST_ACCURACY_MS: f64 = 1.0;

/// Returns the accuracy of the guest's figure, in milliseconds. Its telemetry comes from one node before the
/// switchover and from the other after it. Of the delays on the way, it has the shortest, and how they differ
/// is unknown but for the round trips.
fn guest_accuracy_ms(measured: &Measured) -> f64 {
    let difference =
        measured.round_trips.map_or(0.0, |trips| trips.source.least_ms - trips.destination.least_ms);
    GUEST_ACCURACY_MS + difference.abs() / 2.0
}

/// The witnesses, each with its class and the range that it gives for one attempt.
type Witness = (&'static str, &'static str, fn(&Measured) -> Option<Range>);

const WITNESSES: [Witness; 3] = [
    ("QEMU", "w0", |m| m.downtime_ms.qemu.map(|ms| Range::closed(ms, ms))),
    ("guest", "w1", |m| {
        let accuracy = guest_accuracy_ms(m);
        m.downtime_ms.guest.map(|ms| Range::closed((ms - accuracy).max(0.0), ms + accuracy))
    }),
    ("client", "w2", |m| {
        let downtime = m.downtime_ms;
        let least = downtime.client_at_least.or(downtime.client)?;
        Some(Range { least, most: downtime.client.unwrap_or(least), is_open: downtime.client.is_none() })
    }),
];

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let rows: Vec<(&Cell, [Option<Range>; 3])> = view
        .plan
        .cells
        .iter()
        .map(|cell| {
            let attempts = representative(view.attempts_of(cell).into_iter().map(|(_, record)| record));
            let range = |(_, _, range): Witness| {
                let ranges = attempts.iter().filter_map(|r| range(&r.measured));
                ranges.reduce(Range::and)
            };
            (cell, WITNESSES.map(range))
        })
        .filter(|(_, ranges)| ranges.iter().any(Option::is_some))
        .collect();
    let most = rows.iter().flat_map(|(_, ranges)| ranges.iter().flatten()).map(|range| range.most);
    let is_open = rows.iter().flat_map(|(_, ranges)| ranges.iter().flatten()).any(|range| range.is_open);
    let axis = Axis::from(from_zero(most.reduce(f64::max)?, 4));
    let header = ["cell", "limit, ms", "QEMU, ms", "guest, ms", "client, ms"].map(String::from);
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
        caption: "The downtime by QEMU, guest and client: the smallest and the largest that all attempts \
                  allow",
        header: &header,
        words: 1,
        rows: rows.into_iter().map(row).collect(),
    };
    let body = html! {
        p {
            "QEMU counts from the stop at the source until its migration completes. The guest counts the \
             time for which none of its code ran, to about a millisecond, and between hosts to half of the \
             difference of their round trips more. A client waits longest, until the \
             network delivers to the new place. Its two bounds are an interval of its probe apart."
            @if is_open {
                " After " b { ">" } " is a lower bound only: the client had no answer when its probe ended."
            }
        }
        ul.legend {
            @for (name, class, _) in WITNESSES { li { i.key.(class) {} (name) } }
            li { i.key.limit {} "downtime limit" }
        }
        (table.render())
    };
    Some(Section { id: "downtime", title: "Downtime by who measured it", body })
}

fn text(range: Range) -> String {
    let (least, most) = (format!("{:.0}", range.least), format!("{:.0}", range.most));
    let open = if range.is_open { ">" } else { "" };
    if least == most { format!("{open}{most}") } else { format!("{least}–{open}{most}") }
}

/// Returns the ranges as stacked bars, pale between the bounds, and the limit as a line. A bar without an
/// upper bound extends to the end of the axis.
fn picture(axis: &Axis, limit: f64, ranges: &[Option<Range>; 3]) -> Markup {
    let place = |ms: f64| percent(axis.map(&ms, (0, WIDTH)));
    let bars = ranges.iter().zip(WITNESSES).enumerate();
    html! {
        svg.bars width="100%" height="30" aria-hidden="true" {
            @for (at, (range, (_, class, _))) in bars {
                @if let Some(range) = range {
                    @let end = if range.is_open { axis.range().end } else { range.most };
                    @let (y, least, most) = (6 + at * 9, place(range.least), place(end));
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
