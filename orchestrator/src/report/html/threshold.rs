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
    matrix::{Cell, Subject},
    measure::median,
    outcome::Outcome,
    predict::precopy::{self, Prediction},
    results::{
        record::{Measured, Record},
        threshold,
    },
};
use maud::{Markup, html};
use units::ByteRate;

/// The largest number of combinations of the other axes that the figure shows.
const MOST_GROUPS: usize = 6;
/// The number of rates at which the prediction is computed.
const PREDICTED: u32 = 120;
/// The shape of published values, which is larger than that of measured ones.
const DIAMOND: &str = "M0-10L10 0 0 10-10 0Z";
/// The height of a plot, in pixels.
const HEIGHT: f64 = 300.0;
/// The height of the strip with the outcomes of a group, in pixels.
const STRIP: f64 = 26.0;

/// The cells that differ in nothing but their dirty rate.
struct Group<'a> {
    name: String,
    /// The cells, by increasing rate.
    levels: Vec<Level<'a>>,
}

/// A cell with a limited dirty rate.
struct Level<'a> {
    cell: &'a Cell,
    /// The rate in 10^6 bytes per second.
    rate: f64,
    /// The attempts whose migration converged or was given up.
    decided: Vec<&'a Record>,
}

impl Level<'_> {
    fn converged(&self) -> impl Iterator<Item = &Record> + Clone {
        self.decided.iter().copied().filter(|record| record.outcome == Outcome::Converged)
    }

    /// Returns whether every attempt converged; nothing if there is none.
    fn all_converged(&self) -> Option<bool> {
        let all = || self.decided.iter().all(|record| record.outcome == Outcome::Converged);
        (!self.decided.is_empty()).then(all)
    }

    /// Returns what the attempts that converged have measured of a figure, the smallest first.
    fn values(&self, figure: &Figure) -> Vec<f64> {
        let mut values: Vec<f64> = self.converged().filter_map(|r| (figure.measured)(&r.measured)).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }
}

/// A figure that is drawn over the dirty rate.
struct Figure {
    title: &'static str,
    decimals: usize,
    measured: fn(&Measured) -> Option<f64>,
    predicted: fn(&Prediction) -> f64,
    published_as: Subject,
    /// The divisor from the published figure's unit to this figure's.
    published_per: f64,
}

const FIGURES: [Figure; 2] = [
    Figure {
        title: "Total time, s",
        decimals: 1,
        measured: |m| Some(m.total_time_ms? / 1e3),
        predicted: |p| p.total_time.as_secs_f64(),
        published_as: Subject::TotalTime,
        published_per: 1e3,
    },
    Figure {
        title: "Data sent, MB",
        decimals: 0,
        measured: |m| Some(m.transferred.qemu_bytes? as f64 / 1e6),
        predicted: |p| p.transferred.as_mb(),
        published_as: Subject::Transferred,
        published_per: 1e6,
    },
];

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let groups = groups(view);
    if groups.is_empty() {
        return None;
    }
    let drawn = &groups[..groups.len().min(MOST_GROUPS)];
    let body = html! {
        div.pair data-marks="" {
            @for figure in &FIGURES { (plot(view, drawn, figure)) }
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

/// Returns the groups with at least two dirty rates.
fn groups<'a>(view: &View<'a>) -> Vec<Group<'a>> {
    let is_decided = |record: &Record| matches!(record.outcome, Outcome::Converged | Outcome::NotConverged);
    let level = |(rate, cell): (ByteRate, &'a Cell)| {
        let decided = view.attempts_of(cell).into_iter().map(|(_, record)| record).filter(|r| is_decided(r));
        Level { cell, rate: rate.as_mb_per_s(), decided: decided.collect() }
    };
    let groups = threshold::cells(view.plan).into_iter().filter(|(_, cells)| cells.len() > 1);
    groups.map(|(name, cells)| Group { name, levels: cells.into_iter().map(level).collect() }).collect()
}

