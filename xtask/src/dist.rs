//! `cargo xtask dist`: builds the three programs in the form in which they are installed, and copies them
//! into one directory.
//!
//! They share a directory because `testbed` looks for the stressor beside itself. A program that has not
//! changed is left alone. A changed one is replaced by renaming a new file over it, so that a run in progress
//! keeps the program with which it started.

use crate::{
    TaskError,
    command::run_side_by_side,
    workspace::{Profile, Workspace},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The environment variable in which tests and benchmarks find the directory of the programs.
pub(crate) const DIST: &str = "TESTBED_DIST";

/// The programs that the project installs.
pub(crate) const PROGRAMS: [&str; 3] = ["testbed", "netem", "stressor"];

/// The programs after a build, ready to be run or installed.
pub(crate) struct BuiltPrograms {
    pub(crate) workspace: Workspace,
    /// The directory with all of [`PROGRAMS`].
    pub(crate) bin: PathBuf,
}

impl BuiltPrograms {
    pub(crate) fn testbed(&self) -> PathBuf {
        self.bin.join("testbed")
    }
}

/// Builds the programs and copies them into `target/dist/bin`.
pub(crate) fn dist() -> Result<BuiltPrograms, TaskError> {
    build(Workspace::find()?)
}

/// Does the same as [`dist`] in this workspace.
pub(crate) fn build(workspace: Workspace) -> Result<BuiltPrograms, TaskError> {
    let build = |profile: Profile, programs: &[&str]| {
        let mut cargo = workspace.cargo_static("build", profile);
        for program in programs {
            cargo.args(["-p", program, "--bin", program]);
        }
        cargo
    };
    // `testbed` and `netem` are built by one cargo, because they share dependencies. The stressor has a
    // profile of its own, so it does not share any; its link step keeps one core busy while the other build
    // uses the rest.
    let mut stressor = build(Profile::Guest, &["stressor"]);
    // Two progress bars would overwrite each other.
    stressor.env("CARGO_TERM_PROGRESS_WHEN", "never");
    run_side_by_side([stressor, build(Profile::Release, &["testbed", "netem"])])?;

    let bin = workspace.target.join("dist/bin");
    fs::create_dir_all(&bin).map_err(|error| format!("cannot create {}: {error}", bin.display()))?;
    for program in PROGRAMS {
        let profile = if program == "stressor" { Profile::Guest } else { Profile::Release };
        copy_if_changed(&workspace.static_programs(profile).join(program), &bin.join(program))?;
    }
    Ok(BuiltPrograms { workspace, bin })
}

/// Copies a program, unless the target already has the same content.
pub(crate) fn copy_if_changed(from: &Path, to: &Path) -> Result<(), TaskError> {
    let copy = || {
        let content = fs::read(from)?;
        if fs::read(to).is_ok_and(|present| present == content) {
            return Ok(());
        }
        let mut new = to.as_os_str().to_owned();
        new.push(format!(".{}", std::process::id()));
        fs::copy(from, &new)?;
        fs::rename(&new, to)
    };
    copy().map_err(|error| format!("cannot copy {} to {}: {error}", from.display(), to.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn an_unchanged_program_is_kept_and_a_changed_one_replaced() {
        let dir = std::env::temp_dir().join(format!("xtask-dist-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::write(&from, "one").unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o755)).unwrap();
        let copied = || {
            assert!(copy_if_changed(&from, &to).is_ok());
            let metadata = fs::metadata(&to).unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o755);
            (metadata.ino(), fs::read_to_string(&to).unwrap())
        };
        let first = copied();
        assert_eq!(first.1, "one");
        assert_eq!(copied(), first);
        fs::write(&from, "two").unwrap();
        let kept_open = fs::File::open(&to).unwrap();
        let second = copied();
        assert_eq!(second.1, "two");
        assert_ne!(second.0, kept_open.metadata().unwrap().ino());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "temporary files are left");
        fs::remove_dir_all(&dir).unwrap();
    }
}
