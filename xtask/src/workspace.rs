//! The workspace's directories, and the cargo command that builds its statically linked programs.

use crate::{
    TaskError,
    command::{cargo, output},
};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiler flags for static programs. A guest has no C library, and `testbed` copies itself to other
/// hosts, whose C library may be older.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// A Cargo profile that static programs are built with.
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
pub(crate) struct Workspace {
    /// The top folder of the source tree.
    pub(crate) root: PathBuf,
    /// The target directory, with everything cargo builds.
    pub(crate) target: PathBuf,
    /// The target triple of this host.
    host: String,
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
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cannot parse the output of cargo metadata: {error}"))?;
        let directory = |key: &str| {
            metadata[key].as_str().map(PathBuf::from).ok_or(format!("cargo metadata reports no {key}"))
        };
        let (root, target) = (directory("workspace_root")?, directory("target_directory")?);
        Ok(Self { root, target, host: host()? })
    }

    /// Returns a cargo command that builds static programs.
    ///
    /// It passes `--target` with this host's own triple. Cargo then builds procedural macros, which cannot be
    /// static, without these flags. All commands have the same flags, so they share their build results.
    pub(crate) fn cargo_static(&self, subcommand: &str, profile: Profile) -> Command {
        let mut command = cargo();
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
/// with its target directory: cargo takes the programs there for fresh, and they would work on the old
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
}
