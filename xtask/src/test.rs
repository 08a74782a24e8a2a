//! `cargo xtask test`: runs every test of the project.
//!
//! First come the tests that need nothing but the programs, then those that run QEMU. The latter are in
//! `orchestrator/tests/real` and marked `#[ignore]`, so that a plain `cargo test` lists them as ignored.
//! They run one at a time, because they measure and would disturb each other.

use crate::{
    TaskError,
    command::{cargo, run},
    dist, guest_tests, ready,
    workspace::Workspace,
};

/// The environment variable that tells tests the directory of the programs.
const DIST: &str = "TESTBED_DIST";

/// The environment variable that tells tests the directory of the programs to run in a guest.
const GUEST_TESTS: &str = "TESTBED_GUEST_TESTS";

/// Run all tests
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the unit tests, which need no QEMU, no root and no built programs
    #[arg(long)]
    unit_only: bool,
    /// Install missing packages without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
}

pub(crate) fn test(arguments: &Arguments) -> Result<(), TaskError> {
    if arguments.unit_only {
        let root = Workspace::find()?.root;
        return run(cargo().current_dir(root).args(["test", "--workspace", "--lib", "--bins"]));
    }
    let programs = dist::dist()?;
    let tests = || {
        let mut command = cargo();
        command.current_dir(&programs.workspace.root).env(DIST, &programs.bin);
        command.args(["test", "--workspace"]);
        command
    };
    run(&mut tests())?;
    ready::ensure(&programs, arguments.yes)?;
    let guest_tests = guest_tests::stage(&programs.workspace)?;
    run(tests().env(GUEST_TESTS, &guest_tests).args([
        "--test",
        "real",
        "--",
        "--ignored",
        "--test-threads=1",
    ]))
}
