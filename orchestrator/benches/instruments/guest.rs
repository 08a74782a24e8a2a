//! A guest for measurements, booted in the same way as for a migration, but not migrated.

use crate::{BenchConfig, Result};
use std::{path::Path, time::Duration};
use stressor::protocol::Command;
use tempfile::TempDir;
use testbed::{
    driver::{
        control_port::TelemetrySample,
        qemu::{
            accel::{self, Platform, TrialSpec},
            confinement::Confinement,
            machine::{Accelerator, GuestMachine, Role},
            machine_types::UNVERSIONED,
            process::{Connections, QemuProcess, while_alive},
        },
    },
    image::{self, Cache, KernelChoice},
    lab::{self, Lab, topology::GUEST_ADDRESS},
    matrix::Accel,
    migration::load,
};
use tokio::time::Instant;
use units::Bytes;

/// The size of the guest's memory.
pub(crate) const MEMORY: Bytes = Bytes::new(1 << 30);

const BOOT_LIMIT: Duration = Duration::from_secs(180);
const REQUEST_LIMIT: Duration = Duration::from_secs(120);

/// A running guest with a stressor that answers.
pub(crate) struct BenchGuest {
    pub(crate) guest: Connections,
    /// The accelerator's name and why it was chosen.
    pub(crate) accelerator: String,
    pub(crate) kind: Accelerator,
    /// A directory that both QEMU and this process can access.
    pub(crate) scratch: TempDir,
    process: QemuProcess,
    _lab: Lab,
}

impl BenchGuest {
    pub(crate) async fn boot(config: &BenchConfig) -> Result<Self> {
        let cache = Cache::user()?;
        let files = image::prepare(
            &KernelChoice::from_options(None, None),
            &config.programs.join("stressor"),
            &cache,
        )?;
        let lab = lab::local::start().await?;
        let scratch = tempfile::tempdir()?;
        let (address, prefix) = GUEST_ADDRESS;
        let mut machine = GuestMachine {
            disk: None,
            machine_type: UNVERSIONED.into(),
            accelerator: Accelerator::Kvm,
            cpu: Accelerator::Kvm.default_cpu().into(),
            vcpus: 1,
            memory: MEMORY,
            kernel: files.kernel.display().to_string(),
            initramfs: files.initramfs.display().to_string(),
            address: format!("{address}/{prefix}"),
            network: None,
            shares_memory: false,
            confinement: Confinement::default(),
        };
        let facts = &lab.description.source;
        let platform = Platform {
            host: format!("{}, Linux {}", facts.cpu_model, facts.kernel),
            qemu: testbed::host::qemu_version()?,
        };
        let log = |name: &str| scratch.path().join(name);
        let trial_log = log("accelerator.log");
        let spec = TrialSpec {
            node: &lab.source,
            machine: &machine,
            platform: &platform,
            cache: cache.root(),
            log: &trial_log,
        };
        let finding = accel::choose(Accel::Auto, spec).await?;
        machine.accelerator = finding.accelerator;
        machine.cpu = finding.accelerator.default_cpu().into();
        let process = QemuProcess::start(&lab.source.node, &machine, Role::Boot, &log("guest.log")).await?;
        let connected: Result<Connections> = while_alive(&process, async {
            let guest = Connections::connect(&lab.source.node, &process).await?;
            guest.control_port.hello(BOOT_LIMIT).await?;
            Ok(guest)
        })
        .await;
        let accelerator = format!("{} ({})", finding.accelerator.name(), finding.reason);
        Ok(Self { guest: connected?, accelerator, kind: finding.accelerator, scratch, process, _lab: lab })
    }

    /// Sends a command to the stressor and waits for its reply. `what` names the request in error messages.
    pub(crate) async fn ask(&self, what: &'static str, command: Command) -> Result<()> {
        Ok(self.guest.control_port.request(what, command, REQUEST_LIMIT).await?)
    }

    /// Collects the telemetry that arrives within `span` from now.
    pub(crate) async fn follow(&self, span: Duration) -> Vec<TelemetrySample> {
        let from = Instant::now();
        tokio::time::sleep(span).await;
        load::between(&self.guest.control_port.telemetry(), from, Instant::now()).to_vec()
    }

    /// Waits for the next telemetry sample.
    pub(crate) async fn next_telemetry(&self) -> Result<TelemetrySample> {
        let from = Instant::now();
        let newest =
            |telemetry: &[TelemetrySample]| telemetry.last().filter(|sample| sample.received > from).cloned();
        Ok(self.guest.control_port.wait_for_telemetry("send telemetry", REQUEST_LIMIT, newest).await?)
    }

    /// Writes the guest's memory to a file (QMP's `pmemsave`).
    pub(crate) async fn save_memory(&self, path: &Path) -> Result<()> {
        let arguments = serde_json::json!({ "val": 0, "size": MEMORY.get(), "filename": path });
        self.guest.monitor.call("pmemsave", arguments).await?;
        Ok(())
    }

    pub(crate) async fn shut_down(self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}
