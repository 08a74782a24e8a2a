//! Follows one migration from its command to a verdict.
//!
//! QEMU is asked for its figures every [`SAMPLE_INTERVAL`], and besides at once whenever it announces a new
//! pass. Each sample is written to the attempt's `samples.jsonl` before anything is made of it. A migration
//! is given up at its deadline, at its pass cap, or when the stall detector says that it cannot end before
//! the deadline; one that is already switching over is never given up. The stall detector is not asked while the
//! timeline has a change to come, and then looks at the passes since the last one only.

use super::{
    Trouble,
    timeline::{self, Hands, Stage},
};
use crate::{
    driver::qemu::{process::Guest, qmp},
    event::{Event, Sink},
    matrix::{Migrate, Step},
    measure::{
        passes::{self, Pass},
        samples::{Completion, QueryMigrate, Sample},
        stall,
    },
    results::record::Carried,
};
use serde_json::json;
use std::{
    cell::RefCell,
    fs::File,
    io::Write,
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    time,
};

/// How often QEMU is asked.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// How long QEMU may take to end a migration that was cancelled, or a guest to run once it has come in.
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
}

/// What a migration is, besides its two ends.
pub struct Course<'a> {
    /// Where the destination listens.
    pub uri: &'a str,
    /// When to give it up.
    pub settings: &'a Migrate,
    /// What changes in the middle of it.
    pub steps: &'a [Step],
    /// Where the samples go.
    pub samples_file: &'a Path,
}

/// Starts the migration and follows it; `hands` carry out its timeline.
pub async fn migrate(
    source: &Guest,
    destination: &Guest,
    course: &Course<'_>,
    hands: &impl Hands,
    sink: &dyn Sink,
) -> Result<Followed, Trouble> {
    let Course { uri, settings, steps, samples_file } = *course;
    let mut source_events = source.monitor.events();
    let mut destination_events = destination.monitor.events();
    let started = Instant::now();
    let mut log = Log::create(samples_file, started, sink)?;
    source.monitor.call("migrate", json!({ "uri": uri })).await?;

    let (stage, told) = watch::channel(Stage::Source);
    let carried = RefCell::default();
    let mut timeline = pin!(timeline::play(hands, steps, started, told, &carried));
    let mut timeline_ended = false;
    let mut ticker = time::interval(SAMPLE_INTERVAL);
    ticker.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let (mut stopped, mut resumed, mut completion) = (None, None, None);
    // Why the migration was given up, and when: it may still complete in that very moment.
    let mut given_up: Option<(String, Instant)> = None;
    let mut destination_ended = false;
    let (verdict, stopped, resumed) = loop {
        tokio::select! {
            event = next(&mut source_events) => {
                let event = event?;
                match event.name.as_str() {
                    "STOP" => {
                        stopped = Some(event.seen);
                        stage.send_replace(Stage::Stopped);
                    }
                    // A pass has begun or the state has changed: the sample below shows it.
                    "MIGRATION_PASS" | "MIGRATION" => {}
                    _ => continue,
                }
            }
            event = next(&mut destination_events), if !destination_ended => match event {
                Ok(event) if event.name == "RESUME" => {
                    resumed = Some(event.seen);
                    stage.send_replace(Stage::Destination);
                }
                Ok(_) => {}
                // A destination whose migration is cancelled ends.
                Err(qmp::Error::Closed) if given_up.is_some() => destination_ended = true,
                Err(error) => return Err(error.into()),
            },
            ended = &mut timeline, if !timeline_ended => {
                ended?;
                timeline_ended = true;
            }
            _ = ticker.tick() => {}
        }
        if completion.is_none() {
            let status = log.ask(source).await?;
            completion = status.completion();
            match (status.status.as_str(), &given_up) {
                ("cancelled", Some((reason, at))) => {
                    break (Verdict::GivenUp(reason.clone()), *at, None);
                }
                ("failed" | "cancelled", _) => return Err(Trouble::Migration(words(&status))),
                ("active", None) => {
                    let settled_ms = settled_ms(steps, &carried.borrow());
                    if let Some(reason) = give_up(&log.samples, settings, settled_ms) {
                        given_up = Some((reason, Instant::now()));
                        stage.send_replace(Stage::GivenUp);
                        destination.may_end();
                        source.monitor.call("migrate_cancel", json!({})).await?;
                    }
                }
                _ => {}
            }
        }
        if let (Some(completion), Some(resumed)) = (completion, resumed) {
            break (Verdict::Completed(completion), stopped.unwrap_or_else(Instant::now), Some(resumed));
        }
        let overdue = |since: Option<Instant>| since.is_some_and(|at| at.elapsed() > PATIENCE);
        if completion.is_some() && overdue(stopped) {
            let text = "the migration completed, but the guest does not run at the destination";
            return Err(Trouble::GuestLost(text.into()));
        }
        if completion.is_none() && overdue(given_up.as_ref().map(|(_, at)| *at)) {
            let text = format!("it could not be cancelled within {} s", PATIENCE.as_secs());
            return Err(Trouble::Migration(text));
        }
    };
    if !timeline_ended {
        // No entry begins any more; one that had begun ends.
        timeline.await?;
    }
    let carried = carried.take();
    Ok(Followed { verdict, started, stopped, resumed, samples: log.samples, carried })
}

/// From when on nothing changes any more, in milliseconds since the migrate command; not known while an entry of
/// the timeline is to come.
fn settled_ms(steps: &[Step], carried: &[Carried]) -> Option<f64> {
    (steps.len() == carried.len()).then(|| carried.last().map_or(0.0, |last| last.done_ms))
}

