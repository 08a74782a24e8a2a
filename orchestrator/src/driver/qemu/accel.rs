//! The choice of the accelerator, found by booting a guest under KVM.
//!
//! On some hosts `/dev/kvm` opens and a virtual machine can be created, yet no guest gets beyond its
//! firmware. So for each combination of CPU, kernel and QEMU version, a test guest is booted once under KVM,
//! up to the stressor's greeting. The finding is kept in the cache directory.

use super::{
    machine::{Accelerator, GuestMachine, Role},
    process::{self, Connections, QemuProcess},
    trial::{self, Verdict},
};
use crate::{
    lab::{Compute, Description},
    matrix::Accel,
    node::NodeError,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest that the test guest may take to boot. With a working KVM it takes about a second.
const BOOT_LIMIT: Duration = Duration::from_secs(8);

/// The reason for TCG if QEMU does not even start with KVM.
const REFUSED: &str = "QEMU does not start with KVM";

/// The reason for TCG if QEMU starts with KVM, but its guest does not.
const NO_BOOT: &str = "a test guest did not boot under KVM";

/// The name of the file with the findings, in the cache directory.
const FILE: &str = "accelerator.json";

/// The accelerator to use, and the reason for the choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceleratorFinding {
    /// The accelerator that runs the guest's CPUs.
    pub accelerator: Accelerator,
    /// The reason for the choice, as text.
    pub reason: String,
    /// The error of QEMU or of the test guest, if KVM was tried and failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
}

/// The combination of host and QEMU for which a finding is valid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// The host's CPU model and kernel.
    pub host: String,
    /// The version of QEMU on the host.
    pub qemu: String,
}

impl Platform {
    /// Returns the platform of a lab's source, or nothing without QEMU.
    pub fn of(lab: &Description) -> Option<Self> {
        let source = &lab.source;
        let host = format!("{}, Linux {}", source.cpu_model, source.kernel);
        Some(Self { host, qemu: source.qemu.clone()? })
    }

    fn key(&self) -> String {
        format!("{} with QEMU {}", self.host, self.qemu)
    }
}

impl AcceleratorFinding {
    /// Returns why the accelerator that the matrix asks for does not work; nothing if it works.
    pub fn unusable(&self) -> Option<&str> {
        if self.accelerator == Accelerator::Kvm { self.trial.as_deref() } else { None }
    }

    /// Returns the finding for a setting of the matrix. If the matrix asks for KVM, that is used even if it
    /// turns out to be unusable.
    fn for_wish(self, wish: Accel) -> Self {
        match (wish, self.accelerator) {
            (Accel::Kvm, Accelerator::Kvm) => requested(Accelerator::Kvm),
            (Accel::Kvm, Accelerator::Tcg) => {
                Self { trial: Some(self.trial.unwrap_or(self.reason)), ..requested(Accelerator::Kvm) }
            }
            (Accel::Auto | Accel::Tcg, _) => self,
        }
    }
}

/// Where and with what an accelerator is tried.
#[derive(Clone, Copy)]
pub struct TrialSpec<'a> {
    /// The node whose host needs the accelerator.
    pub node: &'a Compute,
    /// The machine of the test guest.
    pub machine: &'a GuestMachine,
    /// The combination of host and QEMU.
    pub platform: &'a Platform,
    /// The folder for findings.
    pub cache: &'a Path,
    /// The file that the output of QEMU is appended to.
    pub log: &'a Path,
}

/// Returns the accelerator for a setting of the matrix: TCG or KVM as requested, though KVM may be unusable
/// ([`AcceleratorFinding::unusable`]), or for `auto` the one that works on this node. A finding for this
/// platform in the cache is reused, unless the matrix asks for KVM and KVM did not work; a new finding is
/// stored there.
pub async fn choose(wish: Accel, spec: TrialSpec<'_>) -> io::Result<AcceleratorFinding> {
    if let Some(known) = known(wish, &spec) {
        return Ok(known);
    }
    let finding = match try_kvm_machine(&spec).await {
        Some(refused) => refused,
        None => try_kvm(spec.node, spec.machine, spec.log).await,
    };
    FindingsFile::within(spec.cache).put(spec.platform, &finding)?;
    Ok(finding.for_wish(wish))
}

/// Returns the accelerator for a setting of the matrix if it is known without booting a guest. Stores
/// nothing.
pub async fn guess(wish: Accel, spec: TrialSpec<'_>) -> Option<AcceleratorFinding> {
    if let Some(known) = known(wish, &spec) {
        return Some(known);
    }
    let finding = match try_kvm_machine(&spec).await {
        Some(refused) => refused,
        // A stored refusal is no longer true.
        None => stored(&spec).filter(|finding| finding.reason != REFUSED)?,
    };
    Some(finding.for_wish(wish))
}

