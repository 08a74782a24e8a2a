//! `cargo xtask test`: every test of the project.
//!
//! First those that need nothing but the programs, then the real ones, which run QEMU. The real ones are in
//! `orchestrator/tests/real`, marked `#[ignore]`, so that a plain `cargo test` lists them as ignored.
//! They run one at a time: they measure, and would disturb each other.

use crate::{
    Failure,
    command::{cargo, run},
    dist, guest_tests, ready,
    workspace::Workspace,
};

/// Where tests find the programs.
const DIST: &str = "TESTBED_DIST";

/// Where tests find the programs to run in a guest.
const GUEST_TESTS: &str = "TESTBED_GUEST_TESTS";

/// Run all tests
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the unit tests, which need no QEMU, no root and no built programs
    #[arg(long)]
    unit_only: bool,
    /// Install what is missing without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
}

pub(crate) fn test(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.unit_only {
        let root = Workspace::find()?.root;
        return run(cargo().current_dir(root).args(["test", "--workspace", "--lib", "--bins"]));
    }
    let staged = dist::dist()?;
    let tests = || {
        let mut command = cargo();
        command.current_dir(&staged.workspace.root).env(DIST, &staged.bin);
        command.args(["test", "--workspace"]);
        command
    };
    run(&mut tests())?;
    ready::ensure(&staged, arguments.yes)?;
    let guest_tests = guest_tests::stage(&staged.workspace)?;
    run(tests().env(GUEST_TESTS, &guest_tests).args([
        "--test",
        "real",
        "--",
        "--ignored",
        "--test-threads=1",
    ]))
}
