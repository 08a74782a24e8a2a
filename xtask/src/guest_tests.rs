//! The programs that tests run inside a guest: `netem`, those of its tests that need a real kernel, and an
//! init that runs them.
//!
//! The guest's initramfs contains nothing else, so they are linked statically. They are copied into one
//! directory.

use crate::{
    TaskError,
    command::output,
    dist::copy_if_changed,
    workspace::{Profile, Workspace},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The cargo targets to build, each as kind and name.
const TARGETS: [(&str, &str); 5] = [
    ("example", "run-programs"),
    ("bin", "netem"),
    ("test", "kernel"),
    ("test", "cli"),
    ("test", "sch_netem"),
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
        let built = executable(&messages, kind, name)
            .ok_or_else(|| format!("cargo did not report the path of the {kind} target {name}"))?;
        copy_if_changed(Path::new(&built), &directory.join(name))?;
    }
    Ok(directory)
}

/// Finds a target's executable in cargo's messages (one JSON object per line).
fn executable(messages: &str, kind: &str, name: &str) -> Option<String> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let target = &message["target"];
        let matches = target["name"] == name && target["kind"] == serde_json::json!([kind]);
        matches.then(|| message["executable"].as_str().map(str::to_owned)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"netem"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"netem"},"executable":"/t/netem"}
not JSON
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel"},"executable":"/t/deps/kernel-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "bin", "netem").as_deref(), Some("/t/netem"));
        assert_eq!(executable(messages, "test", "kernel").as_deref(), Some("/t/deps/kernel-1"));
        assert_eq!(executable(messages, "test", "netem"), None);
    }
}
