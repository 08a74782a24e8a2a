//! Facts about this host, for results and for diagnosis.

use crate::bounded;
use std::{fs, io, path::Path, process::Command, thread, time::Duration};
use stressor::machine::MemInfo;

/// The name of the QEMU program, looked up in `PATH`.
pub const QEMU: &str = "qemu-system-x86_64";

/// How long QEMU may take to answer a question about itself. It takes less than a second, but a busy host, or
/// a file system on the network, may hold it up.
pub const QEMU_LIMIT: Duration = Duration::from_secs(30);

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
///
/// # Errors
///
/// QEMU is not installed ([`io::ErrorKind::NotFound`]), does not run, or does not answer within
/// [`QEMU_LIMIT`].
pub fn qemu_version() -> io::Result<String> {
    version_of(Command::new(QEMU).arg("--version"), QEMU_LIMIT)
}

fn version_of(command: &mut Command, limit: Duration) -> io::Result<String> {
    let output = bounded::output_within(command, limit).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => io::Error::other(format!("`{QEMU} --version` hangs: {error}")),
        _ => error,
    })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = stderr.lines().next().unwrap_or_default().trim();
        return Err(io::Error::other(format!("`{QEMU} --version` fails ({}): {reason}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    version
        .map(ToString::to_string)
        .ok_or_else(|| io::Error::other(format!("`{QEMU} --version` prints no version")))
}

/// The mount that contains a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path of the mount point.
    pub point: String,
    /// The type of the file system, such as `ext4` or `nfs4`.
    pub file_system: String,
    /// The source: a device, or the export of a server.
    pub source: String,
    /// The options of the mount, such as `ro` or `noexec`.
    pub options: Vec<String>,
}

impl Mount {
    /// Finds the mount that contains a path in the text of `/proc/self/mountinfo`.
    pub fn of(mounts: &str, path: &Path) -> Option<Self> {
        let mount = |line: &str| {
            let (place, what) = line.split_once(" - ")?;
            let mut place = place.split(' ').skip(4);
            // The kernel writes a space in a path as the octal escape \040.
            let point = place.next()?.replace("\\040", " ");
            if !path.starts_with(&point) {
                return None;
            }
            let options = place.next()?.split(',').map(str::to_owned).collect();
            let mut what = what.split(' ').map(str::to_owned);
            Some(Self { point, options, file_system: what.next()?, source: what.next()? })
        };
        // The longest mount point counts. If two mounts have the same point, the later one hides the other;
        // `max_by_key` returns the last maximum.
        mounts.lines().filter_map(mount).max_by_key(|mount| mount.point.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_does_not_answer_is_given_up() {
        let asked = |script: &str, limit| version_of(Command::new("sh").args(["-c", script]), limit);
        let error = asked("sleep 600; true", Duration::from_secs(1)).unwrap_err().to_string();
        assert_eq!(error, "`qemu-system-x86_64 --version` hangs: it did not answer within 1 s");
        assert_eq!(asked("echo QEMU emulator version 10.0.2 '(x)'", QEMU_LIMIT).unwrap(), "10.0.2");
    }

    #[test]
    fn a_path_lies_on_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:5 / /srv/images rw,noexec,relatime shared:1 - nfs4 controller:/images rw\n\
                      3 1 0:6 / /srv/image rw - tmpfs image rw\n";
        let of = |path: &str| {
            let mount = Mount::of(mounts, Path::new(path)).unwrap();
            (mount.file_system, mount.source)
        };
        assert_eq!(of("/srv/images/deep"), ("nfs4".into(), "controller:/images".into()));
        assert_eq!(of("/srv/imagesque"), ("ext4".into(), "/dev/sda1".into()));
        assert_eq!(of("/"), ("ext4".into(), "/dev/sda1".into()));
        let options = Mount::of(mounts, Path::new("/srv/images")).unwrap().options;
        assert_eq!(options, ["rw", "noexec", "relatime"]);
    }
}
