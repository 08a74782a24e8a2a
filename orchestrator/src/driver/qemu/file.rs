//! Migration through a file: the source saves the guest, and the destination resumes it.
//!
//! The source's node creates the file, without a name, and the destination's node opens it too; both QEMUs
//! inherit it. So it vanishes with the last of them, however they end. On several hosts, it has a name in the
//! folder that they share.
//!
//! Like `virsh save`, this stops the guest first, unless it is to be saved while it runs. QEMU passes on
//! whether the guest ran, so a guest that was stopped has to be started at the destination.

use super::{
    Error, disk,
    process::{Connections, QemuProcess},
    query::{QueryMigrate, at_ms},
};
use crate::{
    driver::{Event, SavedFile, State, Status},
    measure::samples::{Completion, Sample},
    node::{
        self, Node, NodeError,
        protocol::{DiskUsage, file_path},
    },
};
use serde_json::json;
use std::{
    cell::{Cell, OnceCell},
    path::Path,
    pin::pin,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use units::Bytes;

/// The interval at which a node is asked for the CPU time of a destination that is loading.
const INTERVAL: Duration = Duration::from_secs(1);

/// The interval at which a destination is asked whether it has loaded the guest. The guest is stopped
/// meanwhile.
const POLL: Duration = Duration::from_millis(1);

/// How far the migration is.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The source saves the guest, or has not begun.
    Saving,
    /// The file is complete.
    Saved,
    /// The destination loads the guest.
    Loading,
    /// The guest was resumed at the destination, or runs there on its own.
    Loaded,
}

/// Returns the state without the source's downtime, which in the source's view ended when it had saved the
/// guest.
fn without_downtime(state: State) -> State {
    match state {
        State::Completed(completion) => State::Completed(Completion { downtime_ms: None, ..completion }),
        state => state,
    }
}

/// The file of a migration.
pub(super) struct MigrationFile {
    /// Whether the guest runs while it is saved.
    live: bool,
    /// The file as the source and the destination inherit it.
    ends: Option<[node::Disk; 2]>,
    stage: Cell<Stage>,
    saved: Cell<Option<SavedFile>>,
    /// Announces that the destination makes progress.
    events: OnceCell<mpsc::UnboundedSender<Event>>,
}

impl MigrationFile {
    /// Returns a file that has not been created.
    pub(super) fn new(live: bool) -> Self {
        let (stage, saved) = (Cell::new(Stage::Saving), Cell::new(None));
        Self { live, ends: None, stage, saved, events: OnceCell::new() }
    }

    /// Creates the file at the source, in the folder that all hosts share or on the source's own disk, and
    /// opens it at the destination.
    pub(super) async fn create(
        &mut self,
        source: &Node,
        destination: &Node,
        shared: Option<&Path>,
    ) -> Result<(), NodeError> {
        let (folder, name) = disk::place(shared);
        let created = source.create_disk(folder, name, Bytes::ZERO, Bytes::ZERO).await?;
        let opened = destination.open_disk(created.path()).await?;
        self.ends = Some([created, opened]);
        Ok(())
    }

    /// Returns the file as the source and the destination inherit it.
    pub(super) fn ends(&self) -> Option<&[node::Disk; 2]> {
        self.ends.as_ref()
    }

    /// Returns the migration URIs of the file: at the source and at the destination.
    fn uris(&self) -> Option<[String; 2]> {
        Some(self.ends.as_ref()?.each_ref().map(|end| format!("file:{}", file_path(end.number()))))
    }

    /// Makes the source save the guest. `events` receives signs of life from a loading destination.
    pub(super) async fn save(
        &self,
        source: &Connections,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<(), Error> {
        let [uri, _] = self.uris().ok_or(Error::NoFile)?;
        self.events.get_or_init(|| events);
        if !self.live {
            source.call("stop", json!({})).await?;
        }
        source.call("migrate", json!({ "uri": uri })).await?;
        Ok(())
    }

    /// Returns the status of the migration. `status` is that of the source, which only saves. Once it has
    /// completed, makes the destination load the guest, and follows it there; the source then has nothing
    /// more to report. The sample's time is counted from `since`.
    pub(super) async fn follow(
        &self,
        destination: &Connections,
        process: Option<&QemuProcess>,
        mut status: Status,
        since: Instant,
    ) -> Result<Status, Error> {
        let (state, word) = match (self.stage.get(), status.state) {
            (Stage::Saving, State::Completed(_)) => {
                // What follows may take long. So the state is reported first, and the next question comes
                // immediately.
                self.note_saved().await?;
                self.announce();
                status.sample.status = "saved".into();
                return Ok(Status { state: State::Other, ..status });
            }
            (Stage::Saving, state) => return Ok(Status { state, ..status }),
            (Stage::Saved, _) => {
                let [_, uri] = self.uris().ok_or(Error::NoFile)?;
                destination.call("migrate-incoming", json!({ "uri": uri })).await?;
                self.stage.set(Stage::Loading);
                self.announce();
                (State::Other, "loading")
            }
            (Stage::Loading, completed) => {
                let loaded = self.loading(destination, process).await?;
                if matches!(loaded, State::Failed(_)) {
                    (loaded, "failed")
                } else {
                    if !self.live {
                        destination.resume().await?;
                    }
                    self.stage.set(Stage::Loaded);
                    (without_downtime(completed), "completed")
                }
            }
            (Stage::Loaded, completed) => (without_downtime(completed), "completed"),
        };
        let at_ms = at_ms(since);
        Ok(Status { state, sample: Sample { at_ms, status: word.into(), ..Sample::default() } })
    }

    /// Notes that the guest has been saved.
    async fn note_saved(&self) -> Result<(), Error> {
        let at = Instant::now();
        let Some([file, _]) = &self.ends else { return Err(Error::NoFile) };
        let DiskUsage { bytes, allocated_bytes, .. } = file.usage().await?;
        self.saved.set(Some(SavedFile { bytes, allocated_bytes, at }));
        self.stage.set(Stage::Saved);
        Ok(())
    }

    /// Announces that there is progress.
    fn announce(&self) {
        if let Some(events) = self.events.get() {
            // Nobody listens once the migration has ended.
            let _ = events.send(Event::Changed);
        }
    }

    /// Waits until the destination has loaded the guest or failed, and returns its state. It may not answer
    /// until then; the CPU time that it uses shows that it makes progress.
    async fn loading(
        &self,
        destination: &Connections,
        process: Option<&QemuProcess>,
    ) -> Result<State, Error> {
        let loaded = async {
            loop {
                let answer = destination.monitor.query_patiently::<QueryMigrate>("query-migrate").await;
                let state = answer?.status(0.0).state;
                if matches!(state, State::Completed(_) | State::Failed(_)) {
                    return Ok(state);
                }
                time::sleep(POLL).await;
            }
        };
        let (mut loaded, mut used) = (pin!(loaded), None);
        loop {
            if let Ok(state) = time::timeout(INTERVAL, &mut loaded).await {
                return state;
            }
            let now = match process {
                Some(process) => process.cpu_time().await?,
                None => None,
            };
            if now > used {
                self.announce();
            }
            used = now;
        }
    }

    /// Returns what is known of the file, once the guest has been saved.
    pub(super) fn saved(&self) -> Option<SavedFile> {
        self.saved.get()
    }
}
