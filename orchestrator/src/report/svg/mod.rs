//! A single SVG figure, for slides and papers: total time or data over the dirty rate, or a heat map.
//!
//! Unlike the figures of the page, it has fixed colors and sizes, so that programs without CSS variables can
//! show it. plotters draws it on its own backend for SVG.

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
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::io;

mod heat_map;
mod threshold;

/// The width of every figure, in pixels.
const WIDTH: i32 = 760;
/// The height of a title.
const TITLE: i32 = 48;
/// The height of a line of a legend.
const LINE: i32 = 22;
/// The ratio between the size that plotters expects for a text and the text's size in pixels: plotters
/// divides by it.
const SIZE: f64 = 1.24;
/// The color of texts.
const TEXT: RGBColor = RGBColor(0x16, 0x20, 0x2a);
/// The color of axes.
const INK: RGBColor = RGBColor(0x4a, 0x57, 0x63);
/// The colors of groups. They also differ in brightness.
const COLORS: [RGBColor; MOST_GROUPS] = [
    RGBColor(0x0b, 0x5f, 0xad),
    RGBColor(0xb3, 0x47, 0x00),
    RGBColor(0x0a, 0x7a, 0x4b),
    RGBColor(0x8a, 0x3b, 0x8f),
    RGBColor(0x7a, 0x5c, 0x00),
    RGBColor(0x3d, 0x4c, 0x5a),
];

/// A part of the document.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// The result of drawing.
type DrawnResult = Result<(), DrawingAreaErrorKind<io::Error>>;

/// A figure of a run that can be drawn.
trait Drawing {
    /// Returns the height in pixels.
    fn height(&self) -> i32;
    /// Draws into an area of this height and of [`WIDTH`].
    fn draw(&self, area: &Area<'_>) -> DrawnResult;
}

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
    /// The figure to draw. Without one: the total time, over the dirty rate or as a heat map.
    pub(super) figure: Option<FigureName>,
}

impl Format for Svg {
    /// For a run without a figure, returns only a note: it is too late to request another format.
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let drawn = self.document(&[(run.plan, run.records)]);
        Ok(drawn
            .unwrap_or_else(|error| RenderedReport { text: Text::default(), notes: vec![error.to_string()] }))
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        self.document(&runs.iter().map(|run| (&run.plan, &run.records[..])).collect::<Vec<_>>())
    }
}

impl Svg {
    /// Returns the figures of these runs, one below the other.
    fn document(&self, runs: &[(&Plan, &[Record])]) -> io::Result<RenderedReport> {
        let mut drawings = Vec::new();
        let mut notes = Vec::new();
        for (plan, records) in runs {
            match self.drawing(plan, records, &mut notes) {
                Ok(drawing) => drawings.push(drawing),
                Err(why) => notes.push(format!("{}: {why}", plan.name)),
            }
        }
        if drawings.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, notes.join("; ")));
        }
        let mut text = String::new();
        draw(&drawings, &mut text).map_err(|error| io::Error::other(error.to_string()))?;
        // plotters does not mark the whole as an image.
        let text = text.replacen("<svg ", "<svg role=\"img\" ", 1);
        Ok(RenderedReport { text: text.into(), notes })
    }

    /// Returns the figure of a run, and adds what it leaves out to the notes. Fails with the reason if there
    /// is no such figure.
    fn drawing<'a>(
        &self,
        plan: &'a Plan,
        records: &'a [Record],
        notes: &mut Vec<String>,
    ) -> Result<Box<dyn Drawing + 'a>, String> {
        let Some(name) = self.figure else {
            let found = drawing(plan, records, Kind::OverRate(TIME_OVER_RATE), notes);
            let found = found.or_else(|_| drawing(plan, records, Kind::HeatMap(TOTAL_TIME), notes));
            return found.map_err(|why| match why {
                Lack::Measured => format!("there is no figure, as {}", why.words()),
                _ => "there is no figure, as neither two dirty rates were tried nor two axes have several \
                      values"
                    .into(),
            });
        };
        let found = drawing(plan, records, name.kind(), notes);
        found.map_err(|why| format!("there is no figure `{}`, as {}", name.name(), why.words()))
    }
}

/// What a run lacks to be drawn as a figure.
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