/// Returns the accelerator if no trial is needed.
fn known(wish: Accel, spec: &TrialSpec<'_>) -> Option<AcceleratorFinding> {
    match wish {
        Accel::Tcg => Some(requested(Accelerator::Tcg)),
        Accel::Auto => stored(spec),
        // What did not work may work now, and no other accelerator is acceptable.
        Accel::Kvm => Some(stored(spec)?.for_wish(wish)).filter(|finding| finding.unusable().is_none()),
    }
}

fn stored(spec: &TrialSpec<'_>) -> Option<AcceleratorFinding> {
    FindingsFile::within(spec.cache).get(spec.platform)
}

fn requested(accelerator: Accelerator) -> AcceleratorFinding {
    AcceleratorFinding { accelerator, reason: "the matrix asks for it".into(), trial: None }
}

/// Starts a QEMU with KVM and without a guest. Returns a finding if QEMU refuses.
async fn try_kvm_machine(spec: &TrialSpec<'_>) -> Option<AcceleratorFinding> {
    match trial::try_machine(spec.node, &with_kvm(spec.machine), spec.log).await {
        Verdict::Refused(error) => Some(tcg_because(REFUSED, &error)),
        Verdict::Possible(_) | Verdict::Unknown(_) => None,
    }
}

/// Returns the test guest's machine with KVM and the CPU model that suits it.
fn with_kvm(machine: &GuestMachine) -> GuestMachine {
    machine.clone().with_accelerator(Accelerator::Kvm)
}

/// Boots a test guest under KVM. Chooses KVM if the stressor greets within [`BOOT_LIMIT`], otherwise TCG.
async fn try_kvm(node: &Compute, machine: &GuestMachine, log: &Path) -> AcceleratorFinding {
    let machine = with_kvm(&machine.on(node));
    let booted = async {
        let process = QemuProcess::start(&node.node, &machine, Role::Boot, log).await?;
        let booted = process::while_alive(&process, async {
            let connections = Connections::connect(&node.node, &process).await?;
            connections.control_port.hello(BOOT_LIMIT).await.map_err(|e| BootFailure(e.to_string()))
        });
        let booted = booted.await;
        process.kill().await?;
        booted
    };
    match booted.await {
        Ok(_) => AcceleratorFinding {
            accelerator: Accelerator::Kvm,
            reason: "a test guest booted under KVM".into(),
            trial: None,
        },
        Err(BootFailure(error)) => tcg_because(NO_BOOT, &error),
    }
}

/// The error that kept the test guest from booting, as text.
struct BootFailure(String);

impl From<process::Error> for BootFailure {
    fn from(error: process::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<NodeError> for BootFailure {
    fn from(error: NodeError) -> Self {
        Self(error.to_string())
    }
}

/// Returns the finding that KVM does not work, with the error of QEMU or of the test guest.
fn tcg_because(reason: &str, error: &str) -> AcceleratorFinding {
    AcceleratorFinding { accelerator: Accelerator::Tcg, reason: reason.into(), trial: Some(error.into()) }
}

/// The file with the findings by platform. An unreadable file counts as empty.
struct FindingsFile {
    path: PathBuf,
}

impl FindingsFile {
    fn within(cache: &Path) -> Self {
        Self { path: cache.join(FILE) }
    }

    fn all(&self) -> BTreeMap<String, AcceleratorFinding> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn get(&self, platform: &Platform) -> Option<AcceleratorFinding> {
        self.all().remove(&platform.key())
    }

    fn put(&self, platform: &Platform, finding: &AcceleratorFinding) -> io::Result<()> {
        let mut all = self.all();
        all.insert(platform.key(), finding.clone());
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Two runs may write at the same time. Renaming a complete file over the old one keeps it readable.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &all)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_that_does_not_work_is_unusable_if_the_matrix_asks_for_it() {
        let broken = tcg_because(REFUSED, "Could not access KVM kernel module: Permission denied");
        assert_eq!(broken.unusable(), None, "`auto` uses TCG");
        let asked = broken.for_wish(Accel::Kvm);
        assert_eq!(asked.accelerator, Accelerator::Kvm);
        assert_eq!(asked.unusable(), Some("Could not access KVM kernel module: Permission denied"));
        let works = AcceleratorFinding {
            accelerator: Accelerator::Kvm,
            reason: "a test guest booted under KVM".into(),
            trial: None,
        };
        assert_eq!(works.for_wish(Accel::Kvm), requested(Accelerator::Kvm));
        assert_eq!(requested(Accelerator::Kvm).unusable(), None);
    }

    #[test]
    fn a_finding_is_valid_for_its_host_and_qemu_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FindingsFile { path: folder.path().join("deeper").join(FILE) };
        let here = Platform { host: "a".into(), qemu: "10.0.2".into() };
        let newer = Platform { qemu: "10.1.0".into(), ..here.clone() };
        let finding = tcg_because(NO_BOOT, "it hangs");
        assert_eq!(cache.get(&here), None);
        cache.put(&here, &finding).unwrap();
        assert_eq!(cache.get(&here), Some(finding));
        assert_eq!(cache.get(&newer), None);
        fs::write(&cache.path, "{ cut off").unwrap();
        assert_eq!(cache.get(&here), None);
    }
}
