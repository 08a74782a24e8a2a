//! One guest for measurements, booted as for a migration and not migrated.

use crate::{Result, Setting};
use std::{path::Path, time::Duration};
use stressor::protocol::Command;
use tempfile::TempDir;
use testbed::{
    driver::{
        control_port::TelemetrySample,
        qemu::{
            accel::{self, Place},
            machine::{Accelerator, Machine, Role},
            process::{Guest, Handle, while_alive},
        },
    },
    image::{self, Cache, KernelChoice},
    lab::{self, Lab, topology::GUEST_ADDRESS},
    matrix::Accel,
    migration::load,
};
use tokio::time::Instant;
use units::Bytes;

/// The guest's memory.
pub(crate) const MEMORY: Bytes = Bytes::new(1 << 30);

const BOOT_LIMIT: Duration = Duration::from_secs(180);
const REQUEST_LIMIT: Duration = Duration::from_secs(120);

/// A guest that runs its stressor.
pub(crate) struct BenchGuest {
    pub(crate) guest: Guest,
    /// What runs its CPU, and why.
    pub(crate) accelerator: String,
    pub(crate) kind: Accelerator,
    /// A directory that QEMU and this process both see.
    pub(crate) scratch: TempDir,
    process: Handle,
    _lab: Lab,
}

impl BenchGuest {
    pub(crate) async fn boot(setting: &Setting) -> Result<Self> {
        let cache = Cache::user()?;
        let files = image::prepare(
            &KernelChoice::from_options(None, None),
            &setting.programs.join("stressor"),
            &cache,
        )?;
        let lab = lab::local::start().await?;
        let scratch = tempfile::tempdir()?;
        let (address, prefix) = GUEST_ADDRESS;
        let mut machine = Machine {
            accelerator: Accelerator::Kvm,
            cpu: Accelerator::Kvm.default_cpu().into(),
            vcpus: 1,
            memory: MEMORY,
            kernel: files.kernel.display().to_string(),
            initramfs: files.initramfs.display().to_string(),
            address: format!("{address}/{prefix}"),
            network: None,
        };
        let facts = &lab.description.source;
        let place = Place {
            machine: format!("{}, Linux {}", facts.cpu_model, facts.kernel),
            qemu: testbed::host::qemu_version()?,
        };
        let log = |name: &str| scratch.path().join(name);
        let finding =
            accel::choose(Accel::Auto, &lab.source, &machine, &place, cache.root(), &log("accelerator.log"))
                .await?;
        machine.accelerator = finding.accelerator;
        machine.cpu = finding.accelerator.default_cpu().into();
        let process = Handle::start(&lab.source.node, &machine, Role::Boot, &log("guest.log")).await?;
        let connected: Result<Guest> = while_alive(&process, async {
            let guest = Guest::connect(&lab.source.node, &process).await?;
            guest.stressor.hello(BOOT_LIMIT).await?;
            Ok(guest)
        })
        .await;
        let accelerator = format!("{} ({})", finding.accelerator.name(), finding.reason);
        Ok(Self { guest: connected?, accelerator, kind: finding.accelerator, scratch, process, _lab: lab })
    }

    /// Asks the stressor for something.
    pub(crate) async fn ask(&self, what: &'static str, command: Command) -> Result<()> {
        Ok(self.guest.stressor.request(what, command, REQUEST_LIMIT).await?)
    }

    /// The telemetry that comes in from now on.
    pub(crate) async fn follow(&self, span: Duration) -> Vec<TelemetrySample> {
        let from = Instant::now();
        tokio::time::sleep(span).await;
        load::between(&self.guest.stressor.telemetry(), from, Instant::now()).to_vec()
    }

    /// The next telemetry.
    pub(crate) async fn next_telemetry(&self) -> Result<TelemetrySample> {
        let from = Instant::now();
        let newest =
            |telemetry: &[TelemetrySample]| telemetry.last().filter(|sample| sample.seen > from).cloned();
        Ok(self.guest.stressor.wait_for_telemetry("send telemetry", REQUEST_LIMIT, newest).await?)
    }

    /// Writes the guest's memory into a file.
    pub(crate) async fn save_memory(&self, path: &Path) -> Result<()> {
        let arguments = serde_json::json!({ "val": 0, "size": MEMORY.get(), "filename": path });
        self.guest.monitor.call("pmemsave", arguments).await?;
        Ok(())
    }

    pub(crate) async fn shut_down(self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}