async fn next(events: &mut Receiver<qmp::Event>) -> Result<qmp::Event, qmp::Error> {
    loop {
        match events.recv().await {
            Ok(event) => return Ok(event),
            // Some were missed; the samples show the state all the same.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err(qmp::Error::Closed),
        }
    }
}

/// The reason to give the migration up, if there is one. Nothing is a stall before `settled_ms`, see
/// [`settled_ms`].
fn give_up(samples: &[Sample], settings: &Migrate, settled_ms: Option<f64>) -> Option<String> {
    let now = samples.last()?;
    let deadline_ms = settings.timeout.as_millis_f64();
    if now.at_ms >= deadline_ms {
        return Some(format!("the deadline of {} passed", settings.timeout));
    }
    if let Some(cap) = settings.max_passes.filter(|cap| now.pass > u64::from(*cap)) {
        return Some(format!("it was not done after {cap} passes"));
    }
    let begins_pass = samples.iter().rev().nth(1).is_none_or(|before| before.pass != now.pass);
    if settings.stall_detection
        && begins_pass
        && let Some(settled_ms) = settled_ms
    {
        let mut passes = passes::passes(samples);
        passes.retain(|pass| pass.started_at_ms >= settled_ms);
        let limit = bandwidth(&passes)? * settings.downtime_limit.as_secs_f64();
        if stall::is_stalled(&passes, limit, deadline_ms) {
            return Some(format!(
                "the remaining memory stopped shrinking: {:.0} MB at the start of pass {}, and no way to {:.0} MB within {}",
                now.remaining_bytes as f64 / 1e6,
                now.pass,
                limit / 1e6,
                settings.timeout,
            ));
        }
    }
    None
}

/// Bytes per second over these passes.
fn bandwidth(passes: &[Pass]) -> Option<f64> {
    let sent: u64 = passes.iter().map(|p| p.sent_bytes).sum();
    let millis: f64 = passes.iter().map(|p| p.duration_ms).sum();
    (millis > 0.0).then(|| sent as f64 * 1e3 / millis)
}

fn words(status: &QueryMigrate) -> String {
    status.error_desc.clone().unwrap_or_else(|| format!("QEMU reports it as {}", status.status))
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
    fn create(path: &'a Path, started: Instant, sink: &'a dyn Sink) -> Result<Self, Trouble> {
        let file = File::create(path)
            .map_err(|source| Trouble::Write { what: path.display().to_string(), source })?;
        Ok(Self { started, file, path, samples: Vec::new(), sink })
    }

    /// Asks QEMU and keeps what it says.
    async fn ask(&mut self, source: &Guest) -> Result<QueryMigrate, Trouble> {
        let status: QueryMigrate = source.monitor.query("query-migrate").await?;
        let at_ms = (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        let sample = status.sample(at_ms);
        let mut line = serde_json::to_vec(&sample).unwrap_or_default();
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| Trouble::Write { what: self.path.display().to_string(), source })?;
        self.sink.take(&Event::Sampled(&sample));
        self.samples.push(sample);
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::Span;

    fn sample(at_ms: f64, pass: u64) -> Sample {
        let status = json!({ "status": "active", "ram": { "dirty-sync-count": pass } });
        serde_json::from_value::<QueryMigrate>(status).unwrap().sample(at_ms)
    }

    #[test]
    fn a_migration_is_given_up_at_its_deadline() {
        let settings = Migrate { timeout: Span::from_secs(2), ..Migrate::default() };
        assert_eq!(give_up(&[sample(1_999.0, 3)], &settings, Some(0.0)), None);
        assert_eq!(
            give_up(&[sample(2_000.0, 3)], &settings, Some(0.0)).unwrap(),
            "the deadline of 2s passed"
        );
    }

    #[test]
    fn a_migration_is_given_up_after_its_last_pass() {
        let settings = Migrate { max_passes: Some(3), ..Migrate::default() };
        assert_eq!(give_up(&[sample(10.0, 3)], &settings, Some(0.0)), None);
        assert_eq!(
            give_up(&[sample(10.0, 4)], &settings, Some(0.0)).unwrap(),
            "it was not done after 3 passes"
        );
        assert_eq!(give_up(&[sample(10.0, 4)], &Migrate::default(), Some(0.0)), None);
    }

    /// A migration that makes no progress for 30 seconds, in passes of one second.
    fn stalled() -> Vec<Sample> {
        (0..100u64)
            .map(|i| Sample {
                transferred_bytes: i * 100_000_000,
                remaining_bytes: 128_000_000,
                ..sample(i as f64 * 500.0, i / 2 + 1)
            })
            .take(61)
            .collect()
    }

    #[test]
    fn nothing_is_a_stall_until_the_last_change_has_had_its_effect() {
        let (stalled, settings) = (stalled(), Migrate::default());
        assert!(give_up(&stalled, &settings, Some(0.0)).is_some());
        assert_eq!(give_up(&stalled, &settings, None), None, "a change is to come");
        assert!(give_up(&stalled, &settings, Some(12_000.0)).is_some());
        assert_eq!(give_up(&stalled, &settings, Some(20_000.0)), None, "too few passes since");
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

    #[test]
    fn stall_detection_can_be_switched_off() {
        let stalled = stalled();
        let on = Migrate::default();
        assert!(give_up(&stalled, &on, Some(0.0)).unwrap().contains("stopped shrinking"));
        assert_eq!(give_up(&stalled, &Migrate { stall_detection: false, ..on }, Some(0.0)), None);
    }
}
