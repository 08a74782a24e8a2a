//! NFS version 3 (RFC 1813) for a folder with a single file, the disk image. The file can be read, written,
//! resized and synced; the folder cannot be changed.

use super::{
    FILE, MAX_TRANSFER_BYTES,
    handle::{Handle, Kind},
    rpc::{Call, Refusal},
    xdr::{Garbage, Input, Output},
};
use nix::sys::statvfs::fstatvfs;
use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::atomic::{AtomicBool, Ordering},
};

pub(super) const PROGRAM: u32 = 100_003;
pub(super) const VERSION: u32 = 3;

/// The longest file handle and the longest name in a call, in bytes.
const HANDLE_BYTES: usize = 64;
const NAME_BYTES: usize = 255;

/// The operations that a file handle allows, in calls and results of `ACCESS`.
const MAY_READ: u32 = 1;
const MAY_LOOK_UP: u32 = 2;
const MAY_MODIFY: u32 = 4;
const MAY_EXTEND: u32 = 8;

/// An error that a client gets as the status of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    NotPermitted = 1,
    NoEntry = 2,
    Io = 5,
    AccessDenied = 13,
    NotADirectory = 20,
    IsADirectory = 21,
    Invalid = 22,
    TooBig = 27,
    NoSpace = 28,
    ReadOnly = 30,
    OverQuota = 69,
    Stale = 70,
    BadHandle = 10_001,
    OutOfSync = 10_002,
    NotSupported = 10_004,
}

impl From<io::Error> for Status {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted,
            Some(libc::EACCES) => Self::AccessDenied,
            Some(libc::EINVAL) => Self::Invalid,
            Some(libc::EFBIG) => Self::TooBig,
            Some(libc::ENOSPC) => Self::NoSpace,
            Some(libc::EROFS) => Self::ReadOnly,
            Some(libc::EDQUOT) => Self::OverQuota,
            None if error.kind() == io::ErrorKind::InvalidInput => Self::Invalid,
            _ => Self::Io,
        }
    }
}

/// The parts of a result that are present although the call failed, none of them with attributes.
#[derive(Debug, Clone, Copy)]
enum Failed {
    Nothing,
    /// Attributes of a file.
    Attributes,
    /// Attributes of a file before and after the call.
    BeforeAfter,
    /// Both of these, for two files.
    Link,
    /// The second of these, for two folders.
    Rename,
}

impl Failed {
    fn write(self, out: &mut Output<'_>) {
        let absent = match self {
            Self::Nothing => 0,
            Self::Attributes => 1,
            Self::BeforeAfter => 2,
            Self::Link => 3,
            Self::Rename => 4,
        };
        for _ in 0..absent {
            out.bool(false);
        }
    }
}

/// The stability that a client requests for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stability {
    /// The data may be in memory until the client commits it.
    Unstable = 0,
    /// The data survives a failure of the host.
    Data = 1,
    /// The data and the attributes of the file survive it.
    File = 2,
}

/// The served file.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    handle: Handle,
    /// Whether the file could not be synced at some time. The kernel reports that only once, to the first
    /// caller, but the data of every client may be lost.
    sync_failed: AtomicBool,
}

/// A procedure's results after its status, or why it failed.
type Done = Result<Result<(), Status>, Garbage>;

/// Returns from a procedure whose arguments have the right form with a failure.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Ok(Err(Status::from(error))),
        }
    };
}

