//! Where this workspace and what is built of it are.

use crate::{Failure, command::cargo};
use std::path::PathBuf;

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
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path", manifest])
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
