//! The workspace's directories, and the cargo command that builds its statically linked programs.

use crate::{
    TaskError,
    command::{cargo, cargo_in_background, output},
};
use serde_json::Value;
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiler flags for static programs. A guest has no C library, and `testbed` copies itself to other
/// hosts, whose C library may be older.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// A Cargo profile used to build static programs.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Release,
    /// The stressor's profile, optimized for size.
    Guest,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Guest => "guest",
        }
    }
}

/// The directories of the workspace, as `cargo metadata` reports them.
#[derive(Clone)]
pub(crate) struct Workspace {
    /// The top folder of the source tree.
    pub(crate) root: PathBuf,
    /// The target directory, with everything cargo builds.
    pub(crate) target: PathBuf,
    /// The programs with the workspace's tests.
    pub(crate) tests: Vec<TestTarget>,
    /// The target triple of this host.
    host: String,
    /// Whether builds leave the CPUs to other programs.
    in_background: bool,
}

/// A target of cargo with tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestTarget {
    pub(crate) package: String,
    /// The path of the package's manifest.
    pub(crate) manifest: PathBuf,
    /// `lib`, `bin` or `test`.
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl TestTarget {
    /// Returns the name of the program: the name of the package for its library, `PACKAGE::bin/NAME` for the
    /// unit tests of a program, `PACKAGE::NAME` for others. nextest uses these names too.
    pub(crate) fn id(&self) -> String {
        match self.kind.as_str() {
            "lib" => self.package.clone(),
            "bin" => format!("{}::bin/{}", self.package, self.name),
            _ => format!("{}::{}", self.package, self.name),
        }
    }

    /// Returns the folder in which cargo runs the tests: the folder of the package.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest.parent().unwrap_or(Path::new("/"))
    }

    /// Returns the options that select it. Other packages may have targets of the same name, but building
    /// for the whole workspace shares all dependencies with a plain `cargo test`.
    pub(crate) fn cargo_arguments(&self) -> Vec<&str> {
        match self.kind.as_str() {
            "lib" => vec!["--lib"],
            kind => vec![if kind == "bin" { "--bin" } else { "--test" }, &self.name],
        }
    }

    /// Reads the targets with tests from the output of `cargo metadata`.
    fn all(metadata: &Value) -> Vec<Self> {
        let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let targets = |package: &Value| {
            let (name, manifest) = (text(&package["name"]), text(&package["manifest_path"]));
            let tested = array(&package["targets"]).into_iter().filter(|target| target["test"] == true);
            let target = move |target: Value| Self {
                package: name.clone(),
                manifest: manifest.clone().into(),
                kind: text(&target["kind"][0]),
                name: text(&target["name"]),
            };
            tested.map(target).collect::<Vec<_>>()
        };
        array(&metadata["packages"]).iter().flat_map(targets).collect()
    }
}

impl Workspace {
    /// Asks cargo for the directories, and the compiler for the target triple.
    pub(crate) fn find() -> Result<Self, TaskError> {
        let manifest = manifest(env::var_os("CARGO_MANIFEST_DIR"))?;
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
            .arg(&manifest)
            .output()
            .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cannot parse the output of cargo metadata: {error}"))?;
        let directory = |key: &str| {
            metadata[key].as_str().map(PathBuf::from).ok_or(format!("cargo metadata reports no {key}"))
        };
        let (root, target) = (directory("workspace_root")?, directory("target_directory")?);
        Ok(Self { root, target, tests: TestTarget::all(&metadata), host: host()?, in_background: false })
    }

    /// Returns the same workspace, but with builds that leave the CPUs to other programs.
    pub(crate) fn in_background(self) -> Self {
        Self { in_background: true, ..self }
    }

    /// Returns a cargo command that builds static programs.
    ///
    /// It passes `--target` with this host's own triple. Cargo then builds procedural macros, which cannot be
    /// static, without these flags. All commands have the same flags, so they share their build results.
    pub(crate) fn cargo_static(&self, subcommand: &str, profile: Profile) -> Command {
        let mut command = if self.in_background { cargo_in_background() } else { cargo() };
        command.current_dir(&self.root).args([subcommand, "--target", &self.host]);
        command.args(["--profile", profile.name()]);
        let flags = env::var("RUSTFLAGS").map_or(STATIC.to_owned(), |users| format!("{users} {STATIC}"));
        command.env("RUSTFLAGS", flags);
        command
    }

    /// Returns the directory where cargo puts the static programs of a profile.
    pub(crate) fn static_programs(&self, profile: Profile) -> PathBuf {
        self.target.join(&self.host).join(profile.name())
    }
}

/// Asks the compiler for this host's target triple.
fn host() -> Result<String, TaskError> {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let triple = output(Command::new(rustc).args(["--print", "host-tuple"]))?;
    Ok(triple.trim().to_owned())
}

/// Returns the path of this package's manifest, from the `CARGO_MANIFEST_DIR` that `cargo run` sets at run
/// time.
///
/// The value known at compile time (`env!`) would be wrong in a tree that was copied or renamed together
/// with its target directory: cargo considers the programs there up to date, and they would work on the old
/// tree.
fn manifest(directory: Option<OsString>) -> Result<PathBuf, TaskError> {
    let directory =
        directory.ok_or_else(|| "CARGO_MANIFEST_DIR is not set; run this as `cargo xtask`".to_owned())?;
    Ok(Path::new(&directory).join("Cargo.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_where_cargo_runs_it_and_not_where_it_was_built() {
        let manifest_of = |directory: Option<&str>| manifest(directory.map(Into::into)).ok();
        assert_eq!(manifest_of(Some("/moved/xtask")), Some("/moved/xtask/Cargo.toml".into()));
        assert_eq!(manifest_of(None), None);
    }

    #[test]
    fn targets_with_tests_are_read_from_cargos_metadata() {
        let metadata = serde_json::json!({ "packages": [{
            "name": "p", "manifest_path": "/w/p/Cargo.toml", "targets": [
                { "kind": ["lib"], "name": "p", "test": true },
                { "kind": ["bin"], "name": "p", "test": true },
                { "kind": ["test"], "name": "t", "test": true },
                { "kind": ["test"], "name": "storm", "test": false },
            ],
        }] });
        let targets = TestTarget::all(&metadata);
        let ids: Vec<String> = targets.iter().map(TestTarget::id).collect();
        assert_eq!(ids, ["p", "p::bin/p", "p::t"]);
        assert_eq!(targets[0].folder(), Path::new("/w/p"));
    }
}
