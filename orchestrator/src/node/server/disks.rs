//! The disks of guests: files without a name, which vanish with the last process that has them open.
//!
//! A node creates a disk and keeps it open. Each process that it starts to use the disk inherits a
//! descriptor. So a disk leaves nothing behind, however the node ends.
//!
//! A disk that other hosts open needs a name. The node removes that file when the disk is closed, and when
//! the node itself ends. If it is killed, the file stays; [`remove_old`] removes it later.
//!
//! A node keeps a folder of sockets like a disk. It is in the node's private directory, and other nodes reach
//! it through the descriptor.

use super::isolate::RUN_DIR;
use crate::{
    bounded,
    node::protocol::{self, CreatedDisk, DiskName, DiskUsage, QEMU_USER},
};
use libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl, openat},
    sys::stat::Mode,
    unistd::geteuid,
};
use std::{
    collections::HashMap,
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink},
    },
    path::Path,
    sync::Mutex,
    time::{Duration, SystemTime},
};
use stressor::disk;
use tempfile::{NamedTempFile, TempDir};
use units::Bytes;

/// The prefix of the names of disks. The names of uploads do not begin with it.
const PREFIX: &str = ".testbed-disk.";

/// How long after its last write a disk with a name is considered left behind.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// The disks that a node has open, by number.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<HashMap<u64, Held>>);

/// An open disk, or an open folder.
#[derive(Debug)]
enum Held {
    Unnamed(File),
    /// Removed when dropped.
    Named(NamedTempFile),
    Folder(Folder),
}

/// A folder for sockets.
#[derive(Debug)]
struct Folder {
    /// The folder itself, whatever is at its path by now.
    opened: File,
    /// Removes it with its content when dropped.
    _path: TempDir,
}

impl Folder {
    fn create(parent: &Path) -> io::Result<Self> {
        let path = tempfile::tempdir_in(parent)?;
        let opened = File::open(path.path())?;
        // Any user may add files, but neither replace nor remove those of this user, nor the folder.
        opened.set_permissions(Permissions::from_mode(0o1777))?;
        Ok(Self { opened, _path: path })
    }

    /// Lets all users connect to a socket of this user in the folder. Returns whether it is there.
    ///
    /// Others may have put something else at its path, which must not be changed.
    fn open_socket(&self, name: &str) -> io::Result<bool> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found: OwnedFd = match openat(&self.opened, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(false),
            found => found?,
        };
        let found = File::from(found);
        let metadata = found.metadata()?;
        let is_own = (metadata.uid(), metadata.nlink()) == (geteuid().as_raw(), 1);
        if !metadata.file_type().is_socket() || !is_own {
            return Ok(false);
        }
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(true)
    }
}

impl Held {
    fn create(folder: &Path, name: DiskName) -> io::Result<Self> {
        // A process that has inherited it as another user may open it anew.
        let to_all = Permissions::from_mode(0o666);
        match name {
            DiskName::Unnamed => {
                // Nobody else can reach a file without a name.
                let file = tempfile::tempfile_in(folder)?;
                file.set_permissions(to_all)?;
                Ok(Self::Unnamed(file))
            }
            DiskName::Named => {
                remove_old(folder, SystemTime::now());
                let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
                // Fails if the server takes root for another user, and unless this is root.
                let _ = fchown(file.as_file(), Some(QEMU_USER), Some(QEMU_USER));
                if file.as_file().metadata()?.uid() != QEMU_USER {
                    file.as_file().set_permissions(to_all)?;
                }
                Ok(Self::Named(file))
            }
        }
    }

    /// Returns the path by which other nodes can open it.
    fn path(&self) -> io::Result<String> {
        match self {
            Self::Unnamed(file) => path_to(file),
            Self::Named(file) => Ok(file.path().display().to_string()),
            Self::Folder(folder) => path_to(&folder.opened),
        }
    }

    /// Returns a second descriptor.
    fn descriptor(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unnamed(file) => Ok(file.try_clone()?.into()),
            Self::Named(file) => Ok(file.as_file().try_clone()?.into()),
            Self::Folder(folder) => Ok(folder.opened.try_clone()?.into()),
        }
    }
}

