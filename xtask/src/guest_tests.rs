//! The programs that tests run in a guest which has nothing else: the program `netem`, its tests that need a
//! kernel, and an init that runs programs. They are linked statically and put into one directory.

use crate::{
    Failure,
    command::output,
    dist::place,
    workspace::{Profile, Workspace},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Kind and name of each.
const TARGETS: [(&str, &str); 5] = [
    ("example", "run-programs"),
    ("bin", "netem"),
    ("test", "kernel"),
    ("test", "cli"),
    ("test", "sch_netem"),
];

/// Builds and stages them; the directory.
pub(crate) fn stage(workspace: &Workspace) -> Result<PathBuf, Failure> {
    let directory = workspace.target.join("dist/guest-tests");
    fs::create_dir_all(&directory)
        .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    let mut cargo = workspace.cargo_static("build", Profile::Release);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    // `testbed` has none of them. It is named so that dependencies have the features with which `dist` has
    // built them.
    cargo.args(["-p", "stressor", "-p", "netem", "-p", "testbed"]);
    for (kind, name) in TARGETS {
        cargo.args([&format!("--{kind}"), name]);
    }
    let messages = output(&mut cargo)?;
    for (kind, name) in TARGETS {
        let built = executable(&messages, kind, name)
            .ok_or_else(|| format!("cargo does not say where it has put the {kind} {name}"))?;
        place(Path::new(&built), &directory.join(name))?;
    }
    Ok(directory)
}

/// Where cargo says that it has put a program, in its messages: one JSON object a line.
fn executable(messages: &str, kind: &str, name: &str) -> Option<String> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let target = &message["target"];
        let is_it = target["name"] == name && target["kind"] == serde_json::json!([kind]);
        is_it.then(|| message["executable"].as_str().map(str::to_owned)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"netem"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"netem"},"executable":"/t/netem"}
not JSON
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel"},"executable":"/t/deps/kernel-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "bin", "netem").as_deref(), Some("/t/netem"));
        assert_eq!(executable(messages, "test", "kernel").as_deref(), Some("/t/deps/kernel-1"));
        assert_eq!(executable(messages, "test", "netem"), None);
    }
}
