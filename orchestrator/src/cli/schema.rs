//! `testbed schema`.

use super::{Failure, print_json};
use crate::{matrix, results};
use clap::Args;

pub(super) const AFTER_HELP: &str = "Examples:
  testbed schema
  testbed schema --records

Exit codes:
  0    the schema was printed";

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Print the schema of records, the lines of cells.jsonl in a results folder
    #[arg(long)]
    records: bool,
}

pub(super) fn schema(args: &SchemaArgs) -> Result<u8, Failure> {
    let schema = if args.records { results::schema::schema() } else { matrix::schema() };
    print_json(&schema)?;
    Ok(0)
}
