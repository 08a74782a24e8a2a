//! Where this workspace and what is built of it are, and how its static programs are built.

use crate::{
    Failure,
    command::{cargo, output},
};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// What static programs are compiled with. A guest has no C library, and `testbed` starts itself on other
/// hosts, which may have an older one.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// A Cargo profile of static programs.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Release,
    /// The stressor's: small.
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

/// The directories of the workspace, as cargo knows them.
pub(crate) struct Workspace {
    /// The source tree.
    pub(crate) root: PathBuf,
    /// What is built.
    pub(crate) target: PathBuf,
    /// The target triple of this machine.
    host: String,
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
        let (root, target) = (directory("workspace_root")?, directory("target_directory")?);
        Ok(Self { root, target, host: host()? })
    }

    /// Returns a call of cargo that builds static programs.
    ///
    /// It names the target, which is this machine: procedural macros, which cannot be static, are then built
    /// without these flags. All calls have the same flags, so they share what they build.
    pub(crate) fn cargo_static(&self, subcommand: &str, profile: Profile) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).args([subcommand, "--target", &self.host]);
        command.args(["--profile", profile.name()]);
        let flags = env::var("RUSTFLAGS").map_or(STATIC.to_owned(), |own| format!("{own} {STATIC}"));
        command.env("RUSTFLAGS", flags);
        command
    }

    /// Returns the directory in which cargo leaves a profile's static programs.
    pub(crate) fn static_programs(&self, profile: Profile) -> PathBuf {
        self.target.join(&self.host).join(profile.name())
    }
}

/// Asks the compiler for this machine's target triple.
fn host() -> Result<String, Failure> {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let said = output(Command::new(rustc).args(["--print", "host-tuple"]))?;
    Ok(said.trim().to_owned())
}

/// This package's manifest, by what `cargo run` says as it starts this program. Not by what it said when it
/// was built: a tree that was copied or renamed with all that is built has programs that cargo takes for
/// fresh, and that would go on in the old place.
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
