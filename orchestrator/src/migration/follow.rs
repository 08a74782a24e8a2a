//! Follows one migration from the migrate command to a verdict.
//!
//! A sample of the migration's state is taken from the driver every [`SAMPLE_INTERVAL`], and also immediately
//! when the driver announces a new pass or a new state. Each sample is written to the attempt's
//! `samples.jsonl` before it is used. The mode decides what to do. It is not consulted once the migration is
//! switching over or has ended.
//!
//! A disk that has to be copied is copied first, and memory is sent once the copy is up to date. Before the
//! switchover the driver waits until the copy is complete.
//!
//! Every state of a migration has a bound, whatever the mode decides:
//!
//! | while | bound |
//! |---|---|
//! | the guest runs at the source (copying the disk, setup, sending) | the deadline; it is then given up |
//! | the guest is paused, and the rest of its memory is sent | the deadline; it is then given up |
//! | the source does not answer while the guest runs | [`ANSWER_LIMIT`]; after giving up, [`PATIENCE`] |
//! | the migration has been given up, but not cancelled | [`PATIENCE`] |
//! | the guest is stopped, and its disk is completed | [`PATIENCE`] without progress; it is then given up |
//! | the guest is stopped for the switchover, or to be saved | [`PATIENCE`] without progress |
//! | the migration has completed, and the destination loads | [`PATIENCE`] without progress |
//! | the guest runs at the destination, and the source has not completed | [`PATIENCE`] without progress |
//! | the guest is to move by post-copy, but has not stopped at the source | [`PATIENCE`] |
//! | the guest has moved by post-copy | [`FAILURE`] without progress; the migration then recovers |
//! | a migration by post-copy recovers | the deadline, or a shorter time in the settings |
//!
//! A migration is never cancelled once post-copy has been requested: it may have begun, and then neither end
//! has all of the guest's memory. If the link fails then, the driver is asked to recover the migration. If
//! that takes too long, the guest is lost.
//!
//! A switchover cannot be given up: QEMU does not answer until it has sent the rest. So the source's silence
//! does not count then. Progress is a sample that differs from the previous one, or data on the link that the
//! destination acknowledges.

use super::{
    Error,
    recovery::{FAILURE, Recoveries},
    timeline::{self, Actuator, MigrationStage},
};
use crate::{
    driver::{self, Action, Driver, State, Status},
    event::{Event, Sink},
    matrix::{Cycle, Step},
    measure::{
        End,
        passes::{self, Pass},
        samples::{Completion, Sample},
    },
    mode::{Decision, Policy, Progress},
    node::protocol::Traffic,
    results::record::AppliedChange,
};
use netem::userspace::Lateness;
use std::{
    cell::RefCell,
    fs::File,
    future::{self, Future},
    io::Write,
    path::Path,
    pin::{Pin, pin},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use units::Span;

/// The interval between samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// The longest that a migration may take to end after it was given up, and the longest that a migration may
/// make no progress when it can no longer be given up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The longest that the source may take to answer while the guest runs there. On a busy host it takes a
/// second at most.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The interval at which the link is asked for its traffic while a switchover makes no other progress. Most
/// switchovers take less.
const LINK_INTERVAL: Duration = Duration::from_secs(1);

/// The data that a switchover has to send to count as progress, in bytes. TCP repeats less than this in
/// [`PATIENCE`] if nothing arrives.
const PROGRESS_BYTES: u64 = 16 << 10;

/// The longest that the destination may take to say whether the guest runs there.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);

/// The result of a migration that did not fail.
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
    /// The last moment up to which the guest ran at the source without a break, at most until the migration
    /// was given up.
    pub ran_until: Instant,
    /// When the guest started to run at the destination; absent if the migration was given up.
    pub resumed: Option<Instant>,
    /// How long after the deadline the guest started to run there; absent if it was earlier, or if the
    /// migration was given up.
    pub past_deadline: Option<Duration>,
    /// All samples, oldest first.
    pub samples: Vec<Sample>,
    /// The steps that were carried out, in order.
    pub applied: Vec<AppliedChange>,
    /// How late an emulated link delivered packets until its traffic was last read; absent if it never was.
    pub late: Option<Lateness>,
    /// Whether the guest was paused, so that it was stopped while memory was sent.
    pub paused: bool,
    /// When the copy of the disk was first up to date; absent if the disk was not copied, or not completely.
    pub mirrored: Option<Instant>,
    /// The interval in which the copy of the disk was completed while the guest was stopped.
    pub disk_completed: Option<(Instant, Instant)>,
    /// When the driver was asked to move the guest by post-copy; absent if it was not, or if pre-copy
    /// completed all the same.
    pub postcopy: Option<Instant>,
    /// When the source reported that the migration has completed.
    pub completed: Option<Instant>,
    /// The intervals in which no memory arrived in post-copy because the link had failed, one for each
    /// recovery.
    pub recoveries: Vec<(Instant, Instant)>,
}

