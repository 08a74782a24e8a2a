//! A single SVG figure, for slides and papers: total time or data over the dirty rate, or a heat map.
//!
//! Unlike the figures of the page, it has fixed colors and sizes, so that programs without CSS variables can
//! show it.

use super::{
    FinishedRun, Format, RenderedReport,
    figure::{DATA, DOWNTIME, Figure, TOTAL_TIME},
    heat_map::{Axes, HeatMap},
    threshold::{DATA_OVER_RATE, Group, MOST_GROUPS, OverRate, TIME_OVER_RATE, groups},
};
use crate::{
    matrix::Plan,
    results::{parts::Run, record::Record},
};
use frontend::Text;
use maud::{Markup, html};
use std::io;

mod heat_map;
mod threshold;

/// The width of every figure, in pixels.
const WIDTH: f64 = 760.0;
/// The height of a line of a legend.
const LINE: f64 = 22.0;
/// The color of axes.
const INK: &str = "#4a5763";
/// The colors of groups. They differ in brightness, too.
const COLORS: [&str; MOST_GROUPS] = ["#0b5fad", "#b34700", "#0a7a4b", "#8a3b8f", "#7a5c00", "#3d4c5a"];

/// The name of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureName {
    /// The total time over the dirty rate.
    TotalTime,
    /// The data over the dirty rate.
    Data,
    /// A heat map of the total time.
    HeatTotalTime,
    /// A heat map of the downtime as QEMU reports it.
    HeatDowntime,
    /// A heat map of the data.
    HeatData,
}

/// How a figure is drawn.
enum Kind {
    OverRate(OverRate),
    HeatMap(Figure),
}

impl FigureName {
    /// Every figure, in the order in which help lists them.
    pub const ALL: [Self; 5] =
        [Self::TotalTime, Self::Data, Self::HeatTotalTime, Self::HeatDowntime, Self::HeatData];

    /// Returns the name, as the option `--figure` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TotalTime => "total-time",
            Self::Data => "data",
            Self::HeatTotalTime => "heat-total-time",
            Self::HeatDowntime => "heat-downtime",
            Self::HeatData => "heat-data",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::TotalTime => Kind::OverRate(TIME_OVER_RATE),
            Self::Data => Kind::OverRate(DATA_OVER_RATE),
            Self::HeatTotalTime => Kind::HeatMap(TOTAL_TIME),
            Self::HeatDowntime => Kind::HeatMap(DOWNTIME),
            Self::HeatData => Kind::HeatMap(DATA),
        }
    }
}

/// The format `svg`.
pub(super) struct Svg {
    /// The figure to draw. Without one, that of the total time is drawn which the run has.
    pub(super) figure: Option<FigureName>,
}

impl Format for Svg {
    /// Renders nothing but a note for a run without a figure: it is too late to ask for another format.
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let drawn = self.document(&[(run.plan, run.records)]);
        Ok(drawn
            .unwrap_or_else(|error| RenderedReport { text: String::new(), notes: vec![error.to_string()] }))
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        self.document(&runs.iter().map(|run| (&run.plan, &run.records[..])).collect::<Vec<_>>())
    }
}

impl Svg {
    /// Returns the figures of these runs, one below the other.
    fn document(&self, runs: &[(&Plan, &[Record])]) -> io::Result<RenderedReport> {
        let mut height = 0.0;
        let mut figures = Vec::new();
        let mut notes = Vec::new();
        for (plan, records) in runs {
            match self.draw(plan, records, &mut notes) {
                Ok((figure, own_height)) => {
                    figures.push(html! { g transform=(format!("translate(0 {height})")) { (figure) } });
                    height += own_height;
                }
                Err(why) => notes.push(format!("{}: {why}", plan.name)),
            }
        }
        if figures.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, notes.join("; ")));
        }
        let drawing = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH)
                height=(height) font-family="sans-serif" font-size="15" fill="#16202a" role="img" {
                rect width="100%" height="100%" fill="#fff" {}
                @for figure in &figures { (figure) }
            }
        };
        let text = Text::from(drawing.into_string() + "\n").to_string();
        Ok(RenderedReport { text, notes })
    }

    /// Draws the figure of a run, with its height, and adds what it leaves out to the notes. Fails with the
    /// reason for which there is none.
    fn draw(
        &self,
        plan: &Plan,
        records: &[Record],
        notes: &mut Vec<String>,
    ) -> Result<(Markup, f64), String> {
        let Some(name) = self.figure else {
            let drawn = draw(plan, records, &Kind::OverRate(TIME_OVER_RATE), notes);
            let drawn = drawn.or_else(|_| draw(plan, records, &Kind::HeatMap(TOTAL_TIME), notes));
            return drawn.map_err(|why| match why {
                Lack::Measured => format!("there is no figure, as {}", why.words()),
                _ => "there is no figure, as neither two dirty rates were tried nor two axes have several \
                      values"
                    .into(),
            });
        };
        let drawn = draw(plan, records, &name.kind(), notes);
        drawn.map_err(|why| format!("there is no figure `{}`, as {}", name.name(), why.words()))
    }
}

