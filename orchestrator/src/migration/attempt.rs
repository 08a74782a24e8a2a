//! Makes one attempt, phase by phase, and returns its record.

use super::{
    Error, account,
    follow::{self, FinishedMigration, MigrationSpec, Verdict},
    live_probe::LiveProbe,
    load,
    network::Network,
    recorded,
    timeline::LinkAndGuest,
};
use crate::{
    driver::{
        Action, Driver,
        control_port::{self, ControlPort, TelemetrySample},
        unless_exited,
    },
    event::{Event, Sink},
    matrix::{Cell, Settings},
    measure::End,
    mode::When,
    outcome::Outcome,
    results::{
        agreement,
        builder::RecordBuilder,
        client::{self, PROBE},
        record::{Measured, Phase, Record},
        samples::SAMPLES,
        telemetry::{self, GuestReport, TELEMETRY},
    },
};
use futures::FutureExt;
use std::{future::Future, io, path::Path, time::Duration};
use stressor::{
    disk::DiskVerification,
    protocol::{Command, TELEMETRY_INTERVAL_MS},
    verify::Verification,
    workload::Rate,
};
use tokio::time::{self, Instant};
use units::{ByteRate, Bytes};

/// The longest that a guest may take to answer after it has been started; nested TCG is slow.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest that the stressor may take to fill or to verify its memory.
const MEMORY_LIMIT: Duration = Duration::from_secs(120);

/// The longest that the dirty rate may take to settle. Any rate is accepted after ten seconds of the guest's
/// clock, which may take several times as long in real time.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// The telemetry interval until the dirty rate has settled, in milliseconds. It is half of the usual
/// interval, so that enough samples arrive in half the time.
const SETTLING_TELEMETRY_MS: u64 = TELEMETRY_INTERVAL_MS / 2;

/// How long the guest must have sent telemetry before a migration that may stop it early. The time that the
/// guest loses is measured by comparing its clock with the host's before the stop.
const BEFORE_STOP: Duration = Duration::from_secs(2);

/// How long the guest is observed after the migration, at the end where it then is. The measurement of the
/// time that the guest lost needs this much telemetry.
const OBSERVATION: Duration = Duration::from_millis(500);

/// How long the guest keeps dirtying memory during the observation. The dirty rate after the migration is
/// measured over this time; then the stressor verifies its memory.
const DIRTYING: Duration = Duration::from_millis(200);

/// The longest that a guest may be silent when it should run. Under nested TCG, a guest that has just been
/// restored took 9 s to answer, because all of its code has to be translated again; with other programs on
/// the host's cores, more than 10 s.
const SIGN_OF_LIFE_LIMIT: Duration = Duration::from_secs(40);

/// The longest that the guest's network may take to answer the first probe, for the same reason as
/// [`SIGN_OF_LIFE_LIMIT`].
const PROBE_LIMIT: Duration = Duration::from_secs(40);

/// The longest that the source may take to say whether the guest runs there after a failed migration.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);

/// The longest that it may take to resume a guest at the source after a failed migration. QEMU at the
/// destination may have to be killed first.
const RESUME_LIMIT: Duration = Duration::from_secs(20);

/// The longest that the probe waits for a last reply when it is stopped. Without one, the client's downtime
/// has no end, and this time is part of its lower bound.
const LAST_REPLY_LIMIT: Duration = Duration::from_secs(5);

/// The longest that the tear-down may take once the user has interrupted the run. It takes a tenth of a
/// second, unless a node or the connection to it hangs.
const INTERRUPTED_LIMIT: Duration = Duration::from_millis(500);

/// The cell to attempt, and where its files go.
#[derive(Clone, Copy)]
pub struct AttemptSpec<'a> {
    /// The cell to attempt, with all of its settings.
    pub cell: &'a Cell,
    /// The number of the repetition, counted from 1.
    pub number: u32,
    /// The folder for the file with the samples.
    pub folder: &'a Path,
}

