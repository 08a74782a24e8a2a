//! A guest that has booted, saved on its node, that every attempt starts from.
//!
//! A boot takes seconds under TCG, and no two boots leave the same memory behind. So a guest is booted once
//! for a machine, up to the stressor's first words, and QEMU writes its state into a file in the node's
//! private directory, by the same means that migrate it. Attempts then start in a fraction of a second, and
//! alike.

use super::{
    machine::{self, Machine},
    parameters::NO_CAP,
    process::{self, Guest, Handle},
    qmp,
};
use crate::{
    driver::control_port,
    node::{Node, server::isolate::RUN_DIR},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time;

/// The longest a guest may take to boot. Under nested TCG it takes 80 s, and where other programs use the
/// host's cores three times that and more. A kernel that panics ends QEMU, so that nobody waits for it.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// How often QEMU is asked whether it has saved the guest.
const INTERVAL: Duration = Duration::from_millis(10);

/// An error booting or saving the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU or its guest did not run.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// QEMU ran, but did not save it.
    #[error("QEMU could not save the guest that it had booted in its node's {RUN_DIR} ({status}){words}")]
    Save {
        /// What QEMU says of it.
        status: String,
        /// The last lines of QEMU and of what it saved through, if there are any, with a lead-in.
        words: String,
    },
}

impl From<qmp::Error> for Error {
    fn from(error: qmp::Error) -> Self {
        Self::Process(error.into())
    }
}

impl From<control_port::Error> for Error {
    fn from(error: control_port::Error) -> Self {
        Self::Process(error.into())
    }
}

/// Which machine's guest is saved at a lab's source, if any is. It goes with the lab.
#[derive(Debug, Default)]
pub struct SavedGuest(Option<Machine>);

impl SavedGuest {
    /// Whether the guest of this machine is saved.
    pub fn is_of(&self, machine: &Machine) -> bool {
        self.0.as_ref() == Some(machine)
    }

    /// Waits until the guest of a QEMU in [`machine::Role::Boot`] has booted, and saves it in place of what
    /// is saved. QEMU and its guest, now stopped, are of no use afterwards.
    pub async fn save(&mut self, node: &Node, process: &Handle, machine: &Machine) -> Result<(), Error> {
        self.0 = None;
        process::while_alive(process, save(node, process)).await?;
        self.0 = Some(machine.clone());
        Ok(())
    }
}

async fn save(node: &Node, process: &Handle) -> Result<(), Error> {
    let guest = Guest::connect(node, process).await?;
    guest.stressor.hello(BOOT_LIMIT).await?;
    // Without this QEMU writes at most 128 MiB/s.
    guest.monitor.call("migrate-set-parameters", json!({ "max-bandwidth": NO_CAP })).await?;
    guest.monitor.call("migrate", json!({ "uri": machine::save_uri() })).await?;
    loop {
        let status: Value = guest.monitor.query("query-migrate").await?;
        match status["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                let said = status["error-desc"].as_str().unwrap_or("it does not say why");
                return Err(Error::Save { status: said.into(), words: process.last_words() });
            }
            _ => time::sleep(INTERVAL).await,
        }
    }
}
