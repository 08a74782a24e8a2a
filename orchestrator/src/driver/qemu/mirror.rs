//! Block live migration: the source's disk is mirrored to the destination while the guest runs.
//!
//! The destination exports its disk by NBD. The source's mirror job first copies what is written on the disk
//! (the bulk phase), and then keeps the copy up to date. Only then does memory migrate, with QEMU's
//! capability `pause-before-switchover`: QEMU stops the guest and waits before it hands over. Then the mirror
//! is ended, with nothing left to copy, and the destination's export is removed, since the guest is about to
//! write to the disk there itself. The order is that of libvirt (`qemu_migration.c`).

use super::{
    Error, disk,
    jobs::{self, Job},
    process::Connections,
};
use crate::{
    driver::{State, Status},
    matrix::MirrorSync,
    measure::samples::{DiskProgress, Sample},
    node::Node,
};
use serde_json::json;
use std::{cell::Cell, net::Ipv4Addr, time::Duration};

/// The port of the destination's NBD server, the one assigned to NBD. Only this lab uses it: the nodes have
/// networks of their own.
const PORT: u16 = 10809;

/// The name of the mirror job.
const JOB: &str = "mirror";

/// The name of the block node that the mirror job writes to.
const TARGET: &str = "mirror-target";

/// The interval at which the mirror job is asked whether it has ended. The guest is stopped meanwhile.
const INTERVAL: Duration = Duration::from_millis(1);

/// The stage of the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The mirror has not begun.
    Idle,
    /// The mirror runs, and memory does not migrate yet.
    Alone,
    /// The mirror runs while memory migrates.
    WithMemory,
    /// The mirror is being ended, or has ended: the guest uses the destination's disk.
    Completed,
    /// The mirror was cancelled before memory migrated.
    CancelledAlone,
    /// The mirror was cancelled while memory migrated; the migration of memory determines how the migration
    /// ends.
    CancelledWithMemory,
}

/// The mirror of a disk.
pub(super) struct Mirror {
    /// What the job copies.
    sync: MirrorSync,
    stage: Cell<Stage>,
    /// How far the job had come when it was last asked.
    progress: Cell<Option<DiskProgress>>,
}

/// The state of the mirror job.
pub(super) enum JobState {
    /// The job is copying.
    Running(DiskProgress),
    /// The copy is up to date, and is kept up to date.
    Ready(DiskProgress),
    /// The job has ended on its own, for this reason.
    Failed(String),
}

impl JobState {
    /// Returns how far the copy has come, if the job still runs.
    pub(super) fn progress(&self) -> Option<DiskProgress> {
        match self {
            Self::Running(progress) | Self::Ready(progress) => Some(*progress),
            Self::Failed(_) => None,
        }
    }

    /// Returns the status of a migration that consists of the mirror only, at a time in milliseconds since it
    /// began.
    pub(super) fn without_memory(self, at_ms: f64) -> Status {
        let sample = Sample { at_ms, status: "mirroring".into(), disk: self.progress(), ..Sample::default() };
        let state = match self {
            Self::Running(_) => State::Mirroring,
            Self::Ready(_) => State::Mirrored,
            Self::Failed(reason) => State::Failed(Error::Mirror(reason).to_string()),
        };
        Status { state, sample }
    }
}

impl Mirror {
    pub(super) fn new(sync: MirrorSync) -> Self {
        Self { sync, stage: Cell::new(Stage::Idle), progress: Cell::default() }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.stage.set(stage);
    }

    /// Makes the destination export its disk at this address.
    pub(super) async fn export(&self, destination: &Connections, address: Ipv4Addr) -> Result<(), Error> {
        let address = json!({ "type": "inet", "data": { "host": address, "port": PORT.to_string() } });
        destination.call("nbd-server-start", json!({ "addr": address })).await?;
        let export = json!({
            "type": "nbd", "id": disk::NODE, "node-name": disk::NODE, "name": disk::NODE, "writable": true,
        });
        destination.call("block-export-add", export).await?;
        Ok(())
    }

