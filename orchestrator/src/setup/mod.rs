//! Makes a machine fit for a run, and says whether it is.
//!
//! [`run`] is `testbed setup`: it finds out what is missing, says exactly what it will change, asks, and does
//! it. Finding out changes nothing: package lists are read into a private directory of the user's cache. Root
//! is needed only for installing packages. [`crate::finding`] is `testbed doctor`: a list of checks, each
//! with its remedy.
//!
//! It installs nothing but QEMU and what QEMU depends on, removes and downgrades nothing, and drives no
//! package manager but apt; for others it says which command to type.

mod apt;
mod checks;
mod error;
mod machine;
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
pub use machine::{Machine, Privilege};
pub use qemu::{MINIMUM as MINIMUM_QEMU, PROGRAM as QEMU_PROGRAM, Qemu, Version as QemuVersion};
pub use runner::{Invocation, Output, Runner, SystemRunner};

use crate::image::{self, KernelChoice};
use machine::PackageManager;
use plan::{KernelPlan, Plan, QemuInstall};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the user wants of a set-up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether the user agrees beforehand to what will be changed.
    pub yes: bool,
    /// Which kernel guests are to boot.
    pub kernel: KernelWish,
    /// The stressor that goes into the guest.
    pub stressor: PathBuf,
}

/// Which kernel guests are to boot from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelWish {
    /// What there is; the distribution's package if there is none.
    #[default]
    Auto,
    /// The current one of the distribution's packages, whatever there is.
    Distribution,
    /// This file, copied into the cache.
    Given {
        /// The image.
        image: PathBuf,
        /// The directory of its modules.
        modules: Option<PathBuf>,
    },
}

impl KernelWish {
    /// What `--kernel` (`auto`, `distribution`, or a path) and `--modules` say together.
    pub fn from_options(kernel: Option<&str>, modules: Option<&Path>) -> Self {
        match kernel {
            None | Some("auto") => Self::Auto,
            Some("distribution") => Self::Distribution,
            Some(path) => Self::Given { image: path.into(), modules: modules.map(Path::to_path_buf) },
        }
    }
}

/// Talks to the user.
pub trait Dialogue {
    /// Says one line.
    fn say(&mut self, line: &str);

    /// Asks a question; `None` when there is nobody to answer.
    fn ask(&mut self, question: &str) -> Option<bool>;

    /// Whether somebody would answer.
    fn interactive(&self) -> bool;
}

/// Sets the machine up. Where nothing is missing it says so and changes nothing.
///
/// # Errors
/// When the user does not agree, when something cannot be found, or when a step fails. What was done before
/// stays, and a second set-up goes on from there.
pub fn run(options: &Options, machine: &Machine<'_>, dialogue: &mut dyn Dialogue) -> Result<(), Error> {
    image::check_static(&options.stressor)?;
    let _one_at_a_time = machine
        .cache
        .exclusive("setup.lock", || dialogue.say("Another set-up is running; waiting for it."))?;
    let directory = ScratchDirectory::new(&machine.cache.path("setup"))?;
    let mut apt = None;
    let plan = make_plan(options, machine, directory.path(), &mut apt, dialogue)?;
    if plan.is_empty() {
        dialogue.say("Nothing has to be installed or downloaded.");
    } else {
        plan.describe(machine).iter().for_each(|line| dialogue.say(line));
        if let (Some(qemu), Privilege::None) = (&plan.qemu, machine.privilege) {
            return Err(Error::NeedsRoot { commands: qemu.by_hand() });
        }
        if !options.yes && !dialogue.ask("Do this?").ok_or(Error::NoTerminal)? {
            return Err(Error::Declined);
        }
    }
    if let Some(qemu) = &plan.qemu {
        install(qemu, machine, directory.path(), dialogue)?;
    }
    match &plan.kernel {
        Some(KernelPlan::Fetch(package)) => {
            if let Some(apt) = &apt {
                let (image, unpacked) = apt.fetch(package)?;
                image::adopt(&image, Some(&unpacked), &machine.cache.lock()?)?;
            }
        }
        Some(KernelPlan::Adopt { image, modules }) => {
            image::adopt(image, modules.as_deref(), &machine.cache.lock()?)?;
        }
        None => {}
    }
    let files = image::prepare(&KernelChoice::Auto, &options.stressor, &machine.cache)?;
    dialogue.say(&format!(
        "Guests boot {} ({} kernel {}) with {}.",
        files.kernel.display(),
        files.kernel_source,
        files.kernel_release,
        files.initramfs.display()
    ));
    Ok(())
}

