//! QEMU's jobs, which work on images.

use serde::Deserialize;
use std::time::Duration;
use tokio::time;

/// The command that lists all jobs.
pub(super) const QUERY: &str = "query-jobs";

/// The reason if a job does not exist.
pub(super) const GONE: &str = "QEMU has no such job any more";

/// An entry in the answer to [`QUERY`]. A job that was started without `auto-dismiss` stays listed after its
/// end, so that its error can be read.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Job {
    id: String,
    pub(super) status: String,
    pub(super) current_progress: u64,
    pub(super) total_progress: u64,
    pub(super) error: Option<String>,
}

/// Returns the job with this name.
pub(super) fn find(jobs: Vec<Job>, id: &str) -> Option<Job> {
    jobs.into_iter().find(|job| job.id == id)
}

/// Waits until a job has ended, asking for all jobs at this interval. The inner error is why the job failed.
pub(super) async fn end<E>(
    id: &str,
    interval: Duration,
    ask: impl AsyncFn() -> Result<Vec<Job>, E>,
) -> Result<Result<(), String>, E> {
    loop {
        match find(ask().await?, id) {
            None => return Ok(Err(GONE.into())),
            Some(Job { error: Some(error), .. }) => return Ok(Err(error)),
            Some(Job { status, .. }) if status == "concluded" => return Ok(Ok(())),
            Some(_) => time::sleep(interval).await,
        }
    }
}
