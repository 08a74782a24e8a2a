//! The settings of one migration: what a matrix file sets, axes vary, and a record repeats in full.
//!
//! Every setting has a default, so a file names only what it cares about. The types refuse values that mean
//! nothing on their own (a size without a unit); [`Settings::check`] refuses those that contradict each
//! other (a working set larger than the guest). Neither looks at the machine: what it lacks is found later.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::{BitRate, ByteRate, Bytes, Span};

mod check;
mod either;

pub use check::{Problem, kernel_reserve};
pub use either::{Bandwidth, WorkingSet};

/// All settings of one migration, resolved: nothing is left to a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The virtual machine that migrates.
    pub guest: Guest,
    /// The link between source and destination, the same in both directions.
    pub link: Link,
    /// The client that measures the downtime from outside.
    pub probe: Probe,
    /// What dirties the guest's memory.
    pub stress: Stress,
    /// How the guest is migrated, and when that is given up.
    pub migrate: Migrate,
}

/// The virtual machine that migrates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Guest {
    /// Memory of the guest. Its kernel, the ballast and the working set have to fit.
    pub memory: Bytes,
    /// Virtual CPUs, 1 to 255.
    #[schemars(range(min = 1, max = 255))]
    pub vcpus: u32,
    /// Memory that is filled with random bytes once and then left alone: the part of a real guest that a
    /// migration sends exactly once.
    pub ballast: Bytes,
    /// What runs the guest's CPUs.
    pub accel: Accel,
    /// A CPU model by QEMU's name (`qemu64`, `max`, `host`); without it, the fastest to boot.
    pub cpu: Option<String>,
}

impl Default for Guest {
    fn default() -> Self {
        Self { memory: Bytes::new(1 << 30), vcpus: 1, ballast: Bytes::ZERO, accel: Accel::Auto, cpu: None }
    }
}

/// What runs the guest's CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// KVM where a guest has been seen to run on it, TCG elsewhere; the results say which.
    #[default]
    Auto,
    /// The host's hardware virtualization.
    Kvm,
    /// QEMU's translator: slower, and runs everywhere.
    Tcg,
}

/// The link between source and destination. Stands in for `netem::Profile`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Rate of the link; without it, not limited.
    pub rate: Option<BitRate>,
    /// One-way delay.
    pub delay: Span,
}

/// The client that measures the downtime from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Probe {
    /// Time between two probes; 0 sends none. At least 1ms.
    pub interval: Span,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: Span::from_millis(10) }
    }
}

/// What dirties the guest's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stress {
    /// How much memory is dirtied per second; 0 leaves the guest idle.
    pub rate: ByteRate,
    /// The memory that is dirtied over and over: a size, or a time, meaning what the rate dirties in that
    /// time.
    pub working_set: WorkingSet,
}

impl Default for Stress {
    fn default() -> Self {
        Self { rate: ByteRate::ZERO, working_set: WorkingSet::default() }
    }
}

impl Stress {
    /// The size of the working set, in bytes, whichever way it was written.
    pub fn working_set_bytes(&self) -> Bytes {
        match self.working_set {
            WorkingSet::Size(size) => size,
            WorkingSet::Time(time) => self.rate.over(time),
        }
    }
}

/// How the guest is migrated, and when that is given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Migrate {
    /// The way the memory moves.
    pub mode: Mode,
    /// The downtime QEMU may plan for: it stops the guest once what remains fits into this time. Whole
    /// milliseconds, at most 2000s.
    pub downtime_limit: Span,
    /// The deadline: a migration that takes longer is given up.
    pub timeout: Span,
    /// Give up after this many passes; without it, passes are not counted.
    #[schemars(range(min = 1))]
    pub max_passes: Option<u32>,
    /// Give up as soon as the remaining memory has stopped shrinking.
    pub stall_detection: bool,
    /// QEMU's own cap on the migration's bandwidth, in bytes or bits per second; without it, only the link
    /// limits it.
    pub max_bandwidth: Option<Bandwidth>,
}

impl Default for Migrate {
    fn default() -> Self {
        Self {
            mode: Mode::Precopy,
            downtime_limit: Span::from_millis(300),
            timeout: Span::from_secs(60),
            max_passes: None,
            stall_detection: true,
            max_bandwidth: None,
        }
    }
}

/// The way the memory moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The guest runs at the source while its memory is sent, pass after pass, until the rest fits into the
    /// downtime limit.
    #[default]
    Precopy,
}
