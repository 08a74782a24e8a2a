//! Facts about this host, for results and for diagnosis.

use crate::bounded;
use std::{fs, io, process::Command, thread};
use stressor::machine::MemInfo;

/// The name of the QEMU program, looked up in `PATH`.
pub const QEMU: &str = "qemu-system-x86_64";

/// Returns the release of the running kernel, as `uname -r` prints it.
pub fn kernel_release() -> io::Result<String> {
    Ok(nix::sys::utsname::uname()?.release().to_string_lossy().into_owned())
}

/// Returns the model of the first CPU in `/proc/cpuinfo`, or `unknown`.
pub fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_string())
}

/// Returns the number of CPUs that this process may use.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Returns the total memory of this host, and how much of it this process can allocate within its cgroup.
pub fn memory() -> io::Result<MemInfo> {
    MemInfo::probe()
}

/// Returns the version of this host's QEMU, such as `10.0.2`, from the output of `--version`.
pub fn qemu_version() -> io::Result<String> {
    let output = bounded::output(Command::new(QEMU).arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    version
        .map(ToString::to_string)
        .ok_or_else(|| io::Error::other(format!("`{QEMU} --version` prints no version")))
}
