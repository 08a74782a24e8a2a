//! What has to change for a run to work: found out first, shown, and only then done.

use super::{
    Error, Invocation, Machine, Privilege,
    apt::{Apt, KernelPackage, Simulation},
    qemu::{MINIMUM, Version},
    sources::{self, Backports},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The package that has QEMU for x86.
const PACKAGE: &str = "qemu-system-x86";

/// What has to change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) qemu: Option<QemuInstall>,
    pub(super) kernel: Option<KernelPlan>,
}

/// How QEMU comes onto the system.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QemuInstall {
    /// The suite it is taken from, unless it is the system's usual one.
    pub(super) suite: Option<String>,
    /// The source that has to be configured for it.
    pub(super) source: Option<NewSource>,
    /// Why not from the usual suite.
    pub(super) because: Option<String>,
    /// What is installed, with versions.
    pub(super) installed: Vec<(String, String)>,
    /// Those of them that are installed already in an older version.
    pub(super) upgraded: Vec<String>,
}

/// A file for apt's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewSource {
    /// Where it goes.
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) text: String,
    /// The file it is derived from.
    pub(super) derived_from: PathBuf,
}

/// How a kernel comes into the cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KernelPlan {
    /// The distribution's package, downloaded and unpacked.
    Fetch(KernelPackage),
    /// A file that was given.
    Adopt {
        /// The image.
        image: PathBuf,
        /// The directory of its modules, if it was given too.
        modules: Option<PathBuf>,
    },
}

/// The name of this release, as suites are named after it.
fn codename(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("etc/os-release")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

/// Finds out how QEMU can be installed with nothing else lost: from the usual suite, else from backports.
pub(super) fn install_qemu(apt: &mut Apt<'_>, machine: &Machine<'_>) -> Result<QemuInstall, Error> {
    let mut tried = Vec::new();
    let from = |tried: &[String]| tried.last().cloned();
    match acceptable(apt.simulate(PACKAGE, None)?) {
        Ok(simulation) => return Ok(QemuInstall::new(simulation, None, None, None)),
        Err(why) => tried.push(format!("the usual suite: {why}")),
    }
    let etc = machine.root.join("etc/apt");
    let backports = codename(&machine.root).and_then(|name| sources::backports(&etc, &name));
    let (suite, source) = match backports {
        None => {
            tried.push("backports: no source of this release is configured to derive them from".to_owned());
            return Err(no_qemu(tried, apt));
        }
        Some(Backports::Configured { suite }) => (suite, None),
        Some(Backports::New { suite, text, derived_from }) => {
            apt.try_source(&text)?;
            (suite, Some(NewSource { path: etc.join(sources::FILE), text, derived_from }))
        }
    };
    match acceptable(apt.simulate(PACKAGE, Some(&suite))?) {
        Ok(simulation) => Ok(QemuInstall::new(simulation, Some(suite), source, from(&tried))),
        Err(why) => {
            tried.push(format!("{suite}: {why}"));
            Err(no_qemu(tried, apt))
        }
    }
}

fn no_qemu(mut tried: Vec<String>, apt: &Apt<'_>) -> Error {
    tried.extend(apt.incomplete.iter().map(|why| format!("the package lists are incomplete: {why}")));
    Error::NoQemu { minimum: MINIMUM.to_string(), tried }
}

/// Takes an installation that gives a QEMU new enough and takes nothing away.
fn acceptable(simulated: Result<Simulation, String>) -> Result<Simulation, String> {
    let simulation = simulated?;
    if !simulation.removed.is_empty() {
        return Err(format!("it would remove {}", simulation.removed.join(", ")));
    }
    if simulation.downgrades {
        return Err("it would downgrade packages".to_owned());
    }
    let version = simulation
        .version(PACKAGE)
        .ok_or_else(|| format!("{PACKAGE} is installed already, and yet no QEMU that serves is in PATH"))?;
    if Version::leading(version).is_none_or(|version| version < MINIMUM) {
        return Err(format!("it has QEMU {version}"));
    }
    Ok(simulation)
}

impl QemuInstall {
    fn new(
        simulation: Simulation,
        suite: Option<String>,
        source: Option<NewSource>,
        because: Option<String>,
    ) -> Self {
        Self { suite, source, because, installed: simulation.installed, upgraded: simulation.upgraded }
    }

    /// The commands that do it, given a file that holds the new source.
    pub(super) fn commands(&self, staged: &Path) -> Vec<Invocation> {
        let mut commands = Vec::new();
        if let Some(source) = &self.source {
            let (from, to) = (staged.display().to_string(), source.path.display().to_string());
            commands.push(Invocation::new("install", ["-D", "-m", "0644", &from, &to]));
        }
        commands.push(Invocation::new("apt-get", ["-q", "update"]));
        // Waits for another apt, and prints no progress that only a terminal could show.
        let mut words = vec!["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"];
        words.extend(["install", "-y", "--no-install-recommends", "--no-remove"]);
        words.extend(self.suite.iter().flat_map(|suite| ["-t", suite]));
        words.push(PACKAGE);
        commands.push(Invocation::new("apt-get", words));
        commands
    }

    /// The same for a person to type, who has no such file.
    pub(super) fn by_hand(&self) -> Vec<String> {
        let mut commands: Vec<String> =
            self.commands(Path::new("")).iter().map(ToString::to_string).collect();
        if let Some(source) = &self.source {
            commands[0] = format!("cat > {} <<'END'\n{}END", source.path.display(), source.text);
        }
        commands
    }

    fn describe(&self, privilege: Privilege) -> Vec<String> {
        let through = match privilege {
            Privilege::Root | Privilege::None => "as root",
            Privilege::Sudo => "as root, through sudo",
        };
        let mut lines = vec![format!("On this system, {through}:")];
        if let Some(because) = &self.because {
            lines.push(format!("  QEMU does not come from {because}."));
        }
        if let Some(source) = &self.source {
            lines.push(format!(
                "  write {}, derived from {}:",
                source.path.display(),
                source.derived_from.display()
            ));
            let shown = source.text.lines().filter(|line| !line.starts_with('#'));
            lines.extend(shown.map(|line| format!("      {line}")));
        }
        let commands = self.commands(Path::new(""));
        for command in &commands[usize::from(self.source.is_some())..] {
            lines.push(format!("  run {command}"));
        }
        let (upgraded, new): (Vec<_>, Vec<_>) =
            self.installed.iter().partition(|(name, _)| self.upgraded.contains(name));
        for (what, packages) in [("installs", new), ("upgrades", upgraded)] {
            if !packages.is_empty() {
                let names: Vec<String> =
                    packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
                lines.push(format!("      {what} {}", names.join(", ")));
            }
        }
        lines
    }
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Exactly what will change, a line each.
    pub(super) fn describe(&self, machine: &Machine<'_>) -> Vec<String> {
        let mut lines = self.qemu.as_ref().map_or(Vec::new(), |qemu| qemu.describe(machine.privilege));
        let Some(kernel) = &self.kernel else { return lines };
        lines.push(format!("In {}:", machine.cache.root().display()));
        lines.push(match kernel {
            KernelPlan::Fetch(package) => format!(
                "  download {} {} ({:.0} MB) and unpack its kernel for guests, without installing it",
                package.packages.join(" "),
                package.version,
                package.size as f64 / 1e6
            ),
            KernelPlan::Adopt { image, .. } => {
                format!("  copy the kernel {} and its virtio modules, for guests", image.display())
            }
        });
        lines
    }
}
