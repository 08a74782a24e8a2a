//! `--lab vagrant` with a stub of Vagrant that names no machines, or some that are not there.

use crate::common::vagrant::{INVENTORY, NOT_UP, path_with, stub};
use std::{ffi::OsString, fs, path::PathBuf, process::Command};
use tempfile::TempDir;

/// A folder to call the program in, with a matrix, a stub of Vagrant and a Vagrantfile in `vagrant/`.
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

    /// What a command is refused with.
    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, variables: &[(&str, OsString)]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
        command.args(args).args(["--lab", "vagrant"]).current_dir(self.dir.path());
        command.env("PATH", path_with(&self.path("bin"))).env("HOME", self.path("home"));
        command.env_remove("XDG_CACHE_HOME").env_remove("VAGRANT_CWD").envs(variables.iter().cloned());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!self.path("results").exists(), "nothing was started");
        said
    }
}

const RUN: &[&str] = &["run", "matrix.yaml"];

#[test]
fn what_is_missing_of_vagrant_is_said_before_anything_is_started() {
    let folder = Folder::new(NOT_UP);
    let said = folder.refused(RUN, 2, &[("PATH", folder.path("vagrant").into())]);
    assert!(said.contains("cannot run vagrant") && said.contains("vagrant-libvirt"), "{said}");
    let said = folder.refused(RUN, 2, &[("VAGRANT_CWD", folder.path("home").into())]);
    assert!(said.contains("no Vagrantfile") && said.contains("home (VAGRANT_CWD)"), "{said}");
    folder.write("vagrant/lab.yaml", &INVENTORY.replace("become: none", "become: magic"));
    let said = folder.refused(RUN, 2, &[]);
    assert!(said.contains("vagrant/lab.yaml: become"), "{said}");
    fs::remove_file(folder.path("vagrant/lab.yaml")).unwrap();
    assert!(folder.refused(RUN, 2, &[]).contains("cannot read the inventory"), "no inventory");
    fs::remove_file(folder.path("vagrant/Vagrantfile")).unwrap();
    let said = folder.refused(RUN, 2, &[]);
    assert!(said.contains("no Vagrantfile in this folder or its `vagrant/`"), "{said}");
}

#[test]
fn a_vagrantfile_in_the_current_folder_comes_first() {
    let folder = Folder::new("exit 0");
    folder.write("Vagrantfile", "");
    folder.write("lab.yaml", "controller: [");
    assert!(folder.refused(RUN, 2, &[]).contains("./lab.yaml"), "the one of the current folder");
    let said = folder.refused(RUN, 2, &[("VAGRANT_CWD", folder.path("home").into())]);
    assert!(said.contains("no Vagrantfile"), "what is named comes before it: {said}");
}

#[test]
fn machines_that_are_not_up_are_said_to_be_so() {
    let folder = Folder::new(NOT_UP);
    let said = folder.refused(&["doctor"], 3, &[]);
    assert!(said.contains("is not yet ready for SSH") && said.contains("`vagrant up`"), "{said}");
    stub(&folder.path("bin"), "printf 'Host lab0 lab1\\n  HostName 192.0.2.1\\n'");
    let said = folder.refused(&["doctor"], 2, &[]);
    assert!(said.contains("lab.yaml names the host lab2"), "{said}");
}
