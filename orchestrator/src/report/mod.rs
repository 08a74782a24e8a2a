//! What is shown of runs when they have ended, and afterwards: one [`Format`] a file.
//!
//! `grid` makes the cells of a table, which `table` draws for a terminal and `markdown` for a pull
//! request. `composition` puts into sentences what a stored run was put together from. To add a format, add
//! its file, its variant of [`FormatName`] and its line in [`FormatName::format`].

use crate::{
    matrix::Plan,
    results::{parts::Run, record::Record, verdict::Judgement},
};
use std::{io, path::Path};

mod composition;
mod csv;
mod grid;
mod json;
mod markdown;
mod table;

/// A run that has just ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// Its results folder.
    pub folder: &'a Path,
    /// What was to be run.
    pub plan: &'a Plan,
    /// Every record there is.
    pub records: &'a [Record],
    /// Whether every attempt of the plan was made.
    pub complete: bool,
    /// How the records compare with what the matrix expects.
    pub judgement: &'a Judgement,
}

/// A report, ready to be printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The report.
    pub text: String,
    /// What else there is to say that the format has no place for, a line each.
    pub notes: Vec<String>,
}

impl From<String> for Rendered {
    fn from(text: String) -> Self {
        Self { text, notes: Vec::new() }
    }
}

/// A format of reports.
pub trait Format {
    /// Renders a run that has just ended.
    fn ended(&self, run: &Ended<'_>) -> io::Result<Rendered>;

    /// Renders stored runs, in order.
    fn stored(&self, runs: &[Run]) -> io::Result<Rendered>;
}

/// The formats, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatName {
    /// The table, as on a terminal.
    Table,
    /// A row per attempt, as CSV.
    Csv,
    /// The records and the judgement, as JSON.
    Json,
    /// The table, in Markdown.
    Markdown,
}

impl FormatName {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Table, Self::Csv, Self::Json, Self::Markdown];

    /// Returns the format's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Markdown => "markdown",
        }
    }

    /// Returns the format.
    pub const fn format(self) -> &'static dyn Format {
        match self {
            Self::Table => &table::Table,
            Self::Csv => &csv::Csv,
            Self::Json => &json::Json,
            Self::Markdown => &markdown::Markdown,
        }
    }
}

/// Returns the short form of a run's records that is kept in its folder.
pub fn summary(records: &[Record]) -> io::Result<String> {
    csv::rows(records.iter().map(|record| (None, record)))
}

/// The folder of the record at this place in a stored run.
fn origin(run: &Run, place: usize) -> &Path {
    &run.composition.parts[run.origins[place]].results
}
