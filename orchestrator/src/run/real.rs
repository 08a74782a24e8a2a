//! The bench that makes real migrations, with a lab, a guest image and QEMU.
//!
//! The lab is started once and used for all attempts. If a node is lost, the attempt in progress fails and
//! the next attempt starts a new lab.

use super::{
    Bench,
    interrupt::Interrupt,
    screen::{self, Accelerators, Reasons},
};
use crate::{
    driver::qemu::{
        self, Pair,
        accel::{self, Platform, TrialSpec},
        confinement::{self, Confinement},
        disk::{self, Image},
        machine::{self, Accelerator, GuestMachine, QEMU, Role},
        machine_types::{MachineTypes, UNVERSIONED},
        saved::SavedGuest,
    },
    event::{Event, Sink},
    image::{self, Cache, GuestFiles, KernelChoice},
    lab::{
        self, Compute, Description, Lab,
        storage::{SharedDisk, StorageLink},
    },
    matrix::{Cell, Plan, RunOrder, Settings, StorageKind},
    migration::attempt::{self, attempt},
    node::{self, protocol::Facts},
    outcome::Outcome,
    results::{builder::RecordBuilder, environment::Environment, format::FormatVersion, record::Record},
    setup::QemuVersion,
};
use frontend::one_line;
use jiff::Timestamp;
use std::{
    fmt::Display,
    io, panic,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use stressor::cgroup;
use tokio::{sync::oneshot, time};

/// An error that prevents the bench from making attempts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest files could not be prepared. If `testbed setup` helps, the error itself says so.
    #[error("{0}; `testbed doctor` lists what is missing")]
    Guest(#[from] image::Error),
    /// The lab could not be started.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A node cannot run QEMU.
    #[error("{end} cannot run {QEMU}: {why}; {remedy}")]
    Qemu {
        /// The end of the migration to which the node belongs.
        end: &'static str,
        /// Why it cannot run QEMU.
        why: String,
        /// How to install or repair QEMU there.
        remedy: &'static str,
    },
    /// The choice of the accelerator could not be written to the cache.
    #[error("cannot save the choice of the accelerator in the cache: {0}")]
    Cache(io::Error),
}

/// The options of the bench.
pub struct BenchOptions {
    /// The lab to start, local or on other hosts.
    pub lab: lab::LabChoice,
    /// The cache for guest files and for the choice of the accelerator.
    pub cache: Cache,
    /// The path of the statically linked stressor for the guest.
    pub stressor: PathBuf,
    /// The choice of the kernel that the guest boots.
    pub kernel: KernelChoice,
    /// The version and commit of this program.
    pub version: String,
    /// Whether to show the command line of each QEMU.
    pub verbose: bool,
}

/// The time limit for restarting a lab that was lost: a host that reboots takes a minute or two.
const RESTART_LIMIT: Duration = Duration::from_secs(300);

/// The interval between attempts to restart a lost lab.
const RESTART_INTERVAL: Duration = Duration::from_secs(2);

/// A bench that migrates guests between QEMU processes in a lab.
pub struct QemuBench {
    options: BenchOptions,
    /// The cells of the plan.
    cells: Vec<Cell>,
    order: RunOrder,
    lab: Option<(Lab, SavedGuest)>,
    /// What [`Bench::prepare`] has found out.
    prepared: Option<Prepared>,
}

/// What is the same for all attempts of a run.
struct Prepared {
    files: GuestFiles,
    accelerators: Accelerators,
    /// What confines each QEMU.
    confinement: Confinement,
    /// The machine type of the guests, which QEMU has at both ends.
    machine_type: String,
    /// Why cells cannot be attempted.
    reasons: Reasons,
}

impl Prepared {
    /// Returns the machine of a guest with these settings.
    fn machine(&self, settings: &Settings) -> GuestMachine {
        GuestMachine {
            machine_type: self.machine_type.clone(),
            confinement: self.confinement,
            ..GuestMachine::new(
                settings,
                screen::accelerator(&self.accelerators, settings),
                self.files.paths(),
            )
        }
    }
}

impl QemuBench {
    /// Creates a bench for this plan. Nothing is started before [`Bench::prepare`].
    pub fn new(options: BenchOptions, plan: &Plan) -> Self {
        Self { options, cells: plan.cells.clone(), order: plan.order, lab: None, prepared: None }
    }

    /// Prepares the guest's files on a thread of its own, because that blocks, the first time for several
    /// seconds, in which the user may interrupt the run. In that case, the thread ends with the program.
    async fn guest_files(&self) -> Result<GuestFiles, image::Error> {
        let BenchOptions { kernel, stressor, cache, .. } = &self.options;
        let (kernel, stressor, cache) = (kernel.clone(), stressor.clone(), cache.clone());
        let (sender, files) = oneshot::channel();
        let preparing = thread::spawn(move || {
            let _ = sender.send(image::prepare(&kernel, &stressor, &cache));
        });
        match files.await {
            Ok(files) => files,
            Err(_no_answer) => match preparing.join() {
                Err(panic) => panic::resume_unwind(panic),
                Ok(()) => unreachable!("the thread sends an answer unless it panics"),
            },
        }
    }

    /// Returns the lab in use, or starts a new one if there is no lab or a node was lost. In the latter case,
    /// hosts get time to come back.
    async fn lab<'a>(
        in_use: &'a mut Option<(Lab, SavedGuest)>,
        options: &BenchOptions,
        files: &GuestFiles,
        sink: &dyn Sink,
    ) -> Result<&'a mut (Lab, SavedGuest), Error> {
        let choice = &options.lab;
        let lost = match in_use.take() {
            Some((lab, saved)) if lab.is_intact() => return Ok(in_use.insert((lab, saved))),
            lost => lost.is_some(),
        };
        let patience = if lost && *choice != lab::LabChoice::Local { RESTART_LIMIT } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
        let notice = |text: &str| {
            if options.verbose {
                sink.handle(&Event::Message(text));
            }
        };
        loop {
            match lab::start(choice, files, notice).await {
                Ok(lab) => return Ok(in_use.insert((lab, SavedGuest::default()))),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_not_yet_back) => time::sleep(RESTART_INTERVAL).await,
            }
        }
    }
}

