//! Opens disks, and prepares files and block devices that users name as disks.
//!
//! Nothing is written to a device or to a file that is not empty, unless the user says that its content may
//! be lost. Everything that can be checked is checked before the first change.

use super::{BLOCK_BYTES, DiskError, DiskLoad, fill_block};
use crate::workload::pages_for;
use nix::{
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use units::Bytes;

/// Writes the part of a disk that is written beforehand: the blocks of its first `written` bytes, rounded up
/// to whole blocks, with generation 0. Does not change anything after them, and does not wait until the data
/// is on stable storage. The file must not be open for direct I/O.
///
/// # Errors
///
/// Returns the error of the first write that fails.
pub fn fill_image(file: &File, written: Bytes) -> io::Result<()> {
    /// The number of blocks written at a time: 1 MiB.
    const BLOCKS_AT_ONCE: u64 = 256;
    let blocks = pages_for(written);
    let mut buffer = vec![0; (BLOCKS_AT_ONCE * BLOCK_BYTES) as usize];
    for first in (0..blocks).step_by(BLOCKS_AT_ONCE as usize) {
        let count = BLOCKS_AT_ONCE.min(blocks - first);
        let bytes = &mut buffer[..(count * BLOCK_BYTES) as usize];
        let (filled, _) = bytes.as_chunks_mut();
        for (index, block) in (first..).zip(filled) {
            fill_block(block, index, 0);
        }
        file.write_all_at(bytes, first * BLOCK_BYTES)?;
    }
    Ok(())
}

/// Returns how much the file system of a file has free for users other than root.
pub fn free_bytes(file: &File) -> io::Result<Bytes> {
    let space = fstatvfs(file)?;
    // A file system that does not know its size, or has none, reports 0 in total.
    let is_known = space.blocks() > 0;
    let free = space.blocks_available().saturating_mul(space.fragment_size());
    Ok(Bytes::new(if is_known { free } else { u64::MAX }))
}

/// Opens a disk for direct I/O, so that each write and read reaches it. Returns it with its size in bytes.
pub(crate) fn open(path: &Path) -> Result<(File, u64), DiskError> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    let mut file = file.map_err(|cause| match cause.raw_os_error() {
        Some(libc::EINVAL) => DiskError::NoDirectIo { path: path.into() },
        _ => DiskError::Open { path: path.into(), cause },
    })?;
    let size = size_of(&mut file, path)?;
    Ok((file, size))
}

/// Returns the size of a file or of a block device in bytes.
fn size_of(file: &mut File, path: &Path) -> Result<u64, DiskError> {
    file.seek(SeekFrom::End(0)).map_err(|cause| DiskError::Open { path: path.into(), cause })
}

/// A file or a block device that a user has named as a disk. While this exists, no one else can use it as a
/// disk.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    /// The size in bytes; 0 if there is no such file yet, or if it is empty.
    pub(crate) size: Bytes,
    /// The open file. `None` if there is no such file yet.
    file: Option<File>,
    is_device: bool,
}

