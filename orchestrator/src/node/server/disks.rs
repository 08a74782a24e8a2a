//! The disks of guests: files without a name, which end with the last process that has them open.
//!
//! A node creates a disk and has it open. Each process that it starts for the purpose inherits a descriptor.
//! So a disk leaves nothing behind, however the node ends.
//!
//! A disk that other hosts open needs a name. The node removes that file when the disk is closed, and when it
//! ends itself. If it is killed, the file stays; [`remove_old`] removes it later.

use crate::node::protocol::{self, CreatedDisk};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::{
    collections::HashMap,
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    sync::Mutex,
    time::{Duration, SystemTime},
};
use stressor::disk;
use tempfile::NamedTempFile;
use units::Bytes;

/// How the names of disks begin. No upload is called so.
const PREFIX: &str = ".testbed-disk.";

/// How long after the last write a disk with a name counts as left behind.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// The disks that a node has open, by number.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<HashMap<u64, Held>>);

/// A disk that is open.
#[derive(Debug)]
enum Held {
    Unnamed(File),
    /// Removed when dropped.
    Named(NamedTempFile),
}

impl Held {
    fn create(folder: &Path, named: bool) -> io::Result<Self> {
        if !named {
            return Ok(Self::Unnamed(tempfile::tempfile_in(folder)?));
        }
        remove_old(folder, SystemTime::now());
        let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
        file.as_file().set_permissions(Permissions::from_mode(0o666))?;
        Ok(Self::Named(file))
    }

    fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }
}

/// Removes the disks from a folder that nodes have left there which were killed.
fn remove_old(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_disk = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|written| now.duration_since(written).ok());
        if is_disk && age.is_some_and(|age| age > KEEP) {
            // A file that cannot be removed only wastes space.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Disks {
    /// Creates a disk with this number and size. Its first part, `written`, holds what [`disk::fill_image`]
    /// writes; the rest reads as zeros, and takes no space until it is written.
    ///
    /// This blocks until all has been written.
    pub(super) fn create(
        &self,
        number: u64,
        folder: &Path,
        named: bool,
        size: Bytes,
        written: Bytes,
    ) -> io::Result<CreatedDisk> {
        let create = || {
            let held = Held::create(folder, named)?;
            held.file().set_len(size.get())?;
            disk::fill_image(held.file(), written)?;
            Ok(held)
        };
        let held = create().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot create a disk in {}: {error}", folder.display()))
        })?;
        let path = match &held {
            Held::Unnamed(file) => {
                // The PID in the namespace whose `/proc` this is: the host's.
                let pid = fs::read_link("/proc/self")?;
                format!("/proc/{}/fd/{}", pid.display(), file.as_raw_fd())
            }
            Held::Named(file) => file.path().display().to_string(),
        };
        self.0.lock().unwrap().insert(number, held);
        Ok(CreatedDisk { disk: number, path })
    }

    /// Closes a disk. Not an error if there is none with this number.
    pub(super) fn close(&self, number: u64) {
        self.0.lock().unwrap().remove(&number);
    }

    /// Closes all disks.
    pub(super) fn close_all(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Returns a second descriptor for a disk, which processes do not inherit.
    pub(super) fn get(&self, number: u64) -> io::Result<File> {
        let disks = self.0.lock().unwrap();
        disks.get(&number).ok_or_else(|| io::Error::other("there is no such disk"))?.file().try_clone()
    }

    /// Returns a descriptor for a disk that processes inherit which are started before it is closed.
    pub(super) fn for_process(&self, number: u64) -> io::Result<OwnedFd> {
        let descriptor = self.get(number)?.into();
        fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(descriptor)
    }
}

/// Replaces [`protocol::disk_path`] of each of these disks in an argument.
pub(super) fn fill_in(arg: String, disks: &[OwnedFd]) -> String {
    disks.iter().enumerate().fold(arg, |arg, (index, descriptor)| {
        arg.replace(&protocol::disk_path(index), &format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        os::unix::fs::{FileExt, MetadataExt},
    };

    #[test]
    fn a_disk_is_a_sparse_file_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let disks = Disks::default();
        disks.create(7, folder.path(), false, Bytes::new(1 << 30), Bytes::new(4096)).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut inherited = File::from(disks.for_process(7).unwrap());
        let flags = fcntl(&inherited, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain).unwrap();
        assert!(!flags.contains(FdFlag::FD_CLOEXEC));
        disks.close(7);
        disks.close(7);
        assert!(disks.get(7).is_err());
        let mut held = [0; 4096];
        inherited.read_exact(&mut held).unwrap();
        let mut expected = [0; 4096];
        disk::fill_block(&mut expected, 0, 0);
        assert_eq!(held, expected);
        inherited.write_all_at(b"x", (1 << 30) - 1).unwrap();
        let file = inherited.metadata().unwrap();
        assert_eq!((file.len(), file.nlink()), (1 << 30, 0));
        assert!(file.blocks() * 512 < 1 << 20, "{} blocks", file.blocks());
    }

    #[test]
    fn a_disk_with_a_name_is_there_until_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let disks = Disks::default();
        let created =
            |number| disks.create(number, folder.path(), true, Bytes::new(1 << 20), Bytes::new(4096));
        let (first, second) = (created(1).unwrap(), created(2).unwrap());
        let metadata = fs::metadata(&first.path).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (1 << 20, 0o666));
        disks.close(1);
        assert!(!fs::exists(&first.path).unwrap() && fs::exists(&second.path).unwrap());
        disks.close_all();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_that_a_node_left_behind_is_removed_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".testbed-disk.a1B2c3", "bzImage"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let names = || fs::read_dir(folder.path()).unwrap().count();
        remove_old(folder.path(), SystemTime::now());
        assert_eq!(names(), 2);
        remove_old(folder.path(), SystemTime::now() + KEEP + Duration::from_secs(60));
        assert_eq!(names(), 1);
        assert!(folder.path().join("bzImage").exists());
    }

    #[test]
    fn arguments_get_the_paths_of_their_disks() {
        let disks = Disks::default();
        let folder = tempfile::tempdir().unwrap();
        disks.create(1, folder.path(), false, Bytes::new(4096), Bytes::ZERO).unwrap();
        let inherited = disks.for_process(1).unwrap();
        let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
        let filled = fill_in(format!("filename={},x", protocol::disk_path(0)), &[inherited]);
        assert_eq!(filled, format!("filename={path},x"));
    }
}
