//! `testbed generate`.

use super::Failure;
use crate::docs;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The folder that gets the `share/` of an installation
    directory: PathBuf,
}

pub(super) fn generate(args: &GenerateArgs) -> Result<u8, Failure> {
    let commands = vec![super::command(), netem::cli::command(), stressor::cli::command()];
    docs::generate(commands, &args.directory).map_err(Failure::lab)?;
    Ok(0)
}
