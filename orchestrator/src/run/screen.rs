//! Finds out which cells of a plan a lab cannot attempt, before the first attempt: `testbed plan` shows them,
//! and `testbed run` skips them with the same reasons.
//!
//! The reasons, in the order in which they are checked, are: no backend for the link, too little memory, a
//! migration that needs one host or a folder that hosts share, an accelerator that does not work, too little
//! space for the disk, a machine that QEMU refuses (its CPU model in particular), huge pages that the guest's
//! CPU does not have, and a migration that QEMU refuses or for which it lacks something. Each machine is
//! tried at most once, and only if a larger one like it is not possible.

use super::{folder, space::Space};
use crate::{
    driver::qemu::{
        accel::{self, AcceleratorFinding, Platform, TrialSpec},
        confinement::{self, Confinement},
        machine::{Accelerator, GuestMachine, QEMU},
        parameters::{Parameters, parameters},
        trial::{self, Verdict},
    },
    image::{self, Cache, KernelChoice},
    lab::{self, Compute, Description, Lab},
    matrix::{Accel, Cell, Plan, Settings, StorageKind, Transport},
    measure::End,
    node::Node,
    setup::NfsDriver,
};
use futures::future;
use indexmap::IndexMap;
use std::{collections::HashMap, path::Path};

/// The accelerators for the values of `guest.accel`.
pub type Accelerators = IndexMap<Accel, AcceleratorFinding>;

/// The reasons why cells cannot be attempted, by the cells' identifiers.
pub type Reasons = HashMap<String, String>;

/// Returns the paths of a guest's files for a machine that is never booted.
pub(super) fn no_files() -> [&'static Path; 2] {
    [Path::new(""); 2]
}

/// Returns the guest machine that is used to find out whether KVM works. `files` are the paths of its kernel
/// and initramfs.
pub fn test_guest(files: [&Path; 2]) -> GuestMachine {
    GuestMachine::new(&Settings::default(), Accelerator::Kvm, files)
}

/// Returns why cells of a plan cannot be attempted with the local lab, and a note if not everything can be
/// determined.
///
/// # Errors
///
/// The lab cannot be started.
pub async fn on_this_host(plan: &Plan) -> Result<(Reasons, Option<String>), lab::Error> {
    let lab = lab::local::start().await?;
    let answer = reasons_in(&lab, plan).await;
    lab.end().await;
    Ok(answer)
}

async fn reasons_in(lab: &Lab, plan: &Plan) -> (Reasons, Option<String>) {
    let nowhere = Path::new("/dev/null");
    let Some(platform) = Platform::of(&lab.description) else {
        let untried = Accelerators::new();
        let reason = |cell: &Cell| without_qemu(&lab.description, &cell.settings, &untried).err();
        let reasons = plan.cells.iter().filter_map(|cell| Some((cell.id.clone(), reason(cell)?)));
        let untried = "neither accelerators nor CPU models can be tried";
        let note = match &lab.description.source.broken_qemu {
            Some(why) => format!("{why}; {untried}"),
            None => format!("without {QEMU}, {untried}; `testbed setup` installs it"),
        };
        return (reasons.collect(), Some(note));
    };
    let cache = Cache::user().ok();
    let machine = test_guest(no_files());
    let spec = TrialSpec {
        node: &lab.source,
        machine: &machine,
        platform: &platform,
        cache: cache.as_ref().map_or(nowhere, Cache::root),
        log: nowhere,
    };
    let mut accelerators = Accelerators::new();
    for accel in accels(&plan.cells) {
        let finding = match accel::guess(accel, spec).await {
            None if accel == Accel::Kvm => boot(spec, cache.as_ref()).await,
            known => known,
        };
        // What is still unknown is assumed to work; the run will show.
        let Some(finding) = finding else { continue };
        accelerators.insert(accel, finding);
    }
    // What QEMU may use depends on its confinement, which is the same as in a run.
    let confined = if plan.cells.iter().all(|cell| migration_of(cell).is_plain()) {
        Confinement::default()
    } else {
        let tcg = machine.clone().with_accelerator(Accelerator::Tcg);
        let privilege = lab.description.source.privilege;
        confinement::choose(&[&lab.source], privilege, &tcg, nowhere).await.confinement
    };
    let template = GuestMachine { confinement: confined, ..machine.clone() };
    (screen(&plan.cells, lab, &accelerators, &template, nowhere).await, None)
}

