//! The bench that migrates: a lab, a guest image, and QEMU.
//!
//! The lab is started once and used for all attempts; if a node is lost, the attempt that lost it has failed
//! and the next one gets a new lab.

use super::{Bench, interrupt::Interrupt};
use crate::{
    guest::{self, Cache, GuestFiles, KernelChoice},
    lab::{self, GUEST_ADDRESS, Lab},
    matrix::{Accel, Cell, Plan, RunOrder, Settings},
    migration::attempt::{self, Job},
    qemu::{
        accel::{self, Finding, Place},
        machine::{Accelerator, Machine, QEMU},
    },
    results::{environment::Environment, record::Record},
    ui::Watcher,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// Why the bench cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no guest files.
    #[error("{0}; `testbed doctor` lists what is missing, `testbed setup` mends it")]
    Guest(#[from] guest::Error),
    /// There is no lab.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// There is no QEMU.
    #[error("cannot run {QEMU}: {0}; `testbed setup` installs it")]
    Qemu(io::Error),
    /// The accelerator's finding could not be kept.
    #[error("cannot keep what was found out about the accelerator: {0}")]
    Cache(io::Error),
}

/// What the bench is made of.
pub struct Options {
    /// Where guest files and findings are kept.
    pub cache: Cache,
    /// The static stressor.
    pub stressor: PathBuf,
    /// Which kernel the guest boots.
    pub kernel: KernelChoice,
}

/// The bench.
pub struct Real {
    options: Options,
    wishes: Vec<Accel>,
    order: RunOrder,
    lab: Option<Lab>,
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

    /// The lab: the one there is, or a new one where a node has been lost.
    async fn lab(&mut self) -> Result<&Lab, Error> {
        let lab = match self.lab.take().filter(Lab::is_whole) {
            Some(lab) => lab,
            None => lab::local::start().await?,
        };
        Ok(self.lab.insert(lab))
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

/// QEMU's version, as its first line has it: `10.0.2`.
pub fn qemu_version() -> io::Result<String> {
    let output = Command::new(QEMU).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    version.map(ToString::to_string).ok_or_else(|| io::Error::other("it does not tell its version"))
}

impl Bench for Real {
    type Error = Error;

    async fn prepare(&mut self, watcher: &dyn Watcher) -> Result<Environment, Error> {
        let files = guest::prepare(&self.options.kernel, &self.options.stressor, &self.options.cache)?;
        let qemu = qemu_version().map_err(Error::Qemu)?;
        let cache = self.options.cache.root().to_path_buf();
        let (wishes, order) = (self.wishes.clone(), self.order);
        let lab = self.lab().await?;
        let description = lab.description.clone();
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
            watcher.remark(&format!("accelerator: {}: {}", finding.accelerator.name(), finding.reason));
            findings.insert(wish, finding);
        }
        let environment = Environment {
            started_at: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").into(),
            qemu,
            accelerators: findings.clone(),
            guest_kernel: files.kernel_release.clone(),
            guest_boot: files.boot,
            guest_digest: files.digest.clone(),
            lab: description,
            order,
        };
        self.findings = findings;
        self.guest = Some(files);
        Ok(environment)
    }

    fn lacks(&self, cell: &Cell) -> Option<String> {
        self.lab.as_ref().and_then(|lab| lab.description.lacks(&cell.settings))
    }

    async fn attempt(
        &mut self,
        cell: &Cell,
        attempt: u32,
        folder: &Path,
        watcher: &dyn Watcher,
        interrupt: &Interrupt,
    ) -> Result<Record, Error> {
        self.lab().await?;
        let (Some(lab), Some(guest)) = (&self.lab, &self.guest) else {
            return Err(Error::Qemu(io::Error::other("the bench was not prepared")));
        };
        let finding = self.findings.get(&cell.settings.guest.accel);
        let accelerator = finding.map_or(Accelerator::Tcg, |f| f.accelerator);
        let machine = machine(guest, &cell.settings, accelerator);
        let job = Job { cell, attempt, machine: &machine, folder };
        Ok(attempt::attempt(lab, &job, watcher, interrupt.requested()).await)
    }
}
