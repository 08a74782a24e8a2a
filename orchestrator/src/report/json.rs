//! The report as JSON, with the records and the verdict, for programs.

use super::{FinishedRun, Format, RenderedReport, origin};
use crate::{
    matrix::SettingNumbers,
    results::{
        parts::{Composition, Run},
        record::Record,
        verdict::RunVerdict,
    },
};
use frontend::Text;
use serde::Serialize;
use std::{io, path::Path};

/// The format `json`: an indented object for a run that has just finished, or one line for each stored run.
pub(super) struct Json;

impl Format for Json {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        let records = run.records.iter().map(|record| StoredRecord::new(None, record));
        let report = JsonReport {
            results: Some(run.folder),
            complete: run.complete,
            records: records.collect(),
            verdict: run.verdict,
            composition: None,
        };
        Ok(rendered(&(serde_json::to_string_pretty(&report)? + "\n")))
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        let mut text = String::new();
        for run in runs {
            text += &line(run)?;
            text.push('\n');
        }
        Ok(rendered(&text))
    }
}

fn rendered(json: &str) -> RenderedReport {
    RenderedReport { text: Text::json(json), notes: Vec::new() }
}

/// A run as a JSON object.
#[derive(Serialize)]
struct JsonReport<'a> {
    /// The results folder. Absent if the run has several; each record then names its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a Path>,
    complete: bool,
    records: Vec<StoredRecord<'a>>,
    #[serde(flatten)]
    verdict: &'a RunVerdict,
    /// The folders from which a stored run was merged. Absent for a run that has just finished.
    #[serde(flatten)]
    composition: Option<&'a Composition>,
}

/// A record, with its folder if the run has several, and its settings as numbers beside their texts.
#[derive(Serialize)]
struct StoredRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a Path>,
    #[serde(flatten)]
    record: &'a Record,
    axes_as_numbers: SettingNumbers<'a>,
    settings_as_numbers: SettingNumbers<'a>,
}

impl<'a> StoredRecord<'a> {
    fn new(results: Option<&'a Path>, record: &'a Record) -> Self {
        let Record { axes, settings, .. } = record;
        Self {
            results,
            record,
            axes_as_numbers: SettingNumbers::of_axes(settings, axes),
            settings_as_numbers: SettingNumbers::of_all(settings),
        }
    }
}

fn line(run: &Run) -> serde_json::Result<String> {
    let Run { records, composition, verdict, .. } = run;
    let several = composition.parts.len() > 1;
    let stored = |(index, record)| StoredRecord::new(several.then(|| origin(run, index)), record);
    serde_json::to_string(&JsonReport {
        results: (!several).then(|| composition.parts[0].results.as_path()),
        complete: composition.is_complete(),
        records: records.iter().enumerate().map(stored).collect(),
        verdict,
        composition: Some(composition),
    })
}
