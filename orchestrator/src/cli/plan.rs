//! `testbed plan`.

use super::{Failure, SelectionArgs, print, print_json, read, terminal};
use crate::{
    matrix::{File, Plan, StorageKind, Traces, selection::Selection},
    predict::preview::Preview,
    run::screen,
};
use clap::Args;
use std::path::PathBuf;

pub(super) const AFTER_HELP: &str = "Examples:
  testbed plan scenarios/icclab/threshold.yaml
  testbed plan scenarios/latency.yaml --only 'link.delay == 0' --json

Exit codes:
  0    the matrix is valid
  2    bad input";

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The matrix file, or `-` for standard input
    file: PathBuf,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Resolves a matrix with its traces, and selects the cells that the options request.
pub(super) fn resolve(
    text: &str,
    name: &str,
    traces: &mut Traces,
    selection: &Selection,
) -> Result<Plan, Failure> {
    let plan = File::parse(text, name).and_then(|file| file.expand_with(traces)).map_err(Failure::input)?;
    selection.of(plan).map_err(Failure::input)
}

/// Returns whether a cell of these matrix files has a disk that both ends share.
pub(super) fn share_disks(files: &[PathBuf]) -> Result<bool, Failure> {
    let mut share = false;
    for file in files {
        let (text, name) = read(file)?;
        let plan = resolve(&text, &name, &mut Traces::beside(file), &Selection::default())?;
        share |= plan.cells.iter().any(|cell| cell.settings.storage.kind == StorageKind::Shared);
    }
    Ok(share)
}

pub(super) fn plan(args: &PlanArgs) -> Result<u8, Failure> {
    let (text, name) = read(&args.file)?;
    let plan = resolve(&text, &name, &mut Traces::beside(&args.file), &args.selection.selection())?;
    // Starting the lab and trying machines takes a second and leaves nothing behind. Without a lab, every
    // cell is shown.
    let screened = super::runtime()?.block_on(screen::on_this_host(&plan));
    let reasons = screened.as_ref().ok().map(|(reasons, _)| reasons);
    let preview = Preview::new(&plan, |cell| reasons?.get(&cell.id).cloned());
    if args.json {
        print_json(&preview)?;
    } else {
        print(preview.table(terminal::width()))?;
    }
    match screened {
        Ok((_, Some(note))) => frontend::tell(format!("note: {note}")),
        Ok((_, None)) => {}
        Err(error) => {
            frontend::tell(format!("note: cannot tell which cells would be skipped: {error}"));
        }
    }
    Ok(0)
}
