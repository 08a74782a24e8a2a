//! `cargo xtask test`: runs every test of the project.
//!
//! First come the tests that need nothing but what cargo builds for them. Most of them wait for something, so
//! several programs run at the same time. Meanwhile the programs for the other tests are built.
//!
//! Those run QEMU. They are in `orchestrator/tests/real` and marked `#[ignore]`, so that a plain `cargo test`
//! lists them as ignored. Several run at the same time, as many as two cores can carry. Those that measure,
//! or that put a load on the host, run alone, after the others. Last comes a short storm.
//!
//! With `--repeat`, every test program runs several times instead, one after another, which finds tests that
//! fail occasionally.

use crate::{
    TaskError,
    command::{cargo_test, run},
    dist::{self, BuiltPrograms, DIST},
    guest_tests::{self, GUEST_TESTS},
    programs::{self, TestProgram, run_at_once},
    ready,
    repeat::Repeat,
    storm,
    workspace::{TestTarget, Workspace},
};
use std::{path::PathBuf, process::Command, thread};

/// The program with the tests that run QEMU.
const REAL: &str = "testbed::real";

/// A matrix with shared disks, which need more of the host than other disks, and which tests also use.
const SHARED_DISKS: &str = "scenarios/icclab/table-4.yaml";

/// The arguments that make [`REAL`] run its tests. Its threads mostly wait for the turns of their tests:
/// there must be more of them than tests that run alone, because these wait for all others.
const RUN_REAL: [&str; 2] = ["--ignored", "--test-threads=16"];

/// How many of the other test programs run at the same time.
const AT_ONCE: usize = 4;

/// Run all tests
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the unit tests, which need no QEMU, no root and no built programs
    #[arg(long)]
    unit_only: bool,
    /// Install missing packages without asking (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// Run each test program this often, and say at the end which test failed how often. Leaves out the
    /// storm and the examples in doc comments. Exit code: 0, or 1 if any test failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// With --repeat: run only this test program, such as `netem` (the unit tests of a library),
    /// `netem::bin/netem` (those of a program) or `testbed::it`; may be given several times
    #[arg(long, value_name = "PROGRAM", requires = "repeat")]
    program: Vec<String>,
    /// With --repeat: keep all CPUs busy meanwhile
    #[arg(long, requires = "repeat")]
    busy: bool,
    /// With --repeat: arguments of every test program, such as part of a test's name
    #[arg(last = true, value_name = "ARGUMENT", requires = "repeat")]
    pass_on: Vec<String>,
}

pub(crate) fn test(arguments: &Arguments) -> Result<(), TaskError> {
    if let Some(count) = arguments.repeat {
        return repeat(arguments, count);
    }
    if arguments.unit_only {
        let root = Workspace::find()?.root;
        return run(cargo_test().current_dir(root).args(["--workspace", "--lib", "--bins"]));
    }
    let (programs, guest_tests) = test_while_building()?;
    ready::ensure(&programs, arguments.yes, &[programs.workspace.root.join(SHARED_DISKS)])?;
    let mut real = test_programs(&programs);
    real.env(GUEST_TESTS, &guest_tests).args(["--workspace", "--test", "real", "--"]).args(RUN_REAL);
    run(&mut real)?;
    storm::short(&programs)
}

/// Builds and runs the tests that need no QEMU, and meanwhile builds what the other tests need. Returns the
/// programs and the directory of the programs to run in a guest.
fn test_while_building() -> Result<(BuiltPrograms, PathBuf), TaskError> {
    let workspace = Workspace::find()?;
    let in_workspace = || {
        let mut cargo = cargo_test();
        cargo.current_dir(&workspace.root);
        cargo
    };
    thread::scope(|scope| {
        let building = scope.spawn(|| {
            let programs = dist::build(workspace.clone().in_background())?;
            let guest_tests = guest_tests::stage(&programs.workspace)?;
            Ok((programs, guest_tests))
        });
        let tested = programs::build(in_workspace(), &workspace.tests).and_then(|programs| {
            let mut tests: Vec<_> =
                programs.iter().map(|program| (program.target.id(), program.command())).collect();
            let mut examples = in_workspace();
            examples.args(["--workspace", "--doc"]);
            tests.push(("the examples in doc comments".into(), examples));
            run_at_once(tests, AT_ONCE, &workspace.target.join("tests"))
        });
        let built = building.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tested.and(built)
    })
}

/// Returns a cargo command that runs tests with these programs.
fn test_programs(programs: &BuiltPrograms) -> Command {
    let mut command = cargo_test();
    command.current_dir(&programs.workspace.root).env(DIST, &programs.bin);
    command
}

fn repeat(arguments: &Arguments, count: u32) -> Result<(), TaskError> {
    let workspace = Workspace::find()?;
    let targets = chosen(&workspace.tests, arguments.unit_only, &arguments.program).map_err(|message| {
        frontend::tell(format!("error: {message}"));
        TaskError::AlreadyReported(2)
    })?;
    let mut build = cargo_test();
    build.current_dir(&workspace.root);
    if targets.iter().any(|target| target.kind == "test") {
        let programs = dist::dist()?;
        build = test_programs(&programs);
        if targets.iter().any(|target| target.id() == REAL) {
            ready::ensure(&programs, arguments.yes, &[programs.workspace.root.join(SHARED_DISKS)])?;
            build.env(GUEST_TESTS, guest_tests::stage(&programs.workspace)?);
        }
    }
    let with_own = |program: TestProgram| {
        let own = if program.target.id() == REAL { &RUN_REAL[..] } else { &[] };
        (program, own)
    };
    let repeat = Repeat {
        count,
        busy: arguments.busy,
        programs: programs::build(build, &targets)?.into_iter().map(with_own).collect(),
        arguments: &arguments.pass_on,
        folder: workspace.target.join("repeat"),
    };
    repeat.run()
}

/// Returns the test programs with these names, or all if no names are given. Fails if a name is unknown.
fn chosen(all: &[TestTarget], unit_only: bool, names: &[String]) -> Result<Vec<TestTarget>, String> {
    let known: Vec<&TestTarget> = all.iter().filter(|target| !unit_only || target.kind != "test").collect();
    if let Some(unknown) = names.iter().find(|name| known.iter().all(|target| target.id() != **name)) {
        let ids: Vec<String> = known.iter().map(|target| target.id()).collect();
        return Err(format!("there is no test program `{unknown}`; there are: {}", ids.join(", ")));
    }
    let is_chosen = |target: &&TestTarget| names.is_empty() || names.contains(&target.id());
    Ok(known.into_iter().filter(is_chosen).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_chosen_by_name() {
        let target = |kind: &str, name: &str| TestTarget {
            package: "netem".into(),
            manifest: "/w/netem/Cargo.toml".into(),
            kind: kind.into(),
            name: name.into(),
        };
        let all = [target("lib", "netem"), target("bin", "netem"), target("test", "cli")];
        let ids = |unit_only, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let targets = chosen(&all, unit_only, &names)?;
            Ok::<_, String>(targets.iter().map(TestTarget::id).collect::<Vec<_>>())
        };
        assert_eq!(ids(false, &[]).unwrap(), ["netem", "netem::bin/netem", "netem::cli"]);
        assert_eq!(ids(true, &[]).unwrap(), ["netem", "netem::bin/netem"]);
        assert_eq!(ids(false, &["netem::cli"]).unwrap(), ["netem::cli"]);
        let refused = ids(true, &["netem::cli"]).unwrap_err();
        assert_eq!(refused, "there is no test program `netem::cli`; there are: netem, netem::bin/netem");
    }
}
