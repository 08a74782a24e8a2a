//! `testbed setup`.

use super::Failure;
use crate::{
    image::{self, Cache},
    setup::{self, Dialogue, KernelWish, Machine, Options, SystemRunner},
};
use clap::Args;
use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

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

/// The user at a terminal: what is said goes to standard error, answers come from standard input.
#[derive(Debug, Clone, Copy, Default)]
struct Terminal;

impl Dialogue for Terminal {
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
