//! Checks that this host can run the programs, and installs what is missing.
//!
//! `testbed doctor` decides whether something is missing. `testbed setup` shows what it would change and
//! asks before it does so. With `--yes`, or with `CI=true` in the environment (a CI host may be changed),
//! it does not ask. Without either of them and without a terminal, it changes nothing and exits with code
//! 2.

use crate::{
    TaskError,
    command::{exit_code, run, status},
    dist::BuiltPrograms,
};
use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

/// Runs `testbed setup` if something is missing that these matrix files, or any run, need, and fails if
/// something is still missing afterwards.
pub(crate) fn ensure<M: AsRef<OsStr>>(
    programs: &BuiltPrograms,
    yes: bool,
    matrices: &[M],
) -> Result<(), TaskError> {
    let doctor = || {
        let mut doctor = Command::new(programs.testbed());
        doctor.args(["doctor", "--quiet"]).args(matrices);
        doctor
    };
    if status(doctor().stdout(Stdio::null()).stderr(Stdio::null()))?.success() {
        return Ok(());
    }
    let mut setup = Command::new(programs.testbed());
    setup.arg("setup").args(matrices);
    if yes || unattended() {
        setup.arg("--yes");
    }
    run(&mut setup)?;
    // This time with output: doctor explains what setup could not fix.
    let still = status(&mut doctor())?;
    if still.success() { Ok(()) } else { Err(TaskError::AlreadyReported(exit_code(still))) }
}

/// Returns whether `CI` in the environment says that there is no one to answer questions.
pub(crate) fn unattended() -> bool {
    is_ci(std::env::var("CI").ok().as_deref())
}

/// Returns whether this value of `CI` means yes: `true` or `1`.
fn is_ci(ci: Option<&str>) -> bool {
    matches!(ci, Some("true" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ci_true_counts_as_unattended() {
        assert!(is_ci(Some("true")));
        assert!(!is_ci(Some("false")));
        assert!(!is_ci(Some("")));
        assert!(!is_ci(None));
    }
}
