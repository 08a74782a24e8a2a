//! Prepares this host for runs, and checks whether it is prepared.
//!
//! [`run`] is `testbed setup`: it determines what is missing, says exactly what it will change, asks, and
//! makes the changes. Determining what is missing changes nothing: package lists are read into a private
//! directory of the user's cache. Only the installation of packages needs root. [`standard_checks`] are the
//! checks that `testbed doctor` makes, each with its remedy (see [`crate::finding`]).
//!
//! It installs only QEMU, its block driver `nfs` on request, and their dependencies. It never removes or
//! downgrades packages, and uses no package manager but apt. For other package managers it prints the command
//! to type.

mod apt;
mod checks;
mod error;
mod interrupt;
mod machine;
mod nfs;
mod plan;
mod qemu;
mod runner;
mod sources;
mod sys;
#[cfg(test)]
mod tests;

pub use checks::{
    CacheDirectory, DiskSpace, FreeMemory, GuestKernel, Namespaces, QemuProgram, StaticStressor,
    checks_without_nodes, standard_checks,
};
pub use error::Error;
pub use interrupt::end_commands_on_signals;
pub use machine::{LocalHost, Privilege};
pub use nfs::{NfsDriver, NfsDriverCheck};
pub use qemu::{MINIMUM as MINIMUM_QEMU, PROGRAM as QEMU_PROGRAM, Qemu, Version as QemuVersion};
pub use runner::{Invocation, Output, Runner, SystemRunner};

use crate::image::{self, KernelChoice};
use machine::PackageManager;
use plan::{KernelPlan, Plan, QemuInstall};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The options of `testbed setup`.
#[derive(Debug, Clone, Default)]
pub struct SetupOptions {
    /// Whether to make the changes without asking (`--yes`).
    pub yes: bool,
    /// The kernel that guests boot from now on.
    pub kernel: KernelRequest,
    /// The path of the stressor program for guests.
    pub stressor: PathBuf,
    /// Whether guests will have shared disks, for which QEMU needs its block driver `nfs`.
    pub nfs_driver: bool,
}

/// The kernel that the user requests from `testbed setup`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelRequest {
    /// The kernel in the cache, else the kernel that this host runs, else the distribution's package.
    #[default]
    Auto,
    /// The distribution's current kernel package, even if there is a usable kernel already.
    Distribution,
    /// A kernel that the user names. It is copied into the cache.
    Given {
        image: PathBuf,
        /// The directory of its modules, like `/lib/modules/RELEASE`.
        modules: Option<PathBuf>,
    },
}

impl KernelRequest {
    /// Combines `--kernel` (`auto`, `distribution`, or a path) and `--modules`.
    pub fn from_options(kernel: Option<&str>, modules: Option<&Path>) -> Self {
        match kernel {
            None | Some("auto") => Self::Auto,
            Some("distribution") => Self::Distribution,
            Some(path) => Self::Given { image: path.into(), modules: modules.map(Path::to_path_buf) },
        }
    }
}

/// The user of `testbed setup`: a person at a terminal, or a script in tests.
pub trait Prompt {
    /// Prints a line.
    fn say(&mut self, line: &str);

    /// Asks a yes-or-no question. Returns `None` if there is no one to answer.
    fn ask(&mut self, question: &str) -> Option<bool>;

    /// Returns whether there is someone to answer.
    fn interactive(&self) -> bool;
}