impl Disk {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let handle = Handle::of(&file)?;
        Ok(Self { file, handle, sync_failed: AtomicBool::new(false) })
    }

    /// Returns the handle of the exported folder.
    pub(super) fn root(&self) -> Handle {
        self.handle.folder()
    }

    /// Carries out a call, and appends its status and its results.
    pub(super) fn call(&self, call: &mut Call<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        if call.procedure == 0 {
            return Ok(());
        }
        let input = &mut call.arguments;
        let start = out.0.len();
        out.u32(0);
        let (failed, done) = match call.procedure {
            1 => (Failed::Nothing, self.get_attributes(input, out)),
            2 => (Failed::BeforeAfter, self.set_attributes(input, out)),
            3 => (Failed::Attributes, self.look_up(input, out)),
            4 => (Failed::Attributes, self.access(input, out)),
            // READLINK
            5 => (Failed::Attributes, Ok(Err(Status::Invalid))),
            6 => (Failed::Attributes, self.read(input, out)),
            7 => (Failed::BeforeAfter, self.write(input, out)),
            // CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR
            8..=13 => (Failed::BeforeAfter, Ok(Err(Status::AccessDenied))),
            14 => (Failed::Rename, Ok(Err(Status::AccessDenied))),
            15 => (Failed::Link, Ok(Err(Status::AccessDenied))),
            16 => (Failed::Attributes, self.read_folder(input, out)),
            // READDIRPLUS
            17 => (Failed::Attributes, Ok(Err(Status::NotSupported))),
            18 => (Failed::Attributes, self.file_system_status(input, out)),
            19 => (Failed::Attributes, self.file_system_information(input, out)),
            20 => (Failed::Attributes, self.path_limits(input, out)),
            21 => (Failed::BeforeAfter, self.commit(input, out)),
            _ => return Err(Refusal::NoSuchProcedure),
        };
        if let Err(status) = done? {
            out.0.truncate(start);
            failed.write(out.u32(status as u32));
        }
        Ok(())
    }

    /// Reads a file handle.
    fn handle(&self, input: &mut Input<'_>) -> Result<Result<Kind, Status>, Garbage> {
        let bytes = input.opaque(HANDLE_BYTES)?;
        let known = [self.handle, self.root()];
        let found = known.into_iter().find(|handle| bytes == handle.bytes()).map(|handle| handle.kind);
        let unknown =
            if bytes.len() == self.handle.bytes().len() { Status::Stale } else { Status::BadHandle };
        Ok(found.ok_or(unknown))
    }

    /// Reads the handle of the disk.
    fn disk_handle(&self, input: &mut Input<'_>) -> Result<Result<(), Status>, Garbage> {
        Ok(match self.handle(input)? {
            Ok(Kind::Disk) => Ok(()),
            Ok(Kind::Folder) => Err(Status::IsADirectory),
            Err(status) => Err(status),
        })
    }

    /// Reads the handle of the folder.
    fn folder_handle(&self, input: &mut Input<'_>) -> Result<Result<(), Status>, Garbage> {
        Ok(match self.handle(input)? {
            Ok(Kind::Folder) => Ok(()),
            Ok(Kind::Disk) => Err(Status::NotADirectory),
            Err(status) => Err(status),
        })
    }

    /// Appends the attributes of the folder or of the file.
    fn attributes(&self, kind: Kind, out: &mut Output<'_>) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        let inode = self.handle.inode;
        let (file_type, mode, links, size, used, id) = match kind {
            Kind::Disk => (1, 0o666, 1, metadata.size(), metadata.blocks() * 512, inode),
            Kind::Folder => (2, 0o777, 2, 4096, 4096, !inode),
        };
        out.u32(file_type).u32(mode).u32(links);
        // The owner, root; the size; no device number; the number of the file system.
        out.u32(0).u32(0).u64(size).u64(used).u32(0).u32(0).u64(metadata.dev()).u64(id);
        let access = (metadata.atime(), metadata.atime_nsec());
        let modification = (metadata.mtime(), metadata.mtime_nsec());
        for (seconds, nanoseconds) in [access, modification, change_time(&metadata)] {
            out.u32(seconds as u32).u32(nanoseconds as u32);
        }
        Ok(())
    }

    /// Appends the attributes as a value that may be absent.
    fn some_attributes(&self, kind: Kind, out: &mut Output<'_>) -> io::Result<()> {
        self.attributes(kind, out.bool(true))
    }

    /// Appends the attributes of the file after a call, without the attributes before the call.
    fn attributes_afterwards(&self, out: &mut Output<'_>) -> io::Result<()> {
        self.some_attributes(Kind::Disk, out.bool(false))
    }

    fn get_attributes(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let kind = attempt!(self.handle(input)?);
        attempt!(self.attributes(kind, out));
        Ok(Ok(()))
    }

    /// Sets the size of the file, and nothing else.
    fn set_attributes(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let handle = self.disk_handle(input)?;
        let mut others = false;
        for _mode_user_group in 0..3 {
            others |= input.optional(Input::u32)?.is_some();
        }
        let size = input.optional(Input::u64)?;
        for _access_modification in 0..2 {
            match input.u32()? {
                0 => {}
                1 => others = true,
                2 => {
                    input.u64()?;
                    others = true;
                }
                _ => return Err(Garbage),
            }
        }
        let guard = input.optional(|input| Ok((input.u32()?, input.u32()?)))?;
        attempt!(handle);
        if let Some(guard) = guard {
            let (seconds, nanoseconds) = change_time(&attempt!(self.file.metadata()));
            if guard != (seconds as u32, nanoseconds as u32) {
                return Ok(Err(Status::OutOfSync));
            }
        }
        if others {
            return Ok(Err(Status::NotPermitted));
        }
        if let Some(size) = size {
            attempt!(self.file.set_len(size));
        }
        attempt!(self.attributes_afterwards(out));
        Ok(Ok(()))
    }

    fn look_up(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let handle = self.folder_handle(input)?;
        let name = input.opaque(NAME_BYTES)?;
        attempt!(handle);
        let found = match name {
            b"." | b".." => self.root(),
            name if name == FILE.as_bytes() => self.handle,
            _ => return Ok(Err(Status::NoEntry)),
        };
        out.opaque(&found.bytes());
        attempt!(self.some_attributes(found.kind, out));
        attempt!(self.some_attributes(Kind::Folder, out));
        Ok(Ok(()))
    }

    fn access(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let (handle, asked) = (self.handle(input)?, input.u32()?);
        let kind = attempt!(handle);
        let granted = match kind {
            Kind::Disk => MAY_READ | MAY_MODIFY | MAY_EXTEND,
            Kind::Folder => MAY_READ | MAY_LOOK_UP,
        };
        attempt!(self.some_attributes(kind, out));
        out.u32(asked & granted);
        Ok(Ok(()))
    }

    fn read(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let (handle, offset, asked) = (self.disk_handle(input)?, input.u64()?, input.u32()?);
        attempt!(handle);
        let asked = asked.min(MAX_TRANSFER_BYTES);
        attempt!(self.some_attributes(Kind::Disk, out));
        let counted = out.0.len();
        out.u32(0).bool(false);
        let read = attempt!(out.filled(asked as usize, |buffer| read_fully(&self.file, buffer, offset)));
        // This also covers a file that ends exactly there.
        let at_end = read < asked as usize || attempt!(self.file.metadata()).size() <= offset + read as u64;
        out.0[counted..counted + 4].copy_from_slice(&(read as u32).to_be_bytes());
        out.0[counted + 7] = at_end.into();
        Ok(Ok(()))
    }

    fn write(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let (handle, offset, count) = (self.disk_handle(input)?, input.u64()?, input.u32()?);
        let stability = match input.u32()? {
            0 => Stability::Unstable,
            1 => Stability::Data,
            2 => Stability::File,
            _ => return Err(Garbage),
        };
        let data = input.opaque(usize::MAX)?;
        attempt!(handle);
        if data.len() != count as usize {
            return Ok(Err(Status::Invalid));
        }
        attempt!(self.file.write_all_at(data, offset));
        attempt!(self.sync(stability));
        attempt!(self.attributes_afterwards(out));
        out.u32(count).u32(stability as u32).bytes(&self.verifier());
        Ok(Ok(()))
    }

    fn commit(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let (handle, _offset, _count) = (self.disk_handle(input)?, input.u64()?, input.u32()?);
        attempt!(handle);
        attempt!(self.sync(Stability::Data));
        attempt!(self.attributes_afterwards(out));
        out.bytes(&self.verifier());
        Ok(Ok(()))
    }

    /// Writes cached data to the host's disk. Once that has failed, it always fails.
    fn sync(&self, stability: Stability) -> io::Result<()> {
        let synced = match stability {
            Stability::Unstable => return Ok(()),
            _ if self.sync_failed.load(Ordering::SeqCst) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Stability::Data => self.file.sync_data(),
            Stability::File => self.file.sync_all(),
        };
        self.sync_failed.fetch_or(synced.is_err(), Ordering::SeqCst);
        synced
    }

    /// Returns the number that tells clients whether data that they have not committed is lost. It never
    /// changes: data written by this process is in the kernel's memory, and survives the process.
    fn verifier(&self) -> [u8; 8] {
        self.handle.inode.to_be_bytes()
    }

    fn read_folder(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let (handle, cookie, verifier) = (self.folder_handle(input)?, input.u64()?, input.array::<8>()?);
        let _most_bytes = input.u32()?;
        attempt!(handle);
        attempt!(self.some_attributes(Kind::Folder, out));
        out.bytes(&verifier);
        let (folder, disk) = (!self.handle.inode, self.handle.inode);
        for (number, id, name) in [(1, folder, "."), (2, folder, ".."), (3, disk, FILE)] {
            if number > cookie {
                out.bool(true).u64(id).opaque(name.as_bytes()).u64(number);
            }
        }
        // No more entries, and the end of the folder.
        out.bool(false).bool(true);
        Ok(Ok(()))
    }

    fn file_system_status(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let kind = attempt!(self.handle(input)?);
        let system = attempt!(fstatvfs(&self.file).map_err(io::Error::from));
        let bytes = |blocks: u64| blocks.saturating_mul(system.fragment_size());
        attempt!(self.some_attributes(kind, out));
        out.u64(bytes(system.blocks())).u64(bytes(system.blocks_free()));
        out.u64(bytes(system.blocks_available()));
        out.u64(system.files()).u64(system.files_free()).u64(system.files_available());
        // How long this remains valid, in seconds: not at all.
        out.u32(0);
        Ok(Ok(()))
    }

    fn file_system_information(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        const PREFERRED_MULTIPLE: u32 = 4096;
        const HOMOGENEOUS: u32 = 8;
        let kind = attempt!(self.handle(input)?);
        attempt!(self.some_attributes(kind, out));
        for _reading_writing in 0..2 {
            out.u32(MAX_TRANSFER_BYTES).u32(MAX_TRANSFER_BYTES).u32(PREFERRED_MULTIPLE);
        }
        out.u32(PREFERRED_MULTIPLE).u64(i64::MAX as u64);
        // Times are exact to the nanosecond.
        out.u32(0).u32(1).u32(HOMOGENEOUS);
        Ok(Ok(()))
    }

    fn path_limits(&self, input: &mut Input<'_>, out: &mut Output<'_>) -> Done {
        let kind = attempt!(self.handle(input)?);
        attempt!(self.some_attributes(kind, out));
        // One link; longer names are refused; owners cannot be changed; letters keep their case.
        out.u32(1).u32(NAME_BYTES as u32).bool(true).bool(true).bool(false).bool(true);
        Ok(Ok(()))
    }
}

fn change_time(metadata: &Metadata) -> (i64, i64) {
    (metadata.ctime(), metadata.ctime_nsec())
}

/// Reads until the buffer is full or the file ends. Returns the number of bytes read.
fn read_fully(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
