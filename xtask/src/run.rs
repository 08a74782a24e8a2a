//! `cargo xtask run FILE`: from a fresh clone to results in one command. Builds the programs, installs what
//! is missing, and runs the matrix.

use crate::{TaskError, dist, ready};
use std::{ffi::OsString, os::unix::process::CommandExt, path::Path, process::Command};

/// Build the programs, install what is missing, and run a matrix
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Install missing packages without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// The matrix file, followed by any options of `testbed run`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "FILE|OPTION")]
    run: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let programs = dist::dist()?;
    // Not standard input, which can be read only once.
    let matrix: Vec<&OsString> =
        arguments.run.iter().take(1).filter(|file| Path::new(file).is_file()).collect();
    ready::ensure(&programs, arguments.yes, &matrix)?;
    // `exec` replaces this process: signals reach `testbed`, and its exit code becomes ours.
    let error = Command::new(programs.testbed()).arg("run").args(&arguments.run).exec();
    Err(format!("cannot run {}: {error}", programs.testbed().display()).into())
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::{Args, FromArgMatches};

    fn parse(words: &[&str]) -> Result<(bool, Vec<String>), clap::Error> {
        let command = Arguments::augment_args(clap::Command::new("run").no_binary_name(true));
        let matches = command.try_get_matches_from(words)?;
        let arguments = Arguments::from_arg_matches(&matches)?;
        let run = arguments.run.into_iter().map(|word| word.into_string().unwrap()).collect();
        Ok((arguments.yes, run))
    }

    #[test]
    fn everything_after_the_file_is_passed_to_testbed_run() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse(&["m.yaml"]).unwrap(), (false, words(&["m.yaml"])));
        assert_eq!(
            parse(&["--yes", "m.yaml", "--repeat", "3", "--yes"]).unwrap(),
            (true, words(&["m.yaml", "--repeat", "3", "--yes"]))
        );
        assert!(parse(&[]).is_err());
        assert!(parse(&["--yes"]).is_err());
    }
}