impl FinishedMigration {
    /// Returns the passes that the samples show.
    pub fn passes(&self) -> Vec<Pass> {
        passes::passes(&self.samples)
    }

    /// Returns when the guest started to run where it is now. If the migration was given up, this is the time
    /// of that decision.
    pub fn guest_runs_since(&self) -> Instant {
        self.resumed.unwrap_or(self.stopped)
    }

    /// Returns when the guest had arrived with all of its memory. Absent if the migration was given up.
    pub fn arrived(&self) -> Option<Instant> {
        match self.postcopy {
            Some(_) => self.resumed.max(self.completed),
            None => self.resumed,
        }
    }

    /// Returns when the guest started to run where it is now without having to wait for its memory.
    pub fn undisturbed_since(&self) -> Instant {
        self.arrived().unwrap_or(self.stopped)
    }

    /// Returns the end at which the guest is now.
    pub fn end(&self) -> End {
        if self.resumed.is_some() { End::Destination } else { End::Source }
    }
}

/// The changes during a migration, its deadline, and its output.
pub struct MigrationSpec<'a> {
    /// The changes of the link and the workload, in order.
    pub steps: &'a [Step],
    /// When they start to repeat; absent if they do not.
    pub cycle: Option<Cycle>,
    /// When the migrate command is sent: now.
    pub started: Instant,
    /// The deadline, counted from the migrate command.
    pub timeout: Span,
    /// How long a recovery in post-copy may take, at most until the deadline. With 0, the migration does not
    /// recover.
    pub recovery: Span,
    /// Whether the guest migrates over the migration link.
    pub uses_link: bool,
    /// The file that the samples are written to.
    pub samples_file: &'a Path,
}

/// A request that has not been answered yet.
struct Pending<'a, T, E> {
    since: Instant,
    answer: Pin<Box<dyn Future<Output = Result<T, E>> + 'a>>,
}

impl<'a, T, E> Pending<'a, T, E> {
    fn new(answer: impl Future<Output = Result<T, E>> + 'a) -> Self {
        Self { since: Instant::now(), answer: Box::pin(answer) }
    }
}

/// Waits for the answer to a request, and then forgets the request. Never returns without a request.
async fn answered<T, E>(pending: &mut Option<Pending<'_, T, E>>) -> Result<T, E> {
    match pending {
        Some(Pending { answer, .. }) => {
            let result = answer.await;
            *pending = None;
            result
        }
        None => future::pending().await,
    }
}

/// The requests to the driver and the link that have not been answered yet. They stay pending over the
/// iterations of the loop that follows a migration, so that a source that does not answer holds up neither
/// the events nor the deadline.
struct Requests<'a, D, A> {
    driver: &'a D,
    actuator: &'a A,
    /// When the migrate command was sent.
    started: Instant,
    status: Option<Pending<'a, Status, driver::Error>>,
    action: Option<Pending<'a, (), driver::Error>>,
    traffic: Option<Pending<'a, Traffic, Error>>,
    /// Whether something has happened since the pending request for a status that calls for another one.
    ask_again: bool,
}

impl<'a, D: Driver, A: Actuator> Requests<'a, D, A> {
    fn new(driver: &'a D, actuator: &'a A, started: Instant) -> Self {
        Self { driver, actuator, started, status: None, action: None, traffic: None, ask_again: false }
    }

    /// Asks for the status of the migration, unless that is pending.
    fn ask_for_status(&mut self) {
        let Self { driver, started, .. } = *self;
        self.status.get_or_insert_with(|| Pending::new(driver.progress(started)));
    }

    /// Asks for an action. One that is pending is no longer waited for.
    fn act(&mut self, action: Action) {
        let driver = self.driver;
        self.action = Some(Pending::new(driver.act(action)));
    }

    fn ask_for_traffic(&mut self) {
        let actuator = self.actuator;
        self.traffic = Some(Pending::new(actuator.traffic()));
    }

    /// Notes that something has happened that calls for a status. The answer to a pending request may be
    /// about the time before.
    fn note_change(&mut self) {
        self.ask_again |= self.status.is_some();
    }
}

/// Returns for how long a request has been pending, if it is.
fn pending_for<T, E>(request: Option<&Pending<'_, T, E>>) -> Duration {
    request.map_or(Duration::ZERO, |request| request.since.elapsed())
}

