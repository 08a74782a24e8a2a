//! The section `guest`.

use super::field::section;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stressor::workload::Content;
use units::Bytes;

section! {
    /// The virtual machine that migrates.
    pub struct Guest {
        /// Memory of the guest. Its kernel, the ballast and the working set have to fit.
        pub memory: Bytes = Bytes::new(1 << 30),
        /// Virtual CPUs, 1 to 255.
        #[schemars(range(min = 1, max = 255))]
        pub vcpus: u32 = 1,
        /// Memory that is filled once and then left alone: the part of a real guest that a migration sends
        /// exactly once.
        pub ballast: Bytes = Bytes::ZERO,
        /// What a page of the ballast holds.
        pub ballast_content: Content = Content::default(),
        /// What runs the guest's CPUs.
        pub accel: Accel = Accel::Auto,
        /// A CPU model by QEMU's name (`qemu64`, `max`, `host`); without it, the fastest to boot.
        pub cpu: Option<String> = None,
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
