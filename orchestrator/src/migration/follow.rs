//! Follows one migration from the migrate command to a verdict.
//!
//! A sample of the migration's state is taken from the driver every [`SAMPLE_INTERVAL`], and in addition at
//! once when the driver announces a new pass or a new state. Each sample is written to the attempt's
//! `samples.jsonl` before it is used. The mode decides what to do. It is not asked once the migration is
//! switching over or has ended.

use super::{
    Error,
    timeline::{self, Actuator, MigrationStage},
};
use crate::{
    driver::{self, Driver, State},
    event::{Event, Sink},
    matrix::Step,
    measure::{
        End,
        passes::{self, Pass},
        samples::{Completion, Sample},
    },
    mode::{Action, Decision, Policy, Progress},
    results::record::AppliedChange,
};
use std::{cell::RefCell, fs::File, io::Write, path::Path, pin::pin, time::Duration};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

/// The interval between samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// The longest a cancelled migration may take to end, and the longest a guest may take to run at the
/// destination after it has stopped at the source and the migration has completed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The end of a migration that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The guest runs at the destination.
    Completed(Completion),
    /// The migration was given up for this reason and cancelled.
    GivenUp(String),
}

/// A migration that has ended with a verdict.
#[derive(Debug)]
pub struct FinishedMigration {
    /// Whether it completed or was given up.
    pub verdict: Verdict,
    /// When the migrate command was sent.
    pub started: Instant,
    /// When the guest stopped at the source, or when the migration was given up.
    pub stopped: Instant,
    /// When the guest started to run at the destination; absent if the migration was given up.
    pub resumed: Option<Instant>,
    /// All samples, oldest first.
    pub samples: Vec<Sample>,
    /// The changes of the timeline that were carried out, in order.
    pub applied: Vec<AppliedChange>,
}

impl FinishedMigration {
    /// Returns the passes that the samples show.
    pub fn passes(&self) -> Vec<Pass> {
        passes::passes(&self.samples)
    }

    /// Returns the time since which the guest has been running where it is now. If the migration was given
    /// up, this is the time of that decision.
    pub fn guest_runs_since(&self) -> Instant {
        self.resumed.unwrap_or(self.stopped)
    }

    /// Returns the end at which the guest is now.
    pub fn end(&self) -> End {
        if self.resumed.is_some() { End::Destination } else { End::Source }
    }
}

/// The changes during a migration, and its output.
pub struct MigrationSpec<'a> {
    /// The entries of the timeline, in order.
    pub steps: &'a [Step],
    /// The file that the samples are written to.
    pub samples_file: &'a Path,
}

/// Everything observed of a migration so far that leads to a verdict.
#[derive(Default)]
struct MigrationTracker {
    /// When the guest stopped at the source.
    stopped: Option<Instant>,
    /// When the guest started to run at the destination.
    resumed: Option<Instant>,
    /// The driver's figures once the migration has completed at the source, and when they arrived.
    completion: Option<(Completion, Instant)>,
    /// Why the migration was given up, and when. It may still complete before it is cancelled.
    given_up: Option<(String, Instant)>,
    /// Whether the migration has ended because it was cancelled.
    cancelled: bool,
}

/// Starts a migration and follows it until there is a verdict. `policy` decides what to do, `actuator`
/// carries out the timeline, `sink` is told of every sample.
///
/// # Errors
///
/// The migration fails, an end or its connection is lost, the guest does not run after a migration that
/// completed, an entry of the timeline fails, or the samples cannot be written.
pub async fn migrate(
    driver: &impl Driver,
    policy: &mut dyn Policy,
    spec: &MigrationSpec<'_>,
    actuator: &impl Actuator,
    sink: &dyn Sink,
) -> Result<FinishedMigration, Error> {
    let MigrationSpec { steps, samples_file } = *spec;
    let started = Instant::now();
    let mut log = SampleLog::create(samples_file, started, sink)?;
    let mut events = driver.begin().await?;

    let (stage, receiver) = watch::channel(MigrationStage::Source);
    let applied = RefCell::default();
    // Pinned outside of the loop: an entry in progress must survive the iterations, each of which polls it.
    let mut timeline = pin!(timeline::play(actuator, steps, started, receiver, &applied));
    let mut timeline_ended = false;
    let mut ticker = time::interval(SAMPLE_INTERVAL);
    // After a slow answer the next sample is due a whole interval later; missed ones are not made up for.
    ticker.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut tracker = MigrationTracker::default();
    let verdict = loop {
        // Whatever happens first leads to a sample and a decision below.
        tokio::select! {
            Some(event) = events.recv() => {
                if !tracker.record_event(event, &stage)? {
                    continue;
                }
            }
            ended = &mut timeline, if !timeline_ended => {
                ended?;
                timeline_ended = true;
            }
            _ = ticker.tick() => {}
        }
        // Once the source has completed, its figures are final. The loop then only waits for the
        // destination's announcement that the guest runs, which may arrive later, since it comes from another
        // node.
        if tracker.completion.is_none() {
            match log.sample(driver).await? {
                // Also after the migration was given up: it may have completed before the cancellation.
                State::Completed(completion) => tracker.completion = Some((completion, Instant::now())),
                State::Cancelled(_) if tracker.given_up.is_some() => tracker.cancelled = true,
                State::Failed(reason) | State::Cancelled(reason) => return Err(Error::Migration(reason)),
                State::Active if tracker.given_up.is_none() => {
                    let settled_ms = settled_ms(steps, &applied.borrow());
                    match policy.decide(&Progress { samples: &log.samples, settled_ms }) {
                        Decision::Wait => {}
                        Decision::Act(action) => driver.act(action).await?,
                        Decision::GiveUp(reason) => {
                            tracker.given_up = Some((reason, Instant::now()));
                            // Before the cancellation, so that no entry of the timeline begins any more.
                            stage.send_replace(MigrationStage::GivenUp);
                            driver.act(Action::Cancel).await?;
                        }
                    }
                }
                State::Active | State::Other => {}
            }
        }
        if let Some(verdict) = tracker.verdict()? {
            break verdict;
        }
    };
    if !timeline_ended {
        // No entry begins any more. An entry in progress ends, or learns from the closed channel that the
        // guest will not arrive at the destination.
        drop(stage);
        timeline.await?;
    }
    // After a cancellation the guest is not stopped for good: the decision to give up takes the place of the
    // stop.
    let stopped = tracker.given_up.filter(|_| tracker.cancelled).map(|(_, at)| at).or(tracker.stopped);
    Ok(FinishedMigration {
        verdict,
        started,
        stopped: stopped.unwrap_or_else(Instant::now),
        resumed: tracker.resumed.filter(|_| !tracker.cancelled),
        samples: log.samples,
        applied: applied.take(),
    })
}