/// Everything observed of a migration so far that leads to a verdict.
struct MigrationTracker {
    /// When the migration is given up.
    deadline: Instant,
    /// Whether the guest migrates over the migration link.
    uses_link: bool,
    /// When the guest stopped at the source.
    stopped: Option<Instant>,
    /// When the guest started to run at the destination.
    resumed: Option<Instant>,
    /// The driver's figures once the migration has completed at the source.
    completion: Option<Completion>,
    /// Why the migration was given up, and when. It may still complete before it is cancelled.
    given_up: Option<(String, Instant)>,
    /// Whether the migration has ended because it was cancelled.
    cancelled: bool,
    /// When the migration last made progress.
    progressed: Instant,
    /// When the link was last asked for its traffic counters.
    asked_for_traffic: Instant,
    /// The link's traffic counters when they last showed progress.
    traffic: Option<Traffic>,
    /// How late an emulated link delivered packets until it was last asked for its traffic.
    late: Option<Lateness>,
    /// What a paused guest waits for; absent if the driver was not asked to pause it.
    paused: Option<Paused>,
    /// When the copy of the disk was first up to date.
    mirrored: Option<Instant>,
    /// When the driver was asked to move the guest by post-copy.
    postcopy: Option<Instant>,
    /// When the migration completed at the source.
    completed: Option<Instant>,
    /// When the driver was asked to complete the copy of the disk, and when it had done so.
    completes_disk: Option<(Instant, Option<Instant>)>,
    /// The recoveries from failures of the link in post-copy.
    recoveries: Recoveries,
}

/// What a paused guest waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paused {
    /// The rest of its memory is being sent, and the migration can still be given up.
    Sending,
    /// The migration is switching over.
    Leaving,
    /// The driver was asked to resume the guest at the destination.
    Resuming,
}

/// Starts a migration and follows it until there is a verdict. `policy` decides what to do, `actuator`
/// carries out the steps, and `sink` receives every sample.
///
/// # Errors
///
/// The migration fails, an end or its connection is lost or does not answer, the switchover makes no
/// progress, the guest does not run after a completed migration, a step fails, or the samples cannot be
/// written.
pub async fn migrate(
    driver: &impl Driver,
    policy: &mut dyn Policy,
    spec: &MigrationSpec<'_>,
    actuator: &impl Actuator,
    sink: &dyn Sink,
) -> Result<FinishedMigration, Error> {
    let MigrationSpec { steps, cycle, started, timeout, recovery, uses_link, samples_file } = *spec;
    let period_ms = cycle.map_or(0.0, |cycle| cycle.period.as_millis_f64());
    let deadline = started + Duration::from(timeout);
    let mut log = SampleLog::create(samples_file, sink)?;
    let mut events = time::timeout_at(deadline + PATIENCE, driver.begin())
        .await
        .map_err(|_| Error::NoAnswer { silent: started.elapsed(), state: String::new() })??;

    let (stage, receiver) = watch::channel(MigrationStage::Source);
    let applied = RefCell::default();
    // Pinned outside of the loop: a step in progress must survive the iterations, each of which polls it.
    let mut timeline = pin!(timeline::play(actuator, steps, started, receiver, &applied));
    let mut timeline_ended = false;
    let mut ticker = time::interval(SAMPLE_INTERVAL);
    // After a slow answer, the next sample is due a whole interval later: missed samples are not made up for.
    ticker.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let recoveries = Recoveries::new(recovery.into(), deadline);
    let mut tracker = MigrationTracker::new(started, deadline, uses_link, recoveries);
    let mut requests = Requests::new(driver, actuator, started);
    let verdict = loop {
        let mut reported = None;
        let ask = tokio::select! {
            biased;
            answer = answered(&mut requests.status) => {
                reported = Some(log.keep(answer?)?);
                if log.shows_progress() {
                    tracker.progressed = Instant::now();
                }
                std::mem::take(&mut requests.ask_again)
            }
            answer = answered(&mut requests.action) => {
                match answer {
                    Err(error) if tracker.recoveries.is_under_way() => return Err(split(&error.to_string())),
                    answer => answer?,
                }
                if tracker.recoveries.is_under_way() {
                    // Its answer would describe an earlier time.
                    requests.status = None;
                }
                tracker.acted()
            }
            Some(event) = events.recv() => {
                let ask = tracker.record_event(event, &stage)?;
                if ask {
                    requests.note_change();
                }
                ask
            }
            ended = &mut timeline, if !timeline_ended => {
                ended?;
                timeline_ended = true;
                requests.note_change();
                true
            }
            counted = answered(&mut requests.traffic) => {
                tracker.record_traffic(counted?);
                false
            }
            _ = ticker.tick() => true,
            () = time::sleep_until(deadline), if tracker.can_be_given_up() => false,
        };
        let mut demand = None;
        if let Some(state) = reported {
            let decide = || {
                let settled_ms = settled_ms(steps, cycle, &applied.borrow());
                policy.decide(&Progress { samples: &log.samples, settled_ms, period_ms })
            };
            demand = tracker.on_state(state, requests.action.is_some(), decide, &stage)?;
        }
        let unanswered = pending_for(requests.status.as_ref());
        if let Some(demand) = tracker.overdue(unanswered, timeout, &log.in_state()).or(demand) {
            requests.act(tracker.meet(demand, &stage));
        }
        if tracker.waits_for_its_resumption() && requests.action.is_none() {
            tracker.paused = Some(Paused::Resuming);
            requests.act(Action::Resume(End::Destination));
        }
        // Once the source has completed, its figures are final. The loop then only waits for the
        // destination's announcement that the guest runs, which may arrive later, since it comes from another
        // node.
        if ask && tracker.completion.is_none() {
            requests.ask_for_status();
        }
        if requests.traffic.is_none() && tracker.asks_for_traffic() {
            tracker.asked_for_traffic = Instant::now();
            requests.ask_for_traffic();
        }
        // A recovery takes as long as the link is down, and has its own bound.
        let acting = requests.action.as_ref().filter(|_| !tracker.recoveries.is_under_way());
        let silent = pending_for(requests.status.as_ref()).max(pending_for(acting));
        match tracker.ending(silent, &log.in_state()) {
            Ending::None => {}
            // The cancellation also resumes a paused guest, which may take some milliseconds more.
            Ending::Verdict(_)
                if tracker.cancelled
                    && requests.action.as_ref().is_some_and(|act| act.since.elapsed() < PATIENCE) => {}
            Ending::Verdict(verdict) => break verdict,
            Ending::Error(error) => return Err(error),
            Ending::NotResumed => return Err(not_resumed(driver).await),
        }
    };
    if !timeline_ended {
        // No further step begins. A step in progress ends, or learns from the closed channel that the guest
        // will not arrive at the destination.
        drop(stage);
        timeline.await?;
    }
    Ok(tracker.finish(verdict, started, log.samples, applied.take()))
}

