//! Follows one migration from its command to a verdict.
//!
//! The driver is asked how the migration stands every [`SAMPLE_INTERVAL`], and besides at once whenever it
//! announces a new pass. Each sample is written to the attempt's `samples.jsonl` before anything is made of
//! it. What to do is the mode's decision; a migration that is switching over, or over, is not put before it.

use super::{
    Error,
    timeline::{self, Actuator, Stage},
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
    results::record::Carried,
};
use std::{cell::RefCell, fs::File, io::Write, path::Path, pin::pin, time::Duration};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

/// How often the driver is asked.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// How long a migration that was cancelled may take to end, or a guest to run once it has come in.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a migration ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The guest runs at the destination.
    Completed(Completion),
    /// It was cancelled, for this reason.
    GivenUp(String),
}

/// A migration that was followed to its end.
#[derive(Debug)]
pub struct Followed {
    /// How it ended.
    pub verdict: Verdict,
    /// When the migrate command was sent.
    pub started: Instant,
    /// When the guest stopped at the source (or the migration was given up).
    pub stopped: Instant,
    /// When the guest started to run at the destination.
    pub resumed: Option<Instant>,
    /// All samples, in order.
    pub samples: Vec<Sample>,
    /// What of the timeline was carried out.
    pub carried: Vec<Carried>,
}

impl Followed {
    /// The passes that the samples show.
    pub fn passes(&self) -> Vec<Pass> {
        passes::passes(&self.samples)
    }

    /// Since when the guest runs where it is now.
    pub fn guest_runs_since(&self) -> Instant {
        self.resumed.unwrap_or(self.stopped)
    }

    /// Where the guest is now.
    pub fn end(&self) -> End {
        if self.resumed.is_some() { End::Destination } else { End::Source }
    }
}

/// What a migration is, besides its two ends.
pub struct Course<'a> {
    /// What changes in the middle of it.
    pub steps: &'a [Step],
    /// Where the samples go.
    pub samples_file: &'a Path,
}

/// What has been seen of a migration so far.
#[derive(Default)]
struct Seen {
    stopped: Option<Instant>,
    resumed: Option<Instant>,
    completion: Option<(Completion, Instant)>,
    /// Why the migration was given up, and when: it may still complete in that very moment.
    given_up: Option<(String, Instant)>,
    /// Whether it has ended because it was cancelled.
    cancelled: bool,
}

/// Starts the migration and follows it; `policy` decides, `actuator` carries out the timeline.
pub async fn migrate(
    driver: &impl Driver,
    policy: &mut dyn Policy,
    course: &Course<'_>,
    actuator: &impl Actuator,
    sink: &dyn Sink,
) -> Result<Followed, Error> {
    let Course { steps, samples_file } = *course;
    let started = Instant::now();
    let mut log = Log::create(samples_file, started, sink)?;
    let mut events = driver.begin().await?;

    let (stage, told) = watch::channel(Stage::Source);
    let carried = RefCell::default();
    let mut timeline = pin!(timeline::play(actuator, steps, started, told, &carried));
    let mut timeline_ended = false;
    let mut ticker = time::interval(SAMPLE_INTERVAL);
    ticker.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    let verdict = loop {
        tokio::select! {
            Some(event) = events.recv() => {
                if !seen.hear(event, &stage)? {
                    continue;
                }
            }
            ended = &mut timeline, if !timeline_ended => {
                ended?;
                timeline_ended = true;
            }
            _ = ticker.tick() => {}
        }
        if seen.completion.is_none() {
            match log.ask(driver).await? {
                State::Completed(completion) => seen.completion = Some((completion, Instant::now())),
                State::Cancelled(_) if seen.given_up.is_some() => seen.cancelled = true,
                State::Failed(words) | State::Cancelled(words) => return Err(Error::Migration(words)),
                State::Active if seen.given_up.is_none() => {
                    let settled_ms = settled_ms(steps, &carried.borrow());
                    match policy.decide(&Progress { samples: &log.samples, settled_ms }) {
                        Decision::Wait => {}
                        Decision::Act(action) => driver.act(action).await?,
                        Decision::GiveUp(reason) => {
                            seen.given_up = Some((reason, Instant::now()));
                            stage.send_replace(Stage::GivenUp);
                            driver.act(Action::Cancel).await?;
                        }
                    }
                }
                State::Active | State::Other => {}
            }
        }
        if let Some(verdict) = seen.verdict()? {
            break verdict;
        }
    };
    if !timeline_ended {
        // No entry begins any more; one that had begun ends, or learns that the guest does not come to the
        // destination.
        drop(stage);
        timeline.await?;
    }
    let stopped = seen.given_up.filter(|_| seen.cancelled).map(|(_, at)| at).or(seen.stopped);
    Ok(Followed {
        verdict,
        started,
        stopped: stopped.unwrap_or_else(Instant::now),
        resumed: seen.resumed.filter(|_| !seen.cancelled),
        samples: log.samples,
        carried: carried.take(),
    })
}

