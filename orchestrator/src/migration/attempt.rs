//! One attempt, phase by phase.

use super::{
    Error, account,
    follow::{self, Course, Followed, Verdict},
    load,
    network::Network,
    timeline::LinkAndGuest,
};
use crate::{
    driver::{
        Driver,
        control_port::{self, TelemetrySample},
        unless_ended,
    },
    event::{Event, Sink},
    matrix::{Cell, Settings},
    measure::End,
    outcome::Outcome,
    results::{
        agreement,
        builder::RecordBuilder,
        record::{Phase, Record},
        samples::SAMPLES,
    },
};
use std::{future::Future, path::Path, time::Duration};
use stressor::{
    protocol::{Command, TELEMETRY_INTERVAL_MS},
    verify::Verification,
    workload::Rate,
};
use tokio::time::Instant;
use units::ByteRate;

/// The longest a guest that has been started may take to answer; nested TCG is slow.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest the stressor may take to fill or to check its memory.
const MEMORY_LIMIT: Duration = Duration::from_secs(120);

/// The longest the dirty rate may take to settle. Ten seconds of a guest's clock may take several times that.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// How often the stressor sends telemetry until its rate has settled, in milliseconds: twice as often as
/// usual, so that enough lines have come in after half the time.
const SETTLING_TELEMETRY_MS: u64 = TELEMETRY_INTERVAL_MS / 2;

/// How long the guest is watched after the migration, where it is then: what the measurement of its lost time
/// needs.
const WATCH: Duration = Duration::from_millis(500);

/// How long of that time it goes on dirtying, which is what the rate afterwards is over; then it checks its
/// memory.
const DIRTY: Duration = Duration::from_millis(200);

/// The longest a guest that should run may say nothing. Under nested TCG one that has just been restored, and
/// all of whose code has to be translated again, took 9 s to answer; with the host's cores in use by others,
/// more than 10 s.
const SIGN_OF_LIFE_LIMIT: Duration = Duration::from_secs(40);

/// The longest the guest's network may take to answer the first probe: as [`SIGN_OF_LIFE_LIMIT`].
const PROBE_LIMIT: Duration = Duration::from_secs(40);

/// What is attempted.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// The cell.
    pub cell: &'a Cell,
    /// Which repetition, from 1.
    pub number: u32,
    /// The folder for its samples.
    pub folder: &'a Path,
}

/// Makes the attempt and writes it down in `draft`. `interrupted` ends it early; whatever happens, the driver
/// has ended what it started when this returns.
pub async fn attempt(
    mut driver: impl Driver,
    network: &impl Network,
    plan: Plan<'_>,
    draft: RecordBuilder,
    sink: &dyn Sink,
    interrupted: impl Future<Output = ()>,
) -> Record {
    let mut attempt = Attempt { network, plan, draft, sink };
    let ended = tokio::select! {
        biased;
        () = interrupted => Ok((Outcome::Interrupted, Some("it was interrupted".into()))),
        ended = attempt.run(&mut driver) => ended,
    };
    attempt.enter(Phase::TearDown);
    // Both, whatever becomes of either. The probe's end is refused where none runs any more, which is as it
    // should be.
    let (_, torn_down) = tokio::join!(network.stop_probe(), driver.end());
    let trouble = torn_down.err().map(Error::from);
    let (outcome, reason) = match (ended, trouble) {
        (Err(error), _) | (Ok((Outcome::Converged, _)), Some(error)) => {
            (error.outcome(), Some(error.to_string()))
        }
        (Ok(ended), _) => ended,
    };
    let mut draft = attempt.draft;
    draft.measured.disagreements = agreement::disagreements(&draft.measured, &plan.cell.settings.link);
    draft.freeze(plan.cell, plan.number, outcome, reason)
}

/// An attempt that is being made.
struct Attempt<'a, N> {
    network: &'a N,
    plan: Plan<'a>,
    draft: RecordBuilder,
    sink: &'a dyn Sink,
}

type Ended = (Outcome, Option<String>);

