//! `cargo xtask dist`: the three programs, built as they are installed, in one directory.
//!
//! `testbed` finds the stressor beside itself, so they are staged together. A program that is as it was is
//! not replaced. One that has changed is replaced by a rename: a run in progress keeps its own.

use crate::{
    Failure,
    command::run_side_by_side,
    workspace::{Profile, Workspace},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The programs of the project.
pub(crate) const PROGRAMS: [&str; 3] = ["testbed", "netem", "stressor"];

/// Programs that were built.
pub(crate) struct Staged {
    pub(crate) workspace: Workspace,
    /// The directory that has all three.
    pub(crate) bin: PathBuf,
}

impl Staged {
    pub(crate) fn testbed(&self) -> PathBuf {
        self.bin.join("testbed")
    }
}

/// Builds and stages them.
pub(crate) fn dist() -> Result<Staged, Failure> {
    let workspace = Workspace::find()?;
    let build = |profile: Profile, programs: &[&str]| {
        let mut cargo = workspace.cargo_static("build", profile);
        for program in programs {
            cargo.args(["-p", program, "--bin", program]);
        }
        cargo
    };
    // Together `testbed` and `netem` share what they depend on. The stressor shares nothing, and is linked on
    // one core, which leaves the other.
    let mut stressor = build(Profile::Guest, &["stressor"]);
    // Two progress bars would write over each other.
    stressor.env("CARGO_TERM_PROGRESS_WHEN", "never");
    run_side_by_side([stressor, build(Profile::Release, &["testbed", "netem"])])?;

    let bin = workspace.target.join("dist/bin");
    fs::create_dir_all(&bin).map_err(|error| format!("cannot create {}: {error}", bin.display()))?;
    for program in PROGRAMS {
        let profile = if program == "stressor" { Profile::Guest } else { Profile::Release };
        place(&workspace.static_programs(profile).join(program), &bin.join(program))?;
    }
    Ok(Staged { workspace, bin })
}

/// Copies a program, unless the same is there.
pub(crate) fn place(from: &Path, to: &Path) -> Result<(), Failure> {
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
    fn what_is_the_same_stays_and_what_is_not_is_replaced() {
        let dir = std::env::temp_dir().join(format!("xtask-dist-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::write(&from, "one").unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o755)).unwrap();
        let copied = || {
            assert!(place(&from, &to).is_ok());
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
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing else is left");
        fs::remove_dir_all(&dir).unwrap();
    }
}