/// Makes an attempt, records it in `builder`, and returns the record. Ends early when `interrupted`
/// completes. The driver is shut down before this function returns, except that after an interruption,
/// shutting it down may take `INTERRUPTED_LIMIT` at most.
pub async fn attempt(
    mut driver: impl Driver,
    network: &impl Network,
    spec: AttemptSpec<'_>,
    builder: RecordBuilder,
    sink: &dyn Sink,
    interrupted: impl Future<Output = ()>,
) -> Record {
    let mut attempt = Attempt { network, spec, builder, sink, live_probe: None };
    let interrupted = interrupted.shared();
    let result = tokio::select! {
        biased;
        () = interrupted.clone() => Ok((Outcome::Interrupted, Some("interrupted by the user".into()))),
        result = attempt.run(&mut driver) => result,
    };
    attempt.enter(Phase::TearDown);
    // Before the record is written: if an attempt's folder changes after its record, followers take the
    // attempt to be in progress.
    drop(attempt.live_probe.take());
    // If one of them fails, the other still continues. Stopping the probe fails if no probe runs any more, so
    // its error is ignored.
    let torn_down = async { tokio::join!(network.stop_probe(Duration::ZERO), driver.shut_down()).1 };
    let given_up = async {
        interrupted.await;
        time::sleep(INTERRUPTED_LIMIT).await;
    };
    let shut_down = tokio::select! {
        biased;
        shut_down = torn_down => shut_down,
        // The run ends now, and so does its lab with everything in it.
        () = given_up => Ok(()),
    };
    let tear_down_error = shut_down.err().map(Error::from);
    // An error during tear-down only spoils a success; any other outcome keeps its own reason.
    let (outcome, reason) = match (result, tear_down_error) {
        (Err(error), _) | (Ok((Outcome::Converged, _)), Some(error)) => {
            (error.outcome(), Some(error.to_string()))
        }
        (Ok(result), _) => result,
    };
    let mut builder = attempt.builder;
    let Settings { link, migrate, .. } = &spec.cell.settings;
    let [slowest, _] = link.extremes();
    let mut disagreements = agreement::disagreements(&builder.measured, &slowest);
    disagreements.extend(agreement::limit_exceeded(&builder.measured, migrate));
    builder.measured.disagreements = disagreements;
    builder.freeze(spec.cell, spec.number, outcome, reason)
}

/// An attempt in progress.
struct Attempt<'a, N> {
    network: &'a N,
    spec: AttemptSpec<'a>,
    builder: RecordBuilder,
    sink: &'a dyn Sink,
    /// What viewers see of the probe, once it runs.
    live_probe: Option<LiveProbe>,
}

type OutcomeAndReason = (Outcome, Option<String>);

