//! `--lab vagrant` with a stub of Vagrant: what it says of the machines is all that matters here. The machines are
//! either none, or hosts with real SSH servers in namespaces. `cargo xtask vagrant-test` has real ones.

use crate::common::{
    hosts::with_hosts,
    real::{Place, ready},
};
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;
use testbed::outcome::Outcome;

const SMOKE: &str = include_str!("../../../scenarios/smoke.yaml");

const INVENTORY: &str = "\
controller: { host: lab0, guests: eth2 }
compute1: { host: lab1, guests: eth2, migration: eth1 }
compute2: { host: lab2, guests: eth2, migration: eth1 }
become: none
";

/// What Vagrant says of machines that have not been started.
const NOT_UP: &str = "cat >&2 <<'END'
The provider for this Vagrant-managed machine is reporting that it
is not yet ready for SSH.
END
exit 1";

/// Puts a `vagrant` there that runs this script when it is asked for `ssh-config`, and knows nothing else.
fn stub(folder: &Path, script: &str) {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join("vagrant");
    let text = format!("#!/bin/sh\n[ \"$*\" = ssh-config ] || exit 64\n{script}\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `PATH` with this folder before the others.
fn path_with(folder: &Path) -> OsString {
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([folder.to_path_buf()].into_iter().chain(std::env::split_paths(&others))).unwrap()
}

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

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn the_smoke_scenario_holds_between_the_machines_that_vagrant_names() {
    let Some(ready) = ready() else { return };
    let mut place = Place::new(&ready, SMOKE);
    // In the folder that the run is started in, under the name that is looked for.
    let lab = place.path("vagrant");
    place.set("PATH", path_with(&place.path("bin")));
    place.set("VAGRANT_CWD", &lab);
    fs::create_dir(&lab).unwrap();
    fs::write(lab.join("Vagrantfile"), "").unwrap();
    fs::write(lab.join("lab.yaml"), INVENTORY).unwrap();
    with_hosts(&place, |hosts| {
        let script =
            format!("test -f \"$VAGRANT_CWD/Vagrantfile\" && exec cat '{}'", hosts.ssh_config().display());
        stub(&place.path("bin"), &script);
        let (code, said) = place.ask("doctor", &["--lab", "vagrant"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(place.run(&["matrix.yaml", "--out", "run", "--lab", "vagrant"]), 0, "{}", place.shown());
        let outcomes: Vec<Outcome> = place.records().iter().map(|record| record.outcome).collect();
        assert_eq!(outcomes, [Outcome::Converged, Outcome::NotConverged], "{}", place.shown());
        assert_eq!(place.environment()["lab"]["kind"], "vagrant");

        // The machines are gone when the lab is to be started.
        stub(&place.path("bin"), NOT_UP);
        assert_eq!(place.run(&["matrix.yaml", "--out", "again", "--lab", "vagrant"]), 3, "{}", place.shown());
        assert!(place.stderr().contains("`vagrant up` there starts the machines"), "{}", place.shown());
    });
}
