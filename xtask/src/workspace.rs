//! Where this workspace and what is built of it are.

use crate::{Failure, command::cargo};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The directories of the workspace, as cargo knows them.
pub(crate) struct Workspace {
    /// The source tree.
    pub(crate) root: PathBuf,
    /// What is built.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self, Failure> {
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
            .map_err(|error| format!("cannot read what cargo metadata says: {error}"))?;
        let directory = |key: &str| {
            metadata[key].as_str().map(PathBuf::from).ok_or(format!("cargo metadata names no {key}"))
        };
        Ok(Self { root: directory("workspace_root")?, target: directory("target_directory")? })
    }
}

/// This package's manifest, by what `cargo run` says as it starts this program. Not by what it said when it was built:
/// a tree that was copied or renamed with all that is built has programs that cargo takes for fresh, and that would go
/// on in the old place.
fn manifest(directory: Option<OsString>) -> Result<PathBuf, Failure> {
    let directory = directory.ok_or_else(|| "run this as `cargo xtask`".to_owned())?;
    Ok(Path::new(&directory).join("Cargo.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_where_cargo_runs_this_and_not_where_it_was_built() {
        let manifest_of = |directory: Option<&str>| manifest(directory.map(Into::into)).ok();
        assert_eq!(manifest_of(Some("/moved/xtask")), Some("/moved/xtask/Cargo.toml".into()));
        assert_eq!(manifest_of(None), None);
    }
}
