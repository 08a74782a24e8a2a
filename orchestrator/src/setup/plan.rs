//! The changes that `testbed setup` will make. All of them are determined and shown before the first one is
//! made.

use super::{
    Error, Invocation, LocalHost, Privilege,
    apt::{Apt, KernelPackage, Simulation},
    nfs,
    qemu::{MINIMUM, Version},
    sources::{self, Backports},
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use units::Bytes;

/// The Debian package of QEMU for x86.
pub(super) const PACKAGE: &str = "qemu-system-x86";

/// The changes to be made; `None` stands for no change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) qemu: Option<QemuInstall>,
    pub(super) kernel: Option<KernelPlan>,
}

/// An installation of QEMU, or of its block driver `nfs`, with apt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QemuInstall {
    /// The packages as given to apt, some with a version.
    pub(super) packages: Vec<String>,
    /// The suite to install from (`apt-get -t`); `None` for the default suite.
    pub(super) suite: Option<String>,
    /// The apt source to add for that suite, unless it is already configured.
    pub(super) source: Option<NewSource>,
    /// The reason why the default suite is not used: `the default suite: it would remove qemu-utils`.
    pub(super) reason: Option<String>,
    /// The names and versions of the packages that are installed.
    pub(super) installed: Vec<(String, String)>,
    /// The names of those packages that replace an older version.
    pub(super) upgraded: Vec<String>,
}

/// A file to add to apt's sources.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewSource {
    pub(super) path: PathBuf,
    /// The content of the file.
    pub(super) text: String,
    /// The configured source whose address and key are used.
    pub(super) derived_from: PathBuf,
}

/// The way to put a kernel into the cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KernelPlan {
    /// Downloads and unpacks the distribution's package.
    Fetch(KernelPackage),
    /// Copies a kernel that the user names.
    Adopt {
        image: PathBuf,
        /// The directory of its modules, if the user names it.
        modules: Option<PathBuf>,
    },
}

