//! The threshold figure: total time and data over the dirty rate. Measured values are marks with the range of
//! their attempts, the prediction is a line, published values are open marks. Between the highest rate up to
//! which every migration converged and the lowest at which one did not, the plot is shaded.

use super::{
    Detail, Section,
    chart::{
        Point,
        plot::{Layers, Plot},
        scale::Scale,
    },
    table::{Field, Table},
    view::{self, View, sign},
};
use crate::{
    measure::median,
    report::threshold::{
        self, DATA_OVER_RATE, Group, Level, MOST_GROUPS, OverRate, PUBLISHED, SHAPES, TIME_OVER_RATE,
    },
};
use maud::{Markup, html};

/// The figures that are drawn, side by side.
const FIGURES: [OverRate; 2] = [TIME_OVER_RATE, DATA_OVER_RATE];
/// The height of a plot, in pixels.
const HEIGHT: f64 = 300.0;
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
    let plot = Plot {
        title: &over.figure.title(),
        x_title: "dirty rate, MB/s",
        // Room for the shape of each group before its outcomes, and for the outcomes above the marks.
        x: Scale::exact(-most_rate * if groups.len() > 1 { 0.1 } else { 0.03 }, most_rate * 1.04, 8),
        y: Scale::covering(0.0, most * (1.03 + STRIP * groups.len() as f64 / HEIGHT), 5),
        height: HEIGHT as u32,
    };
    let layers = Layers {
        areas: html! {
            @for (at, group) in groups.iter().enumerate() { (edge(&plot, group, at, groups.len())) }
        },
        curves: html! {
            @for (at, group) in groups.iter().enumerate() {
                (prediction(&plot, &group.prediction(over, most_rate * 1.04), at))
            }
        },
        marks: html! {
            @for (at, group) in groups.iter().enumerate() {
                @if groups.len() > 1 {
                    svg.mark.(format!("g{at}")) x="2.5%" y=(format!("{:.0}", strip(at) - 6.0)) { (shape(at)) }
                }
                @for level in &group.levels { (marks(view, &plot, group, level, over, at)) }
            }
        },
    };
    plot.render(&layers)
}

/// Returns the shaded edge of a group.
fn edge(plot: &Plot<'_>, group: &Group<'_>, at: usize, groups: usize) -> Markup {
    let Some((highest, lowest)) = group.edge() else { return html! {} };
    let class = if groups == 1 { "edge".to_owned() } else { format!("edge g{at}") };
    html! {
        (plot.band(highest.unwrap_or(plot.x.min).min(lowest), lowest, &class))
        @if let (Some(highest), 1) = (highest, groups) {
            @let (class, at, dx) = beside(plot, highest, lowest);
            text.edge.(class) x=(plot.x(at)) dx=(dx) y=(plot.height - 10) {
                (format!("edge: {highest:.0} to {lowest:.0} MB/s"))
            }
        }
    }
}

/// Returns where the words about an edge have room: the class of their alignment, their place, and the
/// distance to it.
fn beside(plot: &Plot<'_>, highest: f64, lowest: f64) -> (&'static str, f64, i32) {
    const ROOM: f64 = 0.45;
    if plot.x.share(highest) >= ROOM {
        ("before", highest, -8)
    } else if 1.0 - plot.x.share(lowest) >= ROOM {
        ("after", lowest, 8)
    } else {
        ("within", f64::midpoint(highest, lowest), 0)
    }
}

fn prediction(plot: &Plot<'_>, points: &[(f64, f64)], at: usize) -> Markup {
    let points = points.iter().map(|(x, y)| Point { x: *x, y: y.min(plot.y.max * 1.2) });
    plot.curve(&points.collect::<Vec<_>>(), &format!("g{at}"))
}

/// Returns the marks of a cell: its outcome, its published value, and its measured value with its range.
fn marks(
    view: &View<'_>,
    plot: &Plot<'_>,
    group: &Group<'_>,
    level: &Level<'_>,
    over: &OverRate,
    at: usize,
) -> Markup {
    let (figure, title) = (&over.figure, over.figure.title());
    let values = level.values(figure);
    let x = plot.x(level.rate);
    let place = if group.name.is_empty() { String::new() } else { format!("{}, ", group.name) };
    let place = format!("{place}{} MB/s", level.rate);
    html! {
        @if let Some(outcome) = level.outcome() {
            text.sign.(view::class(outcome)) x=(x) y=(format!("{:.0}", strip(at))) role="img" tabindex="-1"
                aria-label=(format!("{place}: {}", level.outcomes())) {
                @if level.is_mixed() { "±" } @else { (sign(outcome)) }
            }
        }
        @if let (Some(middle), [least, .., most] | [least @ most]) = (median(&values), &values[..]) {
            line.range.(format!("g{at}")) x1=(x) x2=(x) y1=(plot.y(*least)) y2=(plot.y(*most)) {}
            @let range = if values.len() > 1 {
                format!(" ({} to {}, {} attempts)", figure.show(*least), figure.show(*most), values.len())
            } else {
                String::new()
            };
            svg.mark.(format!("g{at}")) x=(x) y=(plot.y(middle)) role="img" tabindex="-1"
                aria-label=(format!("{place}, measured: {title} {}{range}", figure.show(middle))) {
                (shape(at))
            }
        }
        @if let Some(value) = over.published(view.plan, level.cell) {
            svg.mark.published.(format!("g{at}")) x=(x) y=(plot.y(value)) role="img" tabindex="-1"
                aria-label=(format!("{place}, published: {title} {}", figure.show(value))) {
                path d={ "M0 0" (PUBLISHED) } {}
            }
        }
    }
}

/// Returns the baseline of the outcomes of a group.
fn strip(group: usize) -> f64 {
    STRIP * (group as f64 + 0.7)
}

/// Returns the shape of a group's marks.
fn shape(group: usize) -> Markup {
    html! { path d={ "M0 0" (SHAPES[group % SHAPES.len()]) } {} }
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
                        svg.mark.(format!("g{at}")) x="13" y="9" { (shape(at)) }
                    }
                    @if group.name.is_empty() { "measured" } @else { (group.name) }
                }
            }
            @if view.plan.repeat > 1 { li { i.key.spread {} "range of the attempts" } }
            @if is_predicted { li { i.key.predicted {} "predicted" } }
            @if is_published {
                li {
                    svg.sample width="26" height="18" aria-hidden="true" {
                        svg.mark.published.g0 x="13" y="9" { path d={ "M0 0" (PUBLISHED) } {} }
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
