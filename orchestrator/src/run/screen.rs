//! Finds out which cells of a plan a lab cannot attempt, before the first attempt: `testbed plan` shows them,
//! and `testbed run` skips them with the same reasons.
//!
//! The reasons are, in the order in which they are looked for: no backend for the link, too little memory, an
//! accelerator that does not work, a machine that QEMU refuses (its CPU model in particular), and huge pages
//! that the guest's CPU does not have. Each machine is tried only once.

use crate::{
    driver::qemu::{
        accel::AcceleratorFinding,
        machine::{Accelerator, GuestMachine},
        trial::{self, Verdict},
    },
    lab::{Compute, Description, Lab, topology::GUEST_ADDRESS},
    matrix::{Accel, Cell, Settings},
};
use indexmap::IndexMap;
use std::{collections::HashMap, path::Path};

/// The accelerators for the values of `guest.accel`.
pub type Accelerators = IndexMap<Accel, AcceleratorFinding>;

/// The reasons why cells cannot be attempted, by the cells' identifiers.
pub type Reasons = HashMap<String, String>;

/// Returns the machine of a guest with these settings, with the paths of its kernel and its initramfs.
pub(super) fn machine(files: [&Path; 2], settings: &Settings, accelerator: Accelerator) -> GuestMachine {
    let (address, prefix) = GUEST_ADDRESS;
    let cpu = settings.guest.cpu.as_deref().unwrap_or(accelerator.default_cpu());
    let [kernel, initramfs] = files.map(|path| path.display().to_string());
    GuestMachine {
        accelerator,
        cpu: cpu.into(),
        vcpus: settings.guest.vcpus,
        memory: settings.guest.memory,
        kernel,
        initramfs,
        address: format!("{address}/{prefix}"),
        network: None,
    }
}

/// Returns the values of `guest.accel` in these cells, each once.
pub fn accels<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> Vec<Accel> {
    let mut accels = Vec::new();
    for cell in cells {
        if !accels.contains(&cell.settings.guest.accel) {
            accels.push(cell.settings.guest.accel);
        }
    }
    accels
}

/// Returns why cells cannot be attempted in this lab with these accelerators. The output of QEMU is appended
/// to `log`.
pub async fn screen(
    cells: impl IntoIterator<Item = &Cell>,
    lab: &Lab,
    accelerators: &Accelerators,
    log: &Path,
) -> Reasons {
    let ends = if lab.description.is_one_host() {
        vec![("this host", &lab.source)]
    } else {
        vec![("the source", &lab.source), ("the destination", &lab.destination)]
    };
    let mut trials = Trials { ends, log, known: Vec::new() };
    let mut reasons = Reasons::new();
    for cell in cells {
        let settings = &cell.settings;
        let reason = match without_qemu(&lab.description, settings, accelerators) {
            Err(reason) => Some(reason),
            Ok(accelerator) => trials.lacking(settings, accelerator).await,
        };
        if let Some(reason) = reason {
            reasons.insert(cell.id.clone(), reason);
        }
    }
    reasons
}

/// Returns the accelerator for a cell with these settings.
///
/// # Errors
///
/// The reason why it cannot be attempted, if it is known without a trial of the machine.
fn without_qemu(
    lab: &Description,
    settings: &Settings,
    accelerators: &Accelerators,
) -> Result<Accelerator, String> {
    let lacks = lab.lacks(settings).or_else(|| lab.lacks_memory(settings));
    if let Some(reason) = lacks {
        return Err(reason);
    }
    let finding = accelerators.get(&settings.guest.accel);
    if let Some(why) = finding.and_then(AcceleratorFinding::unusable) {
        return Err(format!("KVM does not work here: {why}; `guest.accel: auto` uses TCG instead"));
    }
    // Without a finding, nothing speaks against KVM.
    Ok(finding.map_or(Accelerator::Kvm, |finding| finding.accelerator))
}

/// The machines that were tried, and where they are tried.
struct Trials<'a> {
    /// The hosts that a guest needs, with what they are called.
    ends: Vec<(&'static str, &'a Compute)>,
    log: &'a Path,
    known: Vec<(GuestMachine, Vec<Verdict>)>,
}

impl Trials<'_> {
    /// Returns what QEMU, or the guest's CPU, lacks for a cell with these settings.
    async fn lacking(&mut self, settings: &Settings, accelerator: Accelerator) -> Option<String> {
        let machine = machine([Path::new(""); 2], settings, accelerator);
        let at = if let Some(at) = self.known.iter().position(|(known, _)| *known == machine) {
            at
        } else {
            let mut verdicts = Vec::new();
            for (_, compute) in &self.ends {
                verdicts.push(trial::try_machine(compute, &machine, self.log).await);
            }
            self.known.push((machine, verdicts));
            self.known.len() - 1
        };
        let (machine, verdicts) = &self.known[at];
        self.ends
            .iter()
            .zip(verdicts)
            .find_map(|((host, _), verdict)| reason(verdict, host, machine, settings))
    }
}

/// Returns why a machine on a host is not enough for a cell with these settings.
fn reason(verdict: &Verdict, host: &str, machine: &GuestMachine, settings: &Settings) -> Option<String> {
    let GuestMachine { accelerator, cpu, .. } = machine;
    match verdict {
        Verdict::Possible(cpu_has) => {
            let size = settings.stress.page_size;
            let feature = cpu_has.lacks_for(size)?;
            let pages = units::Bytes::new(size.bytes());
            Some(format!(
                "the guest's CPU, {cpu} with {}, has no pages of {pages}: it lacks {feature}",
                accelerator.name()
            ))
        }
        Verdict::Refused(why) => Some(format!(
            "QEMU on {host} refuses this guest with the accelerator {}: {why}",
            accelerator.name()
        )),
        // The attempt will show.
        Verdict::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::qemu::trial::CpuFeatures;

    fn settings(guest: &str, stress: &str) -> Settings {
        Settings {
            guest: serde_json::from_str(guest).unwrap(),
            stress: serde_json::from_str(stress).unwrap(),
            ..Settings::default()
        }
    }

    fn reason_of(verdict: &Verdict, settings: &Settings) -> Option<String> {
        let machine = machine([Path::new(""); 2], settings, Accelerator::Tcg);
        reason(verdict, "this host", &machine, settings)
    }

    #[test]
    fn a_refusal_names_the_host_and_the_machine() {
        let refused = Verdict::Refused("unable to find CPU model 'foo'".into());
        assert_eq!(
            reason_of(&refused, &settings(r#"{ "cpu": "foo", "vcpus": 2 }"#, "{}")).unwrap(),
            "QEMU on this host refuses this guest with the accelerator tcg: unable to find CPU model 'foo'"
        );
        let unknown = Verdict::Unknown("node compute1 is gone".into());
        assert_eq!(reason_of(&unknown, &Settings::default()), None, "a trial that fails proves nothing");
    }

    #[test]
    fn huge_pages_that_the_cpu_lacks_are_named() {
        let qemu64 = Verdict::Possible(CpuFeatures { pages_2m: true, pages_1g: false });
        let with = |size: &str| settings("{}", &format!(r#"{{ "page_size": "{size}" }}"#));
        assert_eq!(reason_of(&qemu64, &with("2MiB")), None);
        assert_eq!(
            reason_of(&qemu64, &with("1GiB")).unwrap(),
            "the guest's CPU, qemu64 with tcg, has no pages of 1GiB: it lacks pdpe1gb"
        );
    }
}