/// Shows the user a note.
fn note(sink: &dyn Sink, text: impl Display) {
    sink.handle(&Event::Message(&format!("note: {text}")));
}

/// Returns the error that a node cannot run QEMU. On other hosts, `testbed setup` does not install anything.
fn no_qemu(end: &'static str, facts: &Facts, is_local: bool) -> Error {
    let (why, remedy) = match (&facts.broken_qemu, is_local) {
        (Some(why), true) => (why.clone(), "repair it, or remove it and run `testbed setup`"),
        (Some(why), false) => (why.clone(), "repair it on that host"),
        (None, true) => ("it is not installed".into(), "`testbed setup` installs it"),
        (None, false) => (
            "it is not installed".into(),
            "install it on that host, as `testbed doctor` with the same --lab says",
        ),
    };
    Error::Qemu { end, why, remedy }
}

/// Chooses the accelerators for these cells, and tells the user which.
async fn choose_accelerators(
    cells: &[Cell],
    spec: TrialSpec<'_>,
    sink: &dyn Sink,
) -> Result<Accelerators, Error> {
    let mut accelerators = Accelerators::new();
    for accel in screen::accels(cells) {
        let finding = accel::choose(accel, spec).await.map_err(Error::Cache)?;
        let text = match finding.unusable() {
            Some(_) => format!("accelerator: {} does not work", finding.accelerator.name()),
            None => format!("accelerator: {}: {}", finding.accelerator.name(), finding.reason),
        };
        sink.handle(&Event::Message(&text));
        accelerators.insert(accel, finding);
    }
    Ok(accelerators)
}

/// The machine type of a run's guests.
struct ChosenMachineType {
    /// The name of the type.
    name: String,
    /// What the user should know about the choice.
    note: Option<String>,
    /// Why no guest can migrate, if the two QEMUs have no type in common.
    none_in_common: Option<String>,
}