/// Returns the error for post-copy that has ended early, for this reason.
fn split(reason: &str) -> Error {
    Error::GuestLost(format!("it moved without all of its memory, and the rest cannot follow: {reason}"))
}

/// Finds out why a guest does not run at the destination although the migration has completed and nothing
/// more arrives there.
async fn not_resumed(driver: &impl Driver) -> Error {
    let lost = |why: String| {
        let what = "the migration completed, but the guest does not run at the destination";
        Error::GuestLost(format!("{what}: {why}"))
    };
    let seconds = PATIENCE.as_secs();
    match time::timeout(QUESTION_LIMIT, driver.is_running(End::Destination)).await {
        Ok(Ok(false)) => lost(format!("nothing has arrived there for {seconds} s, and it still waits")),
        Ok(Ok(true)) => {
            Error::Migration("the guest runs at the destination, which has not announced it".into())
        }
        Ok(Err(error)) => error.into(),
        Err(_) => lost(format!("nothing has arrived there for {seconds} s, and it does not answer")),
    }
}

/// What has to be done about a migration now.
enum Demand {
    /// Carry out an action.
    Act(Action),
    /// Recover from this failure of the link.
    Recover(String),
    /// Give the migration up, for this reason.
    GiveUp(String),
}

/// What the observations so far say about the end of a migration.
enum Ending {
    /// It has not ended.
    None,
    /// It has ended with this verdict.
    Verdict(Verdict),
    /// It has failed, or its bound has passed.
    Error(Error),
    /// It has completed, but the guest does not run at the destination.
    NotResumed,
}

impl MigrationTracker {
    fn new(now: Instant, deadline: Instant, uses_link: bool, recoveries: Recoveries) -> Self {
        Self {
            deadline,
            uses_link,
            stopped: None,
            resumed: None,
            completion: None,
            given_up: None,
            cancelled: false,
            progressed: now,
            asked_for_traffic: now,
            traffic: None,
            late: None,
            paused: None,
            mirrored: None,
            postcopy: None,
            completed: None,
            completes_disk: None,
            recoveries,
        }
    }

    /// Returns whether the guest still runs at the source and the migration has not been given up.
    fn can_be_given_up(&self) -> bool {
        self.given_up.is_none() && !self.switches_over()
    }

    /// Returns whether the guest has stopped at the source for the switchover, or is about to, so that the
    /// migration cannot be given up any more.
    fn switches_over(&self) -> bool {
        let stopped = self.stopped.is_some() && self.paused != Some(Paused::Sending);
        stopped || self.resumed.is_some() || self.completion.is_some() || self.postcopy.is_some()
    }

