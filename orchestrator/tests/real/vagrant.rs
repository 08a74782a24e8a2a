//! `--lab vagrant` with a stub of Vagrant that names hosts with real SSH servers, in namespaces.
//! `cargo xtask vagrant-test` has real machines.

use crate::common::{
    hosts::with_hosts,
    real::{Place, ready},
    vagrant::{INVENTORY, NOT_UP, path_with, stub},
};
use std::fs;
use testbed::outcome::Outcome;

const SMOKE: &str = include_str!("../../../scenarios/smoke.yaml");

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
