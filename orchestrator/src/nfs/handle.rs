//! File handles: the identifiers by which clients refer to the export's folder and its file.

use std::{fs::File, io, os::unix::fs::MetadataExt, time::UNIX_EPOCH};

/// The length of a handle, in bytes. The protocol allows up to 64.
const BYTES: usize = 24;

/// The object that a handle refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The exported folder.
    Folder = 1,
    /// The disk image, the only file in it.
    Disk = 2,
}

/// A handle. It depends only on the file: it stays valid when the server is restarted, whereas the handle of
/// another disk that was previously served at the same address is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) kind: Kind,
    pub(super) inode: u64,
    /// When the file was created, in nanoseconds since 1970; 0 if its file system does not know.
    created_ns: u64,
}

impl Handle {
    /// Returns the handle of the file itself.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let created = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let created_ns = created.map_or(0, |since| since.as_nanos() as u64);
        Ok(Self { kind: Kind::Disk, inode: metadata.ino(), created_ns })
    }

    /// Returns the handle of the folder in which the file appears.
    pub(super) fn folder(self) -> Self {
        Self { kind: Kind::Folder, ..self }
    }

    pub(super) fn bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        for (part, value) in bytes.chunks_exact_mut(8).zip([self.kind as u64, self.inode, self.created_ns]) {
            part.copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }
}