    /// Records a state that the driver has reported. Returns what it calls for, if anything. While an action
    /// is pending (`is_acting`), it calls for no other one. `decide` asks the policy.
    fn on_state(
        &mut self,
        reported: State,
        is_acting: bool,
        decide: impl FnOnce() -> Decision,
        stage: &watch::Sender<MigrationStage>,
    ) -> Result<Option<Demand>, Error> {
        let leaves = match &reported {
            // Also after the migration was given up: the cancellation may come too late.
            State::Switchover | State::Completed(_) => true,
            // A migration in such a state can still be cancelled, or the state may be the result of the
            // cancellation.
            State::BeforeSwitchover | State::Other => self.given_up.is_none(),
            _ => false,
        };
        if leaves {
            self.leaves(stage);
        }
        Ok(match reported {
            // Also after the migration was given up: it may have completed before the cancellation.
            State::Completed(completion) => {
                self.completed(completion);
                None
            }
            State::Cancelled(_) if self.given_up.is_some() => {
                self.cancelled = true;
                None
            }
            // A driver that recovers the migration may still report it as paused.
            State::PostcopyPaused(_) if self.recoveries.is_under_way() => None,
            State::PostcopyPaused(reason) if self.may_recover() => Some(Demand::Recover(reason)),
            State::Failed(reason) | State::Cancelled(reason) | State::PostcopyPaused(reason) => {
                return Err(if self.is_split() { split(&reason) } else { Error::Migration(reason) });
            }
            State::Active if self.can_be_given_up() && !is_acting && Instant::now() < self.deadline => {
                self.on_decision(decide())
            }
            // The driver may have reported its old state after it was asked.
            State::Mirrored if self.may_migrate_memory() && !is_acting => {
                self.mirrored = Some(Instant::now());
                Some(Demand::Act(Action::MigrateMemory))
            }
            State::BeforeSwitchover if self.may_complete_disk() && !is_acting => {
                self.completes_disk = Some((Instant::now(), None));
                Some(Demand::Act(Action::CompleteDisk))
            }
            State::Active
            | State::Mirroring
            | State::Mirrored
            | State::BeforeSwitchover
            | State::Switchover
            | State::Postcopy
            | State::Other => None,
        })
    }

    /// Records a decision of the policy. Returns what it calls for, if anything.
    fn on_decision(&mut self, decision: Decision) -> Option<Demand> {
        match decision {
            Decision::Wait => None,
            Decision::Pause => {
                self.paused = Some(Paused::Sending);
                Some(Demand::Act(Action::Pause))
            }
            Decision::StartPostcopy => {
                self.postcopy = Some(Instant::now());
                self.progressed = Instant::now();
                Some(Demand::Act(Action::StartPostcopy))
            }
            Decision::GiveUp(reason) => Some(Demand::GiveUp(reason)),
        }
    }

    /// Returns what the time that has passed calls for, if anything. A request for a status is unanswered for
    /// the time `unanswered`; `in_state` says in which state the migration last was.
    fn overdue(&mut self, unanswered: Duration, timeout: Span, in_state: &str) -> Option<Demand> {
        let mut demand = None;
        if self.can_be_given_up() && Instant::now() >= self.deadline {
            demand = Some(Demand::GiveUp(format!("the deadline of {timeout} passed{in_state}")));
        }
        if self.link_has_failed(unanswered) {
            let seconds = FAILURE.as_secs();
            demand = Some(Demand::Recover(format!("nothing has passed the link for {seconds} s")));
        }
        if self.disk_is_stuck() {
            let seconds = PATIENCE.as_secs();
            let reason = format!("completing the copy of the disk has made no progress for {seconds} s");
            demand = Some(Demand::GiveUp(reason));
            self.progressed = Instant::now();
        }
        demand
    }

    /// Notes what is done about a demand. Returns the action for it.
    fn meet(&mut self, demand: Demand, stage: &watch::Sender<MigrationStage>) -> Action {
        match demand {
            Demand::Act(action) => action,
            Demand::Recover(failure) => {
                self.recoveries.begin(self.progressed, failure);
                Action::Recover
            }
            Demand::GiveUp(reason) => {
                self.given_up = Some((reason, Instant::now()));
                // Before the cancellation, so that no further step begins.
                stage.send_replace(MigrationStage::GivenUp);
                Action::Cancel
            }
        }
    }

