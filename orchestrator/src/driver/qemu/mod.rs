//! One QEMU: its command line ([`machine`]), its process and monitor ([`process`]), a guest that booted and was
//! saved ([`saved`]), which CPUs it can have ([`cpus`]), and which accelerator QEMU can really use here ([`accel`]).

use std::{io, process::Command};

pub mod accel;
pub mod cpus;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod saved;

/// The version of this host's QEMU, as its first line has it: `10.0.2`.
pub fn version() -> io::Result<String> {
    let output = Command::new(machine::QEMU).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    version.map(ToString::to_string).ok_or_else(|| io::Error::other("it does not tell its version"))
}
