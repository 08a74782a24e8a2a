//! The disks of guests: files without a name, which vanish with the last process that has them open.
//!
//! A node creates a disk and keeps it open. Each process that it starts to use the disk inherits a
//! descriptor. So a disk leaves nothing behind, however the node ends.
//!
//! A disk that other hosts open needs a name. The node removes that file when the disk is closed, and when
//! the node itself ends. If it is killed, the file stays; [`remove_old`] removes it later. The same holds for
//! a folder of sockets, which a node keeps like a disk.

use super::isolate::RUN_DIR;
use crate::node::protocol::{self, CreatedDisk, DiskUsage};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::{
    collections::HashMap,
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::Path,
    sync::Mutex,
    time::{Duration, SystemTime},
};
use stressor::disk;
use tempfile::{NamedTempFile, TempDir};
use units::Bytes;

/// The prefix of the names of disks and of folders. The names of uploads do not begin with it.
const PREFIX: &str = ".testbed-disk.";

/// How long after its last write a disk with a name is considered left behind.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// The disks that a node has open, by number.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<HashMap<u64, Held>>);

/// An open disk.
#[derive(Debug)]
enum Held {
    Unnamed(File),
    /// Removed when dropped.
    Named(NamedTempFile),
    /// Removed with its content when dropped.
    Folder(TempDir),
}

impl Held {
    fn create(folder: &Path, named: bool) -> io::Result<Self> {
        // A process that has inherited it as another user may open it again. No other process can reach a
        // file without a name.
        let permissions = Permissions::from_mode(0o666);
        if !named {
            let file = tempfile::tempfile_in(folder)?;
            file.set_permissions(permissions)?;
            return Ok(Self::Unnamed(file));
        }
        remove_old(folder, SystemTime::now());
        let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
        file.as_file().set_permissions(permissions)?;
        Ok(Self::Named(file))
    }

    /// Returns a second descriptor.
    fn descriptor(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unnamed(file) => Ok(file.try_clone()?.into()),
            Self::Named(file) => Ok(file.as_file().try_clone()?.into()),
            Self::Folder(_) => Err(io::Error::other("a folder is no disk")),
        }
    }
}

/// Removes the disks that killed nodes have left in a folder.
fn remove_old(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_disk = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|written| now.duration_since(written).ok());
        if is_disk && age.is_some_and(|age| age > KEEP) {
            // A disk that cannot be removed only wastes space.
            let path = entry.path();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(path));
        }
    }
}

impl Disks {
    /// Creates a disk with this number and size. Its first part, of the size `written`, holds the data that
    /// [`disk::fill_image`] writes; the rest reads as zeros, and takes no space until it is written.
    ///
    /// This blocks until all data has been written.
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
            let file = File::from(held.descriptor()?);
            file.set_len(size.get())?;
            disk::fill_image(&file, written)?;
            Ok(held)
        };
        let held = create().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot create a disk in {}: {error}", folder.display()))
        })?;
        let path = match &held {
            Held::Named(file) => file.path().display().to_string(),
            Held::Unnamed(file) => path_to(file)?,
            Held::Folder(folder) => folder.path().display().to_string(),
        };
        Ok(self.keep(number, held, path))
    }

    /// Opens a disk of another node, and keeps it under this number.
    pub(super) fn open(&self, number: u64, path: &Path) -> io::Result<CreatedDisk> {
        let file = File::options().read(true).write(true).open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open the file {}: {error}", path.display()))
        })?;
        let path = path_to(&file)?;
        Ok(self.keep(number, Held::Unnamed(file), path))
    }

    /// Creates a folder with this number below another folder. Only this user can enter it.
    pub(super) fn create_folder(
        &self,
        number: u64,
        folder: &Path,
        user: Option<u32>,
    ) -> io::Result<CreatedDisk> {
        let create = || {
            remove_old(folder, SystemTime::now());
            let own = Permissions::from_mode(0o700);
            let created = tempfile::Builder::new().prefix(PREFIX).permissions(own).tempdir_in(folder)?;
            chown(created.path(), user, user)?;
            Ok(created)
        };
        let created = create().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot create a folder in {}: {error}", folder.display()))
        })?;
        let path = created.path().display().to_string();
        Ok(self.keep(number, Held::Folder(created), path))
    }

    fn keep(&self, number: u64, held: Held, path: String) -> CreatedDisk {
        self.0.lock().unwrap().insert(number, held);
        CreatedDisk { disk: number, path }
    }

    /// Returns the size of a disk's file.
    pub(super) fn usage(&self, number: u64) -> io::Result<DiskUsage> {
        let metadata = self.get(number)?.metadata()?;
        // The unit of st_blocks is 512 bytes, whatever the file system.
        Ok(DiskUsage { bytes: metadata.len(), allocated_bytes: metadata.blocks() * 512 })
    }

    /// Closes a disk. Not an error if no disk has this number.
    pub(super) fn close(&self, number: u64) {
        if self.0.lock().unwrap().remove(&number).is_some() {
            let _ = fs::remove_file(Path::new(RUN_DIR).join(protocol::file_path(number)));
        }
    }

    /// Closes all disks.
    pub(super) fn close_all(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Returns a second descriptor for a disk, which processes do not inherit.
    pub(super) fn get(&self, number: u64) -> io::Result<File> {
        let disks = self.0.lock().unwrap();
        let held = disks.get(&number).ok_or_else(|| io::Error::other("there is no such disk"))?;
        Ok(held.descriptor()?.into())
    }

    /// Returns a descriptor for a disk. Processes inherit it if they are started before it is closed.
    pub(super) fn for_process(&self, number: u64) -> io::Result<OwnedFd> {
        let descriptor = self.get(number)?.into();
        fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(descriptor)
    }
}

