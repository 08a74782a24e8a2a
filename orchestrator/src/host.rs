//! Facts about the machine this process runs on, for results and for diagnosis.

use std::{fs, io, process::Command, thread};
use stressor::machine::Memory;

/// The program that runs guests.
pub const QEMU: &str = "qemu-system-x86_64";

/// The running kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> io::Result<String> {
    Ok(nix::sys::utsname::uname()?.release().to_string_lossy().into_owned())
}

/// The first CPU's model, or `unknown`.
pub fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_string())
}

/// CPUs that this process may use.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Returns the memory that this process can have.
pub fn memory() -> io::Result<Memory> {
    Memory::probe()
}

/// Returns the version of this host's QEMU, as its first line has it: `10.0.2`.
pub fn qemu_version() -> io::Result<String> {
    let output = Command::new(QEMU).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    version.map(ToString::to_string).ok_or_else(|| io::Error::other("it does not tell its version"))
}