    /// Notes that the migration switches over, or has completed.
    fn leaves(&mut self, stage: &watch::Sender<MigrationStage>) {
        if self.paused == Some(Paused::Sending) {
            self.paused = Some(Paused::Leaving);
            self.progressed = Instant::now();
            stage.send_if_modified(|stage| {
                let was_paused = *stage == MigrationStage::Paused;
                if was_paused {
                    *stage = MigrationStage::Stopped;
                }
                was_paused
            });
        }
    }

    /// Returns whether the guest was paused and the migration has completed, so that the driver has to resume
    /// the guest at the destination.
    fn waits_for_its_resumption(&self) -> bool {
        self.paused == Some(Paused::Leaving) && self.completion.is_some() && self.resumed.is_none()
    }

    /// Returns whether the guest may have moved by post-copy without all of its memory.
    fn is_split(&self) -> bool {
        self.postcopy.is_some() && (self.stopped.is_some() || self.resumed.is_some())
    }

    /// Returns whether a guest that has moved by post-copy can still get the rest of its memory if the link
    /// fails now.
    fn may_recover(&self) -> bool {
        self.is_split() && self.completion.is_none() && self.recoveries.are_possible()
    }

    /// Returns whether the link has failed after the guest has moved by post-copy, and the migration is to
    /// recover. The source has left a request for a status unanswered for the time `silent`: if the source
    /// hangs, the link has not failed.
    fn link_has_failed(&self, silent: Duration) -> bool {
        let stuck = self.resumed.is_some() && self.progressed.elapsed() > FAILURE && silent < FAILURE / 2;
        stuck && !self.recoveries.is_under_way() && self.may_recover()
    }

    /// Returns whether the link should be asked for its traffic now.
    fn asks_for_traffic(&self) -> bool {
        let since = self.progressed.max(self.asked_for_traffic);
        let waits = self.resumed.is_none() || (self.is_split() && !self.recoveries.is_under_way());
        self.switches_over() && waits && since.elapsed() >= LINK_INTERVAL
    }

    /// Returns whether memory may be migrated once the copy of the disk is up to date, but has not been yet.
    fn may_migrate_memory(&self) -> bool {
        self.mirrored.is_none() && self.can_be_given_up()
    }

    /// Returns whether the driver may be asked to complete the copy of the disk, but has not been asked yet.
    fn may_complete_disk(&self) -> bool {
        self.completes_disk.is_none() && self.given_up.is_none()
    }

    /// Notes that the driver has done what was requested. Returns whether a sample should be taken now.
    fn acted(&mut self) -> bool {
        if let Some((_, done @ None)) = &mut self.completes_disk
            && self.given_up.is_none()
        {
            *done = Some(Instant::now());
            self.progressed = Instant::now();
        }
        if self.recoveries.is_under_way() {
            self.recoveries.end();
            self.progressed = Instant::now();
            return true;
        }
        self.mirrored.is_some()
    }

    /// Returns whether the copy of the disk is being completed, but makes no progress.
    fn disk_is_stuck(&self) -> bool {
        let completing = matches!(self.completes_disk, Some((_, None)));
        completing && self.given_up.is_none() && self.progressed.elapsed() > PATIENCE
    }

    fn completed(&mut self, completion: Completion) {
        self.completion = Some(completion);
        self.completed = Some(Instant::now());
        self.progressed = Instant::now();
        self.recoveries.end();
    }

    /// Records the traffic of the link. It counts as progress only if the source sends and the destination
    /// answers: neither the source's useless retransmissions nor a network's own packets are progress.
    fn record_traffic(&mut self, now: Traffic) {
        let progressed = self.traffic.is_some_and(|before| {
            now.sent_bytes >= before.sent_bytes + PROGRESS_BYTES && now.received_bytes > before.received_bytes
        });
        if progressed {
            self.progressed = Instant::now();
        }
        if progressed || self.traffic.is_none() {
            self.traffic = Some(now);
        }
        // Each answer holds the lateness since the previous one.
        self.late = [self.late, now.late].into_iter().flatten().reduce(Lateness::merge);
    }

    /// Records an event. Returns whether a sample should be taken now.
    fn record_event(
        &mut self,
        event: driver::Event,
        stage: &watch::Sender<MigrationStage>,
    ) -> Result<bool, Error> {
        match event {
            driver::Event::Changed => {}
            driver::Event::SwitchesOver => self.leaves(stage),
            driver::Event::Stopped(at) => {
                self.stopped = Some(at);
                // The two ends announce their events through two nodes: the source's may arrive after the
                // destination's. It must not make a guest that runs at the destination count as stopped.
                let stopped = match (self.postcopy, self.paused) {
                    (Some(_), _) => MigrationStage::Moving,
                    (None, Some(Paused::Sending)) => MigrationStage::Paused,
                    (None, _) => MigrationStage::Stopped,
                };
                stage.send_if_modified(|stage| {
                    let earlier = !stage.is_at_destination();
                    if earlier {
                        *stage = stopped;
                    }
                    earlier
                });
            }
            driver::Event::Resumed(at) => {
                self.resumed = Some(at);
                let moves = self.postcopy.is_some() && self.completion.is_none();
                let arrived = if moves { MigrationStage::Moved } else { MigrationStage::Destination };
                stage.send_replace(arrived);
            }
            // The destination exits when its migration is cancelled.
            driver::Event::Lost(End::Destination, _) if self.given_up.is_some() => return Ok(false),
            driver::Event::Lost(_, error) => return Err(error.into()),
        }
        self.progressed = Instant::now();
        Ok(true)
    }

