//! The checks of `testbed doctor` on this host: QEMU and its driver `nfs`, the guest's kernel, the stressor,
//! the cache, space, namespaces and memory. They change nothing but the user's cache.

use super::{
    MINIMUM_QEMU, NfsDriverCheck, Qemu, Runner,
    sys::{self, NamespaceStep},
};
use crate::{
    finding::{Check, Finding, StorageProblem},
    host,
    image::{self, Cache, KernelChoice},
};
use nix::errno::Errno;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use stressor::machine::MemInfo;
use units::Bytes;

const SETUP: &str = "testbed setup";

/// How to use a different cache.
const ANOTHER_CACHE: &str = "set XDG_CACHE_HOME to another directory";

/// Returns the checks for files and directories, which a run needs on the orchestrator's host with any lab.
pub fn checks_without_nodes(
    cache: &Cache,
    kernel: &KernelChoice,
    stressor: &Path,
    results: &Path,
) -> Vec<Box<dyn Check>> {
    vec![
        Box::new(GuestKernel { choice: kernel.clone(), cache: cache.clone() }),
        Box::new(StaticStressor { path: stressor.to_path_buf() }),
        Box::new(CacheDirectory { cache: cache.clone() }),
        Box::new(DiskSpace { directory: results.to_path_buf() }),
    ]
}

/// Returns all checks of this module, which a run in the local lab needs. `shared_disks` says whether its
/// guests have shared disks.
pub fn standard_checks<'a>(
    runner: &'a dyn Runner,
    cache: &Cache,
    kernel: &KernelChoice,
    stressor: &Path,
    results: &Path,
    shared_disks: bool,
) -> Vec<Box<dyn Check + 'a>> {
    let mut checks: Vec<Box<dyn Check + 'a>> = vec![Box::new(QemuProgram { runner })];
    if runner.find(super::QEMU_PROGRAM).is_some() {
        checks.push(Box::new(NfsDriverCheck { runner, required: shared_disks }));
    }
    for check in checks_without_nodes(cache, kernel, stressor, results) {
        checks.push(check);
    }
    checks.push(Box::new(Namespaces { root: PathBuf::from("/") }));
    checks.push(Box::new(FreeMemory { memory: host::memory() }));
    checks
}

/// The check that QEMU for x86 is in `PATH` and recent enough.
pub struct QemuProgram<'a> {
    /// Finds QEMU and runs it with `--version`.
    pub runner: &'a dyn Runner,
}

impl Check for QemuProgram<'_> {
    fn examine(&self) -> Finding {
        const NAME: &str = "QEMU";
        match Qemu::probe(self.runner) {
            Qemu::Ready { path, version } => Finding::ok(NAME, format!("{version} at {}", path.display())),
            Qemu::TooOld { path, version } => {
                let detail =
                    format!("{} is version {version}; {MINIMUM_QEMU} or newer is required", path.display());
                Finding::failed(NAME, detail, setup_replaces(&path))
            }
            Qemu::Broken { path, why } => {
                let detail = format!("{} does not run: {why}", path.display());
                let remedy = if is_packaged(&path) {
                    "repair the package: `apt-get install --reinstall qemu-system-x86` on Debian".into()
                } else {
                    setup_replaces(&path)
                };
                Finding::failed(NAME, detail, remedy)
            }
            Qemu::Missing => Finding::missing(NAME, format!("no {} in PATH", super::QEMU_PROGRAM), SETUP),
        }
    }
}

/// Returns whether a program is at the path used by the distribution's packages.
pub(super) fn is_packaged(path: &Path) -> bool {
    path.starts_with("/usr/bin") || path.starts_with("/bin")
}

/// Returns how to replace this QEMU, which cannot be used. `testbed setup` installs a package, but a program
/// earlier in `PATH` hides the packaged one.
fn setup_replaces(path: &Path) -> String {
    if is_packaged(path) {
        return SETUP.into();
    }
    format!("remove {} or take its directory out of PATH, then run `{SETUP}`", path.display())
}

