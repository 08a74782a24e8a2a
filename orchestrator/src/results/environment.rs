//! What a run ran on: enough to judge its figures, and to repeat it elsewhere.
//!
//! Plain data, and the format of `environment.json`, as [`record`](super::record) is of `cells.jsonl`.

use super::{format::FormatVersion, record::RoundTrips};
use crate::matrix::{Accel, RunOrder};
use indexmap::IndexMap;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The circumstances of a run. A run that was continued elsewhere has the last ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// The version of the results format; absent in results of older versions.
    #[serde(default, skip_serializing_if = "FormatVersion::is_unversioned")]
    pub format: FormatVersion,
    /// When the run started, or was continued.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// Version of `testbed`, `netem` and `stressor`, which are released together.
    pub version: String,
    /// The version of the source's QEMU, as it reports it.
    pub qemu: String,
    /// What runs the guest's CPUs, and why, for each wish of the matrix.
    pub accelerators: IndexMap<Accel, Choice>,
    /// The guest kernel's release.
    pub guest_kernel: String,
    /// How QEMU was given the kernel.
    pub guest_boot: Boot,
    /// SHA-256 of the guest's kernel, modules and stressor.
    pub guest_digest: String,
    /// The nodes.
    pub lab: Lab,
    /// The order of the attempts, and the seed where it is shuffled.
    pub order: RunOrder,
}

/// Which accelerator was used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// What ran the guest's CPUs.
    pub accelerator: Accelerator,
    /// Why, in words.
    pub reason: String,
    /// How the guest ended that was booted to try KVM, where that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
}

/// What runs a guest's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The host's hardware virtualization.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// How a guest's kernel was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// It decompressed itself, as it does on a machine.
    Compressed,
    /// It was decompressed before and entered directly (PVH).
    Uncompressed,
}

/// What a lab was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lab {
    /// The kind of lab.
    pub kind: String,
    /// The node that guests migrated from.
    pub source: Node,
    /// The node that they migrated to.
    pub destination: Node,
    /// How far away the nodes were from the orchestrator, whose clock takes all times. Absent in results of
    /// older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<RoundTrips>,
}

/// What a node said of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its version of this program.
    pub version: String,
    /// Its QEMU's version. Absent in results of older versions, whose nodes had one QEMU, the environment's.
    pub qemu: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// Model of its CPU.
    pub cpu_model: String,
    /// CPUs that were online.
    pub cpus: usize,
    /// Memory in all, in bytes.
    pub memory_bytes: u64,
    /// Memory that was available without swapping, in bytes. Absent in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_memory_bytes: Option<u64>,
    /// Its wall clock when it said this. No duration is taken from it. Absent in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub clock: Option<Timestamp>,
    /// Whether its namespaces were root's or an ordinary user's.
    pub privilege: Privilege,
    /// The modules for links that its kernel had, loaded or built in, by name.
    pub features: BTreeSet<String>,
    /// Why it could not emulate links; absent where it could.
    pub no_emulator: Option<String>,
}

/// Where a node's right to make namespaces, links and queueing disciplines came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// The user was root.
    Root,
    /// An ordinary user, root only inside a user namespace of its own.
    UserNamespace,
}
