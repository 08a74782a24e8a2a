//! The threshold as a single SVG figure, for slides and papers: total time over the dirty rate.
//!
//! Unlike the figures of the page, it has fixed colors and sizes, so that programs without CSS variables can
//! show it. Measured values are marks with the range of their attempts, the prediction is a dashed line,
//! published values are open diamonds. Attempts that were given up are crosses at the top.

use super::{FinishedRun, Format, RenderedReport, html::chart::scale::Scale};
use crate::{
    matrix::{Cell, Plan, Subject},
    measure::median,
    outcome::Outcome,
    predict::precopy,
    results::{
        parts::Run,
        record::Record,
        threshold::{self, Group, Level},
    },
};
use frontend::Text;
use maud::{Markup, PreEscaped, html};
use std::io;
use units::ByteRate;

/// The size of a figure without its legend, in pixels.
const SIZE: (f64, f64) = (760.0, 420.0);
/// The plot's left, top, right and bottom edge.
const PLOT: (f64, f64, f64, f64) = (70.0, 60.0, 740.0, 350.0);
/// The height of a line of the legend.
const LINE: f64 = 22.0;
/// The colors of groups. They differ in brightness, too.
const COLORS: [&str; 6] = ["#0b5fad", "#b34700", "#0a7a4b", "#8a3b8f", "#7a5c00", "#3d4c5a"];
/// The shapes of groups' marks, around a point.
const SHAPES: [&str; 6] = [
    "m-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0z",
    "m-6 -6h12v12h-12z",
    "m0 -7l7 13h-14z",
    "m0 7l7 -13h-14z",
    "m-8 0l8 -5l8 5l-8 5z",
    "m-2 -7h4v14h-4z",
];
/// The number of rates at which the prediction is computed.
const PREDICTED: u32 = 120;

/// The format `svg`.
pub(super) struct Svg;

impl Format for Svg {
    /// Renders nothing but a note for a run without a threshold: it is too late to ask for another format.
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let drawn = document(&[(run.plan, run.records)]);
        Ok(drawn
            .unwrap_or_else(|error| RenderedReport { text: String::new(), notes: vec![error.to_string()] }))
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        document(&runs.iter().map(|run| (&run.plan, &run.records[..])).collect::<Vec<_>>())
    }
}

/// Returns the figures of these runs, one below the other.
fn document(runs: &[(&Plan, &[Record])]) -> io::Result<RenderedReport> {
    let mut height = 0.0;
    let mut figures = Vec::new();
    let mut notes = Vec::new();
    for (plan, records) in runs {
        let groups = threshold::groups(plan, records);
        if groups.is_empty() {
            notes.push(format!("{}: there is no figure, as no two dirty rates were tried", plan.name));
            continue;
        }
        if groups.len() > COLORS.len() {
            let (shown, all) = (COLORS.len(), groups.len());
            notes.push(format!("{}: the figure shows the first {shown} of {all} groups", plan.name));
        }
        let shown = &groups[..groups.len().min(COLORS.len())];
        let figure = Figure::new(plan, shown);
        figures.push(html! { g transform=(format!("translate(0 {height})")) { (figure.draw()) } });
        height += SIZE.1 + LINE * shown.len() as f64;
    }
    if figures.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, notes.join("; ")));
    }
    let drawing = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {} {height}", SIZE.0)) width=(SIZE.0)
            height=(height) font-family="sans-serif" font-size="15" fill="#16202a" role="img" {
            rect width="100%" height="100%" fill="#fff" {}
            @for figure in &figures { (figure) }
        }
    };
    let text = Text::from(drawing.into_string() + "\n").to_string();
    Ok(RenderedReport { text, notes })
}

/// The figure of a run.
struct Figure<'a> {
    plan: &'a Plan,
    groups: &'a [Group],
    x: Scale,
    y: Scale,
}

impl<'a> Figure<'a> {
    fn new(plan: &'a Plan, groups: &'a [Group]) -> Self {
        let levels = || groups.iter().flat_map(|group| &group.levels);
        let fastest = levels().map(|level| level.rate.as_mb_per_s()).fold(0.0, f64::max);
        let measured = levels().flat_map(|level| seconds(level).into_iter().chain(published(plan, level)));
        let longest = measured.fold(0.0, f64::max);
        Self {
            plan,
            groups,
            x: Scale::exact(-fastest * 0.03, fastest * 1.04, 7),
            y: Scale::covering(0.0, if longest > 0.0 { longest * 1.15 } else { 1.0 }, 5),
        }
    }

