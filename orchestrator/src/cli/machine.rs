//! `testbed doctor`, `testbed setup` and `testbed generate`.

use super::{Failure, KernelArgs, LabArgs, print};
use crate::{
    docs,
    finding::{self, Finding},
    image::{self, Cache},
    inspect, lab,
    matrix::Settings,
    setup::{self, KernelWish, Machine, Options, SystemRunner, Terminal},
};
use clap::Args;
use netem::Profile;
use std::path::{Path, PathBuf};
use units::{BitRate, Span};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Only what is missing
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct SetupArgs {
    /// The guest's kernel: a path; `distribution`, its current kernel package, downloaded and unpacked;
    /// `auto`, what there is already, else that package
    #[arg(long, value_name = "KERNEL", default_value = "auto")]
    kernel: String,
    /// The folder of that kernel's modules, like /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The folder; what is in `share/` of an installation is written below it
    directory: PathBuf,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let cache = Cache::user().map_err(Failure::input)?;
    let stressor = image::stressor_path().map_err(Failure::input)?;
    let kernel = args.kernel.choice();
    let runner = SystemRunner;
    let results = Path::new("results");
    let mut report = match args.lab.choice().inventory().map_err(super::lab_failure)? {
        None => {
            let mut checks = setup::standard_checks(&runner, &cache, &kernel, &stressor, results);
            checks.push(Box::new(local_lab));
            finding::examine(&checks)
        }
        Some(inventory) => {
            let report = finding::examine(&setup::checks_without_nodes(&cache, &kernel, &stressor, results));
            match image::prepare(&kernel, &stressor, &cache) {
                // What is missing for that is in the report.
                Err(_) => report,
                Ok(guest) => {
                    let found = super::runtime()?.block_on(inspect::doctor::examine(&inventory, &guest));
                    report.and(found.map_err(super::lab_failure)?)
                }
            }
        }
    };
    let code = report.exit_code();
    if args.quiet {
        report = report.problems();
    }
    if args.json {
        print(&(serde_json::to_string_pretty(&report).map_err(Failure::lab)? + "\n"));
    } else {
        print(&report.to_string());
    }
    Ok(code)
}

/// Starts the local lab, for a moment: whether its nodes come up, and whether their kernel can shape a link.
fn local_lab() -> Finding {
    const NAME: &str = "lab";
    let lab = super::runtime().and_then(|r| r.block_on(lab::local::start()).map_err(Failure::lab));
    let description = match lab {
        Ok(lab) => lab.description.clone(),
        Err(failure) => return Finding::missing(NAME, failure.text, "run as root, or see `namespaces`"),
    };
    let backend = |link| description.backend(&Settings { link, ..Settings::default() });
    let limited = Profile { rate: Some(BitRate::new(1_000_000_000)), ..Profile::default() };
    let delayed = Profile { delay: Span::from_millis(1), ..limited.clone() };
    match (backend(limited), backend(delayed)) {
        (Ok(limited), Ok(delayed)) => Finding::ok(
            NAME,
            format!("three nodes come up; links have a rate by the backend {limited}, a delay by {delayed}"),
        ),
        (Ok(_), Err(reason)) => Finding::ok(
            NAME,
            format!("three nodes come up; links can have a rate, but no delay or loss: {reason}"),
        ),
        (Err(reason), _) => Finding::missing(NAME, reason, "load the module, or use a kernel that has it"),
    }
}

pub(super) fn setup(args: &SetupArgs) -> Result<u8, Failure> {
    let options = Options {
        yes: args.yes,
        kernel: KernelWish::from_options(Some(&args.kernel), args.modules.as_deref()),
        stressor: image::stressor_path().map_err(Failure::input)?,
    };
    let machine = Machine::this(&SystemRunner, Cache::user().map_err(Failure::input)?);
    setup::run(&options, &machine, &mut Terminal)
        .map_err(|e| Failure { code: e.exit_code(), text: e.to_string() })?;
    Ok(0)
}

pub(super) fn generate(args: &GenerateArgs) -> Result<u8, Failure> {
    let commands = vec![super::command(), netem::cli::command(), stressor::cli::command()];
    docs::generate(commands, &args.directory).map_err(Failure::lab)?;
    Ok(0)
}