/// Chooses a machine type that QEMU has at both ends of a lab, from the types on each host.
fn choose_machine_type(
    description: &Description,
    machine_types: Result<&[MachineTypes], &str>,
) -> ChosenMachineType {
    let (here, there) = match machine_types {
        Ok([here, .., there]) => (here, there),
        Ok([both]) => (both, both),
        unknown => {
            let error = unknown.err().unwrap_or_default();
            let note = format!("QEMU does not say which machine types it has, so `pc` is used: {error}");
            return ChosenMachineType { name: UNVERSIONED.into(), note: Some(note), none_in_common: None };
        }
    };
    let facts = [&description.source, &description.destination];
    agree([here, there], facts.map(|facts| facts.qemu.as_deref().unwrap_or_default()))
}

/// Chooses the machine type for the QEMUs of the source and the destination, which have these versions.
fn agree([source, destination]: [&MachineTypes; 2], [here, there]: [&str; 2]) -> ChosenMachineType {
    let Some(common) = source.common(destination) else {
        let reason = format!(
            "no machine type in common: QEMU {here} at the source has {}, QEMU {there} at the destination \
             has {}; install the same version on both",
            source.range(),
            destination.range()
        );
        let name = UNVERSIONED.into();
        return ChosenMachineType { name, note: None, none_in_common: Some(reason) };
    };
    let note = (here != there).then(|| {
        let older = if QemuVersion::is_downgrade(here, there) {
            ", but QEMU does not promise that a guest can migrate to an older version"
        } else {
            ""
        };
        format!(
            "QEMU is {here} at the source and {there} at the destination; guests get the machine type \
             {common}, the newest that both have{older}"
        )
    });
    ChosenMachineType { name: common.into(), note, none_in_common: None }
}

/// Returns the command lines of the QEMU processes that an attempt starts, each with the purpose of the QEMU.
fn commands(machine: &GuestMachine, lab: &Lab, saved: &SavedGuest) -> Vec<String> {
    let boot = (!saved.has_machine(machine)).then_some((Role::Boot, &lab.source));
    let ends = [(Role::Source, &lab.source), (Role::Destination, &lab.destination)];
    let command = |(role, compute): (Role, &Compute)| {
        format!("        QEMU {}: {}", role.which(), machine::command(&machine.on(compute), role))
    };
    boot.into_iter().chain(ends).map(command).collect()
}

/// A disk that the source and the destination share.
enum SharedImage<'a> {
    /// A disk that the controller serves over the storage link.
    Served(SharedDisk, StorageLink<'a>),
    /// A disk in a folder that all hosts have mounted.
    Mounted { _disk: node::Disk },
}

impl<'a> SharedImage<'a> {
    /// Creates the disk of these settings, if it is shared, and makes it the machine's disk. The error is the
    /// reason, as text.
    async fn create(
        lab: &'a Lab,
        settings: &Settings,
        machine: &mut GuestMachine,
    ) -> Result<Option<Self>, String> {
        let (StorageKind::Shared, Some(disk)) = (settings.storage.kind, &mut machine.disk) else {
            return Ok(None);
        };
        let shared = lab.description.images.as_deref();
        let (written, confinement) = (settings.storage.written, machine.confinement);
        let created = disk::create(&lab.controller, shared, disk, written, confinement).await;
        let created = created.map_err(|error| error.to_string())?;
        let Some(folder) = shared else {
            let served =
                async { Ok::<_, lab::Error>((lab.share_disk(created).await?, lab.storage_link().await?)) };
            let (served, link) = served.await.map_err(|error| error.to_string())?;
            return Ok(Some(Self::Served(served, link)));
        };
        for (compute, end) in [(&lab.source, "source"), (&lab.destination, "destination")] {
            if !disk::can_write(&compute.node, created.path()).await.map_err(|error| error.to_string())? {
                let (path, folder) = (created.path(), folder.display());
                return Err(format!(
                    "the {end} cannot write to the disk {path} of the controller: all hosts have to share \
                     {folder}, the folder `images` of the inventory"
                ));
            }
        }
        disk.image = Image::Mounted(created.path().into());
        Ok(Some(Self::Mounted { _disk: created }))
    }

