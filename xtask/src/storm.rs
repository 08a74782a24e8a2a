//! `cargo xtask storm`: builds the programs and the storm, then starts the storm.
//!
//! The storm is `orchestrator/tests/storm`: short runs that are struck at random moments.

use crate::{
    TaskError, artifacts,
    command::{cargo, output, run},
    dist::{self, BuiltPrograms, DIST},
    ready,
};
use std::{ffi::OsString, process::Command};

/// The storm that is one of the tests: ten trials, three at a time. This seed draws every kind of strike, and
/// nearly every kind in both labs.
const SHORT: [&str; 6] = ["--count", "10", "--seed", "194", "--jobs", "3"];

/// Strike short runs with signals and link failures at random moments, and check that they lose and leave
/// nothing
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Install missing packages without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// Options of the storm, such as `--count 100 --seed 7`; `-- --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

pub(crate) fn storm(arguments: &Arguments) -> Result<(), TaskError> {
    let programs = dist::dist()?;
    ready::ensure::<&str>(&programs, arguments.yes, &[])?;
    run(command(&programs)?.args(&arguments.options))
}

/// Starts the storm that is one of the tests.
pub(crate) fn short(programs: &BuiltPrograms) -> Result<(), TaskError> {
    run(command(programs)?.args(SHORT))
}

/// Builds the storm. Returns a command for it.
fn command(programs: &BuiltPrograms) -> Result<Command, TaskError> {
    let mut build = cargo();
    build.current_dir(&programs.workspace.root).args(["test", "--workspace", "--test", "storm"]);
    build.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let program = artifacts::find(&output(&mut build)?, "test", "storm")?;
    let mut storm = Command::new(program);
    storm.env(DIST, &programs.bin);
    Ok(storm)
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::{Args, FromArgMatches};

    #[test]
    fn options_are_passed_to_the_storm() {
        let parse = |words: &[&str]| {
            let command = Arguments::augment_args(clap::Command::new("storm").no_binary_name(true));
            let matches = command.try_get_matches_from(words)?;
            let Arguments { yes, options } = Arguments::from_arg_matches(&matches)?;
            let options = options.into_iter().map(|option| option.into_string().unwrap());
            Ok::<_, clap::Error>((yes, options.collect::<Vec<_>>().join(" ")))
        };
        assert_eq!(parse(&[]).unwrap(), (false, String::new()));
        let options = "--count 100 --seed 7 --lab ssh";
        let words: Vec<&str> = options.split(' ').collect();
        assert_eq!(parse(&words).unwrap(), (false, options.into()));
        assert_eq!(parse(&[&["--yes"], &words[..]].concat()).unwrap(), (true, options.into()));
        assert_eq!(parse(&["--", "--help"]).unwrap(), (false, "--help".into()));
    }
}
