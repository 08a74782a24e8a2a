//! Access to userfaultfd for the QEMUs of a node.
//!
//! The destination of post-copy has to handle page faults, those of the kernel included. By default, Linux
//! allows only root to do that, but QEMU runs as an unprivileged user. Instead of root's rights, QEMU gets a
//! device of its own: a `/dev/userfaultfd` that belongs to its user and exists only in the node's mount
//! namespace. The host's device and `vm.unprivileged_userfaultfd` stay as they are.

use super::isolate::node_dir;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, mknod},
    unistd::{Gid, Uid, chown},
};
use std::{fs, io, os::unix::fs::MetadataExt};

/// The device, by the kernel's name.
const DEVICE: &str = "/dev/userfaultfd";

/// Puts a device that belongs to `user` in the place of [`DEVICE`], in this mount namespace. It exists until
/// the namespace is gone. Does nothing if it already exists.
///
/// # Errors
/// The kernel has no such device (Linux 6.1 and later have it), or this process may not create one.
pub(super) fn offer(user: u32) -> io::Result<()> {
    let host = fs::metadata(DEVICE)?;
    if host.uid() == user {
        return Ok(());
    }
    // A separate file system, since that of `/run` does not allow devices.
    let folder = node_dir().join("userfaultfd");
    fs::create_dir(&folder)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("testbed"), &folder, Some("tmpfs"), flags, Some("mode=700"))?;
    let put = || -> Result<(), Errno> {
        let device = folder.join("device");
        mknod(&device, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, host.rdev())?;
        chown(&device, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?;
        let none: Option<&str> = None;
        mount(Some(&device), DEVICE, none, MsFlags::MS_BIND, none)
    };
    let put = put();
    umount2(&folder, MntFlags::MNT_DETACH)?;
    fs::remove_dir(&folder)?;
    Ok(put?)
}