/// Boots a guest with KVM, since nothing else proves that it works. Returns nothing if the guest's files
/// cannot be prepared.
async fn boot(spec: TrialSpec<'_>, cache: Option<&Cache>) -> Option<AcceleratorFinding> {
    let stressor = image::stressor_path().ok()?;
    let files = image::prepare(&KernelChoice::from_options(None, None), &stressor, cache?).ok()?;
    let machine = test_guest(files.paths());
    accel::choose(Accel::Kvm, TrialSpec { machine: &machine, ..spec }).await.ok()
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

/// Returns why cells cannot be attempted in this lab with these accelerators, and with the machine type and
/// the confinement of `template`. The output of QEMU is appended to `log`.
pub async fn screen(
    cells: impl IntoIterator<Item = &Cell>,
    lab: &Lab,
    accelerators: &Accelerators,
    template: &GuestMachine,
    log: &Path,
) -> Reasons {
    let ends = if lab.description.is_one_host() {
        vec![("this host", &lab.source)]
    } else {
        vec![("the source", &lab.source), ("the destination", &lab.destination)]
    };
    let mut reasons = Reasons::new();
    let mut possible: Vec<(&Cell, GuestMachine)> = Vec::new();
    for cell in cells {
        match without_qemu(&lab.description, &cell.settings, accelerators) {
            Err(reason) => drop(reasons.insert(cell.id.clone(), reason)),
            Ok(accelerator) => {
                let machine = GuestMachine::new(&cell.settings, accelerator, no_files());
                let (confinement, machine_type) = (template.confinement, template.machine_type.clone());
                possible.push((cell, GuestMachine { machine_type, confinement, ..machine }));
            }
        }
    }
    let mut trials = Trials {
        ends,
        log,
        largest: largest(possible.iter().map(|(_, machine)| machine)),
        known: Vec::new(),
    };
    let mut nfs = None;
    let mut migrating = Vec::new();
    let all: Vec<&Cell> = possible.iter().map(|(cell, _)| *cell).collect();
    let folder = folder::Lacks::find(&all, lab).await;
    let mut space = Space::new(lab);
    for (cell, machine) in possible {
        if let Some(reason) = folder.reason(&cell.settings) {
            reasons.insert(cell.id.clone(), reason);
            continue;
        }
        if let Some(reason) = space.lacking(&cell.settings.storage).await {
            reasons.insert(cell.id.clone(), reason);
            continue;
        }
        if cell.settings.storage.kind == StorageKind::Shared && lab.description.is_one_host() {
            if nfs.is_none() {
                nfs = Some(lacks_nfs(&lab.source.node).await);
            }
            if let Some(reason) = nfs.clone().flatten() {
                reasons.insert(cell.id.clone(), reason);
                continue;
            }
        }
        match trials.lacking(&cell.settings, &machine).await {
            Some(reason) => drop(reasons.insert(cell.id.clone(), reason)),
            None => migrating.push((cell, machine)),
        }
    }
    // Reasons that hold for every QEMU come first.
    for (cell, _) in &migrating {
        let lacks = lab.description.lacks_lockable_memory(&cell.settings);
        reasons.extend(lacks.map(|reason| (cell.id.clone(), reason)));
    }
    for (cell, reason) in refused_migrations(lab, &migrating, log).await {
        reasons.insert(cell.id.clone(), reason);
    }
    reasons
}

/// Returns the cells whose migrations QEMU refuses at one of the ends, with the reasons. QEMU is only asked
/// about cells that need more than plain pre-copy.
async fn refused_migrations<'a>(
    lab: &Lab,
    cells: &[(&'a Cell, GuestMachine)],
    log: &Path,
) -> Vec<(&'a Cell, String)> {
    let one_host = lab.description.is_one_host();
    let hosts = if one_host { ["this host"; 2] } else { ["the source", "the destination"] };
    let ends = [(End::Source, &lab.source), (End::Destination, &lab.destination)];
    let mut refused = Vec::new();
    // One trial for all cells with the same CPUs, which run with the same accelerator.
    let mut rest: Vec<(&Cell, GuestMachine)> = cells.to_vec();
    rest.retain(|(cell, _)| !migration_of(cell).is_plain());
    while let Some((_, machine)) = rest.first().cloned() {
        let (group, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|(_, other)| is_alike(other, &machine));
        rest = others;
        let mut migrations: Vec<Parameters> = Vec::new();
        for (cell, _) in &group {
            let migration = migration_of(cell);
            if !migrations.contains(&migration) {
                migrations.push(migration);
            }
        }
        let trials =
            ends.map(|(end, compute)| trial::try_migrations(compute, end, &machine, &migrations, log));
        let answers = future::join_all(trials).await;
        for (cell, _) in group {
            let at = migrations.iter().position(|migration| *migration == migration_of(cell));
            // A failed trial does not prove anything; the attempt will show.
            let reason = answers.iter().zip(hosts).find_map(|(answers, host)| {
                let why = answers.as_ref().ok()?.get(at?)?.as_ref()?;
                Some(format!("QEMU on {host} {why}"))
            });
            refused.extend(reason.map(|reason| (cell, reason)));
        }
    }
    refused
}

/// Returns the capabilities and parameters that QEMU gets for the migration of a cell.
fn migration_of(cell: &Cell) -> Parameters {
    parameters(&cell.settings.migrate, cell.settings.storage.kind == StorageKind::Block)
}

/// Returns, for each accelerator and CPU model of these machines, a machine with at least as many CPUs and as
/// much memory as each of them.
fn largest<'a>(machines: impl IntoIterator<Item = &'a GuestMachine>) -> Vec<GuestMachine> {
    let mut largest: Vec<GuestMachine> = Vec::new();
    for machine in machines {
        match largest.iter_mut().find(|known| is_alike(known, machine)) {
            Some(known) => {
                known.vcpus = known.vcpus.max(machine.vcpus);
                known.memory = known.memory.max(machine.memory);
            }
            None => largest.push(machine.clone()),
        }
    }
    largest
}

/// Returns whether two machines differ only in their number of CPUs and the size of their memory.
fn is_alike(a: &GuestMachine, b: &GuestMachine) -> bool {
    (a.accelerator, &a.cpu, a.shares_memory) == (b.accelerator, &b.cpu, b.shares_memory)
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
    let lacks = lab
        .lacks(settings)
        .or_else(|| lab.lacks_memory(settings))
        .or_else(|| lacks_storage(lab, settings))
        .or_else(|| lacks_transport(settings))
        .or_else(|| lab.lacks_way(&settings.migrate));
    if let Some(reason) = lacks {
        return Err(reason);
    }
    if let Some(why) = accelerators.get(&settings.guest.accel).and_then(AcceleratorFinding::unusable) {
        return Err(format!("KVM does not work here: {why}; `guest.accel: auto` uses TCG instead"));
    }
    Ok(accelerator(accelerators, settings))
}

/// Returns the accelerator of a guest with these settings.
pub(super) fn accelerator(accelerators: &Accelerators, settings: &Settings) -> Accelerator {
    // Without a finding, there is no reason not to use KVM.
    accelerators.get(&settings.guest.accel).map_or(Accelerator::Kvm, |finding| finding.accelerator)
}

/// Returns why no lab has the transport of these settings; nothing if labs have it.
fn lacks_transport(settings: &Settings) -> Option<String> {
    let rdma = settings.migrate.transport == Transport::Rdma;
    rdma.then(|| "RDMA needs a device of its own, and the links of a lab are virtual".into())
}

/// Returns what a lab lacks for the disk of these settings, without asking QEMU.
fn lacks_storage(lab: &Description, settings: &Settings) -> Option<String> {
    if settings.storage.kind != StorageKind::Shared {
        None
    } else if lab.is_one_host() {
        lab.lacks_for_storage(&settings.storage_link)
    } else if settings.storage_link != netem::Profile::default() {
        Some("only a local lab has a storage link that can be shaped".into())
    } else if lab.images.is_none() {
        let need = "a shared disk needs a folder that all hosts share";
        Some(format!("{need}: the absolute path `images` in the inventory"))
    } else {
        None
    }
}

/// Returns why the QEMU of a node cannot open a shared disk; nothing if it can.
async fn lacks_nfs(node: &Node) -> Option<String> {
    match lab::storage::nfs_driver(node).await {
        Ok(NfsDriver::Present) => None,
        Ok(NfsDriver::Missing(reason)) => {
            Some(format!("QEMU cannot open shared disks ({reason}): install its package qemu-block-extra"))
        }
        Ok(NfsDriver::Unknown(reason)) => {
            Some(format!("QEMU does not say whether it can open shared disks: {reason}"))
        }
        Err(error) => Some(error.to_string()),
    }
}

/// The machines that were tried, and the hosts on which they are tried.
struct Trials<'a> {
    /// The hosts that a guest needs, with their names in messages.
    ends: Vec<(&'static str, &'a Compute)>,
    log: &'a Path,
    /// The largest machines of the plan; see [`largest`].
    largest: Vec<GuestMachine>,
    known: Vec<(GuestMachine, Vec<Verdict>)>,
}

