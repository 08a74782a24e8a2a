//! The section `guest` of a matrix: the virtual machine that migrates.

use super::field::section;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stressor::workload::Content;
use units::Bytes;

section! {
    /// The guest: the virtual machine that migrates.
    pub struct Guest {
        /// The memory of the guest. The guest's kernel, the ballast and the working set must fit into it. The
        /// kernel needs 80 MiB, plus 1/64 of the memory, plus 64 MiB if the memory is larger than 3 GiB; of
        /// `1GiB`, 928 MiB are left.
        pub memory: Bytes = Bytes::new(1 << 30),
        /// The number of virtual CPUs, from 1 to 255.
        #[schemars(range(min = 1, max = 255))]
        pub vcpus: u32 = 1,
        /// Memory that is filled once and then left alone, like the idle part of a real guest: a migration
        /// sends it exactly once. Rounded up to whole pages of 4 KiB.
        pub ballast: Bytes = Bytes::ZERO,
        /// The content of the ballast's pages. It decides how well they compress; QEMU sends zero pages as
        /// a few bytes each.
        pub ballast_content: Content = Content::default(),
        /// What executes the guest's CPUs: KVM or QEMU's emulation, TCG.
        pub accel: Accel = Accel::Auto,
        /// The CPU model, by its name in QEMU, such as `qemu64`, `max` or `host`. Default: the model that
        /// boots fastest, which is `host` with KVM and `qemu64` with TCG.
        pub cpu: Option<String> = None,
    }
}

/// What executes the guest's CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// KVM if a guest has been seen to run with it, otherwise TCG. The results say which one was used.
    #[default]
    Auto,
    /// Hardware virtualization by the host's CPUs.
    Kvm,
    /// Emulation by QEMU: slower than KVM, but available on every host.
    Tcg,
}
