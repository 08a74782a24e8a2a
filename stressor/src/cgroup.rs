//! The memory limit of control groups. A container that exceeds its limit is killed, no matter how much
//! memory the host has.
//!
//! Supports both versions of the kernel's interface (cgroup v1 and v2). A limit that cannot be read is
//! treated as no limit.

use std::{fs, path::Path};

/// Returns the memory that this process can still use within the limits of its control groups, in bytes.
/// Returns `None` if there is no limit.
pub(crate) fn memory_left() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    memory_left_in(&membership, Path::new("/sys/fs/cgroup"))
}

/// The file names of one version of the interface, and the field of `memory.stat` with the memory that counts
/// as used but can be reclaimed.
struct Files {
    limit: &'static str,
    used: &'static str,
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Files = Files { limit: "memory.max", used: "memory.current", reclaimable: "inactive_file" };

fn memory_left_in(membership: &str, mounted_at: &Path) -> Option<u64> {
    let groups = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some((mounted_at.to_owned(), path, V2)),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some((mounted_at.join("memory"), path, V1))
            }
            _ => None,
        }
    });
    // The limit of a group also applies to the groups below it, so all ancestors are checked. In a container
    // the full path may not exist, but the root of the hierarchy does.
    let all = groups.flat_map(|(root, path, files)| {
        let levels = Path::new(path).ancestors().map(|level| left_in(&root.join(level), &files));
        levels.flatten().collect::<Vec<_>>()
    });
    all.min()
}

/// Returns the memory that the limit of a single group leaves, in bytes.
fn left_in(group: &Path, files: &Files) -> Option<u64> {
    let number = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // "No limit" is the word `max` in version 2, and a number larger than any memory in version 1.
    let limit = number(files.limit).filter(|&limit| limit < 1 << 60)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat
        .lines()
        .find_map(|line| line.strip_prefix(files.reclaimable)?.trim().parse().ok())
        .unwrap_or(0_u64);
    Some(limit.saturating_sub(number(files.used)?.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
    }

    #[test]
    fn the_lowest_limit_of_all_ancestors_applies() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("a"), &[("memory.max", "1000\n"), ("memory.current", "900\n")]);
        write(&root.path().join("a/b"), &[("memory.max", "max\n"), ("memory.current", "500\n")]);
        assert_eq!(memory_left_in("0::/a/b\n", root.path()), Some(100));
        write(&root.path().join("a"), &[("memory.stat", "anon 7\ninactive_file 50\n")]);
        assert_eq!(memory_left_in("0::/a/b\n", root.path()), Some(150));
        write(&root.path().join("a/b"), &[("memory.max", "510\n")]);
        assert_eq!(memory_left_in("0::/a/b\n", root.path()), Some(10));
    }

    #[test]
    fn cgroup_v1_is_supported() {
        let root = tempfile::tempdir().unwrap();
        let files = [("memory.limit_in_bytes", "1000"), ("memory.usage_in_bytes", "1200")];
        write(&root.path().join("memory"), &files);
        let membership = "3:cpu,cpuacct:/x\n2:rdma,memory:/not/there\n0::/\n";
        assert_eq!(memory_left_in(membership, root.path()), Some(0));
    }

    #[test]
    fn no_limit_gives_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(memory_left_in("0::/\n", root.path()), None);
        assert_eq!(memory_left_in("", root.path()), None);
        assert_eq!(memory_left_in("nonsense\n::\n", root.path()), None);
        let none = [("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "12")];
        write(&root.path().join("memory"), &none);
        assert_eq!(memory_left_in("2:memory:/\n", root.path()), None);
    }
}
