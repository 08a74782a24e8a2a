//! The guest's disk, as options of QEMU.
//!
//! The device is the same in every QEMU, or the guest could not migrate. What differs is what is behind it.
//! The source and the destination each inherit a file; see [`crate::node::server::serve`]. A QEMU that boots
//! or tries a guest has a disk of zeros that keeps nothing: the guest does not use its disk before it is
//! asked to.

use super::{image, machine::Role, process};
use crate::{
    lab::topology::STORAGE_CONTROLLER_ADDRESS,
    matrix::{CacheMode, ImageFormat, MirrorSync, Storage, StorageKind},
    nfs,
    node::{
        self, Node, NodeError,
        protocol::{ProcessSpec, disk_path},
    },
};
use std::{net::Ipv4Addr, path::Path};
use units::Bytes;

/// The name of the block node that the guest's disk reads and writes.
pub const NODE: &str = "disk";

/// The folder for disks on each host, the usual place for large files that are not needed for long.
pub const FOLDER: &str = "/var/tmp";

/// An error creating a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node could not create the file, or start QEMU.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The QEMU that writes the image did not answer.
    #[error("QEMU could not write the disk's image: {0}")]
    Monitor(#[from] process::Error),
    /// The QEMU that writes the image has failed, for this reason.
    #[error("QEMU could not write the disk's image: {0}")]
    Image(String),
}

/// The guest's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The size that the guest sees.
    pub size: Bytes,
    /// The format of the image.
    pub format: ImageFormat,
    /// How QEMU uses caches.
    pub cache: CacheMode,
    /// Whether the guest can discard blocks.
    pub discard: bool,
    /// Whether data written beforehand is in an image of its own, below the image that the guest writes to.
    pub has_base: bool,
    /// Where the image is.
    pub image: Image,
}

/// Where the image of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// In a file on each host, which QEMU inherits from its node. A base is in a second file.
    Inherited,
    /// On the lab's NFS server ([`crate::nfs`]) at this address.
    Nfs(Ipv4Addr),
    /// In the file with this path, which both hosts have mounted.
    Mounted(String),
}

impl Disk {
    /// Returns the disk of a guest with these settings, if it has one.
    pub fn of(storage: &Storage) -> Option<Self> {
        let Storage { kind, size, format, cache, discard, sync, .. } = *storage;
        let image = match kind {
            StorageKind::None => return None,
            StorageKind::Shared => Image::Nfs(STORAGE_CONTROLLER_ADDRESS),
            StorageKind::Block => Image::Inherited,
        };
        let has_base = kind == StorageKind::Block && sync == MirrorSync::Top;
        Some(Self { size, format, cache, discard, has_base, image })
    }

    /// Returns the options that give the disk to a QEMU in this role.
    pub(super) fn arguments(&self, role: Role) -> Vec<String> {
        let mut arguments = Vec::new();
        let switch = |on| if on { "on" } else { "off" };
        let Self { size, format, cache, discard, has_base, ref image } = *self;
        if keeps(role) {
            let options = format!(
                "cache.direct={},cache.no-flush={},discard={}",
                switch(cache.is_direct()),
                switch(cache.ignores_flushes()),
                if discard { "unmap" } else { "ignore" },
            );
            let place = match image {
                Image::Inherited => format!("driver=file,filename={}", disk_path(0)),
                Image::Mounted(path) => format!("driver=file,filename={}", path.replace(',', ",,")),
                Image::Nfs(host) => {
                    format!("driver=nfs,server.type=inet,server.host={host},path={}", nfs::path())
                }
            };
            let protocol = format!("{place},node-name={NODE}-file,{options}");
            let mut format = format!("driver={},node-name={NODE},file={NODE}-file,{options}", format.name());
            if has_base {
                let base = format!(
                    "driver=raw,node-name={NODE}-base,read-only=on,file.driver=file,file.filename={}",
                    disk_path(1)
                );
                format = format!("{format},backing={NODE}-base");
                arguments.extend(["-blockdev".into(), base]);
            }
            arguments.extend(["-blockdev".into(), protocol, "-blockdev".into(), format]);
        } else {
            let zeros =
                format!("driver=null-co,node-name={NODE},size={size},read-zeroes=on", size = size.get());
            arguments.extend(["-blockdev".into(), zeros]);
        }
        let [cached, discards] = [cache.has_write_cache(), discard].map(switch);
        let device = format!("virtio-blk-pci,drive={NODE},write-cache={cached},discard={discards}");
        arguments.extend(["-device".into(), device]);
        arguments
    }
}