impl Seen {
    /// Takes an event in; whether it is worth a sample.
    fn hear(&mut self, event: driver::Event, stage: &watch::Sender<Stage>) -> Result<bool, Error> {
        match event {
            driver::Event::Changed => {}
            driver::Event::Stopped(at) => {
                self.stopped = Some(at);
                // The two ends are heard through two nodes: the source's word may come last.
                stage.send_if_modified(|stage| {
                    let earlier = *stage != Stage::Destination;
                    if earlier {
                        *stage = Stage::Stopped;
                    }
                    earlier
                });
            }
            driver::Event::Resumed(at) => {
                self.resumed = Some(at);
                stage.send_replace(Stage::Destination);
            }
            // A destination whose migration is cancelled ends.
            driver::Event::Lost(End::Destination, _) if self.given_up.is_some() => return Ok(false),
            driver::Event::Lost(_, error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// The verdict, once there is one.
    fn verdict(&self) -> Result<Option<Verdict>, Error> {
        if self.cancelled {
            return Ok(self.given_up.clone().map(|(reason, _)| Verdict::GivenUp(reason)));
        }
        if let (Some((completion, _)), Some(_)) = (self.completion, self.resumed) {
            return Ok(Some(Verdict::Completed(completion)));
        }
        let overdue = |since: Option<Instant>| since.is_some_and(|at| at.elapsed() > PATIENCE);
        if self.completion.is_some() && overdue(self.stopped.or(self.completion.map(|(_, at)| at))) {
            let text = "the migration completed, but the guest does not run at the destination";
            return Err(Error::GuestLost(text.into()));
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

/// From when on nothing changes any more, in milliseconds since the migrate command; not known while an entry
/// of the timeline is to come.
fn settled_ms(steps: &[Step], carried: &[Carried]) -> Option<f64> {
    (steps.len() == carried.len()).then(|| carried.last().map_or(0.0, |last| last.done_ms))
}

/// The samples, kept and written down.
struct Log<'a> {
    started: Instant,
    file: File,
    path: &'a Path,
    samples: Vec<Sample>,
    sink: &'a dyn Sink,
}

impl<'a> Log<'a> {
    fn create(path: &'a Path, started: Instant, sink: &'a dyn Sink) -> Result<Self, Error> {
        let file =
            File::create(path).map_err(|source| Error::Write { what: path.display().to_string(), source })?;
        Ok(Self { started, file, path, samples: Vec::new(), sink })
    }

    /// Asks the driver and keeps what it says.
    async fn ask(&mut self, driver: &impl Driver) -> Result<State, Error> {
        let driver::Status { state, sample } = driver.progress(self.started).await?;
        let mut line = serde_json::to_vec(&sample).unwrap_or_default();
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| Error::Write { what: self.path.display().to_string(), source })?;
        self.sink.take(&Event::Sampled(&sample));
        self.samples.push(sample);
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::Span;

    #[test]
    fn a_guest_that_runs_at_the_destination_is_not_taken_for_stopped_again() {
        let (stage, told) = watch::channel(Stage::Source);
        let mut seen = Seen::default();
        seen.hear(driver::Event::Resumed(Instant::now()), &stage).unwrap();
        seen.hear(driver::Event::Stopped(Instant::now()), &stage).unwrap();
        assert_eq!(*told.borrow(), Stage::Destination);
    }

    #[test]
    fn conditions_have_settled_when_the_last_entry_is_done() {
        let step = |at| Step { at: Span::from_secs(at), link: None, workload: None };
        let carried =
            |done_ms| Carried { due_ms: 0.0, began_ms: 0.0, done_ms, link: None, rate: None, by: None };
        assert_eq!(settled_ms(&[], &[]), Some(0.0));
        assert_eq!(settled_ms(&[step(1), step(2)], &[carried(1e3)]), None);
        assert_eq!(settled_ms(&[step(1), step(2)], &[carried(1e3), carried(2e3)]), Some(2e3));
    }
}
