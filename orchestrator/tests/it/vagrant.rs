//! Errors of `--lab vagrant`, with a stub of Vagrant whose machines are missing or not running.

use crate::common::{
    path_with,
    vagrant::{INVENTORY, NOT_UP, stub},
};
use std::{ffi::OsString, fs, os::unix::fs::symlink, path::PathBuf, process::Command};
use tempfile::TempDir;

/// A working directory with a matrix, a stub of Vagrant and a Vagrantfile in `vagrant/`.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        stub(&dir.path().join("bin"), script);
        let folder = Self { dir };
        fs::create_dir(folder.path("vagrant")).unwrap();
        folder.write("vagrant/Vagrantfile", "");
        folder.write("vagrant/lab.yaml", INVENTORY);
        folder.write("matrix.yaml", "name: m\n");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs `testbed` with `--lab vagrant` and checks its exit code. Returns its standard error.
    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, variables: &[(&str, OsString)]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
        command.args(args).args(["--lab", "vagrant"]).current_dir(self.dir.path());
        command.env("PATH", path_with(&self.path("bin"))).env("HOME", self.path("home"));
        command.env_remove("XDG_CACHE_HOME").env_remove("VAGRANT_CWD").envs(variables.iter().cloned());
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(!self.path("results").exists(), "nothing was started");
        stderr
    }
}

const RUN: &[&str] = &["run", "matrix.yaml"];

#[test]
fn a_missing_vagrant_vagrantfile_or_inventory_is_refused_before_the_run() {
    let folder = Folder::new(NOT_UP);
    let stderr = folder.refused(RUN, 2, &[("PATH", folder.path("vagrant").into())]);
    assert!(stderr.contains("cannot run vagrant") && stderr.contains("vagrant-libvirt"), "{stderr}");
    let stderr = folder.refused(RUN, 2, &[("VAGRANT_CWD", folder.path("home").into())]);
    assert!(stderr.contains("no Vagrantfile") && stderr.contains("home (VAGRANT_CWD)"), "{stderr}");
    symlink("loop", folder.path("loop")).unwrap();
    let stderr = folder.refused(RUN, 2, &[("VAGRANT_CWD", folder.path("loop").into())]);
    assert!(stderr.contains("cannot look for a Vagrantfile in ") && stderr.contains("symbolic"), "{stderr}");
    folder.write("vagrant/lab.yaml", &INVENTORY.replace("become: none", "become: magic"));
    let stderr = folder.refused(RUN, 2, &[]);
    assert!(stderr.contains("vagrant/lab.yaml: become"), "{stderr}");
    fs::remove_file(folder.path("vagrant/lab.yaml")).unwrap();
    assert!(folder.refused(RUN, 2, &[]).contains("cannot read the inventory"), "no inventory");
    fs::remove_file(folder.path("vagrant/Vagrantfile")).unwrap();
    let stderr = folder.refused(RUN, 2, &[]);
    assert!(stderr.contains("no Vagrantfile in the current folder or in `vagrant/`"), "{stderr}");
}

#[test]
fn a_vagrantfile_in_the_current_folder_comes_first() {
    let folder = Folder::new("exit 0");
    folder.write("Vagrantfile", "");
    folder.write("lab.yaml", "controller: [");
    assert!(folder.refused(RUN, 2, &[]).contains("./lab.yaml"), "not the inventory in `vagrant/`");
    let stderr = folder.refused(RUN, 2, &[("VAGRANT_CWD", folder.path("home").into())]);
    assert!(stderr.contains("no Vagrantfile"), "VAGRANT_CWD comes first: {stderr}");
}

#[test]
fn machines_that_are_not_running_are_reported() {
    let folder = Folder::new(NOT_UP);
    let stderr = folder.refused(&["doctor"], 3, &[]);
    assert!(stderr.contains("is not yet ready for SSH") && stderr.contains("`vagrant up`"), "{stderr}");
    stub(&folder.path("bin"), "printf 'Host lab0 lab1\\n  HostName 192.0.2.1\\n'");
    let stderr = folder.refused(&["doctor"], 2, &[]);
    assert!(stderr.contains("lab.yaml names the host lab2"), "{stderr}");
}
