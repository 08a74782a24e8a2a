//! Checks that no dependency requires a newer compiler than the oldest one that Cargo.toml promises.

use serde_json::Value;
use std::process::{Command, Stdio};

/// Splits a Rust version into comparable numbers: 1.89 is 1.89.0, and older than 1.89.1.
fn parts(version: &str) -> [u32; 3] {
    let mut parts = [0; 3];
    for (part, text) in parts.iter_mut().zip(version.split('.')) {
        *part = text.parse().unwrap();
    }
    parts
}

fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn no_dependency_requires_a_newer_compiler() {
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", host.trim()]);
    let metadata: Value = serde_json::from_str(&output(&mut cargo)).unwrap();
    let promised = parts(env!("CARGO_PKG_RUST_VERSION"));
    let newer: Vec<String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| {
            let required = package["rust_version"].as_str()?;
            (parts(required) > promised).then(|| format!("{} requires Rust {required}", package["id"]))
        })
        .collect();
    assert!(newer.is_empty(), "{newer:#?}");
}