/// Returns whether a QEMU in this role has a disk that keeps what is written to it.
fn keeps(role: Role) -> bool {
    match role {
        Role::Source | Role::Destination => true,
        Role::Boot | Role::Trial | Role::IncomingTrial => false,
    }
}

/// Creates the files of the disk that a QEMU in this role inherits from its node, in the order of
/// [`disk_path`]. `written` is the amount of data written beforehand, at the source.
pub(super) async fn create_for(
    node: &Node,
    role: Role,
    disk: &Disk,
    written: Bytes,
) -> Result<Vec<node::Disk>, Error> {
    if disk.image != Image::Inherited || !keeps(role) {
        return Ok(Vec::new());
    }
    if disk.has_base {
        let base = node.create_disk(Path::new(FOLDER), disk.size, written).await?;
        return Ok(vec![create(node, disk, Bytes::ZERO).await?, base]);
    }
    let written = if role == Role::Source { written } else { Bytes::ZERO };
    Ok(vec![create(node, disk, written).await?])
}

/// Creates a disk on a node, in its format. `written` is the amount of data written beforehand.
pub async fn create(node: &Node, disk: &Disk, written: Bytes) -> Result<node::Disk, Error> {
    let create = async |size, written| Ok(node.create_disk(Path::new(FOLDER), size, written).await?);
    create_by(node, disk, written, create).await
}

/// Creates a disk like [`create`], as a file with a name in a folder that other hosts have mounted.
pub async fn create_in(folder: &Path, node: &Node, disk: &Disk, written: Bytes) -> Result<node::Disk, Error> {
    let create = async |size, written| Ok(node.create_named_disk(folder, size, written).await?);
    create_by(node, disk, written, create).await
}

/// Creates a disk from files that `create` creates, with their size and the amount of data in them.
async fn create_by(
    node: &Node,
    disk: &Disk,
    written: Bytes,
    create: impl AsyncFn(Bytes, Bytes) -> Result<node::Disk, Error>,
) -> Result<node::Disk, Error> {
    if disk.format == ImageFormat::Raw {
        return create(disk.size, written).await;
    }
    let content = if written.is_zero() { None } else { Some(create(disk.size, written).await?) };
    let image = create(Bytes::ZERO, Bytes::ZERO).await?;
    image::format(node, &image, disk.size, content.as_ref()).await?;
    Ok(image)
}

/// Returns whether the node's host can write to a file.
///
/// # Errors
///
/// If the node cannot tell.
pub async fn can_write(node: &Node, path: &str) -> Result<bool, NodeError> {
    let args = ["-w", path].map(Into::into).into();
    let mut test = node.spawn(ProcessSpec { program: "test".into(), args, ..ProcessSpec::default() }).await?;
    let (_, status) = test.end().await?;
    Ok(status == "exit status: 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_the_same_in_every_role() {
        let storage = Storage { kind: StorageKind::Block, ..Storage::default() };
        let disk = Disk::of(&storage).unwrap();
        let [boot, source, destination, trial] =
            [Role::Boot, Role::Source, Role::Destination, Role::Trial].map(|role| disk.arguments(role));
        let device = "virtio-blk-pci,drive=disk,write-cache=on,discard=off";
        for arguments in [&boot, &source, &destination, &trial] {
            assert_eq!(arguments[arguments.len() - 2..], ["-device", device]);
        }
        assert_eq!(boot, trial);
        assert_eq!(boot[1], "driver=null-co,node-name=disk,size=1073741824,read-zeroes=on");
        assert_eq!(
            source[1],
            "driver=file,filename={disk 0},node-name=disk-file,cache.direct=on,cache.no-flush=off,\
             discard=ignore"
        );
        assert_eq!(destination, source);
        assert_eq!(Disk::of(&Storage::default()), None);
    }

    #[test]
    fn the_cache_modes_are_those_of_qemu() {
        // The table of `cache` in qemu(1): cache.writeback (here the guest's write cache), cache.direct and
        // cache.no-flush.
        let modes = [
            (CacheMode::Writeback, [true, false, false]),
            (CacheMode::None, [true, true, false]),
            (CacheMode::Writethrough, [false, false, false]),
            (CacheMode::Directsync, [false, true, false]),
            (CacheMode::Unsafe, [true, false, true]),
        ];
        for (mode, expected) in modes {
            let found = [mode.has_write_cache(), mode.is_direct(), mode.ignores_flushes()];
            assert_eq!(found, expected, "{mode:?}");
        }
    }
}
