//! Checks whether hosts have space for the data that is written to the disks of guests beforehand.
//!
//! A cell is refused only if this minimum is not there: how much more its guest writes is not known.

use crate::{
    driver::qemu::disk,
    lab::Lab,
    matrix::{ImageFormat, MirrorSync, Storage, StorageKind},
    node::{Node, NodeError, protocol::DiskName},
};
use std::{collections::HashMap, path::Path};
use units::Bytes;

/// A host, and the kind of disk, on which the folder depends.
type Place = (&'static str, StorageKind);

/// The space in folders of a lab's hosts.
pub(super) struct Space<'a> {
    lab: &'a Lab,
    /// The free space, or why no disk can be created.
    known: HashMap<Place, Result<Bytes, String>>,
}

impl<'a> Space<'a> {
    pub(super) fn new(lab: &'a Lab) -> Self {
        Self { lab, known: HashMap::new() }
    }

    /// Returns why the hosts cannot hold the disk of these settings; nothing if they can.
    pub(super) async fn lacking(&mut self, storage: &Storage) -> Option<String> {
        let &Storage { kind, written, .. } = storage;
        if kind == StorageKind::None || written.is_zero() {
            return None;
        }
        let Lab { controller, source, destination, description, .. } = self.lab;
        let [together, first, second] = copies(storage);
        let hosts = match kind {
            _ if description.is_one_host() => vec![("this host", controller, together)],
            StorageKind::Shared => vec![("the controller", controller, first)],
            _ => vec![("the source", &source.node, first), ("the destination", &destination.node, second)],
        };
        let images = description.images.as_deref().filter(|_| kind == StorageKind::Shared);
        let (folder, name) = disk::place(images);
        for (host, node, copies) in hosts {
            let need = Bytes::new(written.get().saturating_mul(copies));
            match self.free((host, kind), node, folder, name).await {
                Ok(free) if need > free => {
                    return Some(format!(
                        "the data on the disk takes at least {need} in {}, but {host} has only {} free \
                         there: lower `storage.written`, or free space",
                        folder.display(),
                        free.rounded_binary()
                    ));
                }
                Ok(_) => {}
                Err(why) => return Some(why),
            }
        }
        None
    }

    async fn free(
        &mut self,
        place: Place,
        node: &Node,
        folder: &Path,
        name: DiskName,
    ) -> Result<Bytes, String> {
        if let Some(free) = self.known.get(&place) {
            return free.clone();
        }
        let free = measure(node, folder, name).await.map_err(|error| error.to_string());
        self.known.insert(place, free.clone());
        free
    }
}

/// Measures the space for disks in a folder, with an empty one.
async fn measure(node: &Node, folder: &Path, name: DiskName) -> Result<Bytes, NodeError> {
    let empty = node.create_disk(folder, name, Bytes::ZERO, Bytes::ZERO).await?;
    Ok(Bytes::new(empty.usage().await?.free_bytes))
}

/// Returns how many times the data written beforehand takes space: on a host with both ends, on the host that
/// writes it, and on the other.
fn copies(storage: &Storage) -> [u64; 3] {
    let is_copied = storage.kind == StorageKind::Block;
    let is_base = is_copied && storage.sync == MirrorSync::Top;
    // An image of another format is made from a raw one, which is there until then.
    let first = if storage.format == ImageFormat::Raw || is_base { 1 } else { 2 };
    let second = u64::from(is_copied);
    [first.max(1 + second), first, second]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn data_takes_space_wherever_a_copy_of_it_is() {
        for (kind, format, sync, expected) in [
            ("shared", "raw", "full", [1, 1, 0]),
            ("shared", "qcow2", "full", [2, 2, 0]),
            ("block", "raw", "full", [2, 1, 1]),
            ("block", "qcow2", "full", [2, 2, 1]),
            ("block", "qcow2", "top", [2, 1, 1]),
        ] {
            let storage = json!({ "kind": kind, "format": format, "sync": sync });
            assert_eq!(copies(&serde_json::from_value(storage).unwrap()), expected, "{kind} {format} {sync}");
        }
    }
}
