//! Migration to another QEMU on the same host, which takes over the guest's memory (`cpr-transfer`).
//!
//! The memory is in anonymous files (memfd). The source first passes their descriptors over a socket of type
//! `cpr`, and then sends only the device state over the main socket. The destination waits for the
//! descriptors before it creates its machine, so it has no monitor until the source has started to migrate.
//! The order is that of docs/devel/migration/CPR.rst.
//!
//! The nodes of a lab have networks of their own, but Unix sockets with a path connect them. The sockets are
//! in a folder of the destination's node. The source's node opens it, and both QEMUs inherit it; nobody else
//! can reach it, and it is gone with the node.

use super::{Error, process::START_LIMIT};
use crate::node::{
    self, Node, NodeError,
    protocol::{ProcessSpec, file_path},
};
use serde_json::{Value, json};
use std::time::Duration;
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
    channel(CPR, SOCKETS).to_string()
}

/// Returns the channel of this type, whose socket is in this folder.
fn channel(kind: &str, folder: &str) -> Value {
    let path = format!("{folder}/{kind}");
    json!({ "channel-type": kind, "addr": { "transport": "socket", "type": "unix", "path": path } })
}

/// The sockets of one migration.
#[derive(Default)]
pub(super) struct CprTransfer {
    /// Their folder as the source and the destination inherit it.
    ends: Option<[node::Disk; 2]>,
}

impl CprTransfer {
    /// Creates the folder at the destination, and opens it at the source.
    pub(super) async fn create(&mut self, source: &Node, destination: &Node) -> Result<(), NodeError> {
        let created = destination.create_folder().await?;
        let opened = source.open_folder(created.path()).await?;
        self.ends = Some([opened, created]);
        Ok(())
    }

    /// Returns the folder as the source and the destination inherit it.
    pub(super) fn ends(&self) -> Option<&[node::Disk; 2]> {
        self.ends.as_ref()
    }

    /// Returns the paths of the folder for both QEMUs.
    fn paths(&self) -> Result<[String; 2], Error> {
        let ends = self.ends.as_ref().ok_or(Error::NoFolder)?;
        Ok(ends.each_ref().map(|end| file_path(end.number())))
    }

    /// Waits until the destination listens at the socket of type `cpr`, and lets the source connect. The
    /// destination creates the socket before it switches to the user that both QEMUs run as.
    pub(super) async fn open_socket(&self) -> Result<(), Error> {
        let [_, folder] = self.ends.as_ref().ok_or(Error::NoFolder)?;
        let opened = async {
            while !folder.open_socket(CPR).await? {
                time::sleep(INTERVAL).await;
            }
            Ok(())
        };
        time::timeout(START_LIMIT, opened).await.unwrap_or(Err(Error::NoSocket))
    }

    /// Returns the channels over which the source migrates.
    pub(super) fn outgoing(&self) -> Result<Value, Error> {
        let [folder, _] = self.paths()?;
        Ok(json!({ "channels": [channel(MAIN, &folder), channel(CPR, &folder)] }))
    }

    /// Returns the channel at which the destination listens once it has the descriptors.
    pub(super) fn incoming(&self) -> Result<Value, Error> {
        let [_, folder] = self.paths()?;
        Ok(json!({ "channels": [channel(MAIN, &folder)] }))
    }
}

/// Puts the path of the folder with this number into the command of a QEMU.
pub(super) fn fill_in(folder: u64, command: ProcessSpec) -> ProcessSpec {
    let folder = file_path(folder);
    let args = command.args.into_iter().map(|arg| arg.replace(SOCKETS, &folder)).collect();
    ProcessSpec { args, ..command }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_gets_into_the_command() {
        let command = ProcessSpec { args: vec!["-incoming".into(), incoming()], ..ProcessSpec::default() };
        assert!(command.args[1].contains("{sockets}/cpr"), "{command}");
        let filled = fill_in(7, command);
        let option: Value = serde_json::from_str(&filled.args[1]).unwrap();
        assert_eq!(option["channel-type"], "cpr");
        assert_eq!(option["addr"]["path"], "node/file-7/cpr");
    }
}