/// Makes a disk that a process inherits as this descriptor appear at [`protocol::file_path`] for that
/// process.
pub(super) fn link(number: u64, descriptor: &OwnedFd) -> io::Result<()> {
    let path = Path::new(RUN_DIR).join(protocol::file_path(number));
    let _ = fs::remove_file(&path);
    symlink(format!("/proc/self/fd/{}", descriptor.as_raw_fd()), path)
}

/// Returns the path by which other processes can open an open file.
fn path_to(file: &impl AsRawFd) -> io::Result<String> {
    // The PID in the namespace of this `/proc`, which is the host's.
    let pid = fs::read_link("/proc/self")?;
    Ok(format!("/proc/{}/fd/{}", pid.display(), file.as_raw_fd()))
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
        os::unix::{fs::FileExt, net::UnixListener},
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
        fs::create_dir_all(folder.path().join(".testbed-disk.d4E5f6/socket")).unwrap();
        let names = || fs::read_dir(folder.path()).unwrap().count();
        remove_old(folder.path(), SystemTime::now());
        assert_eq!(names(), 3);
        remove_old(folder.path(), SystemTime::now() + KEEP + Duration::from_secs(60));
        assert_eq!(names(), 1);
        assert!(folder.path().join("bzImage").exists());
    }

    #[test]
    fn a_disk_of_another_node_is_opened_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        let [here, there] = [Disks::default(), Disks::default()];
        let created = here.create(1, folder.path(), false, Bytes::ZERO, Bytes::ZERO).unwrap();
        let opened = there.open(7, Path::new(&created.path)).unwrap();
        assert_eq!(opened.disk, 7);
        there.get(7).unwrap().write_all_at(&[1; 8192], 1 << 20).unwrap();
        here.close(1);
        let DiskUsage { bytes, allocated_bytes } = there.usage(7).unwrap();
        assert_eq!(bytes, (1 << 20) + 8192);
        assert!((8192..1 << 20).contains(&allocated_bytes), "{allocated_bytes}");
        assert!(there.usage(1).is_err());
    }

    #[test]
    fn a_folder_is_gone_with_its_sockets_when_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let disks = Disks::default();
        let created = disks.create_folder(1, folder.path(), None).unwrap();
        let own = Path::new(&created.path);
        assert_eq!(fs::metadata(own).unwrap().mode() & 0o777, 0o700);
        let _socket = UnixListener::bind(own.join("socket")).unwrap();
        assert!(disks.for_process(1).is_err(), "a folder is no disk");
        disks.close(1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let error = disks.create_folder(2, Path::new("/nowhere"), None).unwrap_err();
        assert!(error.to_string().starts_with("cannot create a folder in /nowhere: "), "{error}");
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
