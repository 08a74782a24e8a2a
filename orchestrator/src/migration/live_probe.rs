//! What the probe sees while its attempt is in progress, written to a file for viewers.
//!
//! The file begins with the migration and is removed when the attempt has ended; `probe.jsonl` then holds
//! everything that the probe saw. Nothing here can make an attempt fail: if the file cannot be written, it
//! ends early.

use super::{account, recorded};
use crate::{
    node::protocol::ProbeProgress,
    results::client::{LIVE_PROBE, LiveWindow},
};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

/// The file of a running probe. It is removed when this is dropped.
pub(super) struct LiveProbe {
    path: PathBuf,
    started: Option<oneshot::Sender<Instant>>,
    task: JoinHandle<io::Result<()>>,
}

impl LiveProbe {
    /// Starts reading what the probe reports, for a file in the attempt's folder.
    pub(super) fn start(folder: &Path, reports: mpsc::Receiver<ProbeProgress>) -> Self {
        let path = folder.join(LIVE_PROBE);
        let (started, migration) = oneshot::channel();
        let task = tokio::spawn(write(path.clone(), reports, migration));
        Self { path, started: Some(started), task }
    }

    /// Starts the file: its times count from this moment.
    pub(super) fn migration_started(&mut self, at: Instant) {
        let _ = self.started.take().map(|started| started.send(at));
    }
}

impl Drop for LiveProbe {
    fn drop(&mut self) {
        self.task.abort();
        // The file does not exist if the migration has not started.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes reports to a file from the start of the migration until they end.
async fn write(
    path: PathBuf,
    mut reports: mpsc::Receiver<ProbeProgress>,
    mut migration: oneshot::Receiver<Instant>,
) -> io::Result<()> {
    let epoch = Instant::now();
    let mut first = None;
    let started = loop {
        tokio::select! {
            started = &mut migration => match started {
                Ok(started) => break started,
                Err(_never) => return Ok(()),
            },
            Some(progress) = reports.recv() => {
                first.get_or_insert_with(|| began_ms(&progress, epoch));
            }
        }
    };
    let started_ms = account::millis(epoch, started);
    let mut file = File::create_new(path)?;
    while let Some(progress) = reports.recv().await {
        // From the first report only: a window that is reported again keeps its time.
        let began_ms = *first.get_or_insert_with(|| began_ms(&progress, epoch)) - started_ms;
        let window = |window| recorded::live_window(window, began_ms, progress.window_ns);
        let mut lines = Vec::new();
        for window in progress.windows.iter().map(window).filter(LiveWindow::is_consistent) {
            serde_json::to_writer(&mut lines, &window)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
    }
    Ok(())
}

/// Returns when the probe that sent this report just now began, in milliseconds since `epoch`.
fn began_ms(progress: &ProbeProgress, epoch: Instant) -> f64 {
    account::millis(epoch, Instant::now()) - progress.began_before_ns as f64 / 1e6
}
