//! The virtual machine, as QEMU's command line.
//!
//! All ends of a migration get the same machine; they differ in where its state comes from. What slows a boot
//! under TCG is left out (timers, ports and displays that the guest does not use), which halves its time;
//! `qemu64` boots faster there than `max`, whose features the kernel then uses.

use crate::{
    lab::{Compute, topology::GUEST_MAC},
    node::protocol::{FRAMES, Spawn},
};
use stressor::protocol::PORT;
use units::Bytes;

pub use crate::host::QEMU;

/// What the machine is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What runs its CPUs.
    pub accelerator: Accelerator,
    /// QEMU's name of the CPU model.
    pub cpu: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory; a whole number of MiB, as QEMU takes it.
    pub memory: Bytes,
    /// Path of the guest's kernel.
    pub kernel: String,
    /// Path of the guest's initial RAM disk.
    pub initramfs: String,
    /// The guest's address and prefix length, as `ADDRESS/PREFIX`.
    pub address: String,
    /// The node's interface that is the guest's network.
    pub network: Option<String>,
}

impl Machine {
    /// Returns the machine as it is started on a node: with its host's own paths and its own network.
    #[must_use]
    pub fn on(&self, compute: &Compute) -> Self {
        let paths = compute.guest_files.clone();
        let (kernel, initramfs) = paths.unwrap_or_else(|| (self.kernel.clone(), self.initramfs.clone()));
        let network = Some(compute.guests_interface.clone());
        Self { kernel, initramfs, network, ..self.clone() }
    }
}

/// What runs a guest's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The host's hardware virtualization.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accelerator {
    /// QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The CPU model that boots fastest.
    pub fn default_cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "qemu64",
        }
    }
}

/// What a QEMU is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Boots a guest, for [`super::saved`].
    Boot,
    /// Goes on with the saved guest, and migrates it.
    Source,
    /// Waits for the guest to come in.
    Destination,
}

impl Role {
    /// Its name, in file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// Which QEMU it is, to follow the word "QEMU" in messages.
    pub fn which(self) -> &'static str {
        match self {
            Self::Boot => "that boots the guest",
            Self::Source => "at the source",
            Self::Destination => "at the destination",
        }
    }
}

/// A QEMU's monitor socket in its node's private directory.
pub fn monitor_path(role: Role) -> String {
    format!("{}-monitor", role.name())
}

/// A guest's control port socket in its node's private directory.
pub fn control_path(role: Role) -> String {
    format!("{}-control", role.name())
}

/// The saved guest in its node's private directory.
const SAVED: &str = "guest";

/// Where QEMU is to send a guest that shall be saved, as a migration URI. A pipe, because QEMU has written to
/// files only since version 8.2.
pub fn save_uri() -> String {
    format!("exec:cat > {SAVED}")
}

/// Parts of the kernel that a guest does without: set-up for tracing, certificates and statistics, which
/// takes TCG half a second. A kernel that does not have one of them does not mind.
const SKIPPED_INITCALLS: &[&str] = &[
    "trace_eval_init",
    "init_kprobe_trace",
    "crypto_kdf108_init",
    "slab_sysfs_init",
    "load_system_certificate_list",
];

/// The guest kernel's options.
///
/// No mitigations, no self-tests, no timer check, no patching of its own code, no second clearing of the
/// memory it hands out: each costs time under TCG. A panic ends QEMU, so that it is noticed at once. TCG's
/// time-stamp counter is QEMU's own virtual clock, so it can be relied on; the kernel would otherwise read
/// its clock from an emulated port, a thousand times a second. ACPI stays, though it costs a quarter of a
/// second: without its timer the kernel sometimes cannot calibrate that counter, has no clock fine enough for
/// timers, and the stressor wakes up every 4 ms instead of every one.
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

/// The command that starts this machine in a role.
pub fn spawn(machine: &Machine, role: Role) -> Spawn {
    let mut args = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(ToString::to_string));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-name", &format!("testbed-{}", role.name())]);
    let accelerator = machine.accelerator.name();
    add(&["-machine", &format!("pc,accel={accelerator},hpet=off,vmport=off,usb=off,graphics=off")]);
    add(&["-cpu", &machine.cpu, "-smp", &machine.vcpus.to_string()]);
    add(&["-m", &format!("{}M", machine.memory.get() >> 20)]);
    add(&["-kernel", &machine.kernel, "-initrd", &machine.initramfs]);
    add(&["-append", &format!("{} testbed.ip={}", kernel_options(machine.accelerator), machine.address)]);
    // The console goes to standard output, which the node passes on into the log.
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
    match role {
        Role::Boot => {}
        Role::Source => add(&["-incoming", &format!("exec:cat {SAVED}")]),
        Role::Destination => add(&["-incoming", "defer"]),
    }
    Spawn { program: QEMU.into(), args, frames_of: machine.network.clone() }
}