/// Runs `testbed setup`. If nothing is missing it says so and changes nothing.
///
/// # Errors
/// If the user does not agree, if a package cannot be found, or if a step fails. The previous steps are not
/// undone; the next `testbed setup` continues from there.
pub fn run(options: &SetupOptions, host: &LocalHost<'_>, prompt: &mut dyn Prompt) -> Result<(), Error> {
    image::check_static(&options.stressor)?;
    let _one_at_a_time = host.cache.acquire("setup.lock", || {
        prompt.say("Another `testbed setup` is running; waiting for it to finish.");
    })?;
    let directory = ScratchDirectory::new(&host.cache.path("setup"))?;
    let mut apt = None;
    let plan = make_plan(options, host, (directory.path(), "the cache"), &mut apt, prompt)?;
    if plan.is_empty() {
        prompt.say("Nothing to install or download.");
    } else {
        plan.describe(host).iter().for_each(|line| prompt.say(line));
        if let (Some(qemu), Privilege::None) = (&plan.qemu, host.privilege) {
            return Err(Error::NeedsRoot { commands: qemu.by_hand() });
        }
        if !options.yes && !prompt.ask("Proceed?").ok_or(Error::NoTerminal)? {
            return Err(Error::Declined);
        }
    }
    if let Some(qemu) = &plan.qemu {
        install(qemu, host, directory.path(), options.nfs_driver, prompt)?;
    }
    match &plan.kernel {
        Some(KernelPlan::Fetch(package)) => {
            if let Some(apt) = &apt {
                let (image, unpacked) = apt.fetch(package)?;
                image::adopt(&image, Some(&unpacked), &host.cache.lock()?)?;
            }
        }
        Some(KernelPlan::Adopt { image, modules }) => {
            image::adopt(image, modules.as_deref(), &host.cache.lock()?)?;
        }
        None => {}
    }
    let files = image::prepare(&KernelChoice::Auto, &options.stressor, &host.cache)?;
    prompt.say(&format!(
        "Guests boot {} ({} kernel {}) with {}.",
        files.kernel.display(),
        files.kernel_source,
        files.kernel_release,
        files.initramfs.display()
    ));
    Ok(())
}

/// Says what [`run`] would change (`--dry-run`), without changing anything: the package lists are read into a
/// temporary directory, so not even the cache is changed.
///
/// # Errors
/// If the stressor is not usable, or if a package cannot be found.
pub fn dry_run(options: &SetupOptions, host: &LocalHost<'_>, prompt: &mut dyn Prompt) -> Result<(), Error> {
    image::check_static(&options.stressor)?;
    let directory = tempfile::tempdir().map_err(Error::io("create", &std::env::temp_dir()))?;
    let plan = make_plan(options, host, (directory.path(), "a temporary directory"), &mut None, prompt)?;
    if plan.is_empty() {
        prompt.say("Nothing to install or download.");
    } else {
        plan.describe(host).iter().for_each(|line| prompt.say(line));
        if let (Some(_), Privilege::None) = (&plan.qemu, host.privilege) {
            prompt.say("Installing packages needs root, and sudo is not in PATH.");
        }
    }
    prompt.say("Nothing was changed: this was a dry run.");
    Ok(())
}

