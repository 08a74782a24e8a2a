//! The bench that migrates: a lab, a guest image, and QEMU.
//!
//! The lab is started once and used for all attempts; if a node is lost, the attempt that lost it has failed
//! and the next one gets a new lab.

use super::{Bench, interrupt::Interrupt};
use crate::{
    driver::qemu::{
        self, Pair,
        accel::{self, Finding, Place},
        machine::{Accelerator, Machine, QEMU},
        saved::SavedGuest,
    },
    event::{Event, Sink},
    image::{self, Cache, GuestFiles, KernelChoice},
    lab::{self, Lab, topology::GUEST_ADDRESS},
    matrix::{Accel, Cell, Plan, RunOrder, Settings},
    migration::attempt::{self, attempt},
    outcome::Outcome,
    results::{builder::RecordBuilder, environment::Environment, format::FormatVersion, record::Record},
};
use indexmap::IndexMap;
use jiff::Timestamp;
use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time;

/// Why the bench cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no guest files.
    #[error("{0}; `testbed doctor` lists what is missing, `testbed setup` mends it")]
    Guest(#[from] image::Error),
    /// There is no lab.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// There is no QEMU.
    #[error("{0} cannot run {QEMU}; `testbed setup` installs it")]
    Qemu(&'static str),
    /// It was not prepared.
    #[error("the bench was not prepared")]
    Unprepared,
    /// The accelerator's finding could not be kept.
    #[error("cannot keep what was found out about the accelerator: {0}")]
    Cache(io::Error),
}

/// What the bench is made of.
pub struct Options {
    /// The nodes.
    pub lab: lab::Choice,
    /// Where guest files and findings are kept.
    pub cache: Cache,
    /// The static stressor.
    pub stressor: PathBuf,
    /// Which kernel the guest boots.
    pub kernel: KernelChoice,
}

/// How long a lab that was lost may take to come back: a host that reboots takes a minute or two.
const RETURN_LIMIT: Duration = Duration::from_secs(300);

/// How often it is tried.
const RETURN_INTERVAL: Duration = Duration::from_secs(2);

/// The bench.
pub struct Real {
    options: Options,
    wishes: Vec<Accel>,
    order: RunOrder,
    lab: Option<(Lab, SavedGuest)>,
    guest: Option<GuestFiles>,
    findings: IndexMap<Accel, Finding>,
}

impl Real {
    /// A bench for this plan; nothing is started yet.
    pub fn new(options: Options, plan: &Plan) -> Self {
        let mut wishes = Vec::new();
        for cell in &plan.cells {
            if !wishes.contains(&cell.settings.guest.accel) {
                wishes.push(cell.settings.guest.accel);
            }
        }
        Self { options, wishes, order: plan.order, lab: None, guest: None, findings: IndexMap::new() }
    }

    /// The lab: the one there is, or a new one where a node has been lost. A host that went may come back.
    async fn lab(&mut self, guest: &GuestFiles) -> Result<&mut (Lab, SavedGuest), Error> {
        let choice = &self.options.lab;
        let lost = match self.lab.take() {
            Some((lab, saved)) if lab.is_whole() => return Ok(self.lab.insert((lab, saved))),
            lost => lost.is_some(),
        };
        let patience = if lost && *choice != lab::Choice::Local { RETURN_LIMIT } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
        loop {
            match lab::start(choice, guest).await {
                Ok(lab) => return Ok(self.lab.insert((lab, SavedGuest::default()))),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_not_back_yet) => time::sleep(RETURN_INTERVAL).await,
            }
        }
    }
}

fn machine(guest: &GuestFiles, settings: &Settings, accelerator: Accelerator) -> Machine {
    let (address, prefix) = GUEST_ADDRESS;
    let cpu = settings.guest.cpu.as_deref().unwrap_or(accelerator.default_cpu());
    Machine {
        accelerator,
        cpu: cpu.into(),
        vcpus: settings.guest.vcpus,
        memory: settings.guest.memory,
        kernel: guest.kernel.display().to_string(),
        initramfs: guest.initramfs.display().to_string(),
        address: format!("{address}/{prefix}"),
        network: None,
    }
}

impl Bench for Real {
    type Error = Error;

    async fn prepare(&mut self, sink: &dyn Sink) -> Result<Environment, Error> {
        let files = image::prepare(&self.options.kernel, &self.options.stressor, &self.options.cache)?;
        let cache = self.options.cache.root().to_path_buf();
        let (wishes, order) = (self.wishes.clone(), self.order);
        let (lab, _) = self.lab(&files).await?;
        let description = lab.description.clone();
        let qemu = description.source.qemu.clone().ok_or(Error::Qemu("the source"))?;
        description.destination.qemu.as_ref().ok_or(Error::Qemu("the destination"))?;
        let place = Place {
            machine: format!("{}, Linux {}", description.source.cpu_model, description.source.kernel),
            qemu: qemu.clone(),
        };
        let probed = machine(&files, &Settings::default(), Accelerator::Kvm);
        let log = cache.join("accelerator.log");
        let mut findings = IndexMap::new();
        for wish in wishes {
            let finding = accel::choose(wish, &lab.source, &probed, &place, &cache, &log).await;
            let finding = finding.map_err(Error::Cache)?;
            sink.take(&Event::Remark(&format!(
                "accelerator: {}: {}",
                finding.accelerator.name(),
                finding.reason
            )));
            findings.insert(wish, finding);
        }
        let environment = Environment {
            format: FormatVersion::CURRENT,
            started_at: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").into(),
            qemu,
            accelerators: findings
                .clone()
                .into_iter()
                .map(|(wish, finding)| (wish, finding.into()))
                .collect(),
            guest_kernel: files.kernel_release.clone(),
            guest_boot: files.boot.into(),
            guest_digest: files.digest.clone(),
            lab: description.into(),
            order,
        };
        self.findings = findings;
        self.guest = Some(files);
        Ok(environment)
    }

    fn lacks(&self, cell: &Cell) -> Option<String> {
        self.lab.as_ref().and_then(|(lab, _)| lab.description.lacks(&cell.settings))
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
        let unmade =
            |outcome, reason: String| Ok(RecordBuilder::start().freeze(cell, number, outcome, Some(reason)));
        let finding = self.findings.get(&cell.settings.guest.accel);
        let accelerator = finding.map_or(Accelerator::Tcg, |f| f.accelerator);
        // Not while a migration runs: there is nothing to end in order.
        let (lab, saved) = tokio::select! {
            ready = self.lab(&guest) => ready?,
            () = interrupt.requested() => {
                return unmade(Outcome::Interrupted, "it was interrupted".into());
            }
        };
        let link = match lab.link(&cell.settings) {
            Ok(link) => link,
            Err(lacks) => return unmade(Outcome::Skipped, lacks),
        };
        let machine = machine(&guest, &cell.settings, accelerator);
        let pair = qemu::Plan {
            source: &lab.source,
            destination: &lab.destination,
            address: link.destination_address(),
            machine: &machine,
            folder,
        };
        let mut draft = RecordBuilder::start();
        draft.measured.round_trips = lab.description.round_trips.map(Into::into);
        let plan = attempt::Plan { cell, number, folder };
        Ok(attempt(Pair::new(pair, saved), &link, plan, draft, sink, interrupt.requested()).await)
    }
}
