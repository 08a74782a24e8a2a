//! The programs that tests run inside a guest: `netem` and `stressor`, those of their tests that need a
//! kernel of their own, and an init that runs them.
//!
//! The guest's initramfs contains nothing else, so they are linked statically. They are copied into one
//! directory.

use crate::{
    TaskError, artifacts,
    command::output,
    dist::copy_if_changed,
    workspace::{Profile, Workspace},
};
use std::{fs, path::PathBuf};

/// The environment variable in which tests and benchmarks find the directory of the programs for a guest.
pub(crate) const GUEST_TESTS: &str = "TESTBED_GUEST_TESTS";

/// The cargo targets to build, each as kind and name.
const TARGETS: [(&str, &str); 8] = [
    ("example", "run-programs"),
    ("bin", "netem"),
    ("bin", "stressor"),
    ("test", "kernel"),
    ("test", "cli"),
    ("test", "sch_netem"),
    ("test", "link_matrix"),
    ("test", "limits"),
];

/// Builds the programs and copies them into `target/dist/guest-tests`. Returns that directory.
pub(crate) fn stage(workspace: &Workspace) -> Result<PathBuf, TaskError> {
    let directory = workspace.target.join("dist/guest-tests");
    fs::create_dir_all(&directory)
        .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    let mut cargo = workspace.cargo_static("build", Profile::Release);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    // None of the targets is in `testbed`. Naming it gives shared dependencies the same features as in
    // `dist`, so that they are not compiled again.
    cargo.args(["-p", "stressor", "-p", "netem", "-p", "testbed"]);
    for (kind, name) in TARGETS {
        cargo.args([&format!("--{kind}"), name]);
    }
    let messages = output(&mut cargo)?;
    for (kind, name) in TARGETS {
        copy_if_changed(&artifacts::find(&messages, kind, name)?, &directory.join(name))?;
    }
    Ok(directory)
}
