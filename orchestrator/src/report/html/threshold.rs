//! The threshold figure: total time and data over the dirty rate. Measured values are marks with the range of
//! their attempts, the prediction is a line, published values are open marks. The plot is shaded between the
//! highest rate up to which every migration converged and the lowest rate at which one did not.

use super::{
    Detail, Section,
    chart::{
        axis::from_zero,
        plot::{Plot, pixels},
        svg::{Chart, WIDTH, percent},
    },
    table::{Field, Table},
    view::{self, View, sign},
};
use crate::{
    measure::median,
    report::threshold::{
        self, CIRCLE, DATA_OVER_RATE, Group, Level, MOST_GROUPS, OverRate, PUBLISHED, SHAPES, Shape,
        TIME_OVER_RATE,
    },
};
use maud::{Markup, html};

/// The figures that are drawn, side by side.
const FIGURES: [OverRate; 2] = [TIME_OVER_RATE, DATA_OVER_RATE];
/// The height of a plot, in pixels.
const HEIGHT: i32 = 300;
/// The height of the strip with the outcomes of a group, in pixels.
const STRIP: f64 = 26.0;

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let groups = threshold::groups(view.plan, view.records);
    if groups.is_empty() {
        return None;
    }
    let drawn = &groups[..groups.len().min(MOST_GROUPS)];
    let body = html! {
        div.pair data-marks="" {
            @for over in &FIGURES { (plot(view, drawn, over)) }
        }
        p.readout role="status" { }
        (legend(view, drawn))
        @if groups.len() > drawn.len() {
            p {
                "The first " (drawn.len()) " of " (groups.len()) " combinations of the other values are \
                 drawn. The table has all."
            }
        }
        details {
            summary { "The numbers of this figure" }
            (numbers(view, &groups))
        }
    };
    Some(Section { id: "threshold", title: "Threshold", body })
}

fn plot(view: &View<'_>, groups: &[Group<'_>], over: &OverRate) -> Markup {
    let levels = || groups.iter().flat_map(|group| &group.levels);
    let most_rate = levels().map(|level| level.rate).fold(0.0, f64::max);
    let values = |level: &Level<'_>| level.values(&over.figure);
    let shown =
        levels().flat_map(|level| values(level).into_iter().chain(over.published(view.plan, level.cell)));
    let most = shown
        .reduce(f64::max)
        .unwrap_or_else(|| levels().filter_map(|level| over.predicted(level.cell)).fold(1.0, f64::max));
    let until = most_rate * 1.04;
    let plot = Plot {
        title: &over.figure.title(),
        x_title: "dirty rate, MB/s",
        // Room for the shape of each group before its outcomes, and for the outcomes above the marks.
        x: -most_rate * if groups.len() > 1 { 0.1 } else { 0.03 }..until,
        y: from_zero(most * (1.03 + STRIP * groups.len() as f64 / f64::from(HEIGHT)), 5),
        most_ticks: (8, 6),
        height: HEIGHT,
    };
    let (least_rate, most) = (plot.x.start, plot.y.end);
    plot.render(|chart| {
        for (at, group) in groups.iter().enumerate() {
            edge(chart, group, (groups.len() > 1).then_some(at), least_rate);
        }
        for (at, group) in groups.iter().enumerate() {
            // A steep curve leaves the area of the plot.
            let points = group.prediction(over, until).into_iter().map(|(x, y)| (x, y.min(most * 1.2)));
            let points: Vec<(f64, f64)> = points.collect();
            if !points.is_empty() {
                chart.curve(&points, &format!("g{at}"), HEIGHT);
            }
        }
        for (at, group) in groups.iter().enumerate() {
            if groups.len() > 1 {
                chart.draw(&[], |_| {
                    html! {
                        svg.mark.(format!("g{at}")) x="2.5%" y=(strip(at) - 6) { (shape(SHAPES[at])) }
                    }
                });
            }
            for level in &group.levels {
                marks(chart, view, group, level, over, at);
            }
        }
    })
}

/// Shades the edge of a group, which has a number if there are several.
fn edge(chart: &Chart<'_>, group: &Group<'_>, number: Option<usize>, least_rate: f64) {
    let Some((highest, lowest)) = group.edge() else { return };
    let class = number.map_or_else(|| "edge".to_owned(), |at| format!("edge g{at}"));
    let from = highest.unwrap_or(least_rate).min(lowest);
    chart.draw(&[(from, 0.0), (lowest, 0.0)], |at| {
        let width = percent(at[1].0 - at[0].0);
        html! { rect class=(class) x=(percent(at[0].0)) y="0" width=(width) height=(HEIGHT) {} }
    });
    if let (Some(highest), None) = (highest, number) {
        chart.draw(&[(highest, 0.0), (lowest, 0.0)], |at| {
            let (class, x, dx) = beside(at[0].0, at[1].0);
            html! {
                text.edge.(class) x=(percent(x)) dx=(dx) y=(HEIGHT - 10) {
                    (format!("edge: {highest:.0} to {lowest:.0} MB/s"))
                }
            }
        });
    }
}

/// Returns where there is room for the words about an edge: the class of their alignment, their place, and
/// the distance to it.
fn beside(highest: i32, lowest: i32) -> (&'static str, i32, i32) {
    const ROOM: i32 = WIDTH * 45 / 100;
    if highest >= ROOM {
        ("before", highest, -8)
    } else if WIDTH - lowest >= ROOM {
        ("after", lowest, 8)
    } else {
        ("within", i32::midpoint(highest, lowest), 0)
    }
}