    /// Starts to mirror the source's disk to the destination's, which is exported at this address.
    pub(super) async fn begin(&self, source: &Connections, address: Ipv4Addr) -> Result<(), Error> {
        let server = json!({ "type": "inet", "host": address, "port": PORT.to_string() });
        let target = json!({ "driver": "nbd", "node-name": TARGET, "server": server, "export": disk::NODE });
        source.call("blockdev-add", target).await?;
        let job = json!({
            "job-id": JOB,
            "device": disk::NODE,
            "target": TARGET,
            "sync": self.sync.name(),
            // A job that has failed stays until its reason has been read.
            "auto-dismiss": false,
        });
        source.call("blockdev-mirror", job).await?;
        self.stage.set(Stage::Alone);
        Ok(())
    }

    /// Returns how far the job had come when it was last asked.
    pub(super) fn progress(&self) -> Option<DiskProgress> {
        self.progress.get()
    }

    /// Asks for the state of the job.
    pub(super) async fn job(&self, node: &Node, source: &Connections) -> Result<JobState, Error> {
        let Some(job) = self.ask(node, source).await? else {
            return Ok(JobState::Failed(jobs::GONE.into()));
        };
        let progress = self.progress.get().unwrap_or_default();
        Ok(match (job.status.as_str(), job.error) {
            (_, Some(error)) => JobState::Failed(error),
            ("concluded" | "aborting" | "null", None) => JobState::Failed("QEMU gives no reason".into()),
            ("ready" | "standby", None) => JobState::Ready(progress),
            (_, None) => JobState::Running(progress),
        })
    }

    /// Asks for the job, and stores its progress.
    async fn ask(&self, node: &Node, source: &Connections) -> Result<Option<Job>, Error> {
        let jobs: Vec<Job> = source.monitor.query_patiently(jobs::QUERY).await?;
        let sent = node.tcp_sent(PORT).await?;
        let sent = sent.into_iter().map(|(_, bytes)| bytes).reduce(u64::saturating_add);
        let job = jobs::find(jobs, JOB);
        if let Some(job) = &job {
            let before = self.progress.get().and_then(|progress| progress.sent_bytes);
            self.progress.set(Some(DiskProgress {
                copied_bytes: job.current_progress,
                remaining_bytes: job.total_progress.saturating_sub(job.current_progress),
                // The connection may be closed already.
                sent_bytes: sent.max(before),
            }));
        }
        Ok(job)
    }

    /// Ends the mirror while the guest is stopped, once the copy is complete.
    pub(super) async fn complete(
        &self,
        node: &Node,
        source: &Connections,
        destination: &Connections,
    ) -> Result<(), Error> {
        // From now on, the end of the job is not a failure.
        self.stage.set(Stage::Completed);
        // Not `job-cancel`, which leaves the copy as it is, and not `job-complete`, after which the source
        // would use the destination's disk.
        source.call_patiently("block-job-cancel", json!({ "device": JOB })).await?;
        let ended = jobs::end(JOB, INTERVAL, async || source.monitor.query_patiently(jobs::QUERY).await);
        ended.await?.map_err(Error::Mirror)?;
        // The connection to the export is open until the node is deleted.
        self.ask(node, source).await?;
        source.call_patiently("job-dismiss", json!({ "id": JOB })).await?;
        source.call_patiently("blockdev-del", json!({ "node-name": TARGET })).await?;
        destination.call_patiently("nbd-server-stop", json!({})).await?;
        Ok(())
    }

    /// Cancels the mirror. The destination's disk is then useless.
    pub(super) async fn cancel(&self, source: &Connections) {
        match self.stage.get() {
            Stage::Alone => self.stage.set(Stage::CancelledAlone),
            Stage::WithMemory => self.stage.set(Stage::CancelledWithMemory),
            Stage::Idle | Stage::Completed | Stage::CancelledAlone | Stage::CancelledWithMemory => return,
        }
        // Refused if the job has ended already.
        let _ = source.call_patiently("job-cancel", json!({ "id": JOB })).await;
    }
}