fn drawing<'a>(
    plan: &'a Plan,
    records: &'a [Record],
    kind: Kind,
    notes: &mut Vec<String>,
) -> Result<Box<dyn Drawing + 'a>, Lack> {
    match kind {
        Kind::HeatMap(figure) => {
            let axes = Axes::of(plan, records).ok_or(Lack::Axes)?;
            HeatMap::new(&axes, &figure).ok_or(Lack::Measured)?;
            Ok(Box::new(heat_map::Map { plan, axes, figure }))
        }
        Kind::OverRate(over) => {
            let mut groups: Vec<Group<'_>> =
                groups(plan, records).into_iter().filter(Group::is_tried).collect();
            if groups.is_empty() {
                return Err(Lack::Rates);
            }
            let all = groups.len();
            groups.truncate(MOST_GROUPS);
            if all > groups.len() {
                let shown = groups.len();
                notes.push(format!("{}: the figure shows the first {shown} of {all} groups", plan.name));
            }
            Ok(Box::new(threshold::Threshold { plan, groups, over }))
        }
    }
}

/// Draws figures one below the other.
fn draw(drawings: &[Box<dyn Drawing + '_>], text: &mut String) -> DrawnResult {
    let height: i32 = drawings.iter().map(|drawing| drawing.height()).sum();
    let mut below = SVGBackend::with_string(text, (WIDTH as u32, height as u32)).into_drawing_area();
    below.fill(&WHITE)?;
    for drawing in drawings {
        let (area, rest) = below.split_vertically(drawing.height());
        drawing.draw(&area)?;
        below = rest;
    }
    below.present()
}

/// Returns the height or width of this many things of the same size, in pixels.
fn times(size: i32, count: usize) -> i32 {
    size.saturating_mul(i32::try_from(count).unwrap_or(i32::MAX))
}

/// Draws the title of a figure.
fn title(area: &Area<'_>, words: &str) -> DrawnResult {
    let style = TextStyle::from(FontDesc::new(FontFamily::SansSerif, 18.0 * SIZE, FontStyle::Bold));
    area.draw_text(words, &style.color(&TEXT).pos(Pos::new(HPos::Left, VPos::Center)), (20, 24))
}

/// Returns the style of a text with this size in pixels.
fn text(pixels: f64) -> TextStyle<'static> {
    let font = FontDesc::new(FontFamily::SansSerif, pixels * SIZE, FontStyle::Normal);
    TextStyle::from(font).color(&TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let text = drawn(matrix, &[Some(4.0), Some(6.0), None]).unwrap().text.to_string();
        assert!(
            text.starts_with("<svg role=\"img\" ") && text.contains("xmlns=\"http://www.w3.org/2000/svg\""),
            "{text}"
        );
        assert_eq!(text.matches("<circle").count(), 3, "two marks, and one in the legend: {text}");
        assert_eq!(text.matches("<polygon").count(), 1, "a published value: {text}");
        let cross = "stroke=\"#0B5FAD\" stroke-width=\"3\" x1=";
        assert_eq!(text.matches(cross).count(), 2, "a cross: {text}");
        for part in ["#F4E3D9", "&lt;b&gt;&amp;", "dirty rate, MB/s", "\n8\n", "\n120\n"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("<b>"), "{text}");
    }

    #[test]
    fn what_the_model_does_not_cover_has_no_prediction() {
        let matrix = "name: n\nlink: { rate: 1gbit }\naxes: { stress.rate: [0, 64MB/s] }\n";
        for (setting, is_predicted) in [("", true), ("migrate: { auto_converge: true }\n", false)] {
            let text =
                drawn(&format!("{matrix}{setting}"), &[Some(4.0), Some(6.0)]).unwrap().text.to_string();
            let dashes = text.matches("stroke=\"#0B5FAD\" stroke-width=\"2\" points=").count();
            assert!(if is_predicted { dashes > 10 } else { dashes == 0 }, "{dashes} {setting}{text}");
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
        let text = figure(matrix, &[Some(4.0), Some(6.0)], Some(FigureName::Data)).unwrap().text.to_string();
        for part in ["n: Data sent, MB", "\n600\n", "<polygon"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("Total time"), "{text}");
    }

    const TWO_AXES: &str = "name: n\naxes: { guest.cpu: [a, \"<b>&\"], link.delay: [0, 5ms, 9ms] }\n";

    #[test]
    fn a_matrix_with_two_axes_has_heat_maps() {
        let seconds = [Some(4.0), Some(6.0), Some(5.0), None, Some(10.0)];
        let text = drawn(TWO_AXES, &seconds).unwrap().text.to_string();
        for part in [
            "n: Total time, s",
            "\nguest.cpu\n",
            "\n10.0\n",
            "#5898D3",
            "\nnot-converged\n",
            "\nnot tried\n",
            "&lt;b&gt;",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(text.matches("<rect").count(), 1 + 6, "{text}");
        let data = figure(TWO_AXES, &seconds, Some(FigureName::HeatData)).unwrap().text.to_string();
        assert!(data.contains("n: Data sent, MB") && data.contains("\n1000\n"), "{data}");
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
