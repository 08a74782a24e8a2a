//! `testbed plan`.

use super::{Failure, SelectionArgs, print, read, terminal};
use crate::{
    driver::qemu::{
        accel::{self, AcceleratorFinding, TrialSpec},
        machine::QEMU,
    },
    image::{self, Cache, KernelChoice},
    lab,
    matrix::{Accel, Cell, File, Plan, selection::Selection},
    predict::preview::Preview,
    run::{
        real,
        screen::{self, Accelerators, Reasons},
    },
};
use clap::Args;
use std::path::{Path, PathBuf};

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

/// Resolves a matrix and selects the cells that the options ask for.
pub(super) fn resolve(text: &str, name: &str, selection: &Selection) -> Result<Plan, Failure> {
    let plan = File::parse(text, name).and_then(|file| file.expand()).map_err(Failure::input)?;
    selection.of(plan).map_err(Failure::input)
}

pub(super) fn plan(args: &PlanArgs) -> Result<u8, Failure> {
    let (text, name) = read(&args.file)?;
    let plan = resolve(&text, &name, &args.selection.selection())?;
    // Starting the lab and trying machines takes a second and leaves nothing behind. Without a lab, every
    // cell is shown.
    let screened = super::runtime()?.block_on(screened(&plan));
    let reasons = screened.as_ref().ok().map(|(reasons, _)| reasons);
    let preview = Preview::new(&plan, |cell| reasons?.get(&cell.id).cloned());
    if args.json {
        print(&(serde_json::to_string_pretty(&preview).map_err(Failure::lab)? + "\n"));
    } else {
        print(&preview.table(terminal::width()));
    }
    match screened {
        Ok((_, Some(note))) => eprintln!("note: {note}"),
        Ok((_, None)) => {}
        Err(error) => eprintln!("note: cannot tell which cells would be skipped: {error}"),
    }
    Ok(0)
}

/// Returns why cells would be skipped on this host, and a note if not everything can be told.
async fn screened(plan: &Plan) -> Result<(Reasons, Option<String>), lab::Error> {
    let lab = lab::local::start().await?;
    let nowhere = Path::new("/dev/null");
    let Some(platform) = real::platform(&lab.description) else {
        let lacks = |cell: &Cell| {
            lab.description.lacks(&cell.settings).or_else(|| lab.description.lacks_memory(&cell.settings))
        };
        let reasons = plan.cells.iter().filter_map(|cell| Some((cell.id.clone(), lacks(cell)?)));
        let note = format!(
            "without {QEMU}, neither accelerators nor CPU models can be tried; `testbed setup` installs it"
        );
        return Ok((reasons.collect(), Some(note)));
    };
    let cache = Cache::user().ok();
    let folder = cache.as_ref().map_or(nowhere, Cache::root);
    let mut accelerators = Accelerators::new();
    for accel in screen::accels(&plan.cells) {
        let machine = real::trial_machine(None);
        let spec = TrialSpec {
            node: &lab.source,
            machine: &machine,
            platform: &platform,
            cache: folder,
            log: nowhere,
        };
        let finding = match accel::guess(accel, spec).await {
            None if accel == Accel::Kvm => boot(spec, cache.as_ref()).await,
            known => known,
        };
        // What is still unknown counts as working, and the run will show.
        let Some(finding) = finding else { continue };
        accelerators.insert(accel, finding);
    }
    let reasons = screen::screen(&plan.cells, &lab, &accelerators, nowhere).await;
    lab.end().await;
    Ok((reasons, None))
}

/// Boots a guest with KVM, since nothing else shows that it works. Returns nothing if the guest's files
/// cannot be prepared.
async fn boot(spec: TrialSpec<'_>, cache: Option<&Cache>) -> Option<AcceleratorFinding> {
    let stressor = image::stressor_path().ok()?;
    let files = image::prepare(&KernelChoice::from_options(None, None), &stressor, cache?).ok()?;
    let machine = real::trial_machine(Some(&files));
    accel::choose(Accel::Kvm, TrialSpec { machine: &machine, ..spec }).await.ok()
}
