//! `testbed setup`.

use super::{Failure, plan, terminal};
use crate::{
    image::{self, Cache, KernelChoice},
    layout,
    setup::{self, KernelRequest, LocalHost, Prompt, SetupOptions, SystemRunner},
};
use clap::Args;
use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
};

pub(super) const AFTER_HELP: &str = "Examples:
  testbed setup
  testbed setup --dry-run
  testbed setup --yes
  testbed setup scenarios/icclab/table-4.yaml
  testbed setup --kernel distribution

Files:
  ~/.cache/testbed   guest kernels and images; $XDG_CACHE_HOME/testbed if that is set

Exit codes:
  0    everything is ready, or --dry-run has shown what is not
  2    bad input, or setup was declined
  3    installing failed
  130  interrupted by SIGINT; 129 by SIGHUP, 143 by SIGTERM";

#[derive(Debug, Args)]
pub(super) struct SetupArgs {
    /// Matrix files that will be run: also install what only some matrices need
    #[arg(value_name = "MATRIX")]
    matrices: Vec<PathBuf>,
    /// The guest's kernel: a path; `distribution`, the distribution's current kernel package, downloaded and
    /// unpacked; or `auto`, a kernel that is already here, else that package
    #[arg(long, value_name = "KERNEL", default_value = "auto")]
    #[arg(value_parser = super::words(&["auto", "distribution"]), hide_possible_values = true)]
    kernel: String,
    /// The folder of that kernel's modules, such as /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Install without asking
    #[arg(short, long)]
    yes: bool,
    /// Show what would be installed or downloaded, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// The user at a terminal: questions go to standard error, answers come from standard input.
#[derive(Debug, Clone, Copy, Default)]
struct Terminal;

impl Prompt for Terminal {
    fn say(&mut self, line: &str) {
        // The lists of packages are long.
        frontend::ask(layout::fold(&format!("{line}\n"), terminal::width_of(&io::stderr())));
    }

    fn ask(&mut self, question: &str) -> Option<bool> {
        if !self.interactive() {
            return None;
        }
        frontend::ask(format!("{question} [y/N] "));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).ok()?;
        Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    fn interactive(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}

pub(super) fn setup(args: &SetupArgs) -> Result<u8, Failure> {
    let cache = Cache::user().map_err(Failure::input)?;
    let kernel = KernelRequest::from_options(Some(&args.kernel), args.modules.as_deref());
    match (&kernel, &args.modules) {
        (KernelRequest::Given { image, modules }, _) => {
            let choice = KernelChoice::Given { image: image.clone(), modules: modules.clone() };
            super::check_kernel(&args.kernel, &choice, &cache, &["auto", "distribution"])?;
        }
        (_, Some(_)) => return Err(super::modules_without_kernel(&args.kernel)),
        (_, None) => {}
    }
    let stressor = image::stressor_path().map_err(Failure::input)?;
    let nfs_driver = plan::share_disks(&args.matrices)?;
    let options = SetupOptions { yes: args.yes, kernel, stressor, nfs_driver };
    setup::end_commands_on_signals().map_err(Failure::lab)?;
    let host = LocalHost::detect(&SystemRunner, cache);
    let setup = if args.dry_run { setup::dry_run } else { setup::run };
    setup(&options, &host, &mut Terminal)
        .map_err(|e| Failure { code: e.exit_code(), text: e.to_string() })?;
    Ok(0)
}