    /// Returns how the migration has ended, if it has. The source has left requests unanswered for the time
    /// `silent`; `in_state` names the migration's last known state.
    fn ending(&self, silent: Duration, in_state: &str) -> Ending {
        let seconds = PATIENCE.as_secs();
        let no_answer = || Error::NoAnswer { silent, state: in_state.into() };
        // Half of the patience: the request may have been sent some time after the last sign of life.
        let is_silent = silent >= PATIENCE / 2;
        let stuck = self.progressed.elapsed() > PATIENCE;
        let is_late = |since: Instant| since.elapsed() > PATIENCE;
        if let Some(reason) = self.recoveries.overdue() {
            return Ending::Error(split(&format!("{reason}{in_state}")));
        }
        let error = match (&self.given_up, self.completion, self.resumed) {
            (Some((reason, _)), ..) if self.cancelled => {
                return Ending::Verdict(Verdict::GivenUp(reason.clone()));
            }
            (_, Some(completion), Some(_)) => return Ending::Verdict(Verdict::Completed(completion)),
            (_, Some(_), None) if stuck => return Ending::NotResumed,
            (_, None, Some(_)) if silent > ANSWER_LIMIT => no_answer(),
            (_, None, _) if self.recoveries.is_under_way() => return Ending::None,
            (_, None, Some(_)) if stuck && self.postcopy.is_some() => {
                split(&format!("nothing has been sent for {seconds} s{in_state}"))
            }
            (_, None, Some(_)) if stuck && !is_silent => Error::Migration(format!(
                "the guest runs at the destination, but the source has not completed within {seconds} \
                 s{in_state}"
            )),
            (_, None, None) if self.stopped.is_none() && self.postcopy.is_some_and(is_late) => {
                Error::Migration(format!(
                    "post-copy was started, but the guest has not stopped at the source within {seconds} \
                     s{in_state}"
                ))
            }
            (_, None, None) if self.switches_over() => {
                if !stuck {
                    return Ending::None;
                }
                let what = if self.uses_link {
                    "it is stopped for the switchover, which has made no progress"
                } else {
                    "no data has been saved, loaded or handed over"
                };
                // Without the link, the silent end may be the destination.
                let is_source = is_silent && self.uses_link;
                let silence = if is_source { ", and the source does not answer" } else { "" };
                Error::GuestLost(format!("{what} for {seconds} s{in_state}{silence}"))
            }
            (Some((reason, at)), None, None) if at.elapsed() > PATIENCE => {
                let why = if is_silent { "the source does not answer" } else { "it was not cancelled" };
                Error::Migration(format!("given up ({reason}), but {why} within {seconds} s{in_state}"))
            }
            (None, None, None) if silent > ANSWER_LIMIT => no_answer(),
            _ => return Ending::None,
        };
        Ending::Error(error)
    }

    /// Returns the migration that has ended with this verdict.
    fn finish(
        self,
        verdict: Verdict,
        started: Instant,
        samples: Vec<Sample>,
        applied: Vec<AppliedChange>,
    ) -> FinishedMigration {
        // After a cancellation the guest is not stopped for good: the decision to give up takes the place of
        // the stop.
        let resumed = self.resumed.filter(|_| !self.cancelled);
        let stopped = self.given_up.filter(|_| self.cancelled).map(|(_, at)| at).or(self.stopped);
        let stopped_first = [self.stopped, stopped].into_iter().flatten().min();
        let has_moved_first = samples.iter().any(Sample::shows_postcopy);
        let mut finished = FinishedMigration {
            verdict,
            started,
            stopped: stopped.unwrap_or_else(Instant::now),
            ran_until: stopped_first.unwrap_or_else(Instant::now),
            resumed,
            past_deadline: None,
            samples,
            applied,
            late: self.late,
            paused: self.paused.is_some(),
            mirrored: self.mirrored,
            disk_completed: self.completes_disk.and_then(|(from, to)| Some((from, to?))),
            postcopy: self.postcopy.filter(|_| has_moved_first),
            completed: self.completed,
            recoveries: self.recoveries.into_done(),
        };
        let arrived = finished.arrived().and_then(|at| at.checked_duration_since(self.deadline));
        finished.past_deadline = arrived.filter(|by| !by.is_zero());
        finished
    }
}