    /// Returns the storage link, if the disk is served over one.
    fn link(&self) -> Option<StorageLink<'a>> {
        match self {
            Self::Served(_, link) => Some(*link),
            Self::Mounted { .. } => None,
        }
    }
}

impl Bench for QemuBench {
    type Error = Error;

    async fn prepare(&mut self, sink: &dyn Sink) -> Result<Environment, Error> {
        let files = self.guest_files().await?;
        let cache = self.options.cache.root();
        let is_local = self.options.lab == lab::LabChoice::Local;
        let (lab, _) = Self::lab(&mut self.lab, &self.options, &files, sink).await?;
        let description = &lab.description;
        let platform = Platform::of(description);
        let platform = platform.ok_or_else(|| no_qemu("the source", &description.source, is_local))?;
        if description.destination.qemu.is_none() {
            return Err(no_qemu("the destination", &description.destination, is_local));
        }
        let log = cache.join("accelerator.log");
        let ends =
            if description.is_one_host() { vec![&lab.source] } else { vec![&lab.source, &lab.destination] };
        if let Some(warning) = description.memory_may_run_out(self.cells.iter().map(|cell| &cell.settings)) {
            let with_us = if cgroup::oom_kills_all() {
                ", and testbed with it, because memory.oom.group is set"
            } else {
                ""
            };
            note(sink, format!("{warning}{with_us}"));
        }
        let tcg = screen::test_guest(screen::no_files()).with_accelerator(Accelerator::Tcg);
        let confined = confinement::choose(&ends, description.source.privilege, &tcg, &log).await;
        for lack in &confined.lacks {
            note(sink, lack);
        }
        let confinement = confined.confinement;
        let machine_types = confined.machine_types.as_deref().map_err(String::as_str);
        let chosen = choose_machine_type(description, machine_types);
        if let Some(text) = chosen.note {
            note(sink, text);
        }
        let machine_type = chosen.name;
        let probed = GuestMachine {
            machine_type: machine_type.clone(),
            confinement,
            ..screen::test_guest(files.paths())
        };
        let spec = TrialSpec { node: &lab.source, machine: &probed, platform: &platform, cache, log: &log };
        let accelerators = choose_accelerators(&self.cells, spec, sink).await?;
        let reasons = if let Some(reason) = chosen.none_in_common {
            self.cells.iter().map(|cell| (cell.id.clone(), reason.clone())).collect()
        } else {
            screen::screen(&self.cells, lab, &accelerators, &probed, &log).await
        };
        let environment = Environment {
            format: FormatVersion::CURRENT,
            started_at: Timestamp::now(),
            version: self.options.version.clone(),
            qemu: platform.qemu,
            machine_type: (machine_type != UNVERSIONED).then(|| machine_type.clone()),
            confinement: Some(confined.into()),
            accelerators: accelerators
                .clone()
                .into_iter()
                .map(|(accel, finding)| (accel, finding.into()))
                .collect(),
            guest_kernel: files.kernel_release.clone(),
            guest_boot: files.boot.into(),
            guest_digest: files.digest.clone(),
            lab: description.clone().into(),
            order: self.order,
        };
        self.prepared = Some(Prepared { files, accelerators, confinement, machine_type, reasons });
        Ok(environment)
    }

    fn skip_reason(&self, cell: &Cell) -> Option<String> {
        self.prepared.as_ref()?.reasons.get(&cell.id).cloned()
    }