impl<N: Network> Attempt<'_, N> {
    fn enter(&mut self, phase: Phase) {
        self.builder.enter(phase);
        self.sink.handle(&Event::PhaseEntered(phase));
    }

    async fn run(&mut self, driver: &mut impl Driver) -> Result<OutcomeAndReason, Error> {
        self.enter(Phase::Boot);
        // Not concurrently with the start: if the start failed, a link that was only half set up would
        // obstruct the next attempt.
        let setting = self.network.shape(&self.spec.cell.settings.link.at_start()).await?;
        account::link_setting(&mut self.builder.measured, setting);
        self.builder.measured.storage.link_setting =
            self.network.shape_storage(&self.spec.cell.settings.storage_link).await?;
        driver.start().await?;
        let driver = &*driver;
        let result = unless_exited(|| driver.unexpected_exit(), self.phases(driver)).await;
        match result {
            Err(error) if self.builder.phase() == Some(Phase::Migrate) => {
                self.check_source(driver, error).await
            }
            result => result,
        }
    }

    /// Makes the stressor verify memory and disk at the source after a failed migration, if the guest still
    /// runs there, or continues there after it was stopped. Returns the error of the migration, unless the
    /// guest is damaged or was resumed.
    async fn check_source(&mut self, driver: &impl Driver, error: Error) -> Result<OutcomeAndReason, Error> {
        let migrate = &self.spec.cell.settings.migrate;
        let uses_link = migrate.mode.uses_link();
        let runs = async || {
            let runs = time::timeout(QUESTION_LIMIT, driver.is_running(End::Source)).await;
            matches!(runs, Ok(Ok(true)))
        };
        let ran = runs().await;
        let asked = Instant::now();
        if !uses_link || migrate.pause() != When::NEVER {
            // If that fails, the guest does not run, as the next question will show.
            let resumed = driver.act(Action::Resume(End::Source));
            let _ = time::timeout(RESUME_LIMIT, resumed).await;
        }
        let Ok(source) = driver.control_port(End::Source) else { return Err(error) };
        if !runs().await {
            return Err(error);
        }
        self.enter(Phase::Verify);
        let since = Instant::now();
        let check = async {
            // The check itself would wait much longer for a guest that hangs.
            let span = if ran { Duration::ZERO } else { OBSERVATION };
            let alive = telemetry_for(span, since, |_, _| true);
            source.wait_for_telemetry("continue its work", OBSERVATION + SIGN_OF_LIFE_LIMIT, alive).await?;
            GuestCheck::make(source, &self.spec.cell.settings).await
        };
        let Ok(check) = check.await else { return Err(error) };
        check.record(&mut self.builder.measured);
        if let Some(damage) = check.damage() {
            return Ok((Outcome::Corrupted, Some(format!("{error}; at the source, {damage}"))));
        }
        let (outcome, reason) = match error {
            // The guest would have been lost only at the destination.
            Error::GuestLost(reason) if !uses_link || !ran => (Outcome::Failed, reason),
            error if ran => return Err(error),
            error => (error.outcome(), error.to_string()),
        };
        let lost = account::time_lost(&source.telemetry(), asked).filter(|_| !ran);
        let stopped = lost.map_or(String::new(), |lost| format!("was stopped for {} and ", words(lost)));
        Ok((outcome, Some(format!("{reason}; the guest {stopped}continues at the source"))))
    }

    /// Goes through the phases in which both ends run, from fill to verify.
    async fn phases(&mut self, driver: &impl Driver) -> Result<OutcomeAndReason, Error> {
        let settings = &self.spec.cell.settings;
        let source = driver.control_port(End::Source)?;
        let telemetry = Command::TelemetryEvery(SETTLING_TELEMETRY_MS);
        source.request("answer its first request", telemetry, START_LIMIT).await?;
        self.enter(Phase::Fill);
        let workload = settings.workload();
        let rate = workload.rate;
        let prepared = async { Ok::<_, Error>(driver.prepare(&settings.migrate).await?) };
        let filled = async {
            source.request("fill its memory", Command::Set(workload), MEMORY_LIMIT).await?;
            if let Some(load) = settings.disk_load() {
                source.request("open its disk", Command::SetDisk(load), MEMORY_LIMIT).await?;
            }
            Ok(())
        };
        tokio::try_join!(prepared, filled)?;
        self.enter(Phase::Settle);
        self.settle(driver, settings, rate).await?;
        self.enter(Phase::Migrate);
        let finished = self.migrate(driver, settings).await?;
        self.enter(Phase::Observe);
        let observed_until = self.observe(driver, &finished, rate).await?;
        self.enter(Phase::Verify);
        let check = self.verify(driver, settings, &finished, observed_until, rate).await?;
        Ok(outcome_and_reason(&finished, settings, &check))
    }

    /// Starts the probe and the dirtying of memory, and waits until the guest answers the probe and the dirty
    /// rate is steady. Then resets the telemetry to its usual interval.
    async fn settle(&mut self, driver: &impl Driver, settings: &Settings, wanted: Rate) -> Result<(), Error> {
        let source = driver.control_port(End::Source)?;
        let probing = async {
            match probe_interval(settings) {
                Some(interval) => {
                    let reports = self.network.start_probe(interval, PROBE_LIMIT).await?;
                    Ok::<_, Error>(Some(LiveProbe::start(self.spec.folder, reports)))
                }
                None => Ok(None),
            }
        };
        let settled = async {
            let since = Instant::now();
            source.request("start dirtying memory", Command::Start, SIGN_OF_LIFE_LIMIT).await?;
            let settled = source.wait_for_telemetry("reach a steady dirty rate", SETTLE_LIMIT, |telemetry| {
                load::settled(load::between(telemetry, since, Instant::now()), wanted)
            });
            let rate = settled.await?;
            let usual = Command::TelemetryEvery(TELEMETRY_INTERVAL_MS);
            source.request("send telemetry less often", usual, SIGN_OF_LIFE_LIMIT).await?;
            Ok(rate)
        };
        let (live_probe, rate) = tokio::try_join!(probing, settled)?;
        self.live_probe = live_probe;
        if settings.migrate.stops_early() {
            let long = |telemetry: &[TelemetrySample]| {
                let (first, last) = (telemetry.first()?, telemetry.last()?);
                (last.received - first.received >= BEFORE_STOP).then_some(())
            };
            source.wait_for_telemetry("keep sending telemetry", SIGN_OF_LIFE_LIMIT, long).await?;
        }
        self.builder.measured.stress.requested = load::bytes_per_s(wanted);
        self.builder.measured.stress.before = Some(rate);
        Ok(())
    }

    async fn migrate(
        &mut self,
        driver: &impl Driver,
        settings: &Settings,
    ) -> Result<FinishedMigration, Error> {
        driver.listen().await?;
        let wire_before = self.network.traffic().await?;
        let storage_before = self.network.storage_traffic().await?;
        let cpu_before = driver.cpu_times().await?;
        let started = Instant::now();
        if let Some(live_probe) = &mut self.live_probe {
            live_probe.migration_started(started);
        }
        let spec = MigrationSpec {
            steps: &settings.steps(),
            cycle: settings.cycle(),
            started,
            timeout: settings.migrate.timeout,
            recovery: settings.migrate.recovery(),
            uses_link: settings.migrate.mode.uses_link(),
            samples_file: &self.spec.folder.join(SAMPLES),
        };
        let mut policy = settings.migrate.mode.policy(settings.migrate.limits());
        let actuator = LinkAndGuest { network: self.network, driver };
        let finished = follow::migrate(driver, &mut *policy, &spec, &actuator, self.sink).await?;
        let wire_after = self.network.traffic().await?;
        let storage_after = self.network.storage_traffic().await?;
        let cpu_after = driver.cpu_times().await?;
        account::migration(&mut self.builder.measured, &finished, &settings.migrate);
        let mode = settings.migrate.mode;
        account::cpu(&mut self.builder.measured, cpu_before, cpu_after, mode.sends_memory());
        account::aids(&mut self.builder.measured, &finished, &settings.migrate);
        account::channels(&mut self.builder.measured, driver.sent_by_connection());
        if finished.postcopy.is_some() && finished.resumed.is_some() {
            let faults = driver.page_faults().await?;
            account::postcopy(&mut self.builder.measured, &finished, faults);
        }
        if let Some(file) = driver.saved_file() {
            account::file(&mut self.builder.measured, &finished, file);
        }
        if mode.uses_link() {
            account::link_traffic(&mut self.builder.measured, wire_before, finished.late, wire_after);
        }
        account::storage_traffic(&mut self.builder.measured, storage_before.zip(storage_after));
        Ok(finished)
    }

    /// Observes the guest where it is now. It must run, and dirty memory unless its rate is zero. Returns the
    /// time at which it had been observed for long enough.
    async fn observe(
        &self,
        driver: &impl Driver,
        finished: &FinishedMigration,
        wanted: Rate,
    ) -> Result<Instant, Error> {
        let end = finished.end();
        let in_force = finished.applied.iter().rev().find_map(|entry| entry.rate).unwrap_or(wanted);
        let dirties = in_force != Rate::Limited(ByteRate::ZERO);
        let enough = telemetry_for(DIRTYING, finished.undisturbed_since(), move |first, last| {
            last.telemetry.pages_dirtied > first.telemetry.pages_dirtied || !dirties
        });
        let here = driver.control_port(end)?;
        let alive = here.wait_for_telemetry("continue its work", DIRTYING + SIGN_OF_LIFE_LIMIT, enough);
        alive.await.map_err(|error| guest_lost(&error))?;
        let observed_until = Instant::now();
        if !driver.is_running(end).await? {
            return Err(Error::GuestLost(format!("it is stopped at the {}", end.name())));
        }
        Ok(observed_until)
    }

    /// Makes the stressor verify memory and disk, while the probe and the telemetry continue.
    async fn verify(
        &mut self,
        driver: &impl Driver,
        settings: &Settings,
        finished: &FinishedMigration,
        observed_until: Instant,
        wanted: Rate,
    ) -> Result<GuestCheck, Error> {
        let here = driver.control_port(finished.end())?;
        let enough = telemetry_for(OBSERVATION, finished.undisturbed_since(), |_, _| true);
        let (check, observation) = tokio::join!(
            GuestCheck::make(here, settings),
            here.wait_for_telemetry("keep sending telemetry", OBSERVATION + SIGN_OF_LIFE_LIMIT, enough)
        );
        let check = check.map_err(|error| guest_lost(&error))?;
        let measured = &mut self.builder.measured;
        check.record(measured);
        let source = driver.control_port(End::Source)?.telemetry();
        account::stress(measured, &source, &here.telemetry(), finished, observed_until, wanted);
        let kept = keep_telemetry(self.spec.folder, &source, &here.telemetry(), finished);
        // Damage is the more important finding: a lack of telemetry must not hide it.
        if check.damage().is_none() {
            kept?;
            observation.map_err(|error| guest_lost(&error))?;
        }
        if probe_interval(settings).is_some() {
            let report = self.network.stop_probe(LAST_REPLY_LIMIT).await?;
            let windows = recorded::probe_windows(&report, Instant::now(), finished.started);
            client::write(self.spec.folder, &windows)
                .map_err(|source| write_error(&self.spec.folder.join(PROBE), source))?;
            account::probe(measured, report, finished);
        }
        Ok(check)
    }
}