/// Returns when the last change of the conditions takes effect, after which they stay the same or only
/// repeat, in milliseconds since the migrate command. Returns 0 without steps, and nothing while another step
/// is still to come.
fn settled_ms(steps: &[Step], cycle: Option<Cycle>, applied: &[AppliedChange]) -> Option<f64> {
    let is_awaited = |step: &&Step| cycle.is_none_or(|cycle| step.at <= cycle.from);
    let Some(last) = steps.iter().rfind(is_awaited) else { return Some(0.0) };
    // A step that was left out is part of a later one.
    applied.iter().find(|change| change.due_ms >= last.at.as_millis_f64()).map(|change| change.done_ms)
}

/// The samples, in memory and in their file.
struct SampleLog<'a> {
    file: File,
    path: &'a Path,
    samples: Vec<Sample>,
    sink: &'a dyn Sink,
}

impl<'a> SampleLog<'a> {
    fn create(path: &'a Path, sink: &'a dyn Sink) -> Result<Self, Error> {
        let file = File::create_new(path)
            .map_err(|source| Error::Write { path: path.display().to_string(), source })?;
        Ok(Self { file, path, samples: Vec::new(), sink })
    }

    /// Writes a sample to the file and keeps it. Returns the state of the migration.
    fn keep(&mut self, Status { state, sample }: Status) -> Result<State, Error> {
        let mut line = serde_json::to_vec(&sample).unwrap_or_default();
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| Error::Write { path: self.path.display().to_string(), source })?;
        self.sink.handle(&Event::Sampled(&sample));
        self.samples.push(sample);
        Ok(state)
    }

    /// Returns whether the last sample differs from the previous one. The first sample counts as different.
    fn shows_progress(&self) -> bool {
        match &self.samples[..] {
            [.., before, last] => {
                (before.memory, before.disk, &before.status) != (last.memory, last.disk, &last.status)
            }
            _ => true,
        }
    }

    /// Returns the state of the last sample in the driver's words, as a phrase with a space before it; empty
    /// before the first sample.
    fn in_state(&self) -> String {
        let status = self.samples.last().map(|sample| sample.status.as_str()).unwrap_or_default();
        if status.is_empty() { String::new() } else { format!(" in the state `{status}`") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_stated_in_the_documents() {
        let text = include_str!("../../../docs/measuring.md");
        let (_, bounds) = text.split_once("## How long each state may last").expect("no section on bounds");
        for limit in [PATIENCE, ANSWER_LIMIT] {
            assert!(bounds.contains(&format!("{} s", limit.as_secs())), "{limit:?}");
        }
    }

    #[test]
    fn a_late_stop_event_does_not_stop_a_guest_that_runs_at_the_destination() {
        let (stage, receiver) = watch::channel(MigrationStage::Source);
        let now = Instant::now();
        let mut tracker = MigrationTracker::new(now, now, true, Recoveries::new(Duration::ZERO, now));
        tracker.record_event(driver::Event::Resumed(Instant::now()), &stage).unwrap();
        tracker.record_event(driver::Event::Stopped(Instant::now()), &stage).unwrap();
        assert_eq!(*receiver.borrow(), MigrationStage::Destination);
    }

    #[test]
    fn conditions_are_settled_once_the_last_entry_is_done() {
        let step = |at| Step { at: Span::from_secs(at), link: None, workload: None, may_be_late: false };
        let applied = |due_ms| AppliedChange { due_ms, done_ms: due_ms, ..AppliedChange::default() };
        assert_eq!(settled_ms(&[], None, &[]), Some(0.0));
        let steps = [step(1), step(2)];
        assert_eq!(settled_ms(&steps, None, &[applied(1e3)]), None);
        assert_eq!(settled_ms(&steps, None, &[applied(1e3), applied(2e3)]), Some(2e3));
        assert_eq!(settled_ms(&steps, None, &[applied(2e3)]), Some(2e3), "the first was left out");
        // After some time, they only repeat.
        let cycle = |from| Some(Cycle { from: Span::from_secs(from), period: Span::from_secs(1) });
        assert_eq!(settled_ms(&steps, cycle(0), &[]), Some(0.0));
        assert_eq!(settled_ms(&steps, cycle(1), &[]), None);
        assert_eq!(settled_ms(&steps, cycle(1), &[applied(1e3)]), Some(1e3));
    }
}