/// Determines what has to change, given a directory for apt's package lists and the user's name for that
/// directory. Fills `apt` if QEMU or a kernel has to come from apt's packages.
fn make_plan<'a>(
    options: &SetupOptions,
    host: &LocalHost<'a>,
    (directory, place): (&Path, &str),
    apt: &mut Option<apt::Apt<'a>>,
    prompt: &mut dyn Prompt,
) -> Result<Plan, Error> {
    let needs_qemu = !matches!(Qemu::probe(host.runner), Qemu::Ready { .. });
    let needs_nfs_driver =
        options.nfs_driver && (needs_qemu || matches!(NfsDriver::probe(host.runner), NfsDriver::Missing(_)));
    let mut plan = Plan::default();
    let needs_kernel = match &options.kernel {
        KernelRequest::Given { image, modules } => {
            plan.kernel = Some(KernelPlan::Adopt { image: image.clone(), modules: modules.clone() });
            false
        }
        KernelRequest::Distribution => true,
        KernelRequest::Auto => {
            image::find_kernel_below(&host.root, &KernelChoice::Auto, &host.cache).is_err()
        }
    };
    if !needs_qemu && !needs_nfs_driver && !needs_kernel {
        return Ok(plan);
    }
    let manager = PackageManager::detect(host.runner);
    if manager == Some(PackageManager::Apt) {
        prompt.say(&format!("Reading the package lists into {place} (those of the system are not changed)."));
        let apt = apt.insert(apt::Apt::open(host.runner, &host.root.join("etc/apt"), directory)?);
        if needs_qemu {
            plan.qemu = Some(plan::install_qemu(apt, host, needs_nfs_driver)?);
        } else if needs_nfs_driver {
            plan.qemu = Some(nfs::install(apt, host)?);
        }
        if needs_kernel {
            let found = apt.kernel()?.ok_or_else(|| Error::NoKernelPackage {
                tried: apt.incomplete.clone().unwrap_or_else(|| "apt's sources have none".to_owned()),
            })?;
            plan.kernel = Some(KernelPlan::Fetch(found));
        }
        return Ok(plan);
    }
    if needs_qemu {
        let manager = manager.ok_or_else(|| Error::NoManager { minimum: MINIMUM_QEMU.to_string() })?;
        let command = manager.install_qemu(needs_nfs_driver);
        return Err(Error::ByHand { what: "QEMU", command: host.as_root(command, true) });
    }
    if needs_nfs_driver {
        let tried = vec!["none of apt-get, dnf, zypper and pacman is in PATH".to_owned()];
        let manager = manager.ok_or(Error::NoNfsDriver { package: nfs::PACKAGE, tried })?;
        let command = host.as_root(manager.install_nfs_driver(), true);
        return Err(Error::ByHand { what: "QEMU's nfs driver", command });
    }
    Err(Error::NoKernelPackage { tried: "this system does not use apt".to_owned() })
}

/// Installs QEMU as planned, with its block driver `nfs` if requested. If that fails, it removes the apt
/// source that it added.
fn install(
    qemu: &QemuInstall,
    host: &LocalHost<'_>,
    directory: &Path,
    nfs_driver: bool,
    prompt: &mut dyn Prompt,
) -> Result<(), Error> {
    let staged = directory.join("testbed-backports.sources");
    if let Some(source) = &qemu.source {
        fs::write(&staged, &source.text).map_err(Error::io("write", &staged))?;
    }
    let interactive = prompt.interactive();
    let mut run = |command: Invocation| {
        let command = host.as_root(command, interactive);
        prompt.say(&format!("+ {command}"));
        apt::run(host.runner, &command)
    };
    let commands = qemu.commands(&staged);
    let last = commands.len() - 1;
    let mut outcome = Ok(());
    for (at, command) in commands.into_iter().enumerate() {
        outcome = run(command);
        // `apt-get update` fails if any source is unreachable, which may not be one that provides QEMU.
        let is_update = at + 1 == last;
        if outcome.is_err() && !is_update {
            break;
        }
    }
    if let (Err(_), Some(source)) = (&outcome, &qemu.source) {
        let path = source.path.display().to_string();
        // The first error is more informative than an error of the removal.
        let _ = run(Invocation::new("rm", ["-f", &path]));
    }
    outcome?;
    match Qemu::probe(host.runner) {
        Qemu::Ready { .. } => {}
        other => {
            return Err(Error::NoQemu {
                minimum: MINIMUM_QEMU.to_string(),
                tried: vec![format!("the packages were installed, but QEMU in PATH is unusable: {other:?}")],
            });
        }
    }
    if nfs_driver && let NfsDriver::Missing(reason) = NfsDriver::probe(host.runner) {
        let tried = vec![format!("{} was installed, but QEMU says: {reason}", nfs::PACKAGE)];
        return Err(Error::NoNfsDriver { package: nfs::PACKAGE, tried });
    }
    Ok(())
}

/// A directory that is empty at first and removed at the end. A previous one, left behind by a killed
/// process, is removed first.
struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    fn new(path: &Path) -> Result<Self, Error> {
        let scratch = Self(path.to_path_buf());
        scratch.remove();
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        Ok(scratch)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        // A failure is harmless: the next `testbed setup` removes the directory before using it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        self.remove();
    }
}
