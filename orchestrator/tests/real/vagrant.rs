//! Tests `--lab vagrant` with a stub of `vagrant` that describes hosts with real SSH servers, in namespaces.
//! `cargo xtask vagrant-test` tests it with real virtual machines.

use crate::common::{
    hosts::with_hosts,
    path_with,
    real::{TestDir, ready},
    vagrant::{INVENTORY, NOT_UP, stub},
};
use std::fs;
use testbed::outcome::Outcome;

const SMOKE: &str = include_str!("../../../scenarios/smoke.yaml");

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn the_smoke_scenario_converges_between_vagrants_machines() {
    let Some(ready) = ready() else { return };
    let mut dir = TestDir::new(&ready, SMOKE);
    // `testbed` looks for this folder in the current directory.
    let lab = dir.path("vagrant");
    dir.set("PATH", path_with(&dir.path("bin")));
    dir.set("VAGRANT_CWD", &lab);
    fs::create_dir(&lab).unwrap();
    fs::write(lab.join("Vagrantfile"), "").unwrap();
    fs::write(lab.join("lab.yaml"), INVENTORY).unwrap();
    with_hosts(&dir, |hosts| {
        let script =
            format!("test -f \"$VAGRANT_CWD/Vagrantfile\" && exec cat '{}'", hosts.ssh_config().display());
        stub(&dir.path("bin"), &script);
        let (code, said) = dir.ask("doctor", &["--lab", "vagrant"]);
        assert_eq!(code, 0, "{said}");
        // The other cell does not differ from a run between hosts of an inventory, and takes a quarter of a
        // minute.
        let args = ["matrix.yaml", "--out", "run", "--lab", "vagrant", "--only", "stress.rate < 10MB/s"];
        assert_eq!(dir.run(&args), 0, "{}", dir.shown());
        assert_eq!(dir.outcomes(), [Outcome::Converged], "{}", dir.shown());
        assert_eq!(dir.environment()["lab"]["kind"], "vagrant");

        // The machines are not up when the lab starts.
        stub(&dir.path("bin"), NOT_UP);
        assert_eq!(dir.run(&["matrix.yaml", "--out", "again", "--lab", "vagrant"]), 3, "{}", dir.shown());
        assert!(dir.stderr().contains("start the machines there with `vagrant up`"), "{}", dir.shown());
    });
}