/// What has to change. Opens apt where something has to come from it.
fn make_plan<'a>(
    options: &Options,
    machine: &Machine<'a>,
    directory: &Path,
    apt: &mut Option<apt::Apt<'a>>,
    dialogue: &mut dyn Dialogue,
) -> Result<Plan, Error> {
    let needs_qemu = !matches!(Qemu::probe(machine.runner), Qemu::Ready { .. });
    let mut plan = Plan::default();
    let needs_kernel = match &options.kernel {
        KernelWish::Given { image, modules } => {
            plan.kernel = Some(KernelPlan::Adopt { image: image.clone(), modules: modules.clone() });
            false
        }
        KernelWish::Distribution => true,
        KernelWish::Auto => {
            image::find_kernel_below(&machine.root, &KernelChoice::Auto, &machine.cache).is_err()
        }
    };
    if !needs_qemu && !needs_kernel {
        return Ok(plan);
    }
    let manager = PackageManager::of(machine.runner);
    if manager == Some(PackageManager::Apt) {
        dialogue.say("Reading the package lists (into the cache; the system's own stay as they are).");
        let apt = apt.insert(apt::Apt::open(machine.runner, &machine.root.join("etc/apt"), directory)?);
        if needs_qemu {
            plan.qemu = Some(plan::install_qemu(apt, machine)?);
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
        return Err(Error::ByHand { command: machine.as_root(manager.install_qemu(), true) });
    }
    Err(Error::NoKernelPackage { tried: "this system's packages come without apt".to_owned() })
}

/// Installs QEMU as planned; a source that does not lead there is taken back.
fn install(
    qemu: &QemuInstall,
    machine: &Machine<'_>,
    directory: &Path,
    dialogue: &mut dyn Dialogue,
) -> Result<(), Error> {
    let staged = directory.join("testbed-backports.sources");
    if let Some(source) = &qemu.source {
        fs::write(&staged, &source.text).map_err(Error::io("write", &staged))?;
    }
    let interactive = dialogue.interactive();
    let mut run = |command: Invocation| {
        let command = machine.as_root(command, interactive);
        dialogue.say(&format!("+ {command}"));
        apt::run(machine.runner, &command)
    };
    let commands = qemu.commands(&staged);
    let last = commands.len() - 1;
    let mut outcome = Ok(());
    for (at, command) in commands.into_iter().enumerate() {
        outcome = run(command);
        // One of many sources that cannot be reached fails the update, and may not matter.
        let is_update = at + 1 == last;
        if outcome.is_err() && !is_update {
            break;
        }
    }
    if let (Err(_), Some(source)) = (&outcome, &qemu.source) {
        let path = source.path.display().to_string();
        // The error that led here says more than one about this.
        let _ = run(Invocation::new("rm", ["-f", &path]));
    }
    outcome?;
    match Qemu::probe(machine.runner) {
        Qemu::Ready { .. } => Ok(()),
        other => Err(Error::NoQemu {
            minimum: MINIMUM_QEMU.to_string(),
            tried: vec![format!("the packages were installed, and yet PATH leads to {other:?}")],
        }),
    }
}

/// A directory that is empty at first and gone at the end, however the last one ended.
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
        // What stays is removed by the next set-up, and cannot be mistaken for anything.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        self.remove();
    }
}
