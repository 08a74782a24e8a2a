//! `testbed report`.

use super::{Failure, print};
use crate::{
    report::{composition, csv, table},
    results::{
        parts::{self, Composition, Folder, Run},
        record::Record,
        verdict::{self, Judgement},
    },
};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Results folders. Those that are parts of one run (see `run --shard`) are shown as that run, all others one
    /// after the other
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Print one row per attempt as CSV; with several folders, the first column names the folder
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print the records and the judgement as JSON, one line for each run
    #[arg(long)]
    json: bool,
}

/// A stored run as JSON: what `testbed run --json` prints, and what it was put together from.
#[derive(Serialize)]
struct Report<'a> {
    /// Absent where it is of several folders; each record then names its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a Path>,
    complete: bool,
    records: Vec<Stored<'a>>,
    #[serde(flatten)]
    judgement: &'a Judgement,
    #[serde(flatten)]
    composition: &'a Composition,
}

/// A record, and its folder where there are several.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a Path>,
    #[serde(flatten)]
    record: &'a Record,
}

pub(super) fn report(args: &ReportArgs) -> Result<u8, Failure> {
    let folders: Result<Vec<Folder>, _> = args.runs.iter().map(|run| Folder::read(run)).collect();
    let runs = parts::gather(folders.map_err(Failure::input)?);
    if args.csv {
        csv_rows(&runs, args.runs.len() > 1)?;
    } else if args.json {
        for run in &runs {
            let judgement = verdict::judge(&run.plan, &run.records);
            let line = serde_json::to_string(&json(run, &judgement)).map_err(Failure::lab)?;
            print(&(line + "\n"));
        }
    } else {
        for (i, run) in runs.iter().enumerate() {
            if runs.len() > 1 {
                print(&format!("{}{}\n\n", if i > 0 { "\n" } else { "" }, run.title()));
            }
            print(&text(run));
        }
    }
    Ok(0)
}

/// One header and all rows; what else is to say goes to standard error.
fn csv_rows(runs: &[Run], several: bool) -> Result<(), Failure> {
    let rows = runs.iter().flat_map(|run| {
        let stored = run.records.iter().zip(&run.origins);
        stored.map(|(record, origin)| (several.then(|| folder(run, *origin)), record))
    });
    let csv = csv::csv(rows).map_err(Failure::lab)?;
    print(&String::from_utf8_lossy(&csv));
    for run in runs {
        for line in composition::render(&run.composition).lines() {
            eprintln!("note: {line}");
        }
    }
    Ok(())
}

fn json<'a>(run: &'a Run, judgement: &'a Judgement) -> Report<'a> {
    let several = run.composition.parts.len() > 1;
    let stored = |(record, origin): (&'a Record, &'a usize)| Stored {
        results: several.then(|| folder(run, *origin)),
        record,
    };
    Report {
        results: (!several).then(|| folder(run, 0)),
        complete: run.composition.is_complete(),
        records: run.records.iter().zip(&run.origins).map(stored).collect(),
        judgement,
        composition: &run.composition,
    }
}

fn text(run: &Run) -> String {
    let judgement = verdict::judge(&run.plan, &run.records);
    let table = table::render(&run.plan, &run.records, &judgement);
    let notes = composition::render(&run.composition);
    if notes.is_empty() { table } else { format!("{table}\n{notes}") }
}

fn folder(run: &Run, origin: usize) -> &Path {
    &run.composition.parts[origin].results
}
