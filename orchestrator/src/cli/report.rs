//! `testbed report`.

use super::{Failure, report_failure, show, terminal};
use crate::{
    report::{self, FigureName, FormatName},
    results::parts::{self, Folder},
    run::environment,
};
use clap::Args;
use std::path::PathBuf;

pub(super) const AFTER_HELP: &str = "Examples:
  testbed report results/reference/icclab-threshold-tcg
  testbed report part-1 part-2
  testbed report results/reference/latency-tcg --format csv
  testbed report results/reference/latency-tcg --format html
  testbed report results/reference/icclab-threshold-tcg --format svg --figure data

Exit codes:
  0    every expectation holds
  1    an expectation does not hold, or is undecided
  2    bad input: a folder that cannot be read or holds no results
  3    an attempt is failed, guest-lost or corrupted, or none could be made";

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Results folders. Parts of one run (see `run --shard`) are shown as one run, others one after the other
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// How to print the results: as a table; as CSV with one row per attempt (and a first column for the
    /// folder if there are several); as JSON with all records and the verdict, one line per run; as a table
    /// in Markdown; as an HTML page for a browser, which needs no other file; as JUnit XML, with expectations
    /// and attempts as test cases; or as a single SVG figure
    #[arg(long, value_name = "FORMAT", default_value = "table", conflicts_with_all = ["csv", "json"])]
    #[arg(ignore_case = true)]
    format: FormatName,
    /// The figure of --format svg: total time or data over the dirty rate, or a heat map of a matrix with two
    /// axes. By default it is the total time, over the dirty rate if several were tried
    #[arg(long, value_name = "FIGURE", ignore_case = true)]
    figure: Option<FigureName>,
    /// Same as --format csv
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Same as --format json
    #[arg(long)]
    json: bool,
}

pub(super) fn report(args: &ReportArgs) -> Result<u8, Failure> {
    let format = match (args.csv, args.json) {
        (true, _) => FormatName::Csv,
        (_, true) => FormatName::Json,
        _ => args.format,
    };
    if args.figure.is_some() && format != FormatName::Svg {
        return Err(Failure::input("--figure chooses what --format svg draws; add --format svg"));
    }
    let folders: Result<Vec<Folder>, _> = args.runs.iter().map(|run| Folder::read(run)).collect();
    let runs = parts::gather(folders.map_err(Failure::input)?, environment::backend);
    let renderer = args.figure.map_or_else(|| format.format(terminal::screen()), report::svg);
    show(renderer.stored(&runs).map_err(report_failure)?)?;
    // The worst code of all runs: 3 takes precedence over 1, and 1 over 0.
    Ok(runs.iter().map(|run| run.verdict.exit_code()).max().unwrap_or(0))
}
