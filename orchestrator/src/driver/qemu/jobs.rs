//! QEMU's jobs, which work on images, and how long work in QEMU may make no progress.

use serde::Deserialize;
use std::time::Duration;
use tokio::time::{self, Instant};

/// The command that lists all jobs.
pub(super) const QUERY: &str = "query-jobs";

/// How long work in QEMU may make no progress before it is given up. A slow file system makes some.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// When work in QEMU made progress last, by a figure that grows with it.
pub(super) struct Progress<T> {
    figure: T,
    since: Instant,
}

impl<T: PartialEq> Progress<T> {
    /// Takes the first figure.
    pub(super) fn from(figure: T) -> Self {
        Self { figure, since: Instant::now() }
    }

    /// Takes the next figure. Returns the reason to give the work up if there has been no progress for
    /// [`PATIENCE`].
    pub(super) fn stalled(&mut self, figure: T) -> Option<String> {
        if figure != self.figure {
            *self = Self::from(figure);
        }
        let is_over = self.since.elapsed() >= PATIENCE;
        is_over.then(|| format!("it has made no progress for {} s", PATIENCE.as_secs()))
    }
}

/// Waits until a job has ended, and asks for all jobs at this interval. The inner error is why it failed, or
/// that it makes no progress.
pub(super) async fn end<E>(
    id: &str,
    interval: Duration,
    ask: impl AsyncFn() -> Result<Vec<Job>, E>,
) -> Result<Result<(), String>, E> {
    let mut progress = Progress::from(None);
    loop {
        match find(ask().await?, id) {
            None => return Ok(Err(GONE.into())),
            Some(Job { error: Some(error), .. }) => return Ok(Err(error)),
            Some(Job { status, .. }) if status == "concluded" => return Ok(Ok(())),
            Some(job) => match progress.stalled(Some(job.current_progress)) {
                Some(reason) => return Ok(Err(reason)),
                None => time::sleep(interval).await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[tokio::test(start_paused = true)]
    async fn a_job_is_waited_for_as_long_as_it_makes_progress() {
        let begun = Instant::now();
        let job = |current_progress| Job {
            id: "fill".into(),
            status: "running".into(),
            current_progress,
            total_progress: 1000,
            error: None,
        };
        let seconds = || begun.elapsed().as_secs();
        let ask = async || Ok::<_, Infallible>(vec![job(seconds().min(200) / 50)]);
        let Ok(ended) = end("fill", Duration::from_secs(1), ask).await;
        assert_eq!(ended, Err("it has made no progress for 60 s".into()));
        assert_eq!(seconds(), 260);
    }
}
