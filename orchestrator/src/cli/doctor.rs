//! `testbed doctor`.

use super::{Failure, KernelArgs, LabArgs, plan, print, print_json, terminal};
use crate::{
    image::{self, Cache},
    inspect::doctor,
};
use clap::Args;
use std::path::{Path, PathBuf};

pub(super) const AFTER_HELP: &str = "Examples:
  testbed doctor
  testbed doctor --lab lab.yaml
  testbed doctor scenarios/icclab/table-4.yaml
  testbed doctor --quiet --json

Exit codes:
  0    a run would work
  1    a run would not work
  2    bad input";

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Matrix files that will be run: also check what only some matrices need
    #[arg(value_name = "MATRIX")]
    matrices: Vec<PathBuf>,
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Show only problems
    #[arg(short, long)]
    quiet: bool,
    /// Also show what the login shells of hosts print
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let cache = Cache::user().map_err(Failure::input)?;
    let stressor = image::stressor_path().map_err(Failure::input)?;
    let hosts = args.lab.choice().hosts().map_err(super::lab_failure)?;
    let kernel = args.kernel.unchecked();
    let needs = doctor::Requirements {
        cache: &cache,
        kernel: &kernel,
        stressor: &stressor,
        results: Path::new("results"),
        shared_disks: plan::share_disks(&args.matrices)?,
    };
    let report = super::runtime()?.block_on(doctor::examine(&needs, hosts.as_ref()));
    if let Some(hosts) = hosts.as_ref().filter(|_| args.verbose) {
        super::tell_greetings(hosts);
    }
    let mut report = report.map_err(super::lab_failure)?;
    let code = report.exit_code();
    if args.quiet {
        report = report.problems();
    }
    if args.json {
        print_json(&report)?;
    } else {
        print(report.text(terminal::width(), terminal::colored(&std::io::stdout())))?;
    }
    Ok(code)
}
