//! The guest machine, as QEMU's command line.
//!
//! Both ends of a migration get the same machine; they differ in where its state comes from. Devices that
//! slow a boot under TCG and that the guest does not use (timers, ports and displays) are left out, which
//! halves the boot time. Under TCG, `qemu64` boots faster than `max`: with `max` the kernel uses features
//! that are slow to emulate.

use super::{confinement::Confinement, cpr, disk::Disk, machine_types::UNVERSIONED};
use crate::{
    lab::{
        Compute,
        topology::{GUEST_ADDRESS, GUEST_MAC},
    },
    matrix::Settings,
    mode::Mode,
    node::protocol::{FRAMES, ProcessSpec},
};
use std::path::Path;
use stressor::protocol::PORT;
use units::Bytes;

pub use crate::host::QEMU;

/// The configuration of a guest machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestMachine {
    /// The machine type, by QEMU's name.
    pub machine_type: String,
    /// The accelerator that runs the virtual CPUs.
    pub accelerator: Accelerator,
    /// The CPU model, by QEMU's name.
    pub cpu: String,
    /// The number of virtual CPUs.
    pub vcpus: u32,
    /// Memory size, a whole number of MiB, since QEMU gets it in MiB.
    pub memory: Bytes,
    /// The path of the guest's kernel.
    pub kernel: String,
    /// The path of the guest's initial RAM disk.
    pub initramfs: String,
    /// The guest's IP address and prefix length, as `ADDRESS/PREFIX`.
    pub address: String,
    /// The node's interface that connects the guest's network card. Without it the guest has no network card.
    pub network: Option<String>,
    /// The guest's disk, if it has one.
    pub disk: Option<Disk>,
    /// Whether the guest's memory can be handed over to a second QEMU on the host.
    pub shares_memory: bool,
    /// What confines the QEMU process; the same at both ends.
    pub confinement: Confinement,
}

impl GuestMachine {
    /// Returns the machine of a guest with these settings. `files` are the paths of its kernel and of its
    /// initial RAM disk.
    pub fn new(settings: &Settings, accelerator: Accelerator, files: [&Path; 2]) -> Self {
        let (address, prefix) = GUEST_ADDRESS;
        let [kernel, initramfs] = files.map(|path| path.display().to_string());
        Self {
            machine_type: UNVERSIONED.into(),
            accelerator,
            cpu: settings.guest.cpu.as_deref().unwrap_or(accelerator.default_cpu()).into(),
            vcpus: settings.guest.vcpus,
            memory: settings.guest.memory,
            kernel,
            initramfs,
            address: format!("{address}/{prefix}"),
            network: None,
            disk: Disk::of(&settings.storage),
            shares_memory: settings.migrate.mode == Mode::CprTransfer,
            confinement: Confinement::default(),
        }
    }

    /// Returns the same machine with this accelerator, and the CPU model that suits it.
    #[must_use]
    pub fn with_accelerator(self, accelerator: Accelerator) -> Self {
        Self { accelerator, cpu: accelerator.default_cpu().into(), ..self }
    }

    /// Returns the machine as it is started on this node: with paths of the node's host, and with the node's
    /// interface.
    #[must_use]
    pub fn on(&self, compute: &Compute) -> Self {
        let paths = compute.guest_files.clone();
        let (kernel, initramfs) = paths.unwrap_or_else(|| (self.kernel.clone(), self.initramfs.clone()));
        let network = Some(compute.guests_interface.clone());
        Self { kernel, initramfs, network, ..self.clone() }
    }
}

/// The way a guest's CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// Hardware virtualization by the host's CPU.
    Kvm,
    /// Translation by QEMU's code generator, in software.
    Tcg,
}

impl Accelerator {
    /// Returns QEMU's name of the accelerator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Returns the CPU model that boots fastest with this accelerator.
    pub fn default_cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "qemu64",
        }
    }
}

/// The purpose of a QEMU process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Boots a guest that [`super::saved`] then saves.
    Boot,
    /// Resumes the saved guest and migrates it.
    Source,
    /// Waits for the migrating guest to arrive.
    Destination,
    /// Shows whether QEMU can make the machine; its guest never runs. See [`super::trial`].
    Trial,
    /// Shows whether QEMU can be the destination of a migration; nothing ever arrives there.
    IncomingTrial,
}

impl Role {
    /// Returns whether the QEMU has no guest.
    pub fn is_trial(self) -> bool {
        matches!(self, Self::Trial | Self::IncomingTrial)
    }

    /// Returns the role's name, for file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Trial => "trial",
            Self::IncomingTrial => "incoming-trial",
        }
    }

    /// Returns a phrase that distinguishes this QEMU from the others. It follows the word "QEMU" in messages.
    pub fn which(self) -> &'static str {
        match self {
            Self::Boot => "that boots the guest",
            Self::Source => "at the source",
            Self::Destination => "at the destination",
            Self::Trial => "that tries the machine",
            Self::IncomingTrial => "that tries to be a destination",
        }
    }
}

