//! Reports on runs that have just finished and on stored runs, with one file per [`Format`].
//!
//! `grid` computes the content of a table, which `table` draws for a terminal, `markdown` for a pull request
//! and [`html`] for a browser. `threshold` and `heat_map` compute the content of charts, which `svg` and
//! [`html`] draw; `plot` draws the threshold for a terminal. `composition` describes the folders from which a
//! stored run was merged. To add a format, add its file, its variant of [`FormatName`], and its arms in the
//! functions of [`FormatName`].

use crate::{
    layout::Screen,
    matrix::Plan,
    results::{parts::Run, record::Record, verdict::RunVerdict},
};
use frontend::Text;
use std::{io, path::Path};

mod composition;
mod csv;
mod figure;
mod grid;
mod heat_map;
pub mod html;
mod json;
mod junit;
mod markdown;
mod plot;
mod remarks;
mod svg;
mod table;
mod threshold;

pub use svg::FigureName;

/// A run that has just finished or was interrupted.
#[derive(Debug, Clone, Copy)]
pub struct FinishedRun<'a> {
    /// The run's results folder.
    pub folder: &'a Path,
    /// The plan that the run followed.
    pub plan: &'a Plan,
    /// Every record of the run, including those from before it was continued.
    pub records: &'a [Record],
    /// Whether every attempt of the plan has a result.
    pub complete: bool,
    /// The verdict on the records.
    pub verdict: &'a RunVerdict,
}

/// A report, ready to be printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RenderedReport {
    /// The report, for standard output.
    pub text: Text,
    /// Notes that the format has no place for, one line each, for standard error.
    pub notes: Vec<String>,
}

impl From<String> for RenderedReport {
    fn from(text: String) -> Self {
        Self { text: text.into(), notes: Vec::new() }
    }
}

/// A format in which reports are rendered.
pub trait Format {
    /// Renders a run that has just finished or was interrupted.
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport>;

    /// Renders runs that were read from results folders, in order. Fails with
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if they have nothing that the format can show.
    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport>;
}

/// The name of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatName {
    /// A table for terminals.
    Table,
    /// CSV with one row per attempt.
    Csv,
    /// JSON with the records and the verdict.
    Json,
    /// A table in Markdown.
    Markdown,
    /// A page for a browser.
    Html,
    /// JUnit XML with expectations and attempts as test cases.
    Junit,
    /// A single SVG figure.
    Svg,
}

impl FormatName {
    /// Every format, in the order in which help lists them.
    pub const ALL: [Self; 7] =
        [Self::Table, Self::Csv, Self::Json, Self::Markdown, Self::Html, Self::Junit, Self::Svg];

    /// Returns the name, as the option `--format` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Markdown => "markdown",
            Self::Html => "html",
            Self::Junit => "junit",
            Self::Svg => "svg",
        }
    }

    /// Returns the implementation of the format. Tables are folded to the width of the screen for which the
    /// report is made; without a width, they are drawn in full.
    pub fn format(self, screen: Screen) -> Box<dyn Format> {
        match self {
            Self::Table => Box::new(table::Table { screen }),
            Self::Csv => Box::new(csv::Csv),
            Self::Json => Box::new(json::Json),
            Self::Markdown => Box::new(markdown::Markdown),
            Self::Html => Box::new(html::Html),
            Self::Junit => Box::new(junit::Junit),
            Self::Svg => Box::new(svg::Svg { figure: None }),
        }
    }
}

/// Returns the format `svg` for this figure.
pub fn svg(figure: FigureName) -> Box<dyn Format> {
    Box::new(svg::Svg { figure: Some(figure) })
}

/// Returns the summary of a run's records, as written to `summary.csv` in the results folder.
pub fn summary(records: &[Record]) -> io::Result<String> {
    csv::rows(records.iter().map(|record| (None, record))).map(|text| text.to_string())
}

/// Returns the results folder of the record with this index in a stored run.
fn origin(run: &Run, index: usize) -> &Path {
    &run.composition.parts[run.origins[index]].results
}
