//! The description of a disk and of the load on it, as the host sends it, and the errors of disks.

use super::{BLOCK_BYTES, verification::BadBlock};
use crate::workload::{Rate, pages_for};
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};
use units::Bytes;

/// A disk and the load on it. The load writes the blocks of the working set in order, over and over, and
/// reads them in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskLoad {
    /// The size of the disk. Bytes beyond a whole number of blocks of 4 KiB are not used.
    pub size: Bytes,
    /// The size of the first part of the disk, which was written beforehand; rounded up to whole blocks. The
    /// rest of the disk reads as zeros.
    pub written: Bytes,
    /// The size of the first part of the disk, which the load uses; rounded up to whole blocks.
    pub working_set: Bytes,
    /// The rate of writing. 0 writes nothing, `unlimited` is as fast as the disk allows.
    pub write: Rate,
    /// The rate of reading. 0 reads nothing, `unlimited` is as fast as the disk allows.
    pub read: Rate,
}

impl Default for DiskLoad {
    fn default() -> Self {
        Self {
            size: Bytes::ZERO,
            written: Bytes::ZERO,
            working_set: Bytes::ZERO,
            write: Rate::IDLE,
            read: Rate::IDLE,
        }
    }
}

/// An error in the description of a disk, or opening or preparing one. The message says what to change.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum DiskError {
    #[error("a disk of {0} is too small: it needs at least one block of 4KiB")]
    TooSmall(Bytes),
    #[error("a disk of {0} exceeds the maximum of 128TiB")]
    TooLarge(Bytes),
    #[error("{part} is {bytes}, but the disk has only {size}: use at most the size of the disk")]
    Beyond { part: &'static str, bytes: Bytes, size: Bytes },
    #[error(
        "a rate of {rate} for {action} the disk exceeds the maximum of {max}: `unlimited` is as fast as the \
         disk allows",
        max = Rate::MAX
    )]
    TooFast { action: &'static str, rate: Rate },
    #[error(
        "a rate of {rate} for {action} the disk needs a working set on it: set that to a size, like `64MiB`"
    )]
    NoWorkingSet { action: &'static str, rate: Rate },
    #[error(
        "the table of the blocks of the disk's working set needs {} of memory, but only {} are available: \
         make that working set smaller",
        need.rounded(), available.rounded()
    )]
    Table { need: Bytes, available: Bytes },
    #[error("this stressor has no disk: name one with --disk when you start it")]
    NoDisk,
    #[error("there is no disk to verify: `set-disk` describes one")]
    NotSet,
    #[error("cannot open the disk {}: {cause}", path.display())]
    Open { path: PathBuf, cause: io::Error },
    #[error(
        "the file system of {} does not support direct I/O, without which the workload would use the memory \
         of this host instead of a disk: use a disk on another file system",
        path.display()
    )]
    NoDirectIo { path: PathBuf },
    #[error("cannot use {} as a disk: it is {kind}; name a file or a block device", path.display())]
    Kind { path: PathBuf, kind: &'static str },
    #[error(
        "{} {what}: name another disk, or add --disk-overwrite if what it holds may be lost",
        path.display()
    )]
    Occupied { path: PathBuf, what: &'static str },
    #[error(
        "the disk {} is in use, by another stressor or because it is mounted: name another",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error("the disk {} is empty or does not exist: state its size with --disk-size", path.display())]
    NoSize { path: PathBuf },
    #[error("the disk {} has {found}, but {stated} is stated: state its real size", path.display())]
    Size { path: PathBuf, stated: Bytes, found: Bytes },
    #[error(
        "the stressor has already written to the disk {}, of {size} with {written} written beforehand: these \
         two cannot change any more",
        path.display()
    )]
    Restated { path: PathBuf, size: Bytes, written: Bytes },
    #[error(
        "the disk {} is not as it is described: {bad}; prepare it again, or describe it as it is",
        path.display()
    )]
    Unprepared { path: PathBuf, bad: BadBlock },
    #[error(
        "cannot write {need} to the disk {} beforehand: its file system has only {} free; lower \
         --disk-written, or name a disk on another file system",
        path.display(), free.rounded_binary()
    )]
    NoSpace { path: PathBuf, need: Bytes, free: Bytes },
    #[error("cannot read block {index} of the disk {}: {cause}", path.display())]
    Read { path: PathBuf, index: u64, cause: io::Error },
    #[error("cannot prepare the disk {}: {cause}", path.display())]
    Prepare { path: PathBuf, cause: io::Error },
}

