//! The records and the judgement, for programs.

use super::{Ended, Format, Rendered, origin};
use crate::results::{
    parts::{Composition, Run},
    record::Record,
    verdict::{self, Judgement},
};
use serde::Serialize;
use std::{io, path::Path};

/// An object for a run that has just ended, drawn for people; a line for each stored run.
pub(super) struct Json;

impl Format for Json {
    fn ended(&self, run: &Ended<'_>) -> io::Result<Rendered> {
        let records = run.records.iter().map(|record| Stored { results: None, record });
        let report = Report {
            results: Some(run.folder),
            complete: run.complete,
            records: records.collect(),
            judgement: run.judgement,
            composition: None,
        };
        Ok((serde_json::to_string_pretty(&report)? + "\n").into())
    }

    fn stored(&self, runs: &[Run]) -> io::Result<Rendered> {
        let mut text = String::new();
        for run in runs {
            text += &line(run)?;
            text.push('\n');
        }
        Ok(text.into())
    }
}

/// A run as JSON.
#[derive(Serialize)]
struct Report<'a> {
    /// Absent where it is of several folders; each record then names its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a Path>,
    complete: bool,
    records: Vec<Stored<'a>>,
    #[serde(flatten)]
    judgement: &'a Judgement,
    /// What a stored run was put together from.
    #[serde(flatten)]
    composition: Option<&'a Composition>,
}

/// A record, and its folder where there are several.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a Path>,
    #[serde(flatten)]
    record: &'a Record,
}

fn line(run: &Run) -> serde_json::Result<String> {
    let Run { plan, records, composition, .. } = run;
    let several = composition.parts.len() > 1;
    let stored = |(place, record)| Stored { results: several.then(|| origin(run, place)), record };
    serde_json::to_string(&Report {
        results: (!several).then(|| composition.parts[0].results.as_path()),
        complete: composition.is_complete(),
        records: records.iter().enumerate().map(stored).collect(),
        judgement: &verdict::judge(plan, records),
        composition: Some(composition),
    })
}
