//! `testbed report`.

use super::{Failure, show};
use crate::{
    report::FormatName,
    results::parts::{self, Folder},
    run::environment,
};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Results folders. Those that are parts of one run (see `run --shard`) are shown as that run, all others
    /// one after the other
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// How to print them: a table; one row per attempt as CSV, the first column naming the folder where there
    /// are several; the records and the judgement as JSON, one line for each run; or the table in Markdown
    #[arg(long, value_name = "FORMAT", default_value = "table", conflicts_with_all = ["csv", "json"])]
    format: FormatName,
    /// The same as --format csv
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

pub(super) fn report(args: &ReportArgs) -> Result<u8, Failure> {
    let format = match (args.csv, args.json) {
        (true, _) => FormatName::Csv,
        (_, true) => FormatName::Json,
        _ => args.format,
    };
    let folders: Result<Vec<Folder>, _> = args.runs.iter().map(|run| Folder::read(run)).collect();
    let runs = parts::gather(folders.map_err(Failure::input)?, environment::backend);
    show(&format.format().stored(&runs).map_err(Failure::lab)?);
    Ok(0)
}