impl<N: Network> Attempt<'_, N> {
    fn enter(&mut self, phase: Phase) {
        self.draft.enter(phase);
        self.sink.take(&Event::PhaseEntered(phase));
    }

    async fn run(&mut self, driver: &mut impl Driver) -> Result<Ended, Error> {
        self.enter(Phase::Boot);
        // Not beside the start: a link that was half made when that failed would be in the way of the next
        // attempt.
        let setting = self.network.shape(&self.plan.cell.settings.link).await?;
        account::shaped(&mut self.draft.measured, setting);
        driver.start().await?;
        let driver = &*driver;
        unless_ended(|| driver.ended(), self.phases(driver)).await
    }

    /// Goes through the phases in which both ends run.
    async fn phases(&mut self, driver: &impl Driver) -> Result<Ended, Error> {
        let settings = &self.plan.cell.settings;
        let source = driver.control_port(End::Source)?;
        source.request("run", Command::TelemetryEvery(SETTLING_TELEMETRY_MS), START_LIMIT).await?;
        self.enter(Phase::Fill);
        let workload = settings.workload();
        let rate = workload.rate;
        let prepared = async { Ok::<_, Error>(driver.prepare(&settings.migrate).await?) };
        let filled =
            async { Ok(source.request("fill its memory", Command::Set(workload), MEMORY_LIMIT).await?) };
        tokio::try_join!(prepared, filled)?;
        self.enter(Phase::Settle);
        self.settle(driver, settings, rate).await?;
        self.enter(Phase::Migrate);
        let followed = self.migrate(driver, settings).await?;
        self.enter(Phase::Observe);
        let observed = self.observe(driver, &followed, rate).await?;
        self.enter(Phase::Verify);
        let verification = self.verify(driver, settings, &followed, observed, rate).await?;
        Ok(ended(followed.verdict, &verification))
    }

    /// Starts the probe and the load, waits for both, and sets the telemetry back to its usual interval.
    async fn settle(&mut self, driver: &impl Driver, settings: &Settings, wanted: Rate) -> Result<(), Error> {
        let source = driver.control_port(End::Source)?;
        let probing = async {
            match probe_interval(settings) {
                Some(interval) => Ok::<_, Error>(self.network.start_probe(interval, PROBE_LIMIT).await?),
                None => Ok(()),
            }
        };
        let settled = async {
            let since = Instant::now();
            source.request("start dirtying", Command::Start, SIGN_OF_LIFE_LIMIT).await?;
            let settled = source.wait_for_telemetry("reach a steady dirty rate", SETTLE_LIMIT, |telemetry| {
                load::settled(load::between(telemetry, since, Instant::now()), wanted)
            });
            let rate = settled.await?;
            let usual = Command::TelemetryEvery(TELEMETRY_INTERVAL_MS);
            source.request("send telemetry less often", usual, SIGN_OF_LIFE_LIMIT).await?;
            Ok(rate)
        };
        let ((), rate) = tokio::try_join!(probing, settled)?;
        self.draft.measured.stress.requested = load::limit(wanted);
        self.draft.measured.stress.before = Some(rate);
        Ok(())
    }

    async fn migrate(&mut self, driver: &impl Driver, settings: &Settings) -> Result<Followed, Error> {
        let wire_before = self.network.traffic().await?;
        let course = Course { steps: &settings.steps(), samples_file: &self.plan.folder.join(SAMPLES) };
        let mut policy = settings.migrate.mode.policy(settings.migrate.limits());
        let actuator = LinkAndGuest { network: self.network, driver };
        let followed = follow::migrate(driver, &mut *policy, &course, &actuator, self.sink).await?;
        let wire_after = self.network.traffic().await?;
        account::migration(&mut self.draft.measured, &followed);
        account::link(&mut self.draft.measured, wire_before, wire_after);
        Ok(followed)
    }

    /// Watches the guest where it is now: it must run, and go on dirtying if it is to. Returns when it had
    /// done so for long enough.
    async fn observe(
        &self,
        driver: &impl Driver,
        followed: &Followed,
        wanted: Rate,
    ) -> Result<Instant, Error> {
        let end = followed.end();
        let in_force = followed.carried.iter().rev().find_map(|entry| entry.rate).unwrap_or(wanted);
        let dirties = in_force != Rate::Limited(ByteRate::ZERO);
        let telemetry = watched_for(DIRTY, followed.guest_runs_since(), move |first, last| {
            last.telemetry.pages_dirtied > first.telemetry.pages_dirtied || !dirties
        });
        let here = driver.control_port(end)?;
        let alive = here.wait_for_telemetry("show that it runs", DIRTY + SIGN_OF_LIFE_LIMIT, telemetry);
        alive.await.map_err(|error| lost(&error))?;
        let observed = Instant::now();
        if !driver.is_running(end).await? {
            return Err(Error::GuestLost(format!("it is stopped at the {}", end.name())));
        }
        Ok(observed)
    }

    /// Has the guest check its memory while the client and the guest's clock are still watched.
    async fn verify(
        &mut self,
        driver: &impl Driver,
        settings: &Settings,
        followed: &Followed,
        observed: Instant,
        wanted: Rate,
    ) -> Result<Verification, Error> {
        let here = driver.control_port(followed.end())?;
        let telemetry = watched_for(WATCH, followed.guest_runs_since(), |_, _| true);
        let (verification, watched) = tokio::join!(
            here.verify(MEMORY_LIMIT),
            here.wait_for_telemetry("show that it runs", WATCH + SIGN_OF_LIFE_LIMIT, telemetry)
        );
        let verification = verification.map_err(|error| lost(&error))?;
        let measured = &mut self.draft.measured;
        measured.verified = Some(verification.clone().into());
        let source = driver.control_port(End::Source)?.telemetry();
        account::load(measured, &source, &here.telemetry(), followed, observed, wanted);
        if verification.is_good() {
            watched.map_err(|error| lost(&error))?;
        }
        if probe_interval(settings).is_some() {
            account::probe(measured, self.network.stop_probe().await?, followed);
        }
        Ok(verification)
    }
}

/// Returns a condition on telemetry: that it spans this time since a moment, and that `accept` takes its
/// first and last line.
fn watched_for(
    span: Duration,
    since: Instant,
    accept: impl Fn(&TelemetrySample, &TelemetrySample) -> bool,
) -> impl FnMut(&[TelemetrySample]) -> Option<()> {
    move |telemetry| {
        let since_then = load::between(telemetry, since, Instant::now());
        let (first, last) = (since_then.first()?, since_then.last()?);
        (last.seen - first.seen >= span && accept(first, last)).then_some(())
    }
}

/// The interval of the client's probe, if there is to be one.
fn probe_interval(settings: &Settings) -> Option<Duration> {
    let interval = settings.probe.interval;
    (!interval.is_zero()).then(|| interval.into())
}

fn lost(error: &control_port::Error) -> Error {
    Error::GuestLost(error.to_string())
}

/// The outcome: the verdict on the migration, unless the memory is not what was written.
fn ended(verdict: Verdict, verification: &Verification) -> Ended {
    match (&verification.first_bad, verdict) {
        (Some(bad), _) => {
            (Outcome::Corrupted, Some(format!("the guest's memory is not what was written: {bad}")))
        }
        (None, Verdict::Completed(_)) => (Outcome::Converged, None),
        (None, Verdict::GivenUp(reason)) => (Outcome::NotConverged, Some(reason)),
    }
}
