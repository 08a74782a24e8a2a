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
        machine::{self, Accelerator, GuestMachine, QEMU, Role},
        saved::SavedGuest,
    },
    event::{Event, Sink},
    image::{self, Cache, GuestFiles, KernelChoice},
    lab::{self, Compute, Lab},
    matrix::{Cell, Plan, RunOrder},
    migration::attempt::{self, attempt},
    outcome::Outcome,
    results::{builder::RecordBuilder, environment::Environment, format::FormatVersion, record::Record},
};
use jiff::Timestamp;
use std::{
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
    /// The guest files could not be prepared. Where `testbed setup` helps, the error itself says so.
    #[error("{0}; `testbed doctor` lists what is missing")]
    Guest(#[from] image::Error),
    /// The lab could not be started.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A node cannot run QEMU.
    #[error("{end} cannot run {QEMU}; {remedy}")]
    Qemu {
        /// The end of the migration that the node is.
        end: &'static str,
        /// How to install it there.
        remedy: &'static str,
    },
    /// An attempt was requested before [`Bench::prepare`].
    #[error("the bench was not prepared")]
    Unprepared,
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
    /// Whether the command line of each QEMU is told.
    pub verbose: bool,
}

/// The time limit for restarting a lab that was lost: a host that reboots takes a minute or two.
const RESTART_LIMIT: Duration = Duration::from_secs(300);

/// The interval at which restarting a lost lab is tried.
const RESTART_INTERVAL: Duration = Duration::from_secs(2);

/// A bench that migrates guests between QEMU processes in a lab.
pub struct QemuBench {
    options: BenchOptions,
    /// The cells of the plan.
    cells: Vec<Cell>,
    order: RunOrder,
    lab: Option<(Lab, SavedGuest)>,
    guest: Option<GuestFiles>,
    accelerators: Accelerators,
    /// What confines each QEMU.
    confinement: Confinement,
    /// Why cells cannot be attempted.
    reasons: Reasons,
}

impl QemuBench {
    /// Creates a bench for this plan. Nothing is started before [`Bench::prepare`].
    pub fn new(options: BenchOptions, plan: &Plan) -> Self {
        Self {
            options,
            cells: plan.cells.clone(),
            order: plan.order,
            lab: None,
            guest: None,
            accelerators: Accelerators::new(),
            confinement: Confinement::default(),
            reasons: Reasons::new(),
        }
    }

    /// Prepares the guest's files on a thread of its own, because that blocks, for seconds at the first time:
    /// meanwhile the user may interrupt the run. The thread then ends with the program.
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

    /// Returns the lab in use, or starts a new one if there is none or a node was lost. In the latter case,
    /// hosts get time to come back.
    async fn lab(&mut self, guest: &GuestFiles) -> Result<&mut (Lab, SavedGuest), Error> {
        let choice = &self.options.lab;
        let lost = match self.lab.take() {
            Some((lab, saved)) if lab.is_intact() => return Ok(self.lab.insert((lab, saved))),
            lost => lost.is_some(),
        };
        let patience = if lost && *choice != lab::LabChoice::Local { RESTART_LIMIT } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
        loop {
            match lab::start(choice, guest).await {
                Ok(lab) => return Ok(self.lab.insert((lab, SavedGuest::default()))),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_not_yet_back) => time::sleep(RESTART_INTERVAL).await,
            }
        }
    }
}

/// Returns the command lines of the QEMU processes that an attempt starts, each with what the QEMU is for.
fn commands(machine: &GuestMachine, lab: &Lab, saved: &SavedGuest) -> Vec<String> {
    let boot = (!saved.has_machine(machine)).then_some((Role::Boot, &lab.source));
    let ends = [(Role::Source, &lab.source), (Role::Destination, &lab.destination)];
    let command = |(role, compute): (Role, &Compute)| {
        format!("        QEMU {}: {}", role.which(), machine::spawn(&machine.on(compute), role))
    };
    boot.into_iter().chain(ends).map(command).collect()
}

impl Bench for QemuBench {
    type Error = Error;