/// Removes the disks that killed nodes have left in a folder. What others have put there stays, whatever its
/// name: it may be large.
fn remove_old(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_disk = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Ok(metadata) = entry.metadata() else { continue };
        let written = metadata.modified().ok().and_then(|written| now.duration_since(written).ok());
        if !is_disk || written.is_none_or(|age| age <= KEEP) {
            continue;
        }
        let (user, owner) = (geteuid(), metadata.uid());
        let (own, of_qemu) = (owner == user.as_raw(), user.is_root() && owner == QEMU_USER);
        // A disk that cannot be removed only wastes space.
        if own || of_qemu {
            let _ = fs::remove_file(entry.path());
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
        name: DiskName,
        size: Bytes,
        written: Bytes,
    ) -> io::Result<CreatedDisk> {
        let create = || {
            let held = Held::create(folder, name)?;
            let file = File::from(held.descriptor()?);
            let free = disk::free_bytes(&file)?;
            if written > free {
                // `testbed run --resume` makes attempts again that failed with these words.
                let why =
                    format!("No space left on device: {written} needed, {} free", free.rounded_binary());
                return Err(io::Error::other(why));
            }
            file.set_len(size.get())?;
            disk::fill_image(&file, written)?;
            Ok(held)
        };
        let held = create().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot create a disk in {}: {error}", folder.display()))
        })?;
        self.keep(number, held)
    }

    /// Opens a disk of another node, and keeps it under this number.
    ///
    /// Others may be able to write to its folder, or even to the file. So links and what is no file are
    /// refused, and an image that names further files.
    pub(super) fn open(&self, number: u64, path: &Path) -> io::Result<CreatedDisk> {
        // What a process has open is a link in `/proc`, where nobody else can put one.
        let follow = if path.starts_with("/proc") { 0 } else { O_NOFOLLOW };
        let open = || {
            let mut options = File::options();
            options.read(true).write(true).custom_flags(follow | O_NONBLOCK);
            let file = bounded::regular(options.open(path)?)?;
            if names_other_files(&file)? {
                return Err(io::Error::other("it is an image that names other files"));
            }
            Ok(file)
        };
        let file = open().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot open the file {}: {error}", path.display()))
        })?;
        self.keep(number, Held::Unnamed(file))
    }

    /// Creates a folder with this number below another one, which only this node and its processes can reach.
    pub(super) fn create_folder(&self, number: u64, parent: &Path) -> io::Result<CreatedDisk> {
        let folder = Folder::create(parent).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot create a folder in {}: {error}", parent.display()))
        })?;
        self.keep(number, Held::Folder(folder))
    }

    /// Opens a folder of another node, and keeps it under this number.
    pub(super) fn open_folder(&self, number: u64, path: &Path) -> io::Result<CreatedDisk> {
        let opened = File::options().read(true).custom_flags(O_DIRECTORY).open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open the folder {}: {error}", path.display()))
        })?;
        self.keep(number, Held::Unnamed(opened))
    }

    /// Lets all users connect to a socket in a folder that this user has created. Returns whether the socket
    /// is there.
    pub(super) fn open_socket(&self, folder: u64, name: &str) -> io::Result<bool> {
        match self.0.lock().unwrap().get(&folder) {
            Some(Held::Folder(folder)) => folder.open_socket(name),
            _ => Err(io::Error::other("there is no such folder")),
        }
    }

    fn keep(&self, number: u64, held: Held) -> io::Result<CreatedDisk> {
        let path = held.path()?;
        self.0.lock().unwrap().insert(number, held);
        Ok(CreatedDisk { disk: number, path })
    }

    /// Returns the size of a disk's file.
    pub(super) fn usage(&self, number: u64) -> io::Result<DiskUsage> {
        let file = self.get(number)?;
        let (metadata, free_bytes) = (file.metadata()?, disk::free_bytes(&file)?.get());
        // The unit of st_blocks is 512 bytes, whatever the file system.
        Ok(DiskUsage { bytes: metadata.len(), allocated_bytes: metadata.blocks() * 512, free_bytes })
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

/// Returns whether a file is an image in QEMU's format qcow2 that names a file below it, or one with its
/// data. QEMU would open those too.
fn names_other_files(file: &File) -> io::Result<bool> {
    // The header, in big-endian order: the magic number, the version, the offset of the name of the file
    // below, and from version 3 on at byte 72 the features that a program has to know.
    const EXTERNAL_DATA: u64 = 1 << 2;
    let mut header = [0; 80];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    let number = |at: usize| header[at..at + 8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let (is_image, version) = (header.starts_with(b"QFI\xfb"), number(0) as u32);
    Ok(is_image && (number(8) != 0 || version >= 3 && number(72) & EXTERNAL_DATA != 0))
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
        os::unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
        },
    };

    #[test]
    fn a_disk_is_a_sparse_file_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let disks = Disks::default();
        disks.create(7, folder.path(), DiskName::Unnamed, Bytes::new(1 << 30), Bytes::new(4096)).unwrap();
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
        let created = |number| {
            disks.create(number, folder.path(), DiskName::Named, Bytes::new(1 << 20), Bytes::new(4096))
        };
        let (first, second) = (created(1).unwrap(), created(2).unwrap());
        let metadata = fs::metadata(&first.path).unwrap();
        let (mode, owner) =
            if geteuid().is_root() { (0o600, QEMU_USER) } else { (0o666, geteuid().as_raw()) };
        let found = (metadata.len(), metadata.mode() & 0o777, metadata.uid());
        assert_eq!(found, (1 << 20, mode, owner));
        disks.close(1);
        assert!(!fs::exists(&first.path).unwrap() && fs::exists(&second.path).unwrap());
        disks.close_all();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_a_disk_that_a_node_left_behind_is_removed_after_a_day() {
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
        if !geteuid().is_root() {
            return println!("skipped: needs root, for files of other users");
        }
        let names = [".testbed-disk.qemu", ".testbed-disk.theirs", ".testbed-disk.tree"];
        let [qemu, theirs, tree] = names.map(|name| folder.path().join(name));
        fs::create_dir_all(tree.join("of/theirs")).unwrap();
        for (path, owner) in [(&qemu, QEMU_USER), (&theirs, 4711), (&tree, QEMU_USER)] {
            if path != &tree {
                fs::write(path, "").unwrap();
            }
            fchown(File::open(path).unwrap(), Some(owner), None).unwrap();
        }
        remove_old(folder.path(), SystemTime::now() + KEEP + Duration::from_secs(60));
        assert!(!qemu.exists() && theirs.exists() && tree.join("of/theirs").exists());
    }

    #[test]
    fn a_disk_of_another_node_is_opened_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        let [here, there] = [Disks::default(), Disks::default()];
        let created = here.create(1, folder.path(), DiskName::Unnamed, Bytes::ZERO, Bytes::ZERO).unwrap();
        let opened = there.open(7, Path::new(&created.path)).unwrap();
        assert_eq!(opened.disk, 7);
        there.get(7).unwrap().write_all_at(&[1; 8192], 1 << 20).unwrap();
        here.close(1);
        let DiskUsage { bytes, allocated_bytes, free_bytes } = there.usage(7).unwrap();
        assert_eq!(bytes, (1 << 20) + 8192);
        assert!((8192..1 << 20).contains(&allocated_bytes), "{allocated_bytes}");
        assert!(there.usage(1).is_err());
        let name = DiskName::Unnamed;
        let more = Bytes::new(free_bytes.saturating_add(1 << 40));
        let error = here.create(2, folder.path(), name, more, more).unwrap_err().to_string();
        let begins =
            format!("cannot create a disk in {}: No space left on device: ", folder.path().display());
        assert!(error.starts_with(&begins) && error.ends_with(" free"), "{error}");
    }

    #[test]
    fn a_link_or_an_image_that_names_other_files_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let disks = Disks::default();
        let [secret, file, link, pipe] = ["secret", "file", "link", "pipe"].map(|at| folder.path().join(at));
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, &link).unwrap();
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for (path, reason) in [(&link, "symbolic links"), (&pipe, "it is not a regular file")] {
            let error = disks.open(1, path).unwrap_err().to_string();
            assert!(error.starts_with("cannot open the file ") && error.contains(reason), "{error}");
        }
        let image = |version: u32, below: u64, features: u64| {
            let mut header = vec![0; 104];
            header[..4].copy_from_slice(b"QFI\xfb");
            header[4..8].copy_from_slice(&version.to_be_bytes());
            header[8..16].copy_from_slice(&below.to_be_bytes());
            header[72..80].copy_from_slice(&features.to_be_bytes());
            fs::write(&file, header).unwrap();
            disks.open(1, &file).map_err(|error| error.to_string())
        };
        for (version, below, features) in [(3, 0, 0), (3, 0, 0b11), (2, 0, 0b100)] {
            image(version, below, features).unwrap();
        }
        for (version, below, features) in [(2, 512, 0), (3, 512, 0), (3, 0, 0b100), (4, 0, 0b101)] {
            let error = image(version, below, features).unwrap_err();
            assert!(error.ends_with("it is an image that names other files"), "{error}");
        }
    }

    #[test]
    fn two_nodes_share_a_folder_of_sockets_which_is_gone_when_it_is_closed() {
        let parent = tempfile::tempdir().unwrap();
        let [here, there] = [Disks::default(), Disks::default()];
        let created = here.create_folder(1, parent.path()).unwrap();
        there.open_folder(7, Path::new(&created.path)).unwrap();
        // As a process that inherits it names it.
        let inherited = there.for_process(7).unwrap();
        let path = format!("/proc/self/fd/{}/socket", inherited.as_raw_fd());
        let _socket = UnixListener::bind(Path::new(&created.path).join("socket")).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(here.open_socket(1, "socket").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        here.close(1);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        assert!(there.open_socket(7, "socket").is_err(), "only its own node opens a socket");

        let error = here.create_folder(2, Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("cannot create a folder in /nowhere: "), "{error}");
        let error = there.open_folder(8, Path::new("/proc/self/exe")).unwrap_err().to_string();
        assert_eq!(error, "cannot open the folder /proc/self/exe: Not a directory (os error 20)");
    }

    #[test]
    fn arguments_get_the_paths_of_their_disks() {
        let disks = Disks::default();
        let folder = tempfile::tempdir().unwrap();
        disks.create(1, folder.path(), DiskName::Unnamed, Bytes::new(4096), Bytes::ZERO).unwrap();
        let inherited = disks.for_process(1).unwrap();
        let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
        let filled = fill_in(format!("filename={},x", protocol::disk_path(0)), &[inherited]);
        assert_eq!(filled, format!("filename={path},x"));
    }
}