/// Writes the guest's reports to a file in the attempt's folder: first those that came through the source,
/// then those from where the guest is now.
fn keep_telemetry(
    folder: &Path,
    source: &[TelemetrySample],
    here: &[TelemetrySample],
    finished: &FinishedMigration,
) -> Result<(), Error> {
    let report = |end| move |sample| recorded::guest_report(sample, end, finished.started);
    let mut reports: Vec<GuestReport> = source.iter().map(report(End::Source)).collect();
    if finished.end() == End::Destination {
        reports.extend(here.iter().map(report(End::Destination)));
    }
    telemetry::write(folder, &reports).map_err(|source| write_error(&folder.join(TELEMETRY), source))
}

fn write_error(path: &Path, source: io::Error) -> Error {
    Error::Write { path: path.display().to_string(), source }
}

/// The result of comparing the guest's memory and its disk with what was written.
struct GuestCheck {
    memory: Verification,
    /// Absent if the guest has no disk.
    disk: Option<DiskVerification>,
}

impl GuestCheck {
    /// Makes the stressor compare memory and disk through this end.
    async fn make(here: &ControlPort, settings: &Settings) -> Result<Self, control_port::Error> {
        let memory = here.verify(MEMORY_LIMIT).await?;
        let disk = match settings.disk_load() {
            Some(load) => Some(here.verify_disk(disk_limit(load.size)).await?),
            None => None,
        };
        Ok(Self { memory, disk })
    }

