//! What a run ran on: enough to judge its figures, and to repeat it elsewhere.

use crate::{
    driver::qemu::accel::Finding,
    image::Boot,
    lab::Description,
    matrix::{Accel, RunOrder},
};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The circumstances of a run. A run that was continued elsewhere has the last ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When the run started, or was continued.
    pub started_at: Timestamp,
    /// Version of `testbed`, `netem` and `stressor`, which are released together.
    pub version: String,
    /// QEMU's version, as it reports it.
    pub qemu: String,
    /// What runs the guest's CPUs, and why, for each wish of the matrix.
    pub accelerators: IndexMap<Accel, Finding>,
    /// The guest kernel's release.
    pub guest_kernel: String,
    /// Whether QEMU was given the kernel as it is or uncompressed.
    pub guest_boot: Boot,
    /// SHA-256 of the guest's kernel, modules and stressor.
    pub guest_digest: String,
    /// The nodes.
    pub lab: Description,
    /// The order of the attempts, and the seed where it is shuffled.
    pub order: RunOrder,
}
