//! Migration to another QEMU on the same host, which takes over the guest's memory (`cpr-transfer`).
//!
//! The memory is in anonymous files (memfd). The source first passes their descriptors over a socket of type
//! `cpr`, and then sends only the device state over the main socket. The destination waits for the
//! descriptors before it creates its machine, so it has no monitor until the source has started to migrate.
//! The order is that of docs/devel/migration/CPR.rst.
//!
//! The nodes of a lab have networks of their own, but Unix sockets with a path connect them. The sockets are
//! in a folder that only the group of both QEMUs can enter, and root.

use super::{Error, confinement::Confinement, disk::FOLDER, process::START_LIMIT};
use crate::node::{self, Node, protocol::ProcessSpec};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use tokio::time;

/// The name of the guest's memory, which is also its default name.
const MEMORY: &str = "pc.ram";

/// The options of the machine: they name its memory, and make all other memory of the guest transferable too.
pub(super) const MACHINE_OPTIONS: &str = ",memory-backend=pc.ram,aux-ram-share=on";

/// The placeholder in the arguments of a QEMU for the folder of the sockets.
const SOCKETS: &str = "{sockets}";

/// The name of the socket of type `cpr`.
const CPR: &str = "cpr";

/// The name of the main socket.
const MAIN: &str = "main";

/// The interval at which the node tries to open the socket of type `cpr` to the source.
const INTERVAL: Duration = Duration::from_millis(50);

/// Returns the object that is the guest's memory, of this size.
pub(super) fn memory(size: &str) -> String {
    format!("memory-backend-memfd,id={MEMORY},size={size},share=on")
}

/// Returns the option that makes a destination wait for the descriptors.
pub(super) fn incoming() -> String {
    channel(CPR, Path::new(SOCKETS)).to_string()
}

/// Returns the channel of this type, whose socket is in this folder.
fn channel(kind: &str, folder: &Path) -> Value {
    let path = folder.join(kind);
    json!({ "channel-type": kind, "addr": { "transport": "socket", "type": "unix", "path": path } })
}

/// The sockets of one migration.
#[derive(Default)]
pub(super) struct CprTransfer {
    folder: Option<node::Disk>,
}

impl CprTransfer {
    /// Creates the folder on the destination's node.
    pub(super) async fn create(&mut self, destination: &Node, confined: Confinement) -> Result<(), Error> {
        self.folder = Some(destination.create_folder(Path::new(FOLDER), confined.user_number()).await?);
        Ok(())
    }

    /// Removes the folder.
    pub(super) async fn close(&mut self) -> Result<(), Error> {
        match self.folder.take() {
            Some(folder) => Ok(folder.close().await?),
            None => Ok(()),
        }
    }

    fn path(&self) -> &Path {
        Path::new(self.folder.as_ref().map_or("", node::Disk::path))
    }

    /// Returns the command of a QEMU with the folder in it.
    pub(super) fn give_to(&self, mut command: ProcessSpec) -> ProcessSpec {
        let folder = self.path().display().to_string();
        command.args.iter_mut().for_each(|arg| *arg = arg.replace(SOCKETS, &folder));
        command
    }

    /// Waits until the destination listens at the socket of type `cpr`, and lets the source connect. The
    /// destination creates the socket before it switches to the user that both QEMUs run as.
    pub(super) async fn open_socket(&self) -> Result<(), Error> {
        let missing = || Error::NoSocket(self.path().join(CPR).display().to_string());
        let folder = self.folder.as_ref().ok_or_else(missing)?;
        let opened = async {
            while !folder.open_socket(CPR).await? {
                time::sleep(INTERVAL).await;
            }
            Ok(())
        };
        time::timeout(START_LIMIT, opened).await.unwrap_or_else(|_| Err(missing()))
    }

    /// Returns the channels over which the source migrates.
    pub(super) fn outgoing(&self) -> Value {
        json!({ "channels": [channel(MAIN, self.path()), channel(CPR, self.path())] })
    }

    /// Returns the channel at which the destination listens once it has the descriptors.
    pub(super) fn incoming(&self) -> Value {
        json!({ "channels": [channel(MAIN, self.path())] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_gets_into_the_command() {
        let command = ProcessSpec { args: vec!["-incoming".into(), incoming()], ..ProcessSpec::default() };
        assert!(command.args[1].contains("{sockets}/cpr"), "{command}");
        let given = CprTransfer::default().give_to(command);
        let option: Value = serde_json::from_str(&given.args[1]).unwrap();
        assert_eq!(option["channel-type"], "cpr");
        assert_eq!(option["addr"]["path"], "/cpr");
    }
}
