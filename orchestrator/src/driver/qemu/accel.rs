//! The choice of the accelerator, found by booting a guest under KVM.
//!
//! On some hosts `/dev/kvm` opens and a virtual machine can be created, yet no guest gets beyond its
//! firmware. So for each combination of CPU, kernel and QEMU version, a test guest is booted once under KVM,
//! up to the stressor's greeting. The finding is kept in the cache directory.

use super::{
    machine::{Accelerator, GuestMachine, Role},
    process::{self, Connections, QemuProcess},
};
use crate::{lab::Compute, matrix::Accel, node::NodeError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest the test guest may take to boot. With a working KVM it takes about a second.
const BOOT_LIMIT: Duration = Duration::from_secs(8);

/// The name of the file with the findings, in the cache directory.
const FILE: &str = "accelerator.json";

/// The accelerator to use, and the reason for the choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceleratorFinding {
    /// The accelerator that runs the guest's CPUs.
    pub accelerator: Accelerator,
    /// The reason for the choice, as text.
    pub reason: String,
    /// The error of the test guest, if one was booted and failed.
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
    fn key(&self) -> String {
        format!("{} with QEMU {}", self.host, self.qemu)
    }
}

/// Returns the accelerator for a setting of the matrix: the requested one, or for `auto` the one that works
/// on this node. `machine` is the test guest's machine; the output of its QEMU is appended to `log`. A
/// finding for this platform in the folder `cache` is reused; a new one is stored there.
pub async fn choose(
    wish: Accel,
    node: &Compute,
    machine: &GuestMachine,
    platform: &Platform,
    cache: &Path,
    log: &Path,
) -> io::Result<AcceleratorFinding> {
    match wish {
        Accel::Kvm => Ok(requested(Accelerator::Kvm)),
        Accel::Tcg => Ok(requested(Accelerator::Tcg)),
        Accel::Auto => {
            let cache = FindingsFile { path: cache.join(FILE) };
            if let Some(known) = cache.get(platform) {
                return Ok(known);
            }
            let finding = try_kvm(node, machine, log).await;
            cache.put(platform, &finding)?;
            Ok(finding)
        }
    }
}

fn requested(accelerator: Accelerator) -> AcceleratorFinding {
    AcceleratorFinding { accelerator, reason: "the matrix asks for it".into(), trial: None }
}

/// Boots a test guest under KVM. Chooses KVM if the stressor greets within [`BOOT_LIMIT`], otherwise TCG.
async fn try_kvm(node: &Compute, machine: &GuestMachine, log: &Path) -> AcceleratorFinding {
    let machine = GuestMachine {
        accelerator: Accelerator::Kvm,
        cpu: Accelerator::Kvm.default_cpu().into(),
        ..machine.on(node)
    };
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
        Err(BootFailure(error)) => tcg_because(&error),
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

/// Returns the finding that KVM does not work, with the error of the test guest.
fn tcg_because(error: &str) -> AcceleratorFinding {
    AcceleratorFinding {
        accelerator: Accelerator::Tcg,
        reason: "a test guest did not boot under KVM".into(),
        trial: Some(error.into()),
    }
}

/// The file with the findings by platform. An unreadable file counts as empty.
struct FindingsFile {
    path: PathBuf,
}

impl FindingsFile {
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
    fn a_finding_is_valid_for_its_host_and_qemu_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FindingsFile { path: folder.path().join("deeper").join(FILE) };
        let here = Platform { host: "a".into(), qemu: "10.0.2".into() };
        let newer = Platform { qemu: "10.1.0".into(), ..here.clone() };
        let finding = tcg_because("it hangs");
        assert_eq!(cache.get(&here), None);
        cache.put(&here, &finding).unwrap();
        assert_eq!(cache.get(&here), Some(finding));
        assert_eq!(cache.get(&newer), None);
        fs::write(&cache.path, "{ cut off").unwrap();
        assert_eq!(cache.get(&here), None);
    }
}