/// The check that there is a kernel for guests, with the modules that they load.
pub struct GuestKernel {
    pub choice: KernelChoice,
    pub cache: Cache,
}

impl Check for GuestKernel {
    fn examine(&self) -> Finding {
        const NAME: &str = "guest kernel";
        match image::find_kernel(&self.choice, &self.cache) {
            Ok(found) => {
                Finding::ok(NAME, format!("{} ({}), {}", found.release, found.source, found.image.display()))
            }
            Err(image::Error::NoKernel { tried }) => Finding::missing(NAME, tried.join("; "), SETUP),
            Err(image::Error::Io { action, path, source })
                if matches!(self.choice, KernelChoice::Auto | KernelChoice::Cached) =>
            {
                let remedy = match StorageProblem::of(&source) {
                    // In that case, a file is incomplete or was removed.
                    None | Some(StorageProblem::Missing) => SETUP.into(),
                    Some(problem) => problem.remedy("this user", ANOTHER_CACHE),
                };
                let error = image::Error::Io { action, path, source };
                Finding::failed(NAME, error.to_string(), remedy)
            }
            Err(error) => {
                let remedy = match self.choice {
                    KernelChoice::Auto | KernelChoice::Cached => SETUP,
                    // `testbed setup` does not change a kernel that the user chose.
                    KernelChoice::Host | KernelChoice::Given { .. } => {
                        "name a kernel that can be used with --kernel (and its modules with --modules), or \
                         leave --kernel out"
                    }
                };
                Finding::failed(NAME, error.to_string(), remedy)
            }
        }
    }
}

/// The check that the stressor for guests exists and is linked statically.
pub struct StaticStressor {
    pub path: PathBuf,
}

impl Check for StaticStressor {
    fn examine(&self) -> Finding {
        const NAME: &str = "stressor";
        const REMEDY: &str = image::STRESSOR_REMEDY;
        match image::check_static(&self.path) {
            Ok(()) => Finding::ok(NAME, format!("static, {}", self.path.display())),
            Err(image::Error::NoStressor { source, .. }) => {
                let detail = format!("cannot read {}: {source}", self.path.display());
                match source.kind() {
                    io::ErrorKind::NotFound => Finding::missing(NAME, detail, REMEDY),
                    io::ErrorKind::PermissionDenied => {
                        let readable = format!("make {} readable for this user", self.path.display());
                        Finding::failed(NAME, detail, readable)
                    }
                    _ => Finding::failed(NAME, detail, REMEDY),
                }
            }
            Err(image::Error::Stressor { path, why }) => {
                Finding::failed(NAME, format!("{} is unusable: {why}", path.display()), REMEDY)
            }
            Err(error) => Finding::failed(NAME, error.to_string(), REMEDY),
        }
    }
}

/// The check that the cache can be written to.
pub struct CacheDirectory {
    pub cache: Cache,
}

impl Check for CacheDirectory {
    fn examine(&self) -> Finding {
        const NAME: &str = "cache";
        match self.cache.acquire("probe.lock", || {}) {
            Ok(_) => Finding::ok(NAME, self.cache.root().display().to_string()),
            Err(error) => {
                let problem = match &error {
                    image::Error::Io { source, .. } => StorageProblem::of(source),
                    _ => None,
                };
                let remedy = problem.map_or_else(
                    || format!("make the cache directory writable, or {ANOTHER_CACHE}"),
                    |problem| problem.remedy("this user", ANOTHER_CACHE),
                );
                Finding::failed(NAME, error.to_string(), remedy)
            }
        }
    }
}

/// The check that network namespaces can be created, as root or in a user namespace. It uses a child process.
pub struct Namespaces {
    /// The root of the file system: `/`, except in tests.
    pub root: PathBuf,
}

impl Check for Namespaces {
    fn examine(&self) -> Finding {
        if nix::unistd::geteuid().is_root() && matches!(sys::try_namespaces(false), Ok(Ok(()))) {
            return Finding::ok(Self::NAME, "network namespaces, as root");
        }
        match sys::try_namespaces(true) {
            Ok(Ok(())) => Finding::ok(Self::NAME, "network namespaces in a user namespace, without root"),
            Ok(Err((step, errno))) => self.explain(step, errno),
            Err(error) => {
                Finding::failed(Self::NAME, format!("cannot test namespaces: {error}"), "run as root")
            }
        }
    }
}

