//! The limits of control groups on memory, huge pages and processes. A process that exceeds a limit on memory
//! is killed, no matter how much memory the host has.
//!
//! Supports both versions of the kernel's interface (cgroup v1 and v2), wherever they are mounted. A limit
//! that cannot be read is treated as no limit.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A limit of a control group, and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The file that sets the limit.
    pub file: PathBuf,
    /// What is left of the limit, in the unit of the file: bytes, or processes.
    pub left: u64,
}

/// Returns the limit of this process's control groups that leaves the least memory. Returns `None` if there
/// is no limit.
///
/// A group that exceeds `memory.high` is slowed down until it hardly runs, so that counts as a limit too.
pub fn memory_limit() -> Option<Limit> {
    lowest(&Membership::of_this_process("memory"), memory_counters)
}

/// Returns the limit of this process's control groups that leaves the least memory in huge pages of this
/// size, a power of two of at least 1 MiB. Returns `None` if there is no limit.
pub fn huge_page_limit(page_bytes: u64) -> Option<Limit> {
    lowest(&Membership::of_this_process("hugetlb"), |version| huge_page_counters(version, page_bytes))
}

/// Returns the limit of this process's control groups that leaves the fewest processes; each thread counts as
/// one. Returns `None` if there is no limit.
pub fn process_limit() -> Option<Limit> {
    lowest(&Membership::of_this_process("pids"), |_| vec![Counter::new("pids.max", "pids.current")])
}

/// Returns how many processes of this process's control group the kernel has killed because memory had run
/// out, in the group or on the host. Returns the host's number if there is none for the group, and `None` if
/// the kernel has neither.
pub fn oom_kills() -> Option<u64> {
    let memberships = Membership::of_this_process("memory");
    let of_group = memberships.iter().find_map(|group| {
        let file = match group.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        field(&group.dir(), file, "oom_kill")
    });
    of_group.or_else(|| field(Path::new("/proc"), "vmstat", "oom_kill"))
}

/// Returns whether the kernel kills all processes of this process's control group, and so this process too,
/// if it kills one of them because the group's memory has run out (`memory.oom.group`).
pub fn oom_kills_all() -> bool {
    Membership::of_this_process("memory").iter().any(|group| {
        let set = |level: PathBuf| {
            fs::read_to_string(level.join("memory.oom.group")).is_ok_and(|text| text.trim() == "1")
        };
        group.levels().any(set)
    })
}

