//! `cargo xtask dist`: the three programs, built as they are installed, in one directory.
//!
//! `testbed` finds the stressor beside itself, so they are staged together. A program that is as it was is
//! not replaced, and one that is replaced is so by a rename: a run that is under way keeps its own.

use crate::{
    Failure,
    command::{cargo, run},
    workspace::Workspace,
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
    let root = &workspace.root;
    // Statically: the stressor is a guest's only program, and `testbed` starts itself on other hosts, which may have
    // an older C library.
    for program in PROGRAMS {
        run(cargo()
            .current_dir(root)
            .args(["rustc", "-p", program, "--bin", program, "--profile", profile(program), "--"])
            // As arguments to the last crate only: in RUSTFLAGS they would break the build's procedural macros.
            .args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]))?;
    }

    let bin = workspace.target.join("dist/bin");
    fs::create_dir_all(&bin).map_err(|error| format!("cannot create {}: {error}", bin.display()))?;
    for program in PROGRAMS {
        place(&workspace.target.join(profile(program)).join(program), &bin.join(program))?;
    }
    Ok(Staged { workspace, bin })
}

/// The Cargo profile that a program is built with.
fn profile(program: &str) -> &'static str {
    if program == "stressor" { "guest" } else { "release" }
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
