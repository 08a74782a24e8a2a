//! The saved guest: a booted guest in a file on its node, from which every attempt starts.
//!
//! A boot takes seconds under TCG, and no two boots leave the same memory contents. So for each guest
//! machine, a guest is booted once, up to the stressor's greeting. QEMU then writes its state into a file in
//! the node's private directory, by migrating it there. Attempts start from that file in a fraction of a
//! second, all from the same state.

use super::{
    jobs::Progress,
    machine::{self, GuestMachine, Role},
    parameters::NO_CAP,
    process::{self, Connections, QemuProcess},
    qmp,
};
use crate::{
    driver::control_port,
    node::{Node, server::isolate::RUN_DIR},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time;

/// The longest that a guest may take to boot. Under nested TCG it takes 80 s, and three times that or more
/// while other programs use the host's cores. A kernel panic ends QEMU, so it is noticed without waiting that
/// long.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// The interval at which QEMU is asked whether it has saved the guest.
const INTERVAL: Duration = Duration::from_millis(10);

/// An error booting or saving the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU did not start, or its guest did not boot.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The guest booted, but QEMU could not save it.
    #[error(
        "QEMU could not save the booted guest to its node's {RUN_DIR} ({reason}){}",
        process::after_colon(.lines)
    )]
    Save {
        /// The reason that QEMU gives.
        reason: String,
        /// The last lines of output, of QEMU and of the command through which it saves.
        lines: Vec<String>,
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

/// The guest saved at a lab's source, known by the command that boots it; empty while no guest is saved. It
/// is lost with the lab.
#[derive(Debug, Default)]
pub struct SavedGuest(Option<Vec<String>>);

impl SavedGuest {
    /// Returns whether the saved guest has this machine.
    pub fn has_machine(&self, machine: &GuestMachine) -> bool {
        self.0.as_ref() == Some(&machine::command(machine, Role::Boot).args)
    }

    /// Waits until the guest of a QEMU in [`machine::Role::Boot`] has booted, and saves it, replacing any
    /// previously saved guest. Afterwards the guest is stopped, and its QEMU should be killed.
    pub async fn save(
        &mut self,
        node: &Node,
        process: &QemuProcess,
        machine: &GuestMachine,
    ) -> Result<(), Error> {
        self.0 = None;
        process::while_alive(process, save(node, process)).await?;
        self.0 = Some(machine::command(machine, Role::Boot).args);
        Ok(())
    }
}

async fn save(node: &Node, process: &QemuProcess) -> Result<(), Error> {
    let Connections { monitor, control_port } = Connections::connect(node, process).await?;
    control_port.hello(BOOT_LIMIT).await?;
    // By default QEMU writes at most 128 MiB/s.
    monitor.call("migrate-set-parameters", json!({ "max-bandwidth": NO_CAP })).await?;
    monitor.call("migrate", json!({ "uri": machine::save_uri() })).await?;
    let failed = |reason: &str| Error::Save { reason: reason.into(), lines: process.last_lines() };
    let mut progress = Progress::from(None);
    loop {
        let status: Value = monitor.query("query-migrate").await?;
        match status["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                return Err(failed(status["error-desc"].as_str().unwrap_or("it gives no reason")));
            }
            _ => match progress.stalled(status["ram"]["transferred"].as_u64()) {
                Some(reason) => return Err(failed(&reason)),
                None => time::sleep(INTERVAL).await,
            },
        }
    }
}