    async fn prepare(&mut self, sink: &dyn Sink) -> Result<Environment, Error> {
        let files = self.guest_files().await?;
        let cache = self.options.cache.root().to_path_buf();
        let (cells, order) = (self.cells.clone(), self.order);
        // `testbed setup` installs nothing on other hosts.
        let remedy = match self.options.lab {
            lab::LabChoice::Local => "`testbed setup` installs it",
            _ => "install it on that host, as `testbed doctor` with the same --lab says",
        };
        let (lab, _) = self.lab(&files).await?;
        let description = lab.description.clone();
        let lacks = |end| Error::Qemu { end, remedy };
        let platform = Platform::of(&description).ok_or_else(|| lacks("the source"))?;
        description.destination.qemu.as_ref().ok_or_else(|| lacks("the destination"))?;
        let log = cache.join("accelerator.log");
        let ends =
            if description.is_one_host() { vec![&lab.source] } else { vec![&lab.source, &lab.destination] };
        if let Some(warning) = description.memory_may_run_out(cells.iter().map(|cell| &cell.settings)) {
            let with_us = if cgroup::oom_kills_all() {
                ", and testbed with it, because memory.oom.group is set"
            } else {
                ""
            };
            sink.handle(&Event::Message(&format!("note: {warning}{with_us}")));
        }
        let plain = screen::test_guest(screen::no_files());
        let tcg = GuestMachine {
            accelerator: Accelerator::Tcg,
            cpu: Accelerator::Tcg.default_cpu().into(),
            ..plain
        };
        let confined = confinement::choose(&ends, description.source.privilege, &tcg, &log).await;
        for lack in &confined.lacks {
            sink.handle(&Event::Message(&format!("note: {lack}")));
        }
        let probed = GuestMachine { confinement: confined.confinement, ..screen::test_guest(files.paths()) };
        let spec =
            TrialSpec { node: &lab.source, machine: &probed, platform: &platform, cache: &cache, log: &log };
        let mut accelerators = Accelerators::new();
        for accel in screen::accels(&cells) {
            let finding = accel::choose(accel, spec).await.map_err(Error::Cache)?;
            let text = match finding.unusable() {
                Some(_) => format!("accelerator: {} does not work", finding.accelerator.name()),
                None => format!("accelerator: {}: {}", finding.accelerator.name(), finding.reason),
            };
            sink.handle(&Event::Message(&text));
            accelerators.insert(accel, finding);
        }
        let reasons = screen::screen(&cells, lab, &accelerators, confined.confinement, &log).await;
        let environment = Environment {
            format: FormatVersion::CURRENT,
            started_at: Timestamp::now(),
            version: self.options.version.clone(),
            qemu: platform.qemu,
            confinement: Some(confined.clone().into()),
            accelerators: accelerators
                .clone()
                .into_iter()
                .map(|(accel, finding)| (accel, finding.into()))
                .collect(),
            guest_kernel: files.kernel_release.clone(),
            guest_boot: files.boot.into(),
            guest_digest: files.digest.clone(),
            lab: description.into(),
            order,
        };
        self.accelerators = accelerators;
        self.reasons = reasons;
        self.guest = Some(files);
        self.confinement = confined.confinement;
        Ok(environment)
    }

    fn skip_reason(&self, cell: &Cell) -> Option<String> {
        self.reasons.get(&cell.id).cloned()
    }

    async fn attempt(
        &mut self,
        cell: &Cell,
        number: u32,
        folder: &Path,
        sink: &dyn Sink,
        interrupt: &Interrupt,
    ) -> Result<Record, Error> {
        let guest = self.guest.clone().ok_or(Error::Unprepared)?;
        let verbose = self.options.verbose;
        let without_attempt =
            |outcome, reason: String| Ok(RecordBuilder::start().freeze(cell, number, outcome, Some(reason)));
        let finding = self.accelerators.get(&cell.settings.guest.accel);
        let accelerator = finding.map_or(Accelerator::Tcg, |f| f.accelerator);
        let confinement = self.confinement;
        // An interruption here can drop the future: no migration is in progress that has to be ended in
        // order.
        let (lab, saved) = tokio::select! {
            ready = self.lab(&guest) => ready?,
            () = interrupt.requested() => {
                return without_attempt(Outcome::Interrupted, "interrupted by the user".into());
            }
        };
        let link = match lab.link(&cell.settings) {
            Ok(link) => link,
            Err(reason) => return without_attempt(Outcome::Skipped, reason),
        };
        let machine =
            GuestMachine { confinement, ..GuestMachine::new(&cell.settings, accelerator, guest.paths()) };
        if verbose {
            for command in commands(&machine, lab, saved) {
                sink.handle(&Event::Message(&command));
            }
        }
        let pair = qemu::PairSpec {
            source: &lab.source,
            destination: &lab.destination,
            address: link.destination_address(),
            machine: &machine,
            folder,
        };
        let mut builder = RecordBuilder::start();
        builder.measured.round_trips = lab.description.round_trips.map(Into::into);
        let plan = attempt::AttemptSpec { cell, number, folder };
        Ok(attempt(Pair::new(pair, saved), &link, plan, builder, sink, interrupt.requested()).await)
    }
}
