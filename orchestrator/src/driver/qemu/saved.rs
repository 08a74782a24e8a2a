//! A guest that has booted, saved on its node, for every attempt to go on from.
//!
//! A boot takes seconds under TCG, and no two boots leave the same memory behind. So a guest is booted once for
//! a machine, up to the stressor's first words, and QEMU writes its state into a file in the node's private
//! directory, by the same means that migrate it. Attempts then start in a fraction of a second, and alike.

use super::{
    machine,
    process::{self, Guest, Handle},
};
use crate::{
    driver::{control_port, qemu::qmp},
    node::{Node, server::isolate::RUN_DIR},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time;

/// The longest a guest may take to boot. Under nested TCG it takes 80 s, and where other programs use the host's cores
/// three times that and more. A kernel that panics ends QEMU, so that nobody waits for it.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// How often QEMU is asked whether it has saved the guest.
const INTERVAL: Duration = Duration::from_millis(10);

/// Why no guest was saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU did not run.
    #[error(transparent)]
    Qemu(#[from] process::Error),
    /// The stressor did not.
    #[error(transparent)]
    Stressor(#[from] control_port::Error),
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
        Self::Qemu(error.into())
    }
}

/// Waits until the guest of a QEMU in [`machine::Role::Boot`] has booted, and saves it. QEMU and its guest, now
/// stopped, are of no use afterwards.
pub async fn save(node: &Node, process: &Arc<Handle>) -> Result<(), Error> {
    process::while_alive(std::slice::from_ref(process), async {
        let guest = Guest::connect(node, process).await?;
        guest.stressor.hello(BOOT_LIMIT).await?;
        // Without this QEMU writes at most 128 MiB/s.
        guest.monitor.call("migrate-set-parameters", json!({ "max-bandwidth": machine::NO_CAP })).await?;
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
    })
    .await
}
