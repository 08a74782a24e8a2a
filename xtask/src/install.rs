//! `cargo xtask install`: the programs, their manual pages and completions, for use without the source tree.

use crate::{
    Failure,
    command::run,
    dist::{self, PROGRAMS},
};
use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command};

/// Install the programs, their manual pages and completions
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Install below this directory [default: /usr/local for root, ~/.local for others]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

pub(crate) fn install(arguments: &Arguments) -> Result<(), Failure> {
    let prefix = match &arguments.prefix {
        Some(prefix) => prefix.clone(),
        None => default_prefix()?,
    };
    let staged = dist::dist()?;
    let bin = prefix.join("bin");
    fs::create_dir_all(&bin).map_err(|error| format!("cannot create {}: {error}", bin.display()))?;
    for program in PROGRAMS {
        dist::place(&staged.bin.join(program), &bin.join(program))?;
    }
    run(Command::new(staged.testbed()).arg("generate").arg(&prefix))?;
    println!(
        "Installed {} in {}, with manual pages and completions in share.",
        PROGRAMS.join(", "),
        prefix.display()
    );
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| directory == bin) {
        println!("{} is not in PATH: add it there to run them by name.", bin.display());
    }
    Ok(())
}

fn default_prefix() -> Result<PathBuf, Failure> {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if root {
        return Ok("/usr/local".into());
    }
    let home =
        std::env::var_os("HOME").ok_or("HOME is not set: say where to install with --prefix".to_owned())?;
    Ok(PathBuf::from(home).join(".local"))
}