/// Returns the name of a QEMU's monitor socket, in its node's private directory.
pub fn monitor_path(role: Role) -> String {
    format!("{}-monitor", role.name())
}

/// Returns the name of the socket of a guest's control port, in its node's private directory.
pub fn control_path(role: Role) -> String {
    format!("{}-control", role.name())
}

/// The file name of the saved guest, in its node's private directory.
const SAVED: &str = "guest";

/// Returns the migration URI that makes QEMU save a guest. It names a pipe, because QEMU can migrate to a
/// file only since version 8.2.
pub fn save_uri() -> String {
    format!("exec:cat > {SAVED}")
}

/// Initialization in the guest kernel that is skipped: tracing, certificates and statistics. It would take
/// half a second under TCG. A kernel ignores names that it does not know.
const SKIPPED_INITCALLS: &[&str] = &[
    "trace_eval_init",
    "init_kprobe_trace",
    "crypto_kdf108_init",
    "slab_sysfs_init",
    "load_system_certificate_list",
];

/// Returns the guest kernel's command line, without the guest's address.
///
/// - Mitigations, self-tests, the timer check, the patching of the kernel's own code and the second clearing
///   of allocated memory are off: each costs time under TCG.
/// - A panic ends QEMU, so it is noticed immediately.
/// - Under TCG, the time-stamp counter is QEMU's own virtual clock, so it is declared reliable. Otherwise the
///   kernel would read its clock from an emulated port, a thousand times a second.
/// - ACPI stays on, though it costs a quarter of a second. Without its timer the kernel sometimes cannot
///   calibrate the time-stamp counter; then it has no clock fine enough for timers, and the stressor wakes up
///   every 4 ms instead of every 1 ms.
fn kernel_options(accelerator: Accelerator) -> String {
    let clock = match accelerator {
        Accelerator::Tcg => " tsc=reliable",
        Accelerator::Kvm => "",
    };
    let skipped = SKIPPED_INITCALLS.join(",");
    format!(
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check cryptomgr.notests noreplace-smp \
         init_on_alloc=0 initcall_blacklist={skipped}{clock}"
    )
}

/// Returns the command that starts a QEMU with this machine in a role. The caller has to add the disk that it
/// inherits, if any.
pub fn command(machine: &GuestMachine, role: Role) -> ProcessSpec {
    let mut args = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(ToString::to_string));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-name", &format!("testbed-{}", role.name())]);
    add(&machine.confinement.arguments(role).iter().map(String::as_str).collect::<Vec<_>>());
    let (machine_type, accelerator) = (&machine.machine_type, machine.accelerator.name());
    let shares = if machine.shares_memory { cpr::MACHINE_OPTIONS } else { "" };
    add(&[
        "-machine",
        &format!("{machine_type},accel={accelerator},hpet=off,vmport=off,usb=off,graphics=off{shares}"),
    ]);
    add(&["-cpu", &machine.cpu, "-smp", &machine.vcpus.to_string()]);
    let memory = format!("{}M", machine.memory.get() >> 20);
    add(&["-m", &memory]);
    if machine.shares_memory {
        add(&["-object", &cpr::memory(&memory)]);
    }
    if !role.is_trial() {
        add(&["-kernel", &machine.kernel, "-initrd", &machine.initramfs]);
        let options = kernel_options(machine.accelerator);
        add(&["-append", &format!("{options} testbed.ip={}", machine.address)]);
    }
    // The guest's console goes to QEMU's standard output, which the node forwards into the log.
    add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    add(&["-chardev", &format!("socket,id=monitor,path={},server=on,wait=off", monitor_path(role))]);
    add(&["-mon", "chardev=monitor,mode=control"]);
    add(&["-device", "virtio-serial-pci"]);
    add(&["-chardev", &format!("socket,id=control,path={},server=on,wait=off", control_path(role))]);
    add(&["-device", &format!("virtserialport,chardev=control,name={PORT}")]);
    if machine.network.is_some() {
        add(&["-netdev", &format!("dgram,id=guests,local.type=fd,local.str={FRAMES}")]);
        add(&["-device", &format!("virtio-net-pci,netdev=guests,mac={GUEST_MAC},romfile=")]);
    }
    if let Some(disk) = &machine.disk {
        add(&disk.arguments(role).iter().map(String::as_str).collect::<Vec<_>>());
    }
    match role {
        Role::Boot => {}
        Role::Source => add(&["-incoming", &format!("exec:cat {SAVED}")]),
        Role::Destination | Role::IncomingTrial => add(&["-incoming", "defer"]),
        Role::Trial => add(&["-S"]),
    }
    if role == Role::Destination && machine.shares_memory {
        add(&["-incoming", &cpr::incoming()]);
    }
    ProcessSpec { program: QEMU.into(), args, frames_of: machine.network.clone(), ..ProcessSpec::default() }
}