/// What a run lacks for a figure.
#[derive(Clone, Copy)]
enum Lack {
    Rates,
    Axes,
    Measured,
}

impl Lack {
    const fn words(self) -> &'static str {
        match self {
            Self::Rates => "no two dirty rates were tried",
            Self::Axes => "there are no two axes with several values",
            Self::Measured => "no attempt has measured it",
        }
    }
}

fn draw(
    plan: &Plan,
    records: &[Record],
    kind: &Kind,
    notes: &mut Vec<String>,
) -> Result<(Markup, f64), Lack> {
    match kind {
        Kind::HeatMap(figure) => {
            let axes = Axes::of(plan, records).ok_or(Lack::Axes)?;
            let map = HeatMap::new(&axes, figure).ok_or(Lack::Measured)?;
            Ok(heat_map::draw(plan, &axes, &map))
        }
        Kind::OverRate(over) => {
            let tried: Vec<Group<'_>> = groups(plan, records).into_iter().filter(Group::is_tried).collect();
            if tried.is_empty() {
                return Err(Lack::Rates);
            }
            let shown = &tried[..tried.len().min(MOST_GROUPS)];
            if tried.len() > shown.len() {
                let (shown, all) = (shown.len(), tried.len());
                notes.push(format!("{}: the figure shows the first {shown} of {all} groups", plan.name));
            }
            Ok(threshold::draw(plan, shown, over))
        }
    }
}

/// Returns a position rounded to tenths of a pixel.
fn round(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::{super::threshold::PUBLISHED, *};
    use crate::{matrix::File, outcome::Outcome, results::builder::RecordBuilder};

    fn drawn(matrix: &str, seconds: &[Option<f64>]) -> io::Result<RenderedReport> {
        figure(matrix, seconds, None)
    }

    /// Draws a figure of a run whose attempts took these times, or were given up, and moved 100 MB per
    /// second.
    fn figure(
        matrix: &str,
        seconds: &[Option<f64>],
        figure: Option<FigureName>,
    ) -> io::Result<RenderedReport> {
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let record = |(cell, seconds): (_, &Option<f64>)| {
            let outcome = if seconds.is_some() { Outcome::Converged } else { Outcome::NotConverged };
            let mut record = RecordBuilder::start().freeze(cell, 1, outcome, None);
            record.measured.total_time_ms = seconds.map(|seconds| seconds * 1e3);
            record.measured.transferred.qemu_bytes = seconds.map(|seconds| (seconds * 1e8) as u64);
            record
        };
        let records: Vec<Record> = plan.cells.iter().zip(seconds).map(record).collect();
        Svg { figure }.document(&[(&plan, &records)])
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
        for part in ["m-6 -6l12 12", PUBLISHED, "<polyline", "#f4e3d9", "&lt;b&gt;&amp;", "dirty rate, MB/s"]
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
        let text =
            "n: there is no figure, as neither two dirty rates were tried nor two axes have several values";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn the_data_is_a_figure_of_its_own() {
        let matrix = "name: n\naxes: { stress.rate: [0, 64MB/s] }\nreference:\n  source: s\n  \
                      rows: [{ where: stress.rate == 0, transferred: 300MB }]\n";
        let text = figure(matrix, &[Some(4.0), Some(6.0)], Some(FigureName::Data)).unwrap().text;
        for part in ["n: Data sent, MB", ">600<", PUBLISHED] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("Total time"), "{text}");
    }

    const TWO_AXES: &str = "name: n\naxes: { guest.cpu: [a, \"<b>&\"], link.delay: [0, 5ms, 9ms] }\n";

    #[test]
    fn a_matrix_with_two_axes_has_heat_maps() {
        let seconds = [Some(4.0), Some(6.0), Some(5.0), None, Some(10.0)];
        let text = drawn(TWO_AXES, &seconds).unwrap().text;
        for part in [
            "n: Total time, s",
            ">guest.cpu<",
            ">10.0<",
            "#5898d3",
            ">not-converged<",
            ">not tried<",
            "&lt;b&gt;",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(text.matches("<rect").count(), 1 + 6, "{text}");
        let data = figure(TWO_AXES, &seconds, Some(FigureName::HeatData)).unwrap().text;
        assert!(data.contains("n: Data sent, MB") && data.contains(">1000<"), "{data}");
        let error = figure(TWO_AXES, &seconds, Some(FigureName::HeatDowntime)).unwrap_err();
        let text = "n: there is no figure `heat-downtime`, as no attempt has measured it";
        assert_eq!(error.to_string(), text);
        let error = figure(TWO_AXES, &seconds, Some(FigureName::Data)).unwrap_err();
        assert_eq!(error.to_string(), "n: there is no figure `data`, as no two dirty rates were tried");
    }

    #[test]
    fn one_axis_has_no_heat_map() {
        let matrix = "name: n\naxes: { stress.rate: [0, 64MB/s] }\n";
        let error = figure(matrix, &[Some(4.0), Some(6.0)], Some(FigureName::HeatTotalTime)).unwrap_err();
        let text = "n: there is no figure `heat-total-time`, as there are no two axes with several values";
        assert_eq!(error.to_string(), text);
    }
}
