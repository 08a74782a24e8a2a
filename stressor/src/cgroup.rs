//! The memory limits of control groups. A process that exceeds a limit is killed, no matter how much memory
//! the host has.
//!
//! Supports both versions of the kernel's interface (cgroup v1 and v2), wherever they are mounted. A limit
//! that cannot be read is treated as no limit.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the memory that this process can still use within the limits of its control groups, in bytes.
/// Returns `None` if there is no limit.
///
/// A group that exceeds `memory.high` is slowed down until it hardly runs, so that counts as a limit, too.
pub fn memory_left() -> Option<u64> {
    Memberships::of_this_process().iter().filter_map(Membership::left).min()
}

/// Returns how many processes of this process's control group the kernel has killed because memory had run
/// out, in the group or on the host. Returns the host's number if the group has none, and `None` if the
/// kernel counts neither.
pub fn oom_kills() -> Option<u64> {
    let memberships = Memberships::of_this_process();
    let of_group = memberships.iter().find_map(|group| field(&group.dir(), group.files.events, "oom_kill"));
    of_group.or_else(|| field(Path::new("/proc"), "vmstat", "oom_kill"))
}

/// Returns whether the kernel kills all processes of a control group of this process, and so this process, if
/// it kills one because the group's memory has run out (`memory.oom.group`).
pub fn oom_kills_all() -> bool {
    Memberships::of_this_process().iter().any(|group| {
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

/// The file names of one version of the interface, and the field of `memory.stat` with the memory that counts
/// as used but can be reclaimed.
#[derive(Debug, Clone, Copy)]
struct Files {
    limits: &'static [&'static str],
    used: &'static str,
    events: &'static str,
    reclaimable: &'static str,
}

const V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    events: "memory.oom_control",
    reclaimable: "total_inactive_file",
};
const V2: Files = Files {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    events: "memory.events",
    reclaimable: "inactive_file",
};

/// A control group of a process, in one of the hierarchies.
#[derive(Debug)]
struct Membership {
    /// Where the hierarchy is mounted.
    mounted_at: PathBuf,
    /// The path of the group below that.
    path: PathBuf,
    files: Files,
}

impl Membership {
    fn dir(&self) -> PathBuf {
        self.mounted_at.join(&self.path)
    }

    /// Returns the group and all groups above it. The limit of a group also applies to the groups below it.
    fn levels(&self) -> impl Iterator<Item = PathBuf> {
        self.path.ancestors().map(|level| self.mounted_at.join(level))
    }

    /// Returns the least memory that the limits of the group and of those above it leave, in bytes.
    fn left(&self) -> Option<u64> {
        self.levels().filter_map(|group| left_in(&group, &self.files)).min()
    }
}

/// The control groups that limit the memory of a process.
struct Memberships;

impl Memberships {
    fn of_this_process() -> Vec<Membership> {
        let read = |file| fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
        Self::parse(&read("cgroup"), &read("mountinfo"))
    }

    /// Finds the groups that `/proc/PID/cgroup` lists where `/proc/PID/mountinfo` says that they are.
    fn parse(groups: &str, mounts: &str) -> Vec<Membership> {
        let group_of = |files: &Files| {
            groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                let wanted = match files.events {
                    "memory.events" => controllers.is_empty(),
                    _ => controllers.split(',').any(|name| name == "memory"),
                };
                wanted.then(|| Path::new(path))
            })
        };
        let found = mounts.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3).map(unescape);
            let (root, mounted_at) = (mount.next()?, mount.next()?.into());
            let mut file_system = file_system.split(' ');
            let files = match (file_system.next()?, file_system.nth(1)?) {
                ("cgroup2", _) => V2,
                ("cgroup", options) if options.split(',').any(|option| option == "memory") => V1,
                _ => return None,
            };
            // A container may see only a part of the hierarchy, but be told the full path.
            let path = group_of(&files)?;
            let path = path.strip_prefix(root).or_else(|_| path.strip_prefix("/")).ok()?.into();
            Some(Membership { mounted_at, path, files })
        });
        found.collect()
    }
}

/// Replaces the octal escapes of blanks and backslashes in a path of `mountinfo`.
fn unescape(path: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(path.into(), |path: String, (escape, character)| path.replace(escape, character))
}

/// Returns the memory that the limits of a single group leave, in bytes.
fn left_in(group: &Path, files: &Files) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // "No limit" is the word `max` in version 2, and a number larger than any memory in version 1.
    let limits = files.limits.iter().filter_map(|name| number(name)).filter(|&limit| limit < 1 << 60);
    let limit = limits.min()?;
    let reclaimable = field(group, "memory.stat", files.reclaimable).unwrap_or(0);
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

    /// Returns a line of mountinfo for a hierarchy at `mounted_at`.
    fn mount(root: &str, mounted_at: &Path, file_system: &str) -> String {
        format!("25 24 0:22 {root} {} rw,nosuid shared:9 - {file_system}\n", mounted_at.display())
    }

    /// Returns the memory left according to files like those of `/proc/PID`.
    fn left(groups: &str, mounts: &str) -> Option<u64> {
        Memberships::parse(groups, mounts).iter().filter_map(Membership::left).min()
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
        let (group, events) = (&Memberships::parse("0::/docker/1/inner\n", &mounts)[0], "memory.events");
        write(&odd.join("inner"), &[(events, "oom 4\noom_kill 3\noom_group_kill 0\n")]);
        assert_eq!(field(&group.dir(), group.files.events, "oom_kill"), Some(3));
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
}
