//! The environment of a run: what is needed to assess its figures, and to repeat it elsewhere.
//!
//! These types are plain data and define the format of `environment.json`, as [`record`](super::record)
//! defines that of `cells.jsonl`.

use super::{format::FormatVersion, record::RoundTrips};
use crate::matrix::{Accel, RunOrder};
use indexmap::IndexMap;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The environment of a run. If the run was continued elsewhere, this is the environment of the last part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// The version of the results format. Absent in the oldest results, which have none.
    #[serde(default, skip_serializing_if = "FormatVersion::is_unversioned")]
    pub format: FormatVersion,
    /// When the run started, or when it was last continued.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// The version of `testbed`, `netem` and `stressor`, which are released together, and the commit that
    /// they were built from.
    pub version: String,
    /// The version of QEMU at the source, as QEMU reports it.
    pub qemu: String,
    /// The machine type of the guests, by QEMU's name, such as `pc-i440fx-9.2`: one that QEMU had at both
    /// ends. Absent if it is unknown, and in results of older versions, in which each end had its own
    /// `pc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// What confined the QEMU processes. Absent in results of older versions, in which nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
    /// The accelerator that was chosen for each value of `guest.accel` in the matrix, and why.
    pub accelerators: IndexMap<Accel, AcceleratorChoice>,
    /// The release of the guest's kernel, as `uname -r` would print it.
    pub guest_kernel: String,
    /// Whether the guest's kernel was decompressed before it was given to QEMU.
    pub guest_boot: Boot,
    /// The SHA-256 of the guest's kernel, modules and stressor, in hexadecimal.
    pub guest_digest: String,
    /// The lab: the nodes that guests migrated between.
    pub lab: Lab,
    /// The order of the attempts, and the seed if it was shuffled.
    pub order: RunOrder,
}

/// What confined the QEMU processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Confinement {
    /// Whether QEMU filtered its own system calls (seccomp).
    pub sandbox: bool,
    /// The user and the group that QEMU became, as `UID:GID`; `null` if it stayed the user of its node.
    pub user: Option<String>,
    /// What QEMU was not confined by although it should have been, and why, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
}

/// The accelerator that was used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AcceleratorChoice {
    /// The accelerator that ran the guest's CPUs.
    pub accelerator: Accelerator,
    /// The reason for the choice, in words.
    pub reason: String,
    /// How the guest that was booted to test KVM ended, if that test failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
}

/// An accelerator: what runs a guest's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// KVM, the hardware virtualization of the host.
    Kvm,
    /// TCG, which translates the guest's code in software.
    Tcg,
}

/// How the guest's kernel was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// The kernel was compressed and decompressed itself, as it does on real hardware.
    Compressed,
    /// The kernel was decompressed beforehand and entered directly (PVH).
    Uncompressed,
}

/// The lab of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lab {
    /// The kind of lab, such as `local` or `ssh`.
    pub kind: String,
    /// The source, which guests migrated from.
    pub source: Node,
    /// The destination, which guests migrated to.
    pub destination: Node,
    /// The round-trip times between the nodes and the orchestrator, whose clock measures most durations.
    /// Absent in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<RoundTrips>,
}

/// The facts that a node reported about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// The version of `testbed` on the node.
    pub version: String,
    /// The version of QEMU on the node. Absent in results of older versions, in which both nodes had the QEMU
    /// of the environment.
    pub qemu: Option<String>,
    /// The release of the host's kernel.
    pub kernel: String,
    /// The model name of the CPU.
    pub cpu_model: String,
    /// The number of CPUs that were online.
    pub cpus: usize,
    /// The total memory, in bytes.
    pub memory_bytes: u64,
    /// The memory that was available without swapping, in bytes. Absent in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_memory_bytes: Option<u64>,
    /// Whether that figure is what the limits of the node's control groups left, while the host had more.
    /// Absent in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by_cgroup: Option<bool>,
    /// The node's wall clock when it reported these facts. No duration is computed from it. Absent in results
    /// of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub clock: Option<Timestamp>,
    /// Whether root or an ordinary user created the node's namespaces.
    pub privilege: Privilege,
    /// The names of the kernel modules for shaping links that were available, loaded or built in.
    pub features: BTreeSet<String>,
    /// The reason why the node could not emulate links; absent if it could.
    pub no_emulator: Option<String>,
}

/// The source of a node's permission to create namespaces, links and queueing disciplines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// The node ran as root.
    Root,
    /// The node ran as an ordinary user, who was root only inside its own user namespace.
    UserNamespace,
}