impl Trials<'_> {
    /// Returns what QEMU, or the guest's CPU, lacks for a cell with these settings and this machine.
    async fn lacking(&mut self, settings: &Settings, machine: &GuestMachine) -> Option<String> {
        // A host that has enough for the largest machine has enough for each: most plans need one trial.
        if let Some(largest) = self.largest.iter().find(|largest| is_alike(largest, machine)).cloned() {
            let verdicts = self.verdicts(&largest).await;
            if verdicts.iter().all(|verdict| matches!(verdict, Verdict::Possible(_))) {
                return self.reason(settings, machine, &verdicts);
            }
        }
        let verdicts = self.verdicts(machine).await;
        self.reason(settings, machine, &verdicts)
    }

    fn reason(&self, settings: &Settings, machine: &GuestMachine, verdicts: &[Verdict]) -> Option<String> {
        let ends = self.ends.iter().zip(verdicts);
        ends.into_iter().find_map(|((host, _), verdict)| reason(verdict, host, machine, settings))
    }

    /// Returns the verdict of each host on a machine, and tries it first if it is new.
    async fn verdicts(&mut self, machine: &GuestMachine) -> Vec<Verdict> {
        if let Some((_, verdicts)) = self.known.iter().find(|(known, _)| known == machine) {
            return verdicts.clone();
        }
        let trials = self.ends.iter().map(|(_, compute)| trial::try_machine(compute, machine, self.log));
        let verdicts = future::join_all(trials).await;
        self.known.push((machine.clone(), verdicts.clone()));
        verdicts
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
    use serde_json::{Value, json};

    fn settings(value: Value) -> Settings {
        serde_json::from_value(value).unwrap()
    }

    fn reason_of(verdict: &Verdict, settings: &Settings) -> Option<String> {
        let machine = GuestMachine::new(settings, Accelerator::Tcg, no_files());
        reason(verdict, "this host", &machine, settings)
    }

    #[test]
    fn no_lab_has_rdma() {
        let transport = |name| settings(json!({ "migrate": { "transport": name } }));
        assert_eq!(lacks_transport(&transport("tcp")), None);
        assert!(lacks_transport(&transport("rdma")).unwrap().starts_with("RDMA needs a device"));
    }

    #[test]
    fn one_machine_has_what_all_with_its_cpu_need() {
        let machine = |cpu: &str, vcpus: u32, memory: &str| {
            let guest = json!({ "guest": { "cpu": cpu, "vcpus": vcpus, "memory": memory } });
            GuestMachine::new(&settings(guest), Accelerator::Tcg, no_files())
        };
        let machines = [machine("max", 1, "2GiB"), machine("qemu64", 8, "1GiB"), machine("max", 4, "1GiB")];
        assert_eq!(largest(&machines), [machine("max", 4, "2GiB"), machine("qemu64", 8, "1GiB")]);
        let kvm = GuestMachine { accelerator: Accelerator::Kvm, ..machines[0].clone() };
        assert_eq!(largest([&machines[0], &kvm]), [machines[0].clone(), kvm.clone()]);
    }

    #[test]
    fn a_refusal_names_the_host_and_the_machine() {
        let refused = Verdict::Refused("unable to find CPU model 'foo'".into());
        assert_eq!(
            reason_of(&refused, &settings(json!({ "guest": { "cpu": "foo", "vcpus": 2 } }))).unwrap(),
            "QEMU on this host refuses this guest with the accelerator tcg: unable to find CPU model 'foo'"
        );
        let unknown = Verdict::Unknown("node compute1 is gone".into());
        assert_eq!(reason_of(&unknown, &Settings::default()), None, "a trial that fails proves nothing");
    }

    #[test]
    fn huge_pages_that_the_cpu_lacks_are_named() {
        let qemu64 = Verdict::Possible(CpuFeatures { pages_2m: true, pages_1g: false });
        let with = |size: &str| settings(json!({ "stress": { "page_size": size } }));
        assert_eq!(reason_of(&qemu64, &with("2MiB")), None);
        assert_eq!(
            reason_of(&qemu64, &with("1GiB")).unwrap(),
            "the guest's CPU, qemu64 with tcg, has no pages of 1GiB: it lacks pdpe1gb"
        );
    }
}