impl DiskError {
    /// Returns whether the settings are at fault, including the name of the disk.
    pub fn is_bad_settings(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Prepare { .. })
    }
}

impl DiskLoad {
    /// Returns the number of whole blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.size.get() / BLOCK_BYTES
    }

    /// Returns the number of blocks that were written beforehand.
    pub fn written_blocks(&self) -> u64 {
        pages_for(self.written).min(self.blocks())
    }

    /// Returns the number of blocks in the working set.
    pub fn working_set_blocks(&self) -> u64 {
        pages_for(self.working_set).min(self.blocks())
    }

    /// Returns whether the load neither writes nor reads.
    pub fn is_idle(&self) -> bool {
        self.write.is_idle() && self.read.is_idle()
    }

    /// Checks that the settings are valid and consistent, without looking at any disk.
    ///
    /// # Errors
    ///
    /// Returns the first invalid setting or contradiction.
    pub fn check(&self) -> Result<(), DiskError> {
        const MAX_SIZE: Bytes = Bytes::new(1 << 47);
        let size = self.size;
        if size > MAX_SIZE {
            return Err(DiskError::TooLarge(size));
        }
        if self.blocks() == 0 {
            return Err(DiskError::TooSmall(size));
        }
        let parts = [
            ("the part of the disk that is written beforehand", self.written),
            ("the working set on the disk", self.working_set),
        ];
        if let Some((part, bytes)) = parts.into_iter().find(|(_, bytes)| *bytes > size) {
            return Err(DiskError::Beyond { part, bytes, size });
        }
        let rates = [("writing", self.write), ("reading", self.read)];
        if let Some((action, rate)) = rates.into_iter().find(|(_, rate)| rate.is_too_fast()) {
            return Err(DiskError::TooFast { action, rate });
        }
        match rates.into_iter().find(|(_, rate)| !rate.is_idle()) {
            Some((action, rate)) if self.working_set.is_zero() => {
                Err(DiskError::NoWorkingSet { action, rate })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str) -> DiskLoad {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn sizes_are_counted_in_whole_blocks() {
        let load = load("{ size: 100MB, written: 100MB, working_set: 5000B, write: 1MB/s, read: unlimited }");
        assert!(load.check().is_ok());
        assert_eq!((load.blocks(), load.written_blocks(), load.working_set_blocks()), (24_414, 24_414, 2));
        let json = serde_json::to_string(&load).unwrap();
        assert_eq!(serde_json::from_str::<DiskLoad>(&json).unwrap(), load);
    }

    #[test]
    fn invalid_and_contradictory_settings_are_refused() {
        for (yaml, words) in [
            ("{}", "a disk of 0 is too small"),
            ("{ size: 4095B }", "at least one block of 4KiB"),
            ("{ size: 129TiB }", "exceeds the maximum of 128TiB"),
            (
                "{ size: 1MB, working_set: 1MB, read: 101TB/s }",
                "a rate of 101TB/s for reading the disk exceeds the maximum of 100TB/s: `unlimited` is",
            ),
            ("{ size: 1GiB, written: 2GiB }", "written beforehand is 2GiB, but the disk has only 1GiB"),
            (
                "{ size: 1GiB, working_set: 2GiB }",
                "the working set on the disk is 2GiB, but the disk has only",
            ),
            (
                "{ size: 1GiB, write: 5MB/s }",
                "a rate of 5MB/s for writing the disk needs a working set on it",
            ),
            (
                "{ size: 1GiB, read: unlimited }",
                "a rate of unlimited for reading the disk needs a working set on it",
            ),
        ] {
            let error = load(yaml).check().unwrap_err();
            assert!(error.to_string().contains(words) && error.is_bad_settings(), "{error}");
        }
        let error = serde_yaml::from_str::<DiskLoad>("{ speed: 1MB/s }").unwrap_err().to_string();
        assert!(error.contains("unknown field `speed`"), "{error}");
    }
}
