//! The executables in cargo's messages (`--message-format json-render-diagnostics`, one JSON object a line).

use serde_json::Value;
use std::path::{Path, PathBuf};

/// An executable that cargo has built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The manifest of its package.
    pub(crate) manifest: PathBuf,
    /// The kind of its target: `bin`, `lib`, `test`, `example` or `bench`.
    pub(crate) kind: String,
    /// The name of its target.
    pub(crate) name: String,
    /// Whether it is a test program (or a benchmark), as opposed to the target itself.
    pub(crate) tests: bool,
    pub(crate) path: PathBuf,
}

/// Returns the executables in cargo's messages. Lines that are not messages are left out.
pub(crate) fn executables(messages: &str) -> Vec<Executable> {
    let executable = |line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Executable {
            manifest: text(&message["manifest_path"])?.into(),
            kind: text(&message["target"]["kind"][0])?,
            name: text(&message["target"]["name"])?,
            tests: message["profile"]["test"] == true,
            path: text(&message["executable"])?.into(),
        })
    };
    messages.lines().filter_map(executable).collect()
}

/// Returns the path of a target's executable. For a `bin`, that is the program and not its unit tests.
pub(crate) fn find(messages: &str, kind: &str, name: &str) -> Result<PathBuf, String> {
    let is_wanted = |found: &Executable| {
        (found.kind.as_str(), found.name.as_str()) == (kind, name) && (kind != "bin" || !found.tests)
    };
    executables(messages)
        .into_iter()
        .find(is_wanted)
        .map(|found| found.path)
        .ok_or_else(|| format!("cargo did not report the path of the {kind} target {name}"))
}

/// Returns the path that cargo reports for a test program of the package with this manifest.
pub(crate) fn find_tests<'a>(
    built: &'a [Executable],
    manifest: &Path,
    kind: &str,
    name: &str,
) -> Option<&'a Path> {
    let is_wanted = |found: &&Executable| {
        found.tests && found.manifest == manifest && found.kind == kind && found.name == name
    };
    built.iter().find(is_wanted).map(|found| found.path.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a message of cargo about a target of the package in `/n`.
    fn message(kind: &str, name: &str, tests: bool, path: Option<&str>) -> String {
        let message = serde_json::json!({
            "manifest_path": "/n/Cargo.toml",
            "target": { "kind": [kind], "name": name },
            "profile": { "test": tests },
            "executable": path,
        });
        message.to_string() + "\n"
    }

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let messages = [
            message("lib", "netem", false, None),
            message("bin", "netem", true, Some("/t/netem-1")),
            message("bin", "netem", false, Some("/t/netem")),
            "not JSON\n".to_owned(),
            message("test", "cli", true, Some("/t/cli-1")),
            "{\"reason\":\"build-finished\",\"success\":true}\n".to_owned(),
        ];
        let messages = messages.concat();
        let found = |kind, name| find(&messages, kind, name).ok();
        assert_eq!(found("bin", "netem"), Some("/t/netem".into()));
        assert_eq!(found("test", "cli"), Some("/t/cli-1".into()));
        assert_eq!(found("test", "netem"), None);
        let built = executables(&messages);
        let tests = |manifest, kind, name| find_tests(&built, Path::new(manifest), kind, name);
        assert_eq!(tests("/n/Cargo.toml", "bin", "netem"), Some(Path::new("/t/netem-1")));
        assert_eq!(tests("/m/Cargo.toml", "bin", "netem"), None);
    }
}