    async fn attempt(
        &mut self,
        cell: &Cell,
        number: u32,
        folder: &Path,
        sink: &dyn Sink,
        interrupt: &Interrupt,
    ) -> Result<Record, Error> {
        let prepared = self.prepared.as_ref().expect("the bench is prepared before attempts");
        let without_attempt =
            |outcome, reason: String| Ok(RecordBuilder::start().freeze(cell, number, outcome, Some(reason)));
        let interrupted = || without_attempt(Outcome::Interrupted, "interrupted by the user".into());
        // An interruption may drop the future here: no migration is in progress that has to be ended cleanly.
        let (lab, saved) = tokio::select! {
            ready = Self::lab(&mut self.lab, &self.options, &prepared.files, sink) => ready?,
            () = interrupt.requested() => return interrupted(),
        };
        let link = match lab.link(&cell.settings) {
            Ok(link) => link,
            Err(reason) => return without_attempt(Outcome::Skipped, reason),
        };
        let mut machine = prepared.machine(&cell.settings);
        // Kept until the attempt has ended.
        let shared = tokio::select! {
            created = SharedImage::create(lab, &cell.settings, &mut machine) => match created {
                Ok(shared) => shared,
                Err(reason) => return without_attempt(Outcome::Failed, reason),
            },
            () = interrupt.requested() => return interrupted(),
        };
        if self.options.verbose {
            for command in commands(&machine, lab, saved) {
                sink.handle(&Event::Message(&one_line(&command)));
            }
        }
        let storage_link = shared.as_ref().and_then(SharedImage::link);
        let link = storage_link.map_or(link, |storage| link.with_storage(storage));
        let pair = qemu::PairSpec {
            source: &lab.source,
            destination: &lab.destination,
            address: link.destination_address(),
            machine: &machine,
            storage: &cell.settings.storage,
            migrate: &cell.settings.migrate,
            shared_folder: lab.description.images.as_deref(),
            folder,
        };
        let mut builder = RecordBuilder::start();
        builder.measured.round_trips = lab.description.round_trips.map(Into::into);
        let plan = attempt::AttemptSpec { cell, number, folder };
        let pair = Pair::new(pair, saved);
        let attempt = Box::pin(attempt(pair, &link, plan, builder, sink, interrupt.requested()));
        let Some(SharedImage::Served(mut disk, _)) = shared else { return Ok(attempt.await) };
        let mut failures = Vec::new();
        let mut record = tokio::select! {
            record = attempt => record,
            never = disk.keep_serving(|status| {
                note(sink, format!("the NFS server ended ({status}) and is started again"));
                failures.push(status.into());
            }) => match never {},
        };
        record.measured.storage.server_failures = failures;
        // This frees the space of the disk. If the server cannot be ended, it ends with its lab.
        let _ = disk.end().await;
        Ok(record)
    }

    async fn end(&mut self) {
        if let Some((lab, _saved)) = self.lab.take() {
            lab.end().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn types(names: &[&str]) -> MachineTypes {
        let mut machines: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
        machines.last_mut().unwrap()["alias"] = "pc".into();
        MachineTypes::from_answer(&machines.into())
    }

    #[test]
    fn the_choice_of_a_machine_type_is_noted_if_the_versions_differ() {
        let (old, new) = (types(&["pc-i440fx-7.2"]), types(&["pc-i440fx-7.2", "pc-i440fx-10.0"]));
        let same = agree([&new, &new], ["10.0.2", "10.0.2"]);
        assert_eq!((same.name.as_str(), same.note), ("pc-i440fx-10.0", None));
        let upwards = agree([&old, &new], ["7.2.18", "10.0.2"]);
        assert_eq!(upwards.name, "pc-i440fx-7.2");
        let note = upwards.note.unwrap();
        assert!(
            note.contains("7.2.18 at the source") && note.ends_with("the newest that both have"),
            "{note}"
        );
        let downwards = agree([&new, &old], ["10.0.2", "7.2.18"]).note.unwrap();
        assert!(downwards.contains("does not promise"), "{downwards}");
        // A distribution's own type says nothing about its version.
        let noble = types(&["pc-i440fx-7.2", "pc-i440fx-noble"]);
        let note = |ends, versions| agree(ends, versions).note.unwrap();
        assert!(!note([&old, &noble], ["7.2.18", "8.2.2"]).contains("does not promise"));
        assert!(note([&noble, &old], ["8.2.2", "7.2.18"]).contains("does not promise"));
        let apart = agree([&types(&["pc-i440fx-6.2"]), &new], ["6.2", "10.0.2"]).none_in_common.unwrap();
        assert!(
            apart.contains("has pc-i440fx-6.2,") && apart.contains("install the same version"),
            "{apart}"
        );
    }
}
