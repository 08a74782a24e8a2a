//! Makes sure that this machine can run what was built, before it does.
//!
//! `testbed doctor` decides whether something is missing; `testbed setup` says what it would change and
//! asks. It is told to go ahead unasked when the user says `--yes`, and where `CI=true`, which is how
//! machines say that they are there to be changed. With neither, and no terminal, it changes nothing and
//! ends with exit code 2.

use crate::{
    Failure,
    command::{exit_code, run, status},
    dist::Staged,
};
use std::process::{Command, Stdio};

/// Sets the machine up if something is missing, and fails if something still is.
pub(crate) fn ensure(staged: &Staged, yes: bool) -> Result<(), Failure> {
    let doctor = || {
        let mut doctor = Command::new(staged.testbed());
        doctor.args(["doctor", "--quiet"]);
        doctor
    };
    if status(doctor().stdout(Stdio::null()).stderr(Stdio::null()))?.success() {
        return Ok(());
    }
    let mut setup = Command::new(staged.testbed());
    setup.arg("setup");
    if yes || unattended() {
        setup.arg("--yes");
    }
    run(&mut setup)?;
    // What setup cannot mend, doctor explains.
    let still = status(&mut doctor())?;
    if still.success() { Ok(()) } else { Err(Failure::Reported(exit_code(still))) }
}

/// Whether nobody is there to ask.
pub(crate) fn unattended() -> bool {
    says_so(std::env::var("CI").ok().as_deref())
}

/// Whether the value of `CI` says that nobody is there to ask.
fn says_so(ci: Option<&str>) -> bool {
    matches!(ci, Some("true" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_true_ci_is_unattended() {
        assert!(says_so(Some("true")));
        assert!(!says_so(Some("false")));
        assert!(!says_so(Some("")));
        assert!(!says_so(None));
    }
}