impl Namespaces {
    const NAME: &str = "namespaces";

    /// Describes why a user namespace was refused, and which sysctl setting allows it.
    fn explain(&self, step: NamespaceStep, errno: Errno) -> Finding {
        let setting = |name: &str| {
            let path = self.root.join("proc/sys").join(name.replace('.', "/"));
            fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
        };
        // The setting, the value that forbids it, and the value that allows it.
        let known = [
            ("kernel.unprivileged_userns_clone", "0", "1"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
            ("user.max_user_namespaces", "0", "15000"),
            ("user.max_net_namespaces", "0", "15000"),
        ];
        let what = match step {
            NamespaceStep::Unshare => "create namespaces",
            NamespaceStep::MapUser => "become root in a user namespace",
            NamespaceStep::Network => "set up an interface in a network namespace",
        };
        for (name, forbids, allows) in known {
            if setting(name).as_deref() == Some(forbids) {
                return Finding::failed(
                    Self::NAME,
                    format!("cannot {what}: {}, because {name} is {forbids}", errno.desc()),
                    format!("sudo sysctl -w {name}={allows}, or run as root"),
                );
            }
        }
        let remedy = match errno {
            Errno::ENOSPC | Errno::EUSERS => {
                "end programs that hold namespaces, or raise user.max_user_namespaces and \
                 user.max_net_namespaces with sysctl (namespaces can be nested 32 deep)"
            }
            Errno::EINVAL | Errno::ENOSYS => {
                "use a kernel with CONFIG_USER_NS and CONFIG_NET_NS, or run as root"
            }
            _ => "run as root; in a container, add CAP_SYS_ADMIN",
        };
        Finding::failed(Self::NAME, format!("cannot {what}: {}", errno.desc()), remedy)
    }
}

/// The check that there is memory for two guests, at the source and at the destination.
pub struct FreeMemory {
    /// The result of [`host::memory`], or a value in tests.
    pub memory: io::Result<MemInfo>,
}

impl Check for FreeMemory {
    fn examine(&self) -> Finding {
        const NAME: &str = "memory";
        /// Enough for two small guests that use part of their memory, in MiB; less is an error.
        const LEAST_MIB: u64 = 768;
        /// Enough for two guests of 1 GiB and their QEMU processes, in MiB; less is a warning.
        const ENOUGH_MIB: u64 = 2560;
        let MemInfo { available, limited_by_cgroup, .. } = match &self.memory {
            Ok(memory) => memory,
            Err(error) => {
                let detail = format!("cannot determine the free memory: {error}");
                return Finding::warning(NAME, detail, "mount /proc, and make /proc/meminfo readable");
            }
        };
        let available_mib = available.get() >> 20;
        let (whose, remedy) = if *limited_by_cgroup {
            let raise = "raise the memory limit of this cgroup, or choose smaller guests in the matrix";
            (" in this cgroup", raise)
        } else {
            ("", "close other programs, or choose smaller guests in the matrix")
        };
        let detail = format!("{} free{whose}", available.rounded_binary());
        let mib = |mib: u64| Bytes::new(mib << 20).rounded_binary();
        match available_mib {
            ENOUGH_MIB.. => Finding::ok(NAME, detail),
            LEAST_MIB.. => {
                let detail = format!("{detail}; two guests of 1 GiB need {}", mib(ENOUGH_MIB));
                Finding::warning(NAME, detail, remedy)
            }
            _ => Finding::failed(NAME, format!("{detail}; two small guests need {}", mib(LEAST_MIB)), remedy),
        }
    }
}

/// The check that results can be written, and that there is enough space for them.
pub struct DiskSpace {
    /// The parent of results folders. It need not exist yet.
    pub directory: PathBuf,
}

impl Check for DiskSpace {
    fn examine(&self) -> Finding {
        const NAME: &str = "results";
        const LEAST_MIB: u64 = 64;
        const ENOUGH_MIB: u64 = 1024;
        const OTHERWISE: &str = "choose another directory with --out";
        let absolute = std::path::absolute(&self.directory).unwrap_or_else(|_| self.directory.clone());
        let existing = absolute.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("/"));
        let shown = existing.display();
        let why = match nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK) {
            Err(errno) => Some(errno),
            Ok(()) => (!existing.is_dir()).then_some(Errno::ENOTDIR),
        };
        let remedy = |problem: StorageProblem| problem.remedy("this user", OTHERWISE);
        if let Some(why) = why {
            let remedy = StorageProblem::of(&why.into()).map_or_else(|| OTHERWISE.into(), remedy);
            return Finding::failed(NAME, format!("{shown} is not writable: {}", why.desc()), remedy);
        }
        match nix::sys::statvfs::statvfs(existing) {
            Err(errno) => Finding::warning(
                NAME,
                format!("cannot read the free space of {shown}: {}", errno.desc()),
                OTHERWISE,
            ),
            // A file system without a fixed number of inodes reports 0 in total.
            Ok(space) if space.files() > 0 && space.files_available() == 0 => {
                let detail = format!("no inodes are free in {shown}");
                Finding::failed(NAME, detail, remedy(StorageProblem::NoInodes))
            }
            Ok(space) => {
                let free_mib = space.blocks_available() * space.fragment_size() / (1024 * 1024);
                let detail = format!("{} free in {shown}", Bytes::new(free_mib << 20).rounded_binary());
                match free_mib {
                    ENOUGH_MIB.. => Finding::ok(NAME, detail),
                    LEAST_MIB.. => Finding::warning(NAME, detail, remedy(StorageProblem::Full)),
                    _ => Finding::failed(NAME, detail, remedy(StorageProblem::Full)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::runner::fake::FakeRunner;
    use super::*;
    use crate::finding::State;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_finding_for_an_old_qemu_names_both_versions() {
        let runner = FakeRunner::default().program(crate::setup::QEMU_PROGRAM).answer(
            "--version",
            0,
            "QEMU emulator version 6.2.0\n",
        );
        let finding = QemuProgram { runner: &runner }.examine();
        assert_eq!(finding.state, State::Failed);
        assert!(finding.detail.contains("is version 6.2; 7.2 or newer"), "{}", finding.detail);
        assert_eq!(finding.remedy.as_deref(), Some("testbed setup"));
    }

    #[test]
    fn the_remedy_names_the_setting_that_forbids_namespaces() {
        let explain = |files: &[(&str, &str)]| {
            let dir = root(files);
            let check = Namespaces { root: dir.path().to_path_buf() };
            let finding = check.explain(NamespaceStep::Unshare, Errno::EPERM);
            assert_eq!(finding.state, State::Failed);
            finding.remedy.unwrap()
        };
        assert!(
            explain(&[("proc/sys/kernel/unprivileged_userns_clone", "0\n")])
                .starts_with("sudo sysctl -w kernel.unprivileged_userns_clone=1")
        );
        assert!(
            explain(&[
                ("proc/sys/kernel/unprivileged_userns_clone", "1\n"),
                ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
            ])
            .starts_with("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
        );
        assert!(
            explain(&[("proc/sys/user/max_user_namespaces", "0\n")]).contains("user.max_user_namespaces=")
        );
        assert!(explain(&[("proc/sys/user/max_user_namespaces", "96365\n")]).starts_with("run as root"));
    }

    #[test]
    fn the_remedy_for_namespaces_follows_the_error() {
        let remedy = |errno| {
            let dir = root(&[]);
            let check = Namespaces { root: dir.path().to_path_buf() };
            check.explain(NamespaceStep::Unshare, errno).remedy.unwrap()
        };
        assert!(remedy(Errno::ENOSPC).contains("user.max_user_namespaces"));
        assert!(remedy(Errno::EINVAL).contains("CONFIG_USER_NS"));
        assert!(remedy(Errno::EPERM).starts_with("run as root"));
    }

    #[test]
    fn a_qemu_that_hides_the_packaged_one_has_to_go_first() {
        assert_eq!(setup_replaces(Path::new("/usr/bin/qemu-system-x86_64")), SETUP);
        let local = setup_replaces(Path::new("/usr/local/bin/qemu-system-x86_64"));
        assert!(local.starts_with("remove /usr/local/bin/qemu-system-x86_64 or take"), "{local}");
    }

    #[test]
    fn free_memory_is_enough_scarce_or_too_little() {
        let state = |mib: u64| {
            let (total, available) = (Bytes::new(1 << 40), Bytes::new(mib << 20));
            FreeMemory { memory: Ok(MemInfo { total, available, limited_by_cgroup: false }) }.examine().state
        };
        assert_eq!(state(8000), State::Ok);
        assert_eq!(state(2000), State::Warning);
        assert_eq!(state(500), State::Failed);
        let remedy = |memory| FreeMemory { memory }.examine().remedy.unwrap();
        let (total, available) = (Bytes::new(1 << 40), Bytes::new(500 << 20));
        let limited = remedy(Ok(MemInfo { total, available, limited_by_cgroup: true }));
        assert!(limited.contains("limit of this cgroup"), "{limited}");
        let unreadable = remedy(Err(io::ErrorKind::NotFound.into()));
        assert!(unreadable.contains("/proc/meminfo"), "{unreadable}");
    }

    #[test]
    fn a_kernel_that_the_user_names_is_not_fixed_by_setup() {
        let dir = root(&[("kernel", "no kernel")]);
        for name in ["kernel", "absent"] {
            let choice = KernelChoice::Given { image: dir.path().join(name), modules: None };
            let finding = GuestKernel { choice, cache: Cache::at(dir.path()) }.examine();
            assert_eq!(finding.state, State::Failed);
            let remedy = finding.remedy.unwrap();
            assert!(remedy.contains("--kernel") && !remedy.contains("setup"), "{remedy}");
        }
    }

    #[test]
    fn big_amounts_of_memory_are_readable() {
        let (total, available) = (Bytes::new(1 << 45), Bytes::new(3 << 40));
        let memory = Ok(MemInfo { total, available, limited_by_cgroup: false });
        assert_eq!(FreeMemory { memory }.examine().detail, "3 TiB free");
    }

    #[test]
    fn results_need_a_writable_directory() {
        let dir = root(&[("file", "")]);
        let at = |name: &str| DiskSpace { directory: dir.path().join(name) }.examine();
        assert!(!at("results/run-1").state.prevents_runs());
        let within_a_file = at("file/results");
        assert_eq!(within_a_file.state, State::Failed, "it is not missing");
        assert!(within_a_file.detail.contains("is not writable"), "{}", within_a_file.detail);
        assert!(within_a_file.remedy.unwrap().contains("remove or rename the file"));
    }

    #[test]
    fn an_absent_or_dynamic_stressor_is_reported() {
        let dir = root(&[]);
        let path = dir.path().join("stressor");
        let check = StaticStressor { path: path.clone() };
        let absent = check.examine();
        assert_eq!(absent.state, State::Missing);
        assert!(absent.detail.contains("cannot read"));
        assert!(absent.remedy.unwrap().contains("put it beside testbed"));
        fs::write(&path, image::fixtures::program(true)).unwrap();
        assert!(check.examine().detail.contains("linked dynamically"));
        fs::write(&path, image::fixtures::program(false)).unwrap();
        assert_eq!(check.examine().state, State::Ok);
    }

    #[test]
    fn a_cache_that_cannot_be_created_is_reported() {
        let dir = root(&[("file", "")]);
        let check = |path: &str| CacheDirectory { cache: Cache::at(dir.path().join(path)) }.examine();
        assert_eq!(check("cache").state, State::Ok);
        let in_the_way = check("file/cache");
        assert_eq!(in_the_way.state, State::Failed);
        assert!(in_the_way.remedy.unwrap().contains("remove or rename the file"));
    }
}