/// Reads a field of a file with a name and a number on each line.
fn field(dir: &Path, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A version of the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A limit and the memory or processes that count towards it, as the names of their files.
#[derive(Debug, Clone)]
struct Counter {
    limit: String,
    used: String,
    /// The field of `memory.stat` with the memory that counts as used but can be reclaimed.
    reclaimable: Option<&'static str>,
}

impl Counter {
    fn new(limit: impl Into<String>, used: impl Into<String>) -> Self {
        Self { limit: limit.into(), used: used.into(), reclaimable: None }
    }

    /// Returns the limit of a single group.
    fn read(&self, group: &Path) -> Option<Limit> {
        let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        // "No limit" is the word `max`, or a number larger than any memory.
        let limit = number(&self.limit).filter(|&limit| limit < 1 << 60)?;
        let reclaimable = self.reclaimable.and_then(|name| field(group, "memory.stat", name)).unwrap_or(0);
        let left = limit.saturating_sub(number(&self.used)?.saturating_sub(reclaimable));
        Some(Limit { file: group.join(&self.limit), left })
    }
}

fn memory_counters(version: Version) -> Vec<Counter> {
    let (limits, used, reclaimable) = match version {
        Version::V1 => (&["memory.limit_in_bytes"][..], "memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => (&["memory.max", "memory.high"][..], "memory.current", "inactive_file"),
    };
    let counter = |&limit: &&str| Counter { reclaimable: Some(reclaimable), ..Counter::new(limit, used) };
    limits.iter().map(counter).collect()
}

fn huge_page_counters(version: Version, page_bytes: u64) -> Vec<Counter> {
    let size = match page_bytes >> 20 {
        mib @ 0..1024 => format!("{mib}MB"),
        mib => format!("{}GB", mib >> 10),
    };
    let (limit, used) = match version {
        Version::V1 => ("limit_in_bytes", "usage_in_bytes"),
        Version::V2 => ("max", "current"),
    };
    // Pages count as used once they are touched, and as reserved (`rsvd`) once they are mapped.
    let counter = |kind: &str| {
        let name = format!("hugetlb.{size}{kind}");
        Counter::new(format!("{name}.{limit}"), format!("{name}.{used}"))
    };
    ["", ".rsvd"].map(counter).to_vec()
}

/// Returns the limit that leaves least.
fn lowest(groups: &[Membership], counters: impl Fn(Version) -> Vec<Counter>) -> Option<Limit> {
    let limits = groups.iter().flat_map(|group| {
        let counters = counters(group.version);
        group.levels().flat_map(move |level| {
            counters.iter().filter_map(|counter| counter.read(&level)).collect::<Vec<_>>()
        })
    });
    limits.min_by_key(|limit| limit.left)
}

/// A control group of a process, in one of the hierarchies.
#[derive(Debug)]
struct Membership {
    /// Where the hierarchy is mounted.
    mounted_at: PathBuf,
    /// The path of the group below that.
    path: PathBuf,
    version: Version,
}

impl Membership {
    /// Finds the groups of this process in which a controller may limit it.
    fn of_this_process(controller: &str) -> Vec<Self> {
        let read = |file| fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
        Self::parse(controller, &read("cgroup"), &read("mountinfo"))
    }

    /// Finds the groups listed in `/proc/PID/cgroup`, at the mount points in `/proc/PID/mountinfo`.
    fn parse(controller: &str, groups: &str, mounts: &str) -> Vec<Self> {
        let group_of = |version| {
            groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                let wanted = match version {
                    Version::V1 => controllers.split(',').any(|name| name == controller),
                    Version::V2 => controllers.is_empty(),
                };
                wanted.then(|| Path::new(path))
            })
        };
        let found = mounts.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3).map(unescape);
            let (root, mounted_at) = (mount.next()?, mount.next()?.into());
            let mut file_system = file_system.split(' ');
            let version = match (file_system.next()?, file_system.nth(1)?) {
                ("cgroup2", _) => Version::V2,
                ("cgroup", options) if options.split(',').any(|option| option == controller) => Version::V1,
                _ => return None,
            };
            // A container may see only a part of the hierarchy, but get the full path.
            let path = group_of(version)?;
            let path = path.strip_prefix(root).or_else(|_| path.strip_prefix("/")).ok()?.into();
            Some(Self { mounted_at, path, version })
        });
        found.collect()
    }

    fn dir(&self) -> PathBuf {
        self.mounted_at.join(&self.path)
    }

    /// Returns the group and all groups above it. The limit of a group also applies to the groups below it.
    fn levels(&self) -> impl Iterator<Item = PathBuf> {
        self.path.ancestors().map(|level| self.mounted_at.join(level))
    }
}

