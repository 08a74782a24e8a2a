//! `testbed setup`.

use super::Failure;
use crate::{
    image::{self, Cache},
    setup::{self, KernelRequest, LocalHost, Prompt, SetupOptions, SystemRunner},
};
use clap::Args;
use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

pub(super) const AFTER_HELP: &str = "Examples:
  testbed setup
  testbed setup --yes
  testbed setup --kernel distribution

Files:
  ~/.cache/testbed   guest kernels and images; $XDG_CACHE_HOME/testbed if that is set

Exit codes:
  0    everything is ready
  2    bad input, or setup was declined
  3    installing failed";

#[derive(Debug, Args)]
pub(super) struct SetupArgs {
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
}

/// The user at a terminal: questions go to standard error, answers come from standard input.
#[derive(Debug, Clone, Copy, Default)]
struct Terminal;

impl Prompt for Terminal {
    fn say(&mut self, line: &str) {
        eprintln!("{line}");
    }

    fn ask(&mut self, question: &str) -> Option<bool> {
        if !self.interactive() {
            return None;
        }
        eprint!("{question} [y/N] ");
        let _ = io::stderr().flush();
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).ok()?;
        Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    fn interactive(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}

pub(super) fn setup(args: &SetupArgs) -> Result<u8, Failure> {
    let options = SetupOptions {
        yes: args.yes,
        kernel: KernelRequest::from_options(Some(&args.kernel), args.modules.as_deref()),
        stressor: image::stressor_path().map_err(Failure::input)?,
    };
    let host = LocalHost::detect(&SystemRunner, Cache::user().map_err(Failure::input)?);
    setup::run(&options, &host, &mut Terminal)
        .map_err(|e| Failure { code: e.exit_code(), text: e.to_string() })?;
    Ok(0)
}