    fn x(&self, mb_per_s: f64) -> f64 {
        round(PLOT.0 + self.x.share(mb_per_s) * (PLOT.2 - PLOT.0))
    }

    fn y(&self, seconds: f64) -> f64 {
        round(PLOT.3 - self.y.share(seconds) * (PLOT.3 - PLOT.1))
    }

    fn draw(&self) -> Markup {
        let (left, top, right, bottom) = PLOT;
        let middle = f64::midpoint(left, right);
        html! {
            text x=(left) y="30" font-size="18" font-weight="bold" { (self.plan.name) ": total time, s" }
            (self.edge())
            @for (value, label) in self.y.ticks() {
                path d=(format!("M{left} {}H{right}", self.y(value))) stroke="#d3dae1" {}
                text x=(left - 8.0) y=(self.y(value) + 5.0) text-anchor="end" { (label) }
            }
            @for (value, label) in self.x.ticks() {
                text x=(self.x(value)) y=(bottom + 22.0) text-anchor="middle" { (label) }
            }
            path d=(format!("M{left} {top}V{bottom}H{right}")) fill="none" stroke="#4a5763"
                stroke-width="2" {}
            text x=(middle) y=(bottom + 48.0) text-anchor="middle" { "dirty rate, MB/s" }
            @for (at, group) in self.groups.iter().enumerate() { (self.group(group, at)) }
        }
    }

    /// Shades what is between convergence and its end, if there is only one group.
    fn edge(&self) -> Markup {
        let [group] = self.groups else { return html! {} };
        let Some(above) = group.lowest_given_up() else { return html! {} };
        let from = group.highest_converged().map_or(PLOT.0, |level| self.x(level.rate.as_mb_per_s()));
        let width = (self.x(above.rate.as_mb_per_s()) - from).max(0.0);
        html! { rect x=(from) y=(PLOT.1) width=(round(width)) height=(PLOT.3 - PLOT.1) fill="#f4e3d9" {} }
    }

    fn group(&self, group: &Group, at: usize) -> Markup {
        let (color, shape) = (COLORS[at], SHAPES[at]);
        let line = SIZE.1 + LINE * at as f64;
        let name = if group.name.is_empty() { "measured" } else { &group.name };
        html! {
            (self.prediction(group, color))
            @for level in &group.levels {
                @let x = self.x(level.rate.as_mb_per_s());
                @if let Some(seconds) = published(self.plan, level) {
                    path d=(format!("M{x} {}m0 -8l8 8l-8 8l-8 -8z", self.y(seconds))) fill="#fff"
                        stroke=(color) stroke-width="2" {}
                }
                @let times = seconds(level);
                @if let (Some(middle), [least, .., most] | [least @ most]) = (median(&times), &times[..]) {
                    path d=(format!("M{x} {}V{}", self.y(*least), self.y(*most))) stroke=(color)
                        stroke-width="3" {}
                    path d=(format!("M{x} {}{shape}", self.y(middle))) fill=(color) {}
                }
                @if !level.all_converged() {
                    @let y = PLOT.1 + 12.0 + 16.0 * at as f64;
                    path d=(format!("M{x} {y}m-6 -6l12 12m0 -12l-12 12")) stroke=(color) stroke-width="3" {}
                }
            }
            path d=(format!("M{} {}{shape}", PLOT.0 + 10.0, line - 5.0)) fill=(color) {}
            text x=(PLOT.0 + 28.0) y=(line) {
                (name)
                @if self.is_predicted(group) { (PreEscaped(" · dashed: predicted")) }
                (PreEscaped(" · cross: given up"))
                @if group.levels.iter().any(|level| published(self.plan, level).is_some()) {
                    (PreEscaped(" · open: published"))
                }
            }
        }
    }

    /// Returns the first cell of a group. The others differ from it in their dirty rate only.
    fn first_cell(&self, group: &Group) -> Option<&Cell> {
        self.plan.cell(&group.levels.first()?.cell)
    }