impl Group<'_> {
    /// Returns the highest rate up to which every attempt converged, and the lowest at which one did not.
    fn edge(&self) -> (Option<f64>, Option<f64>) {
        let known = || self.levels.iter().filter_map(|level| Some((level.rate, level.all_converged()?)));
        let highest = known().take_while(|(_, converged)| *converged).last();
        let lowest = known().find(|(_, converged)| !*converged);
        (highest.map(|(rate, _)| rate), lowest.map(|(rate, _)| rate))
    }
}

/// Returns a prediction of a migration that converges.
fn converging(predicted: Option<Prediction>) -> Option<Prediction> {
    predicted.filter(|predicted| predicted.outcome == Outcome::Converged)
}

/// Returns the published value of a figure for a cell.
fn published(view: &View<'_>, cell: &Cell, figure: &Figure) -> Option<f64> {
    Some(view.plan.published(cell, figure.published_as)? / figure.published_per)
}

fn plot(view: &View<'_>, groups: &[Group<'_>], figure: &Figure) -> Markup {
    let levels = || groups.iter().flat_map(|group| &group.levels);
    let most_rate = levels().map(|level| level.rate).fold(0.0, f64::max);
    let shown = levels()
        .flat_map(|level| level.values(figure).into_iter().chain(published(view, level.cell, figure)));
    let most = shown.reduce(f64::max).unwrap_or_else(|| {
        let predicted = levels().filter_map(|level| converging(precopy::predict(&level.cell.settings)));
        predicted.map(|p| (figure.predicted)(&p)).fold(1.0, f64::max)
    });
    let plot = Plot {
        title: figure.title,
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
                (prediction(&plot, group, figure, most_rate, at))
            }
        },
        marks: html! {
            @for (at, group) in groups.iter().enumerate() {
                @if groups.len() > 1 {
                    svg.mark.(format!("g{at}")) x="2.5%" y=(format!("{:.0}", strip(at) - 6.0)) { (shape(at)) }
                }
                @for level in &group.levels { (marks(view, &plot, group, level, figure, at)) }
            }
        },
    };
    plot.render(&layers)
}

/// Returns the shaded edge of a group.
fn edge(plot: &Plot<'_>, group: &Group<'_>, at: usize, groups: usize) -> Markup {
    let (highest, lowest) = group.edge();
    let Some(lowest) = lowest else { return html! {} };
    let highest = highest.unwrap_or(plot.x.min);
    let class = if groups == 1 { "edge".to_owned() } else { format!("edge g{at}") };
    let text = if groups == 1 && highest > plot.x.min {
        format!("edge: {highest:.0} to {lowest:.0} MB/s")
    } else {
        String::new()
    };
    html! {
        (plot.band(highest.min(lowest), lowest, &class))
        @if !text.is_empty() {
            text.edge x=(plot.x(highest)) dx="-8" y=(plot.height - 10) { (text) }
        }
    }
}

fn prediction(plot: &Plot<'_>, group: &Group<'_>, figure: &Figure, most_rate: f64, at: usize) -> Markup {
    let settings = &group.levels[0].cell.settings;
    let points = (0..=PREDICTED).map_while(|i| {
        let x = most_rate * 1.04 * f64::from(i) / f64::from(PREDICTED);
        let predicted = converging(precopy::predict_at(settings, ByteRate::new((x * 1e6) as u64)))?;
        Some(Point { x, y: (figure.predicted)(&predicted).min(plot.y.max * 1.2) })
    });
    plot.curve(&points.collect::<Vec<_>>(), &format!("g{at}"))
}