    fn record(&self, measured: &mut Measured) {
        measured.verified = Some(self.memory.clone().into());
        if let Some(disk) = &self.disk {
            measured.storage.verified = Some(disk.clone().into());
        }
    }

    /// Returns what differs from what was written, as a clause.
    fn damage(&self) -> Option<String> {
        if let Some(bad) = &self.memory.first_bad {
            return Some(format!("the guest's memory differs from what was written: {bad}"));
        }
        let DiskVerification { first_bad, first_bad_read, .. } = self.disk.as_ref()?;
        let bad = first_bad.as_ref().or(first_bad_read.as_ref())?;
        Some(format!("the guest's disk differs from what was written: {bad}"))
    }

    /// Returns a clause that says that the guest could not use its disk, if that is the case.
    fn disk_failure(&self) -> Option<String> {
        let DiskVerification { io_errors, first_error, .. } = self.disk.as_ref()?;
        let first = first_error.as_deref().unwrap_or("it gives no reason");
        (*io_errors > 0).then(|| format!("the guest could not use its disk: {first}"))
    }
}

/// Returns the longest that the comparison of a disk of this size may take. An emulated guest reads some 50
/// MB per second, a nested one a tenth of that.
fn disk_limit(size: Bytes) -> Duration {
    MEMORY_LIMIT + Duration::from_secs(size.get() / 2_000_000)
}

/// Returns a condition on telemetry: the samples since this moment cover this time span, and `accept` returns
/// true for the first and the last of them.
fn telemetry_for(
    span: Duration,
    since: Instant,
    accept: impl Fn(&TelemetrySample, &TelemetrySample) -> bool,
) -> impl FnMut(&[TelemetrySample]) -> Option<()> {
    move |telemetry| {
        let since_then = load::between(telemetry, since, Instant::now());
        let (first, last) = (since_then.first()?, since_then.last()?);
        (last.received - first.received >= span && accept(first, last)).then_some(())
    }
}

/// Returns the interval of the client's probe, or nothing if the settings switch the probe off.
fn probe_interval(settings: &Settings) -> Option<Duration> {
    let interval = settings.probe.interval;
    (!interval.is_zero()).then(|| interval.into())
}

fn guest_lost(error: &control_port::Error) -> Error {
    Error::GuestLost(error.to_string())
}

/// Returns a time as messages show it.
fn words(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// Returns the outcome with its reason: `corrupted` if memory or disk differ from what was written, `failed`
/// if the guest could not use its disk, otherwise the verdict on the migration.
fn outcome_and_reason(
    finished: &FinishedMigration,
    settings: &Settings,
    check: &GuestCheck,
) -> OutcomeAndReason {
    let past_deadline = finished.past_deadline.map(|by| {
        let (by, timeout) = (words(by), settings.migrate.timeout);
        format!("the switchover had begun when the deadline of {timeout} passed, and ended {by} after it")
    });
    match (check.damage(), check.disk_failure(), &finished.verdict) {
        (Some(damage), ..) => (Outcome::Corrupted, Some(damage)),
        (None, Some(failure), _) => (Outcome::Failed, Some(failure)),
        (None, None, Verdict::Completed(_)) => (Outcome::Converged, past_deadline),
        (None, None, Verdict::GivenUp(reason)) => (Outcome::NotConverged, Some(reason.clone())),
    }
}
