//! File handles: what clients call the export's folder and its file.

use std::{fs::File, io, os::unix::fs::MetadataExt, time::UNIX_EPOCH};

/// The length of a handle, in bytes. The protocol allows up to 64.
const BYTES: usize = 24;

/// What a handle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The folder that is exported.
    Folder = 1,
    /// The disk image, the only file in it.
    Disk = 2,
}

/// A handle. It depends on nothing but the file: it is valid after a restart of the server, and that of
/// another disk, served at the same address before, is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) kind: Kind,
    pub(super) inode: u64,
    /// When the file was created, in nanoseconds since 1970; 0 if its file system does not know.
    created_ns: u64,
}

impl Handle {
    /// Returns the handle of a file itself.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let created = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let created_ns = created.map_or(0, |since| since.as_nanos() as u64);
        Ok(Self { kind: Kind::Disk, inode: metadata.ino(), created_ns })
    }

    /// Returns the handle of the folder that the file is shown in.
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
