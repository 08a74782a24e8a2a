//! PID 1 of a guest that runs programs, such as the tests of another crate. It sets the guest up, runs the
//! programs in `/programs` that its arguments name, prints the exit status of each on the console, and powers
//! the guest off.
//!
//! The kernel passes the options after `--` on its command line as arguments. It passes unknown options of
//! the form `NAME=value` as environment variables, which the programs inherit.
#![allow(clippy::print_stdout, reason = "the output goes to the console of the guest")]

use std::process::Command;
use stressor::init;

fn main() {
    if let Err(error) = init::mount_all() {
        println!("run-programs: {error}");
        init::power_off();
    }
    if let Err(error) = std::fs::create_dir_all("/tmp") {
        println!("run-programs: cannot create /tmp: {error}");
    }
    init::load_modules();
    for program in std::env::args().skip(1) {
        println!("run-programs: {program} starts");
        match Command::new(format!("/programs/{program}")).status() {
            Ok(status) => println!("run-programs: {program} ended: {status}"),
            Err(error) => println!("run-programs: cannot start {program}: {error}"),
        }
    }
    println!("run-programs: done");
    init::power_off();
}