/// Returns the codename of the distribution's release, such as `bookworm`, after which its suites are named.
fn codename(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("etc/os-release")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

/// Determines how to install QEMU without removing or downgrading a package: from the default suite, else
/// from backports. With `nfs_driver`, its block driver `nfs` is installed too.
pub(super) fn install_qemu(
    apt: &mut Apt<'_>,
    host: &LocalHost<'_>,
    nfs_driver: bool,
) -> Result<QemuInstall, Error> {
    let mut packages = vec![PACKAGE.to_owned()];
    packages.extend(nfs_driver.then(|| nfs::PACKAGE.to_owned()));
    from_any_suite(apt, host, &packages, &has_qemu)?
        .map_err(|tried| Error::NoQemu { minimum: MINIMUM.to_string(), tried })
}

/// Determines how to install packages without removing or downgrading others: from the default suite, else
/// from backports. `check` returns an error if a simulated installation does not serve its purpose. The inner
/// error lists each suite that was tried, and why it cannot be used.
pub(super) fn from_any_suite(
    apt: &mut Apt<'_>,
    host: &LocalHost<'_>,
    packages: &[String],
    check: &dyn Fn(&Simulation) -> Result<(), String>,
) -> Result<Result<QemuInstall, Vec<String>>, Error> {
    let mut tried = Vec::new();
    match acceptable(apt.simulate(packages, None)?, check) {
        Ok(simulation) => return Ok(Ok(QemuInstall::new(packages, simulation, None, None, None))),
        Err(why) => tried.push(format!("the default suite: {why}")),
    }
    let etc = host.root.join("etc/apt");
    let backports = codename(&host.root).and_then(|name| sources::backports(&etc, &name));
    let (suite, source) = match backports {
        None => {
            tried.push("backports: apt has no source of this release to derive them from".to_owned());
            return Ok(Err(with_incomplete(tried, apt)));
        }
        Some(Backports::Configured { suite }) => (suite, None),
        Some(Backports::New { suite, text, derived_from }) => {
            apt.try_source(&text)?;
            (suite, Some(NewSource { path: etc.join(sources::FILE), text, derived_from }))
        }
    };
    Ok(match acceptable(apt.simulate(packages, Some(&suite))?, check) {
        Ok(simulation) => {
            Ok(QemuInstall::new(packages, simulation, Some(suite), source, tried.last().cloned()))
        }
        Err(why) => {
            tried.push(format!("{suite}: {why}"));
            Err(with_incomplete(tried, apt))
        }
    })
}

fn with_incomplete(mut tried: Vec<String>, apt: &Apt<'_>) -> Vec<String> {
    tried.extend(apt.incomplete.iter().map(|why| format!("the package lists are incomplete: {why}")));
    tried
}

/// Accepts a simulated installation if it serves its purpose and does not remove or downgrade packages.
///
/// # Errors
/// The reason why the installation is not acceptable, for the user.
fn acceptable(
    simulated: Result<Simulation, String>,
    check: &dyn Fn(&Simulation) -> Result<(), String>,
) -> Result<Simulation, String> {
    let simulation = simulated?;
    if !simulation.removed.is_empty() {
        return Err(format!("it would remove {}", simulation.removed.join(", ")));
    }
    if simulation.downgrades {
        return Err("it would downgrade packages".to_owned());
    }
    check(&simulation)?;
    Ok(simulation)
}

/// Checks that a simulated installation provides a QEMU that is recent enough.
fn has_qemu(simulation: &Simulation) -> Result<(), String> {
    let version = simulation
        .version(PACKAGE)
        .ok_or_else(|| format!("{PACKAGE} is already installed, but QEMU in PATH is missing or unusable"))?;
    if Version::leading(version).is_none_or(|version| version < MINIMUM) {
        return Err(format!("it has QEMU {version}"));
    }
    Ok(())
}

impl QemuInstall {
    fn new(
        packages: &[String],
        simulation: Simulation,
        suite: Option<String>,
        source: Option<NewSource>,
        reason: Option<String>,
    ) -> Self {
        let Simulation { installed, upgraded, .. } = simulation;
        Self { packages: packages.to_vec(), suite, source, reason, installed, upgraded }
    }

    /// Returns the commands to run as root. `staged` is a file with the text of the new source, which they
    /// copy.
    pub(super) fn commands(&self, staged: &Path) -> Vec<Invocation> {
        let mut commands = Vec::new();
        if let Some(source) = &self.source {
            let (from, to) = (staged.display().to_string(), source.path.display().to_string());
            commands.push(Invocation::new("install", ["-D", "-m", "0644", &from, &to]));
        }
        commands.push(Invocation::new("apt-get", ["-q", "update"]));
        // Waits up to 300 s for another apt, and prints no progress bar, which needs a terminal.
        let mut words = vec!["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"];
        words.extend(["install", "-y", "--no-install-recommends", "--no-remove"]);
        words.extend(self.suite.iter().flat_map(|suite| ["-t", suite]));
        words.extend(self.packages.iter().map(String::as_str));
        commands.push(Invocation::new("apt-get", words));
        commands
    }

    /// Returns the same commands for the user to paste into a shell, with a here-document in place of
    /// `staged`.
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
        if let Some(reason) = &self.reason {
            let what = if self.packages[0] == PACKAGE { "QEMU" } else { "QEMU's nfs driver" };
            lines.push(format!("  {what} is not taken from {reason}."));
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

    /// Lists exactly what will change, one line per change.
    pub(super) fn describe(&self, host: &LocalHost<'_>) -> Vec<String> {
        let mut lines = self.qemu.as_ref().map_or(Vec::new(), |qemu| qemu.describe(host.privilege));
        let Some(kernel) = &self.kernel else { return lines };
        lines.push(format!("In {}:", host.cache.root().display()));
        lines.push(match kernel {
            KernelPlan::Fetch(package) => format!(
                "  download {} {} ({}) and unpack its kernel for guests, without installing it",
                package.packages.join(" "),
                package.version,
                Bytes::new(package.size).rounded()
            ),
            KernelPlan::Adopt { image, .. } => {
                format!("  copy the kernel {} and its virtio modules, for guests", image.display())
            }
        });
        lines
    }
}
