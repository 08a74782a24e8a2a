//! `cargo xtask install`: installs the programs with their manual pages and shell completions, so that they
//! can be used without the source tree.

use crate::{
    TaskError,
    command::run,
    dist::{self, PROGRAMS},
};
use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command};

/// Install the programs with their manual pages and shell completions
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Install below this directory [default: /usr/local for root, ~/.local for others]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

pub(crate) fn install(arguments: &Arguments) -> Result<(), TaskError> {
    let prefix = match &arguments.prefix {
        Some(prefix) => prefix.clone(),
        None => default_prefix()?,
    };
    let programs = dist::dist()?;
    let bin = prefix.join("bin");
    fs::create_dir_all(&bin).map_err(|error| format!("cannot create {}: {error}", bin.display()))?;
    for program in PROGRAMS {
        dist::copy_if_changed(&programs.bin.join(program), &bin.join(program))?;
    }
    run(Command::new(programs.testbed()).arg("generate").arg(&prefix))?;
    frontend::tell(format!(
        "Installed {} in {}/bin, with manual pages and completions in {}/share.",
        PROGRAMS.join(", "),
        prefix.display(),
        prefix.display()
    ));
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| directory == bin) {
        frontend::tell(format!("{} is not in PATH. Add it to run the programs by name.", bin.display()));
    }
    Ok(())
}

fn default_prefix() -> Result<PathBuf, TaskError> {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if root {
        return Ok("/usr/local".into());
    }
    let home = std::env::var_os("HOME")
        .ok_or("HOME is not set; choose where to install with --prefix DIR".to_owned())?;
    Ok(PathBuf::from(home).join(".local"))
}
