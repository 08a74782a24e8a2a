//! Labs that a test itself starts and holds, without a run.

use super::real::skipped;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use std::{
    env, fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};
use testbed::{
    lab::{self, Lab, storage::SharedDisk},
    node::protocol::DiskName,
};
use units::Bytes;

/// The user `nobody`, an ordinary user that every system has.
const NOBODY: u32 = 65_534;

/// The environment variable with the program that nodes run, for a test that runs as another user.
const PROGRAM: &str = "TESTBED_TEST_PROGRAM";

/// Starts a lab on this host. Skips the test if namespaces cannot be created.
pub(crate) async fn start() -> Option<Lab> {
    let built = || env!("CARGO_BIN_EXE_testbed").into();
    let program = env::var_os(PROGRAM).map_or_else(built, PathBuf::from);
    match lab::local::start_from(&program).await {
        Ok(lab) => Some(lab),
        Err(error) if error.to_string().contains("cannot create") => skipped(&error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

/// Shares a new disk whose file is in this folder's file system. `written` is the amount of data written
/// beforehand.
pub(crate) async fn share_new(
    lab: &Lab,
    folder: &Path,
    size: Bytes,
    written: Bytes,
) -> Result<SharedDisk, lab::Error> {
    let disk = lab.controller.create_disk(folder, DiskName::Unnamed, size, written).await?;
    lab.share_disk(disk).await
}

/// Returns the PID of the server of the disk with this path, if one runs. It has the file as its standard
/// input.
pub(crate) fn server_of(disk: &Path) -> Option<i32> {
    let inode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let file = inode(disk).unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut found = entries.filter(|entry| inode(&entry.path().join("fd/0")) == Some(file));
    found.next()?.file_name().to_str()?.parse().ok()
}

/// Runs a test of this program again, as an ordinary user. Does nothing if the current user is already an
/// ordinary one.
#[track_caller]
pub(crate) fn run_as_ordinary_user(test: &str) {
    if !geteuid().is_root() {
        skipped::<()>("this is an ordinary user already");
        return;
    }
    // The built programs may be in a folder that others cannot enter.
    let folder = tempfile::tempdir().unwrap();
    let [program, tests] = ["testbed", "tests"].map(|name| folder.path().join(name));
    super::real::copy_program(env!("CARGO_BIN_EXE_testbed").as_ref(), &program);
    super::real::copy_program(&env::current_exe().unwrap(), &tests);
    let mut open = Command::new("chmod");
    assert!(open.arg("a+rx").arg(folder.path()).status().unwrap().success());
    let mut command = Command::new(tests);
    command.args(["--exact", test, "--include-ignored", "--nocapture"]).env(PROGRAM, program);
    command.env_remove("TMPDIR").current_dir("/").uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    let shown = super::shown(&output);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
    print!("{shown}");
}

/// Mounts an empty file system of this size for this thread and the processes that it starts. Returns its
/// folder. Skips the test if this process is not root.
pub(crate) fn small_file_system(size: &str) -> Option<&'static Path> {
    if !geteuid().is_root() {
        return skipped("needs root, for a file system of its own");
    }
    let (folder, none) = (Path::new("/mnt"), None::<&str>);
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let options = format!("size={size}");
    mount(Some("test"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
    Some(folder)
}
