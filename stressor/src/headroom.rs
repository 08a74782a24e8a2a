//! The limits on the ordinary memory of this process, and how much each of them leaves.

use crate::cgroup;
use rustix::process::{Resource, getrlimit};
use std::{fmt, fs, io, path::PathBuf};
use units::Bytes;

/// Something that limits the memory of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The memory of the system.
    System,
    /// A limit of a control group, in this file.
    ControlGroup(PathBuf),
    /// The limit on the address space of a process, `RLIMIT_AS`.
    AddressSpace,
    /// The limit on the writable memory of a process, `RLIMIT_DATA`.
    Data,
    /// The kernel's limit on the memory that it has promised to all processes, with `vm.overcommit_memory` =
    /// 2.
    Promises,
}

impl Bound {
    /// Returns whether huge pages count towards the limit too.
    pub(crate) fn counts_huge_pages(&self) -> bool {
        matches!(self, Self::AddressSpace | Self::Data)
    }

    /// Returns where the memory is limited, as it follows "available".
    pub(crate) fn place(&self) -> &'static str {
        match self {
            Self::System => "on this system",
            Self::ControlGroup(_) => "in this control group",
            Self::AddressSpace | Self::Data => "to this process",
            Self::Promises => "while the kernel does not overcommit memory",
        }
    }
}

/// Formats what can be done about the limit, as it follows "or".
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => write!(f, "provide more memory"),
            Self::ControlGroup(file) => write!(f, "raise the limit in {}", file.display()),
            Self::AddressSpace => write!(f, "raise the limit on address space (`ulimit -v`)"),
            Self::Data => write!(f, "raise the limit on data (`ulimit -d`)"),
            Self::Promises => {
                write!(f, "raise vm.overcommit_ratio or vm.overcommit_kbytes (vm.overcommit_memory is 2)")
            }
        }
    }
}

/// A limit, and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headroom {
    pub(crate) bound: Bound,
    /// The memory that can still be used, in bytes.
    pub(crate) left: u64,
}

/// A file in /proc with a name and a size in kB on each line.
pub(crate) struct Sizes {
    path: &'static str,
    text: String,
}

impl Sizes {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read. The error names it.
    pub(crate) fn read(path: &'static str) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let hint = if error.kind() == io::ErrorKind::NotFound { " (is /proc mounted?)" } else { "" };
            io::Error::new(error.kind(), format!("cannot read {path}: {error}{hint}"))
        };
        Ok(Self { path, text: fs::read_to_string(path).map_err(explain)? })
    }

    /// Returns a size by its full name.
    ///
    /// # Errors
    ///
    /// Fails if the file does not have the size.
    pub(crate) fn get(&self, name: &str) -> io::Result<Bytes> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("{} has no {name}", self.path));
        let line = self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| Bytes::new(kib << 10)).ok_or_else(missing)
    }
}

/// Returns what each limit leaves, given the content of /proc/meminfo. A limit that cannot be read is left
/// out.
///
/// # Errors
///
/// Fails if /proc/meminfo does not give the available memory.
pub(crate) fn all(meminfo: &Sizes) -> io::Result<Vec<Headroom>> {
    let headroom = |bound, left: u64| Headroom { bound, left };
    let available = meminfo.get("MemAvailable")?.get();
    let of_group = cgroup::memory_limit().map(|limit| headroom(Bound::ControlGroup(limit.file), limit.left));
    let status = Sizes::read("/proc/self/status").ok();
    let of_process = [(Resource::As, "VmSize", Bound::AddressSpace), (Resource::Data, "VmData", Bound::Data)]
        .into_iter()
        .filter_map(|(resource, name, bound)| {
            let limit = getrlimit(resource).current?;
            Some(headroom(bound, limit.saturating_sub(status.as_ref()?.get(name).ok()?.get())))
        });
    Ok([headroom(Bound::System, available)]
        .into_iter()
        .chain(of_group)
        .chain(of_process)
        .chain(promises(meminfo))
        .collect())
}

/// Returns what the kernel may still promise, if it limits its promises to its memory.
fn promises(meminfo: &Sizes) -> Option<Headroom> {
    let strict = fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2");
    let sizes = [meminfo.get("CommitLimit").ok()?, meminfo.get("Committed_AS").ok()?].map(Bytes::get);
    strict.then(|| Headroom { bound: Bound::Promises, left: sizes[0].saturating_sub(sizes[1]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_matched_by_their_full_name() {
        let text = "MemTotal:       24000 kB\nMemAvailable:   12 kB\nHugePages_Free:        3\n";
        let sizes = Sizes { path: "meminfo", text: text.into() };
        assert_eq!(sizes.get("MemAvailable").unwrap(), Bytes::new(12 << 10));
        assert_eq!(sizes.get("Mem").unwrap_err().to_string(), "meminfo has no Mem");
        assert!(sizes.get("HugePages_Free").is_err());
    }
}