/// Replaces the octal escapes of spaces and backslashes in a path of `mountinfo`.
fn unescape(path: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(path.into(), |path: String, (escape, character)| path.replace(escape, character))
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

    /// Returns a line of mountinfo for a hierarchy at `mounted_at`.
    fn mount(root: &str, mounted_at: &Path, file_system: &str) -> String {
        format!("25 24 0:22 {root} {} rw,nosuid shared:9 - {file_system}\n", mounted_at.display())
    }

    /// Returns the memory left according to files like those of `/proc/PID`.
    fn left(groups: &str, mounts: &str) -> Option<u64> {
        lowest(&Membership::parse("memory", groups, mounts), memory_counters).map(|limit| limit.left)
    }

    #[test]
    fn the_lowest_limit_of_all_ancestors_applies() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mount("/", root.path(), "cgroup2 cgroup2 rw");
        write(&root.path().join("a"), &[("memory.max", "1000\n"), ("memory.current", "900\n")]);
        write(&root.path().join("a/b"), &[("memory.max", "max\n"), ("memory.current", "500\n")]);
        assert_eq!(left("0::/a/b\n", &mounts), Some(100));
        write(&root.path().join("a"), &[("memory.stat", "anon 7\ninactive_file 50\n")]);
        assert_eq!(left("0::/a/b\n", &mounts), Some(150));
        write(&root.path().join("a/b"), &[("memory.max", "510\n")]);
        assert_eq!(left("0::/a/b\n", &mounts), Some(10));
        write(&root.path().join("a/b"), &[("memory.high", "505\n")]);
        assert_eq!(left("0::/a/b\n", &mounts), Some(5), "a group above memory.high hardly runs");
    }

    #[test]
    fn cgroup_v1_is_supported_beside_an_empty_v2() {
        let root = tempfile::tempdir().unwrap();
        let files = [("memory.limit_in_bytes", "1000"), ("memory.usage_in_bytes", "1200")];
        write(&root.path().join("memory"), &files);
        let mounts = [
            mount("/", &root.path().join("cpu"), "cgroup cgroup rw,cpu"),
            mount("/", &root.path().join("memory"), "cgroup cgroup rw,memory"),
            mount("/", &root.path().join("unified"), "cgroup2 cgroup2 rw"),
        ]
        .concat();
        let groups = "3:cpu,cpuacct:/x\n2:rdma,memory:/not/there\n0::/\n";
        assert_eq!(left(groups, &mounts), Some(0));
    }

    #[test]
    fn a_hierarchy_is_found_where_it_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let odd = root.path().join("an odd place");
        write(&odd.join("inner"), &[("memory.max", "1000"), ("memory.current", "400")]);
        // The container sees its own part of the hierarchy only.
        let mounts = mount("/docker/1", Path::new("/odd"), "cgroup2 cgroup2 rw");
        let mounts = mounts.replace("/odd", &odd.display().to_string().replace(' ', "\\040"));
        assert_eq!(left("0::/docker/1/inner\n", &mounts), Some(600));
        let (group, events) =
            (&Membership::parse("memory", "0::/docker/1/inner\n", &mounts)[0], "memory.events");
        write(&odd.join("inner"), &[(events, "oom 4\noom_kill 3\noom_group_kill 0\n")]);
        assert_eq!(field(&group.dir(), events, "oom_kill"), Some(3));
    }

    #[test]
    fn no_limit_gives_none() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mount("/", root.path(), "cgroup2 cgroup2 rw");
        assert_eq!(left("0::/\n", &mounts), None);
        assert_eq!(left("", ""), None);
        assert_eq!(left("nonsense\n::\n", "nonsense\n - \n"), None);
        let none = [("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "12")];
        write(&root.path().join("memory"), &none);
        let mounts = mount("/", &root.path().join("memory"), "cgroup cgroup rw,memory");
        assert_eq!(left("2:memory:/\n", &mounts), None);
    }

    #[test]
    fn each_limit_on_huge_pages_counts_and_is_named() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mount("/", root.path(), "cgroup cgroup rw,hugetlb");
        let limit = |page_bytes| {
            let groups = Membership::parse("hugetlb", "4:hugetlb:/a/b\n", &mounts);
            let limit = lowest(&groups, |version| huge_page_counters(version, page_bytes))?;
            Some((limit.file.strip_prefix(root.path()).unwrap().display().to_string(), limit.left))
        };
        assert_eq!(limit(2 << 20), None);
        let file = |group: &str, name: &str, content: &str| {
            write(&root.path().join(group), &[(name, content)]);
        };
        file("a", "hugetlb.2MB.limit_in_bytes", "8388608\n");
        file("a", "hugetlb.2MB.usage_in_bytes", "2097152\n");
        file("a/b", "hugetlb.2MB.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(2 << 20), Some(("a/hugetlb.2MB.limit_in_bytes".into(), 6 << 20)));
        file("a/b", "hugetlb.2MB.rsvd.limit_in_bytes", "4194304\n");
        file("a/b", "hugetlb.2MB.rsvd.usage_in_bytes", "2097152\n");
        assert_eq!(limit(2 << 20), Some(("a/b/hugetlb.2MB.rsvd.limit_in_bytes".into(), 2 << 20)));
        assert_eq!(limit(1 << 30), None, "each size has limits of its own");
        file("a", "hugetlb.1GB.limit_in_bytes", "1073741824\n");
        file("a", "hugetlb.1GB.usage_in_bytes", "0\n");
        assert_eq!(limit(1 << 30), Some(("a/hugetlb.1GB.limit_in_bytes".into(), 1 << 30)));
    }
}
