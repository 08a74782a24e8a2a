//! Which accelerator runs a guest here: found by running one.
//!
//! On some machines `/dev/kvm` opens and a virtual machine can be created, and still no guest gets beyond its
//! firmware. So a guest is booted under KVM, once for each machine, kernel and QEMU, up to the stressor's
//! first words. The finding is kept in the cache directory.

use super::{
    machine::{Accelerator, Machine, Role},
    process::{self, Guest, Handle},
};
use crate::{lab::Compute, matrix::Accel, node::NodeError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// A guest under a working KVM is up in about a second.
const BOOT_LIMIT: Duration = Duration::from_secs(8);

/// The name of the file that findings are kept in.
const FILE: &str = "accelerator.json";

/// Which accelerator is used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What runs the guest's CPUs.
    pub accelerator: Accelerator,
    /// Why, in words.
    pub reason: String,
    /// What became of the guest that was to show it, where one was tried and failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
}

/// What a finding holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The machine: its CPU and kernel.
    pub machine: String,
    /// QEMU's version.
    pub qemu: String,
}

impl Place {
    fn key(&self) -> String {
        format!("{} with QEMU {}", self.machine, self.qemu)
    }
}

/// The accelerator to use for a wish: what was asked for, or what works.
pub async fn choose(
    wish: Accel,
    node: &Compute,
    machine: &Machine,
    place: &Place,
    cache: &Path,
    log: &Path,
) -> io::Result<Finding> {
    match wish {
        Accel::Kvm => Ok(asked_for(Accelerator::Kvm)),
        Accel::Tcg => Ok(asked_for(Accelerator::Tcg)),
        Accel::Auto => {
            let store = Store { path: cache.join(FILE) };
            if let Some(known) = store.get(place) {
                return Ok(known);
            }
            let finding = probe(node, machine, log).await;
            store.put(place, &finding)?;
            Ok(finding)
        }
    }
}

fn asked_for(accelerator: Accelerator) -> Finding {
    Finding { accelerator, reason: "the matrix asks for it".into(), trial: None }
}

/// Boots a guest under KVM and sees whether it gets anywhere.
async fn probe(node: &Compute, machine: &Machine, log: &Path) -> Finding {
    let machine = Machine {
        accelerator: Accelerator::Kvm,
        cpu: Accelerator::Kvm.default_cpu().into(),
        ..machine.on(node)
    };
    let booted = async {
        let process = Handle::start(&node.node, &machine, Role::Boot, log).await?;
        let booted = process::while_alive(&process, async {
            let guest = Guest::connect(&node.node, &process).await?;
            guest.stressor.hello(BOOT_LIMIT).await.map_err(|e| Why(e.to_string()))
        });
        let booted = booted.await;
        process.kill().await?;
        booted
    };
    match booted.await {
        Ok(_) => Finding {
            accelerator: Accelerator::Kvm,
            reason: "a guest boots under KVM here".into(),
            trial: None,
        },
        Err(Why(why)) => not_kvm(&why),
    }
}

/// Why no guest runs, in words.
struct Why(String);

impl From<process::Error> for Why {
    fn from(error: process::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<NodeError> for Why {
    fn from(error: NodeError) -> Self {
        Self(error.to_string())
    }
}

fn not_kvm(why: &str) -> Finding {
    Finding {
        accelerator: Accelerator::Tcg,
        reason: "no guest boots under KVM here".into(),
        trial: Some(why.into()),
    }
}

/// Findings by place, in a file. One that does not read is as good as none.
struct Store {
    path: PathBuf,
}

impl Store {
    fn all(&self) -> BTreeMap<String, Finding> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn get(&self, place: &Place) -> Option<Finding> {
        self.all().remove(&place.key())
    }

    fn put(&self, place: &Place, finding: &Finding) -> io::Result<()> {
        let mut all = self.all();
        all.insert(place.key(), finding.clone());
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Two runs at once may both write; each writes a whole file.
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
    fn a_finding_holds_for_its_machine_and_qemu_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { path: folder.path().join("deeper").join(FILE) };
        let here = Place { machine: "a".into(), qemu: "10.0.2".into() };
        let newer = Place { qemu: "10.1.0".into(), ..here.clone() };
        let finding = not_kvm("it hangs");
        assert_eq!(store.get(&here), None);
        store.put(&here, &finding).unwrap();
        assert_eq!(store.get(&here), Some(finding));
        assert_eq!(store.get(&newer), None);
        fs::write(&store.path, "{ cut off").unwrap();
        assert_eq!(store.get(&here), None);
    }
}
