//! The section `storage` of a matrix: the guest's disk, and what the guest does with it.

use super::{Settings, field::section};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stressor::{disk::DiskLoad, workload::Rate};
use units::Bytes;

section! {
    /// The guest's disk: where it is stored, and so how it gets to the destination. By default the guest has
    /// no disk. The other settings of this section have no effect then.
    pub struct Storage {
        /// Where the disk is stored.
        pub kind: StorageKind = StorageKind::None,
        /// The size of the disk that the guest sees, in whole MiB.
        pub size: Bytes = Bytes::new(1 << 30),
        /// How much of the disk has been written before the guest starts, from its beginning, in whole MiB.
        /// What has never been written takes no space and is not copied.
        pub written: Bytes = Bytes::ZERO,
        /// The format of the image.
        pub format: ImageFormat = ImageFormat::Raw,
        /// What a `block` migration copies of the disk.
        pub sync: MirrorSync = MirrorSync::Full,
        /// How QEMU uses the caches of the host and of the disk.
        pub cache: CacheMode = CacheMode::None,
        /// Whether blocks that the guest discards are freed in the image.
        pub discard: bool = false,
        /// The rate at which the guest writes blocks of 4 KiB to the disk, by direct I/O, before, during and
        /// after the migration. `0` writes nothing, `unlimited` writes as fast as the disk allows.
        pub write_rate: Rate = Rate::IDLE,
        /// The rate at which the guest reads blocks of 4 KiB from the disk, and compares them with what they
        /// must hold.
        pub read_rate: Rate = Rate::IDLE,
        /// The first part of the disk, which the guest writes and reads over and over, block by block.
        pub working_set: Bytes = Bytes::new(64 << 20),
    }
}

impl Settings {
    /// Returns the guest's disk and the workload on it, if the guest has a disk.
    pub fn disk_load(&self) -> Option<DiskLoad> {
        let Storage { kind, size, written, write_rate, read_rate, working_set, .. } = self.storage;
        let is_idle = write_rate.is_idle() && read_rate.is_idle();
        // A disk without a workload may be smaller than the default.
        let working_set = if is_idle { Bytes::ZERO } else { working_set };
        let load = DiskLoad { size, written, working_set, write: write_rate, read: read_rate };
        (kind != StorageKind::None).then_some(load)
    }
}

/// Where the guest's disk is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// The guest has no disk.
    #[default]
    None,
    /// The disk is in one file, which the source and the destination open in turn. In the local lab, the
    /// controller serves it by NFS, over links of its own (`storage_link`).
    Shared,
    /// The disk is in a file on the source, and is copied to a file on the destination over the migration
    /// link (block live migration). The source's QEMU mirrors it to an NBD server in the destination's: first
    /// all that is written, and from then on what the guest writes. Then memory migrates. The mirror ends
    /// while the guest is stopped for the switchover.
    Block,
}

/// The format of a disk image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// The bytes of the disk, and nothing else.
    #[default]
    Raw,
    /// QEMU's own format.
    Qcow2,
}

impl ImageFormat {
    /// Returns QEMU's name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What a block migration copies of the disk, by QEMU's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorSync {
    /// All of it.
    #[default]
    Full,
    /// What the guest has written. What has been written before the guest starts is in an image below the
    /// guest's own, and both hosts have a copy of it, like the template that a cloud makes disks from. The
    /// guest's own image has to be of format `qcow2`.
    Top,
}

impl MirrorSync {
    /// Returns QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Top => "top",
        }
    }
}

/// How QEMU uses caches, by the names of its option `-drive cache=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// The host's page cache is not used (`O_DIRECT`). The guest sees a disk with a write cache.
    #[default]
    None,
    /// The host's page cache is used. The guest sees a disk with a write cache.
    Writeback,
    /// The host's page cache is used, and each write is flushed to the host's disk.
    Writethrough,
    /// The host's page cache is not used, and each write is flushed to the host's disk.
    Directsync,
    /// The host's page cache is used, and the guest's flushes are ignored.
    Unsafe,
}

impl CacheMode {
    /// Returns whether QEMU bypasses the host's page cache.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    /// Returns whether the guest sees a disk with a write cache.
    pub fn has_write_cache(self) -> bool {
        !matches!(self, Self::Writethrough | Self::Directsync)
    }

    /// Returns whether the guest's flushes are ignored.
    pub fn ignores_flushes(self) -> bool {
        self == Self::Unsafe
    }
}