impl MigrationTracker {
    /// Records an event. Returns whether a sample should be taken now.
    fn record_event(
        &mut self,
        event: driver::Event,
        stage: &watch::Sender<MigrationStage>,
    ) -> Result<bool, Error> {
        match event {
            driver::Event::Changed => {}
            driver::Event::Stopped(at) => {
                self.stopped = Some(at);
                // The two ends announce their events through two nodes: the source's may arrive after the
                // destination's. It must not make a guest that runs at the destination count as stopped.
                stage.send_if_modified(|stage| {
                    let earlier = *stage != MigrationStage::Destination;
                    if earlier {
                        *stage = MigrationStage::Stopped;
                    }
                    earlier
                });
            }
            driver::Event::Resumed(at) => {
                self.resumed = Some(at);
                stage.send_replace(MigrationStage::Destination);
            }
            // The destination exits when its migration is cancelled.
            driver::Event::Lost(End::Destination, _) if self.given_up.is_some() => return Ok(false),
            driver::Event::Lost(_, error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Returns the verdict, once there is one.
    ///
    /// # Errors
    ///
    /// The guest does not run at the destination, or the cancellation does not take effect, within
    /// [`PATIENCE`].
    fn verdict(&self) -> Result<Option<Verdict>, Error> {
        if self.cancelled {
            return Ok(self.given_up.clone().map(|(reason, _)| Verdict::GivenUp(reason)));
        }
        if let (Some((completion, _)), Some(_)) = (self.completion, self.resumed) {
            return Ok(Some(Verdict::Completed(completion)));
        }
        let overdue = |since: Option<Instant>| since.is_some_and(|at| at.elapsed() > PATIENCE);
        if self.completion.is_some() && overdue(self.stopped.or(self.completion.map(|(_, at)| at))) {
            let reason = "the migration completed, but the guest does not run at the destination";
            return Err(Error::GuestLost(reason.into()));
        }
        if self.completion.is_none() && overdue(self.given_up.as_ref().map(|(_, at)| *at)) {
            return Err(Error::Migration(format!(
                "it could not be cancelled within {} s",
                PATIENCE.as_secs()
            )));
        }
        Ok(None)
    }
}

/// Returns the time from which on the conditions stay the same, in milliseconds since the migrate command; 0
/// without a timeline, nothing while an entry is still to come.
fn settled_ms(steps: &[Step], applied: &[AppliedChange]) -> Option<f64> {
    (steps.len() == applied.len()).then(|| applied.last().map_or(0.0, |last| last.done_ms))
}

/// The samples, in memory and in their file.
struct SampleLog<'a> {
    started: Instant,
    file: File,
    path: &'a Path,
    samples: Vec<Sample>,
    sink: &'a dyn Sink,
}

impl<'a> SampleLog<'a> {
    fn create(path: &'a Path, started: Instant, sink: &'a dyn Sink) -> Result<Self, Error> {
        let file =
            File::create(path).map_err(|source| Error::Write { path: path.display().to_string(), source })?;
        Ok(Self { started, file, path, samples: Vec::new(), sink })
    }

    /// Takes a sample from the driver, writes it to the file and keeps it. Returns the state of the
    /// migration.
    async fn sample(&mut self, driver: &impl Driver) -> Result<State, Error> {
        let driver::Status { state, sample } = driver.progress(self.started).await?;
        let mut line = serde_json::to_vec(&sample).unwrap_or_default();
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| Error::Write { path: self.path.display().to_string(), source })?;
        self.sink.handle(&Event::Sampled(&sample));
        self.samples.push(sample);
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::Span;

    #[test]
    fn a_late_stop_event_does_not_stop_a_guest_that_runs_at_the_destination() {
        let (stage, receiver) = watch::channel(MigrationStage::Source);
        let mut tracker = MigrationTracker::default();
        tracker.record_event(driver::Event::Resumed(Instant::now()), &stage).unwrap();
        tracker.record_event(driver::Event::Stopped(Instant::now()), &stage).unwrap();
        assert_eq!(*receiver.borrow(), MigrationStage::Destination);
    }

    #[test]
    fn conditions_are_settled_once_the_last_entry_is_done() {
        let step = |at| Step { at: Span::from_secs(at), link: None, workload: None };
        let applied =
            |done_ms| AppliedChange { due_ms: 0.0, began_ms: 0.0, done_ms, link: None, rate: None, by: None };
        assert_eq!(settled_ms(&[], &[]), Some(0.0));
        assert_eq!(settled_ms(&[step(1), step(2)], &[applied(1e3)]), None);
        assert_eq!(settled_ms(&[step(1), step(2)], &[applied(1e3), applied(2e3)]), Some(2e3));
    }
}