/// Draws the marks of a cell: its outcome, its published value, and its measured value with its range.
fn marks(
    chart: &Chart<'_>,
    view: &View<'_>,
    group: &Group<'_>,
    level: &Level<'_>,
    over: &OverRate,
    at: usize,
) {
    let (figure, title, x) = (&over.figure, over.figure.title(), level.rate);
    let values = level.values(figure);
    let place = if group.name.is_empty() { String::new() } else { format!("{}, ", group.name) };
    let place = format!("{place}{x} MB/s");
    let mark = |value: f64, class: &str, name: &str, shape: &Markup| {
        chart.draw(&[(x, value)], |at| {
            html! {
                svg.mark.(class) x=(percent(at[0].0)) y=(pixels(at[0].1)) role="img" tabindex="-1"
                    aria-label=(name) { (shape) }
            }
        });
    };
    if let Some(outcome) = level.outcome() {
        chart.draw(&[(x, 0.0)], |places| html! {
            text.sign.(view::class(outcome)) x=(percent(places[0].0)) y=(strip(at)) role="img" tabindex="-1"
                aria-label=(format!("{place}: {}", level.outcomes())) {
                @if level.is_mixed() { "±" } @else { (sign(outcome)) }
            }
        });
    }
    if let (Some(middle), [least, .., most] | [least @ most]) = (median(&values), &values[..]) {
        chart.draw(&[(x, *least), (x, *most)], |ends| {
            html! {
                line.range.(format!("g{at}")) x1=(percent(ends[0].0)) x2=(percent(ends[1].0))
                    y1=(pixels(ends[0].1)) y2=(pixels(ends[1].1)) {}
            }
        });
        let range = if values.len() > 1 {
            format!(" ({} to {}, {} attempts)", figure.show(*least), figure.show(*most), values.len())
        } else {
            String::new()
        };
        let name = format!("{place}, measured: {title} {}{range}", figure.show(middle));
        mark(middle, &format!("g{at}"), &name, &shape(SHAPES[at]));
    }
    if let Some(value) = over.published(view.plan, level.cell) {
        let name = format!("{place}, published: {title} {}", figure.show(value));
        mark(value, &format!("published g{at}"), &name, &shape(PUBLISHED));
    }
}

/// Returns the baseline of the outcomes of a group.
fn strip(group: usize) -> i32 {
    (STRIP * (group as f64 + 0.7)).round() as i32
}

/// Returns the shape of a mark.
fn shape(corners: Shape) -> Markup {
    let corner = |(x, y): &(i32, i32)| format!("{x},{y}");
    html! {
        @if corners.is_empty() {
            circle r=(CIRCLE) {}
        } @else {
            polygon points=(corners.iter().map(corner).collect::<Vec<_>>().join(" ")) {}
        }
    }
}

fn legend(view: &View<'_>, groups: &[Group<'_>]) -> Markup {
    let is_published = groups
        .iter()
        .flat_map(|group| &group.levels)
        .any(|level| FIGURES.iter().any(|over| over.published(view.plan, level.cell).is_some()));
    let is_predicted = groups.iter().any(Group::is_predicted);
    html! {
        ul.legend {
            @for (at, group) in groups.iter().enumerate() {
                li {
                    svg.sample width="26" height="18" aria-hidden="true" {
                        svg.mark.(format!("g{at}")) x="13" y="9" { (shape(SHAPES[at])) }
                    }
                    @if group.name.is_empty() { "measured" } @else { (group.name) }
                }
            }
            @if view.plan.repeat > 1 { li { i.key.spread {} "range of the attempts" } }
            @if is_predicted { li { i.key.predicted {} "predicted" } }
            @if is_published {
                li {
                    svg.sample width="26" height="18" aria-hidden="true" {
                        svg.mark.published.g0 x="13" y="9" { (shape(PUBLISHED)) }
                    }
                    "published"
                }
            }
            li { i.key.shade {} "between the last rate that converged and the first that did not" }
        }
    }
}

fn numbers(view: &View<'_>, groups: &[Group<'_>]) -> Markup {
    let columns = FIGURES.iter().flat_map(|OverRate { figure, .. }| {
        let name = figure.name.to_lowercase();
        ["", "least ", "most ", "predicted ", "published "]
            .map(|kind| format!("{kind}{name} {}", figure.unit))
    });
    let with_names = groups.iter().any(|group| !group.name.is_empty());
    let first = with_names.then(|| "other values".to_owned());
    let header: Vec<String> = first
        .into_iter()
        .chain(["dirty rate MB/s".to_owned(), "outcomes".to_owned()])
        .chain(columns)
        .collect();
    let row = |group: &Group<'_>, level: &Level<'_>| {
        let figures = FIGURES.iter().flat_map(|over| {
            let values = level.values(&over.figure);
            let numbers = [
                median(&values),
                values.first().copied(),
                values.last().copied(),
                over.predicted(level.cell),
                over.published(view.plan, level.cell),
            ];
            numbers.map(|value| Field::number(value, over.figure.decimals))
        });
        let name = with_names.then(|| Field::text(&group.name));
        let named = name
            .into_iter()
            .chain([Field::text(level.rate.to_string()), Field::text(level.outcomes().to_string())]);
        named.chain(figures).collect::<Vec<_>>()
    };
    let rows = groups.iter().flat_map(|group| group.levels.iter().map(move |level| (group, level)));
    Table {
        id: &view.id("threshold-table"),
        caption: "Total time and data over the dirty rate",
        header: &header,
        words: if with_names { 3 } else { 2 },
        rows: rows.map(|(group, level)| row(group, level)).collect(),
    }
    .render()
}
