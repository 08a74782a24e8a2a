//! PID 1 of a guest in which programs are to be run, such as another crate's tests: readies the machine, runs
//! each program of `/programs` that its arguments name, says on the console with which status each ended, and
//! switches the machine off.
//!
//! The arguments are what follows `--` among the kernel's options. Options of the form `NAME=value` that the
//! kernel does not know are environment variables, here and in the programs.

use std::process::Command;
use stressor::init;

fn main() {
    if let Err(error) = init::mount_all() {
        println!("run-programs: {error}");
        init::power_off();
    }
    if let Err(error) = std::fs::create_dir_all("/tmp") {
        println!("run-programs: cannot make /tmp: {error}");
    }
    init::load_modules();
    for program in std::env::args().skip(1) {
        println!("run-programs: {program} starts");
        match Command::new(format!("/programs/{program}")).status() {
            Ok(status) => println!("run-programs: {program} ended: {status}"),
            Err(error) => println!("run-programs: {program} cannot be started: {error}"),
        }
    }
    println!("run-programs: done");
    init::power_off();
}