    /// Returns whether the model covers the migrations of a group.
    fn is_predicted(&self, group: &Group) -> bool {
        self.first_cell(group).is_some_and(|cell| precopy::predict(&cell.settings).is_some())
    }

    fn prediction(&self, group: &Group, color: &str) -> Markup {
        let Some(cell) = self.first_cell(group) else { return html! {} };
        let rates = (0..=PREDICTED).map(|i| self.x.max * f64::from(i) / f64::from(PREDICTED));
        let predicted = rates.map_while(|rate| {
            let predicted = precopy::predict_at(&cell.settings, ByteRate::new((rate * 1e6) as u64))?;
            let seconds = predicted.total_time.as_secs_f64();
            let is_drawn = predicted.outcome == Outcome::Converged && seconds <= self.y.max;
            is_drawn.then(|| format!("{},{}", self.x(rate), self.y(seconds)))
        });
        let points: Vec<String> = predicted.collect();
        html! {
            @if !points.is_empty() {
                polyline points=(points.join(" ")) fill="none" stroke=(color) stroke-width="2"
                    stroke-dasharray="8 6" {}
            }
        }
    }
}

/// Returns the published total time in seconds.
fn published(plan: &Plan, level: &Level) -> Option<f64> {
    Some(plan.published(plan.cell(&level.cell)?, Subject::TotalTime)? / 1e3)
}

/// Returns the total times of the attempts of a level, in seconds, the shortest first.
fn seconds(level: &Level) -> Vec<f64> {
    let mut times: Vec<f64> = level.converged.iter().flatten().map(|ms| ms / 1e3).collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

/// Returns a position rounded to tenths of a pixel.
fn round(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::File, results::builder::RecordBuilder};

    fn drawn(matrix: &str, seconds: &[Option<f64>]) -> io::Result<RenderedReport> {
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let record = |(cell, seconds): (_, &Option<f64>)| {
            let outcome = if seconds.is_some() { Outcome::Converged } else { Outcome::NotConverged };
            let mut record = RecordBuilder::start().freeze(cell, 1, outcome, None);
            record.measured.total_time_ms = seconds.map(|seconds| seconds * 1e3);
            record
        };
        let records: Vec<Record> = plan.cells.iter().zip(seconds).map(record).collect();
        document(&[(&plan, &records)])
    }

    #[test]
    fn a_figure_has_a_mark_for_each_rate() {
        let matrix = "name: n\nlink: { rate: 1gbit }\naxes:\n  stress.rate: [0, 64MB/s, 128MB/s]\n  \
                      guest.cpu: [\"<b>&\"]\nreference:\n  source: s\n  \
                      rows: [{ where: stress.rate == 0, total_time: 3s }]\n";
        let text = drawn(matrix, &[Some(4.0), Some(6.0), None]).unwrap().text;
        assert!(text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""), "{text}");
        assert_eq!(
            text.matches("a6 6 0 1 0").count(),
            2 * 2 + 2,
            "two circles, and one in the legend: {text}"
        );
        for part in
            ["m-6 -6l12 12", "m0 -8l8 8", "<polyline", "#f4e3d9", "&lt;b&gt;&amp;", "dirty rate, MB/s"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("<b>"), "{text}");
    }

    #[test]
    fn what_the_model_does_not_cover_has_no_prediction() {
        let matrix = "name: n\nlink: { rate: 1gbit }\naxes: { stress.rate: [0, 64MB/s] }\n";
        for (setting, is_predicted) in [("", true), ("migrate: { auto_converge: true }\n", false)] {
            let text = drawn(&format!("{matrix}{setting}"), &[Some(4.0), Some(6.0)]).unwrap().text;
            assert_eq!(text.contains("<polyline"), is_predicted, "{setting}{text}");
            assert_eq!(text.contains("dashed: predicted"), is_predicted, "{setting}{text}");
        }
    }

    #[test]
    fn a_run_without_a_threshold_has_no_figure() {
        let error = drawn("name: n\naxes: { stress.rate: [1MB/s] }\n", &[Some(1.0)]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), "n: there is no figure, as no two dirty rates were tried");
    }
}