/// Returns the marks of a cell: its outcome, its published value, and its measured value with its range.
fn marks(
    view: &View<'_>,
    plot: &Plot<'_>,
    group: &Group<'_>,
    level: &Level<'_>,
    figure: &Figure,
    at: usize,
) -> Markup {
    let Figure { title, decimals, .. } = figure;
    let values = level.values(figure);
    let x = plot.x(level.rate);
    let place = if group.name.is_empty() { String::new() } else { format!("{}, ", group.name) };
    let place = format!("{place}{} MB/s", level.rate);
    let outcomes = view::count(level.decided.iter().copied());
    let words: Vec<String> = outcomes.iter().map(|(outcome, n)| format!("{outcome} {n}")).collect();
    html! {
        @if let Some(all) = level.all_converged() {
            @let kind = if all { Outcome::Converged } else { Outcome::NotConverged };
            @let mixed = !all && level.converged().next().is_some();
            text.sign.(view::class(kind)) x=(x) y=(format!("{:.0}", strip(at))) role="img" tabindex="-1"
                aria-label=(format!("{place}: {}", words.join(", "))) {
                @if mixed { "±" } @else { (sign(kind)) }
            }
        }
        @if let (Some(middle), [least, .., most] | [least @ most]) = (median(&values), &values[..]) {
            line.range.(format!("g{at}")) x1=(x) x2=(x) y1=(plot.y(*least)) y2=(plot.y(*most)) {}
            @let range = if values.len() > 1 {
                format!(" ({least:.decimals$} to {most:.decimals$}, {} attempts)", values.len())
            } else {
                String::new()
            };
            svg.mark.(format!("g{at}")) x=(x) y=(plot.y(middle)) role="img" tabindex="-1"
                aria-label=(format!("{place}, measured: {title} {middle:.decimals$}{range}")) {
                (shape(at))
            }
        }
        @if let Some(value) = published(view, level.cell, figure) {
            svg.mark.published.(format!("g{at}")) x=(x) y=(plot.y(value)) role="img" tabindex="-1"
                aria-label=(format!("{place}, published: {title} {value:.decimals$}")) {
                path d=(DIAMOND) {}
            }
        }
    }
}

/// Returns the baseline of the outcomes of a group.
fn strip(group: usize) -> f64 {
    STRIP * (group as f64 + 0.7)
}

/// Returns the shape of a group's marks, which tells it from others without color.
fn shape(group: usize) -> Markup {
    let shapes = [
        "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0Z",
        "M-6-6H6V6H-6Z",
        "M0-7L7 6H-7Z",
        "M0 7L7-6H-7Z",
        "M-7-2H-2V-7H2V-2H7V2H2V7H-2V2H-7Z",
        "M-8 0L0-5 8 0 0 5Z",
    ];
    html! { path d=(shapes[group % shapes.len()]) {} }
}

fn legend(view: &View<'_>, groups: &[Group<'_>]) -> Markup {
    let is_published = groups
        .iter()
        .flat_map(|group| &group.levels)
        .any(|level| FIGURES.iter().any(|figure| published(view, level.cell, figure).is_some()));
    let is_predicted = groups.iter().any(|group| precopy::predict(&group.levels[0].cell.settings).is_some());
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
                        svg.mark.published.g0 x="13" y="9" { path d=(DIAMOND) {} }
                    }
                    "published"
                }
            }
            li { i.key.shade {} "between the last rate that converged and the first that did not" }
        }
    }
}

fn numbers(view: &View<'_>, groups: &[Group<'_>]) -> Markup {
    let columns = FIGURES.iter().flat_map(|figure| {
        let title = figure.title.replace(", ", " ");
        ["", "least ", "most ", "predicted ", "published "]
            .map(|kind| format!("{kind}{title}").to_lowercase())
    });
    let with_names = groups.iter().any(|group| !group.name.is_empty());
    let first = with_names.then(|| "other values".to_owned());
    let header: Vec<String> = first
        .into_iter()
        .chain(["dirty rate mb/s".to_owned(), "outcomes".to_owned()])
        .chain(columns)
        .map(|title| title.replace("mb", "MB"))
        .collect();
    let row = |group: &Group<'_>, level: &Level<'_>| {
        let predicted = converging(precopy::predict(&level.cell.settings));
        let outcomes = view::count(level.decided.iter().copied());
        let outcomes: Vec<String> = outcomes.iter().map(|(outcome, n)| format!("{outcome} {n}")).collect();
        let figures = FIGURES.iter().flat_map(|figure| {
            let values = level.values(figure);
            let numbers = [
                median(&values),
                values.first().copied(),
                values.last().copied(),
                predicted.as_ref().map(figure.predicted),
                published(view, level.cell, figure),
            ];
            numbers.map(|value| Field::number(value, figure.decimals))
        });
        let name = with_names.then(|| Field::text(&group.name));
        let named =
            name.into_iter().chain([Field::text(level.rate.to_string()), Field::text(outcomes.join(", "))]);
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
