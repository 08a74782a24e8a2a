//! The guest's disk, as options of QEMU.
//!
//! The device is the same in every QEMU, or the guest could not migrate. What differs is what is behind it.
//! The source and the destination each inherit a file; see [`crate::node::server::serve`]. A QEMU that boots
//! or tries a guest has a disk of zeros that keeps nothing: the guest does not use its disk before it is
//! asked to.

use super::{confinement::Confinement, image, machine::Role, process};
use crate::{
    lab::topology::STORAGE_CONTROLLER_ADDRESS,
    matrix::{CacheMode, ImageFormat, MirrorSync, Storage, StorageKind},
    nfs,
    node::{
        self, Node, NodeError,
        protocol::{DiskName, disk_path},
    },
};
use serde_json::json;
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
    /// In the file with this path, which both hosts have mounted. QEMU inherits it from its node, too.
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
            let discarded = if discard { "unmap" } else { "ignore" };
            let options = format!(
                "cache.direct={},cache.no-flush={},discard={discarded}",
                switch(cache.is_direct()),
                switch(cache.ignores_flushes()),
            );
            let place = match image {
                Image::Inherited | Image::Mounted(_) => format!("driver=file,filename={}", disk_path(0)),
                Image::Nfs(host) => {
                    format!("driver=nfs,server.type=inet,server.host={host},path={}", nfs::path())
                }
            };
            let protocol = format!("{place},node-name={NODE}-file,{options}");
            let name = format.name();
            let mut above = format!("driver={name},node-name={NODE},file={NODE}-file,{options}");
            if has_base {
                let base = format!(
                    "driver=raw,node-name={NODE}-base,read-only=on,file.driver=file,file.filename={}",
                    disk_path(1)
                );
                above = format!("{above},backing={NODE}-base");
                arguments.extend(["-blockdev".into(), base]);
            } else if format == ImageFormat::Qcow2 {
                // Whatever backing file the image names, it has none. Only JSON can say so.
                let cache = json!({ "direct": cache.is_direct(), "no-flush": cache.ignores_flushes() });
                let file = format!("{NODE}-file");
                above = json!({
                    "driver": name, "node-name": NODE, "file": file, "backing": null, "cache": cache,
                    "discard": discarded,
                })
                .to_string();
            }
            arguments.extend(["-blockdev".into(), protocol, "-blockdev".into(), above]);
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

/// Creates or opens the files of the disk that a QEMU in this role inherits from its node, in the order of
/// [`disk_path`]. `written` is the part that has been written beforehand, at the source.
pub(super) async fn create_for(
    node: &Node,
    role: Role,
    disk: &Disk,
    written: Bytes,
    confinement: Confinement,
) -> Result<Vec<node::Disk>, Error> {
    match &disk.image {
        Image::Inherited if keeps(role) => {}
        Image::Mounted(path) if keeps(role) => return Ok(vec![node.open_disk(path).await?]),
        Image::Inherited | Image::Mounted(_) | Image::Nfs(_) => return Ok(Vec::new()),
    }
    if disk.has_base {
        let (folder, name) = place(None);
        let base = node.create_disk(folder, name, disk.size, written).await?;
        return Ok(vec![create(node, None, disk, Bytes::ZERO, confinement).await?, base]);
    }
    let written = if role == Role::Source { written } else { Bytes::ZERO };
    Ok(vec![create(node, None, disk, written, confinement).await?])
}

/// Returns the folder for a file, and whether it gets a name there: one that other hosts open has a name in
/// the folder that all hosts share, and any other none.
pub fn place(shared: Option<&Path>) -> (&Path, DiskName) {
    shared.map_or((Path::new(FOLDER), DiskName::Unnamed), |folder| (folder, DiskName::Named))
}

/// Creates a disk on a node, in its format, in the folder that all hosts share or on the node's host alone.
/// `written` is the part that has been written beforehand. `confinement` is for a QEMU that writes the image.
pub async fn create(
    node: &Node,
    shared: Option<&Path>,
    disk: &Disk,
    written: Bytes,
    confinement: Confinement,
) -> Result<node::Disk, Error> {
    let (folder, name) = place(shared);
    let create = async |size, written| node.create_disk(folder, name, size, written).await;
    if disk.format == ImageFormat::Raw {
        return Ok(create(disk.size, written).await?);
    }
    let content = if written.is_zero() { None } else { Some(create(disk.size, written).await?) };
    let image = create(Bytes::ZERO, Bytes::ZERO).await?;
    image::format(node, &image, disk.size, content.as_ref(), confinement).await?;
    Ok(image)
}

/// Returns whether the node's host can write to a file.
///
/// # Errors
///
/// If the node cannot tell.
pub async fn can_write(node: &Node, path: &str) -> Result<bool, NodeError> {
    let (_, status) = node.run("test", &["-w", path]).await?;
    Ok(status.is_success())
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
        let mounted = Disk { image: Image::Mounted("/images/disk".into()), ..disk.clone() };
        assert_eq!(mounted.arguments(Role::Source), source, "it is inherited, too");
        let qcow2 = Disk { format: ImageFormat::Qcow2, ..disk };
        let above = &qcow2.arguments(Role::Source)[3];
        let above: serde_json::Value = serde_json::from_str(above).unwrap();
        let expected = json!({
            "driver": "qcow2", "node-name": "disk", "file": "disk-file", "backing": null,
            "cache": { "direct": true, "no-flush": false }, "discard": "ignore",
        });
        assert_eq!(above, expected);
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
