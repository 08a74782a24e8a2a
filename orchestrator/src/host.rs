//! Facts about the machine this process runs on, for results and for diagnosis.

use std::{fs, io, thread};

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

/// Memory in all, in bytes; zero where the kernel does not say.
pub fn memory_bytes() -> u64 {
    meminfo("MemTotal")
}

/// Memory that can be had without swapping, in bytes; zero where the kernel does not say.
pub fn available_memory_bytes() -> u64 {
    meminfo("MemAvailable")
}

fn meminfo(key: &str) -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
