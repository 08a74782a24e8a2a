//! The settings of one migration: what a matrix file sets, axes vary, and a record repeats in full.
//!
//! Every setting has a default, so a file names only what it cares about. The types refuse values that mean
//! nothing on their own (a size without a unit); [`Settings::check`] refuses those that contradict each
//! other (a working set larger than the guest). Neither looks at the machine: what it lacks is found later.

use crate::mode::{Limits, Mode};
use netem::Profile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::hash::{Hash, Hasher};
use stressor::workload::{self, CatchUp, Content, PageSize, Phase, Rate, Workload, Write};
use units::{Bytes, Span};

mod check;
mod either;
mod timeline;

pub use check::{Problem, kernel_reserve};
pub use either::{Bandwidth, WorkingSet};
pub use timeline::{Entry, LinkChange, Step, StressChange};

/// All settings of one migration, resolved: nothing is left to a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The virtual machine that migrates.
    pub guest: Guest,
    /// The link between source and destination, the same in both directions.
    pub link: Profile,
    /// The client that measures the downtime from outside.
    pub probe: Probe,
    /// What dirties the guest's memory.
    pub stress: Stress,
    /// How the guest is migrated, and when that is given up.
    pub migrate: Migrate,
    /// What changes in the middle of the migration, in order: of the link any setting, of the load what leaves
    /// the memory as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Entry>,
}

/// Over what distinguishes settings in practice; rarer parts of the link and the phases of the workload are
/// left to equality.
impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { guest, link, probe, stress, migrate, timeline } = self;
        (guest, probe, migrate, link.rate, link.delay, link.loss).hash(state);
        (stress.rate, stress.working_set, stress.content, stress.write, stress.order).hash(state);
        (stress.threads, stress.page_size, stress.catch_up, stress.seed).hash(state);
        for entry in timeline {
            entry.at.hash(state);
        }
    }
}

impl Settings {
    /// The names of the groups of settings, in the order of a matrix file, and of the one setting that is in
    /// none.
    pub const SECTIONS: [&'static str; 6] = ["guest", "link", "probe", "stress", "migrate", Self::TIMELINE];

    /// The name of the timeline, which is a setting by itself.
    pub(crate) const TIMELINE: &'static str = "timeline";

    /// One group, serialized, under its name; nothing for a name that is none, and for a timeline without an
    /// entry.
    pub(crate) fn section(&self, name: &str) -> (&'static str, Value) {
        let (name, value) = match name {
            "guest" => ("guest", serde_json::to_value(&self.guest)),
            "link" => ("link", serde_json::to_value(&self.link)),
            "probe" => ("probe", serde_json::to_value(&self.probe)),
            "stress" => ("stress", serde_json::to_value(&self.stress)),
            "migrate" => ("migrate", serde_json::to_value(&self.migrate)),
            Self::TIMELINE if !self.timeline.is_empty() => {
                (Self::TIMELINE, serde_json::to_value(&self.timeline))
            }
            _ => return ("", Value::Null),
        };
        (name, value.unwrap_or_default())
    }
}

/// The virtual machine that migrates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Guest {
    /// Memory of the guest. Its kernel, the ballast and the working set have to fit.
    pub memory: Bytes,
    /// Virtual CPUs, 1 to 255.
    #[schemars(range(min = 1, max = 255))]
    pub vcpus: u32,
    /// Memory that is filled once and then left alone: the part of a real guest that a migration sends
    /// exactly once.
    pub ballast: Bytes,
    /// What a page of the ballast holds.
    pub ballast_content: Content,
    /// What runs the guest's CPUs.
    pub accel: Accel,
    /// A CPU model by QEMU's name (`qemu64`, `max`, `host`); without it, the fastest to boot.
    pub cpu: Option<String>,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            memory: Bytes::new(1 << 30),
            vcpus: 1,
            ballast: Bytes::ZERO,
            ballast_content: Content::default(),
            accel: Accel::default(),
            cpu: None,
        }
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

/// The client that measures the downtime from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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

/// What dirties the guest's memory: a [`Workload`], except that the size of the working set may follow from the
/// rate, and that the ballast belongs to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stress {
    /// How fast memory is dirtied: bytes of 4 KiB pages written per second, by all threads together. 0 leaves
    /// the guest idle, `unlimited` is as fast as its CPUs can.
    pub rate: Rate,
    /// The memory that is dirtied over and over: a size, or a time, meaning what the rate dirties in that
    /// time.
    pub working_set: WorkingSet,
    /// What a page of the working set holds.
    pub content: Content,
    /// How much of a page one write stores.
    pub write: Write,
    /// Which page is written next.
    pub order: workload::Order,
    /// How many threads write, each to its own part of the working set, pinned to the guest's CPUs in turn.
    #[schemars(range(min = 1))]
    pub threads: u32,
    /// The pages that back the working set. It is dirtied in steps of 4 KiB all the same.
    pub page_size: PageSize,
    /// How often to write what has come due since the last time: at most 1ms, at least 10us.
    pub step: Span,
    /// Whether writes that a stall prevented are made up for.
    pub catch_up: CatchUp,
    /// Rates for the first stretches of time after the start, one after the other; `rate` holds after them.
    pub phases: Vec<Phase>,
    /// Chooses the random content and the random order; the same seed gives the same again.
    pub seed: u64,
}

impl Default for Stress {
    fn default() -> Self {
        let Workload {
            rate, content, write, order, threads, page_size, step, catch_up, phases, seed, ..
        } = Workload::default();
        let working_set = WorkingSet::default();
        Self { rate, working_set, content, write, order, threads, page_size, step, catch_up, phases, seed }
    }
}

impl Stress {
    /// The size of the working set, whichever way it was written. None for a time at an unlimited rate, which
    /// [`Settings::check`] refuses.
    pub fn working_set_bytes(&self) -> Option<Bytes> {
        match (self.working_set, self.rate) {
            (WorkingSet::Size(size), _) => Some(size),
            (WorkingSet::Time(time), Rate::Limited(rate)) => Some(rate.over(time)),
            (WorkingSet::Time(_), Rate::Unlimited) => None,
        }
    }
}

impl Settings {
    /// What the stressor in the guest is asked to do.
    pub fn workload(&self) -> Workload {
        let Stress {
            rate, content, write, order, threads, page_size, step, catch_up, ref phases, seed, ..
        } = self.stress;
        Workload {
            rate,
            working_set: self.stress.working_set_bytes().unwrap_or_default(),
            ballast: self.guest.ballast,
            content,
            ballast_content: self.guest.ballast_content,
            write,
            order,
            threads,
            page_size,
            step,
            catch_up,
            phases: phases.clone(),
            seed,
        }
    }
}

/// How the guest is migrated, and when that is given up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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

impl Migrate {
    /// The part that a mode decides by.
    pub fn limits(&self) -> Limits {
        let Self { timeout, downtime_limit, max_passes, stall_detection, .. } = *self;
        Limits { timeout, downtime_limit, max_passes, stall_detection }
    }
}
