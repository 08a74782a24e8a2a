//! `testbed report`.

use super::{Failure, plan::resolve, print};
use crate::{
    results::{
        store::{self, Selection},
        summary, verdict,
    },
    ui::table,
};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Results folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Print one row per attempt as CSV
    #[arg(long)]
    csv: bool,
}

pub(super) fn report(args: &ReportArgs) -> Result<u8, Failure> {
    for (i, run) in args.runs.iter().enumerate() {
        let (matrix, records) = store::read(run).map_err(Failure::input)?;
        if args.csv {
            let csv = summary::csv(&records).map_err(Failure::lab)?;
            print(&String::from_utf8_lossy(&csv));
            continue;
        }
        let name = run.join(store::MATRIX).display().to_string();
        let plan = resolve(&matrix, &name, &Selection::default())?;
        let judgement = verdict::judge(&plan, &records);
        if args.runs.len() > 1 {
            print(&format!("{}{}\n\n", if i > 0 { "\n" } else { "" }, run.display()));
        }
        print(&table::render(&plan, &records, &judgement));
    }
    Ok(0)
}