impl Target {
    /// Opens a disk that its user has named, without changing it. `overwrite` says whether its content may be
    /// lost.
    pub(crate) fn examine(path: &Path, overwrite: bool) -> Result<Self, DiskError> {
        let failed = |cause| DiskError::Open { path: path.into(), cause };
        let kind = match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path: path.into(), size: Bytes::ZERO, file: None, is_device: false });
            }
            Err(cause) => return Err(failed(cause)),
        };
        let is_device = kind.is_block_device();
        if !kind.is_file() && !is_device {
            let kind = if kind.is_dir() { "a directory" } else { "neither a file nor a block device" };
            return Err(DiskError::Kind { path: path.into(), kind });
        }
        // Without O_EXCL, the kernel would let this process write to a device that is mounted.
        let exclusive = if is_device { libc::O_EXCL } else { 0 };
        let file = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path);
        let mut file = file.map_err(|cause| match cause.raw_os_error() {
            Some(libc::EBUSY | libc::ETXTBSY) => DiskError::InUse { path: path.into() },
            _ => failed(cause),
        })?;
        lock(&file, path)?;
        let size = Bytes::new(size_of(&mut file, path)?);
        if !overwrite && is_device {
            return Err(DiskError::Occupied { path: path.into(), what: "is a block device" });
        }
        if !overwrite && !size.is_zero() {
            return Err(DiskError::Occupied { path: path.into(), what: "is not empty" });
        }
        Ok(Self { path: path.into(), size, file: Some(file), is_device })
    }

    /// Gives the disk the state that `load` describes: its size, the part written beforehand, and zeros
    /// otherwise. Creates the file if it does not exist, and removes it again on failure. Returns the open
    /// file.
    pub(crate) fn prepare(self, load: &DiskLoad) -> Result<File, DiskError> {
        if self.is_device && self.size != load.size {
            return Err(DiskError::Size { path: self.path, stated: load.size, found: self.size });
        }
        let path = self.path.clone();
        let (file, is_new) = match self.file {
            Some(file) => (file, false),
            None => (create(&path)?, true),
        };
        let prepared = open(&path).and_then(|_| {
            if !self.is_device {
                check_space(&file, &path, load)?;
            }
            write(&file, load, self.is_device)
                .map_err(|cause| DiskError::Prepare { path: path.clone(), cause })
        });
        if prepared.is_err() && is_new {
            // The reported error is more informative than an error here.
            let _ = fs::remove_file(&path);
        }
        prepared.map(|()| file)
    }
}

/// Creates a file that does not exist yet.
fn create(path: &Path) -> Result<File, DiskError> {
    let created = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = created.map_err(|cause| DiskError::Open { path: path.into(), cause })?;
    lock(&file, path)?;
    Ok(file)
}

/// Makes sure that no other stressor uses a file as its disk.
fn lock(file: &File, path: &Path) -> Result<(), DiskError> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(DiskError::InUse { path: path.into() }),
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Checks that the file system of a file has space for what is written beforehand, in the place of what the
/// file holds now.
fn check_space(file: &File, path: &Path, load: &DiskLoad) -> Result<(), DiskError> {
    let need = Bytes::new(load.written_blocks() * BLOCK_BYTES);
    let space = || {
        // The unit of st_blocks is 512 bytes, whatever the file system.
        let held = file.metadata()?.blocks() * 512;
        Ok(Bytes::new(free_bytes(file)?.get().saturating_add(held)))
    };
    let free = space().map_err(|cause| DiskError::Prepare { path: path.into(), cause })?;
    if need > free { Err(DiskError::NoSpace { path: path.into(), need, free }) } else { Ok(()) }
}

/// Writes the whole disk, and waits until the data is on stable storage; otherwise the load would compete
/// with that.
fn write(file: &File, load: &DiskLoad, is_device: bool) -> io::Result<()> {
    let size = load.size.get();
    if is_device {
        let written = (load.written_blocks() * BLOCK_BYTES).cast_signed();
        let rest = size.cast_signed() - written;
        if rest > 0 {
            fallocate(file, FallocateFlags::FALLOC_FL_ZERO_RANGE, written, rest)?;
        }
    } else {
        file.set_len(0)?;
        file.set_len(size)?;
    }
    fill_image(file, Bytes::new(load.written_blocks() * BLOCK_BYTES))?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Expected;

    #[test]
    fn an_image_holds_its_blocks_and_keeps_its_size() {
        let file = tempfile::tempfile().unwrap();
        // More than one piece, and the last one is incomplete.
        let blocks = 259;
        file.set_len((blocks + 3) * BLOCK_BYTES).unwrap();
        fill_image(&file, Bytes::new(blocks * BLOCK_BYTES - 1)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (blocks + 3) * BLOCK_BYTES);
        for index in 0..blocks + 3 {
            let mut block = [1; BLOCK_BYTES as usize];
            file.read_exact_at(&mut block, index * BLOCK_BYTES).unwrap();
            let expected = Expected { generation: (index < blocks).then_some(0), unsure: false };
            assert!(expected.matches(&block, index), "{}", expected.describe(&block, index));
        }
    }
}
