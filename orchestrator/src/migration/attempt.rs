//! One attempt, phase by phase.

use super::{
    Trouble,
    follow::{self, Course, Followed, Verdict},
    load, timeline,
};
use crate::{
    driver::{
        control_port::Beat,
        qemu::{
            machine::{self, Machine, Role},
            process::{self, Guest, Handle},
            saved,
        },
    },
    event::{Event, Sink},
    lab::{Lab, Link, topology::GUEST_ADDRESS},
    matrix::{Cell, Settings},
    measure::clock::{self, Reading},
    node::protocol::Traffic,
    outcome::Outcome,
    results::{
        agreement,
        record::{Draft, LinkLateness, Measured, Phase, Record, round_micros},
    },
};
use serde_json::{Value, json};
use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use stressor::{protocol::Command, verify::Verification, workload::Rate};

/// The longest a saved guest may take until its stressor is heard; nested TCG is slow.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest the stressor may take to fill or to check its memory.
const MEMORY_LIMIT: Duration = Duration::from_secs(120);

/// The longest the dirty rate may take to settle. Ten seconds of a guest's clock may take several times that.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// How long the guest is watched where it is after the migration: what the measurement of its lost time
/// needs, and a rate that means something.
const OBSERVE: Duration = Duration::from_millis(500);

/// The longest a guest that should run may say nothing. Under nested TCG one that has just been restored, and all of
/// whose code has to be translated again, took 9 s to answer; with the host's cores in use by others, more than 10 s.
const SIGN_OF_LIFE_LIMIT: Duration = Duration::from_secs(40);

/// The longest the guest's network may take to answer the first probe: as [`SIGN_OF_LIFE_LIMIT`].
const PROBE_LIMIT: Duration = Duration::from_secs(40);

/// What an attempt needs besides the lab.
pub struct Job<'a> {
    /// The cell.
    pub cell: &'a Cell,
    /// Which repetition, from 1.
    pub attempt: u32,
    /// The machine to run.
    pub machine: &'a Machine,
    /// The folder for its samples and logs.
    pub folder: &'a Path,
}

/// Makes the attempt. `interrupted` ends it early; whatever happens, no QEMU is left when this returns.
pub async fn attempt(
    lab: &Lab,
    job: &Job<'_>,
    sink: &dyn Sink,
    interrupted: impl Future<Output = ()>,
) -> Record {
    let link = match lab.link(&job.cell.settings) {
        Ok(link) => link,
        Err(lacks) => return Draft::start().freeze(job.cell, job.attempt, Outcome::Skipped, Some(lacks)),
    };
    let mut session = Session { lab, link, job, sink, draft: Draft::start(), handles: Vec::new() };
    session.draft.measured.round_trips = lab.description.round_trips;
    let ended = tokio::select! {
        biased;
        () = interrupted => Ok((Outcome::Interrupted, Some("it was interrupted".into()))),
        ended = session.run() => ended,
    };
    session.enter(Phase::TearDown);
    let trouble = session.tear_down().await.err();
    let (outcome, reason) = match (ended, trouble) {
        (Err(trouble), _) | (Ok((Outcome::Converged, _)), Some(trouble)) => {
            (trouble.outcome(), Some(trouble.to_string()))
        }
        (Ok(ended), _) => ended,
    };
    let mut draft = session.draft;
    draft.measured.disagreements = agreement::disagreements(&draft.measured, &job.cell.settings.link);
    draft.freeze(job.cell, job.attempt, outcome, reason)
}

struct Session<'a> {
    lab: &'a Lab,
    link: Link<'a>,
    job: &'a Job<'a>,
    sink: &'a dyn Sink,
    draft: Draft,
    /// Every QEMU that was started.
    handles: Vec<Arc<Handle>>,
}

type Ended = (Outcome, Option<String>);

impl Session<'_> {
    fn enter(&mut self, phase: Phase) {
        self.draft.enter(phase);
        self.sink.take(&Event::PhaseEntered(phase));
    }

    fn settings(&self) -> &Settings {
        &self.job.cell.settings
    }

    async fn run(&mut self) -> Result<Ended, Trouble> {
        self.enter(Phase::Boot);
        let shape = self.link.shape(&self.settings().link).await?;
        self.draft.measured.link = Some(shape.to_string());
        self.boot_unless_saved().await?;
        self.start(Role::Source).await?;
        self.start(Role::Destination).await?;
        let handles = self.handles.clone();
        process::while_alive(&handles, self.phases()).await
    }

    /// Sees to it that a guest of this machine is saved at the source.
    async fn boot_unless_saved(&mut self) -> Result<(), Trouble> {
        if self.lab.saved.lock().unwrap().as_ref() == Some(self.job.machine) {
            return Ok(());
        }
        // What is there is overwritten.
        *self.lab.saved.lock().unwrap() = None;
        let handle = self.start(Role::Boot).await?;
        saved::save(&self.lab.source.node, &handle).await?;
        handle.kill().await?;
        self.handles.clear();
        *self.lab.saved.lock().unwrap() = Some(self.job.machine.clone());
        Ok(())
    }

    async fn start(&mut self, role: Role) -> Result<Arc<Handle>, Trouble> {
        let compute = match role {
            Role::Boot | Role::Source => &self.lab.source,
            Role::Destination => &self.lab.destination,
        };
        let log = self.job.folder.join(format!("{}.log", role.name()));
        let machine = compute.machine(self.job.machine);
        let handle = Arc::new(Handle::start(&compute.node, &machine, role, &log).await?);
        self.handles.push(Arc::clone(&handle));
        Ok(handle)
    }

    async fn phases(&mut self) -> Result<Ended, Trouble> {
        let settings = self.settings().clone();
        let (source, destination) = tokio::try_join!(
            Guest::connect(&self.lab.source.node, &self.handles[0]),
            Guest::connect(&self.lab.destination.node, &self.handles[1])
        )?;
        let (source, destination) = (&source, &destination);
        let runs = source.stressor.wait_for_telemetry("run", START_LIMIT, |beats| beats.first().map(|_| ()));
        runs.await?;
        let uri = prepare(source, destination, &settings, self.link).await?;

        self.enter(Phase::Fill);
        let workload = settings.workload();
        let wanted = workload.rate;
        source.stressor.request("fill its memory", Command::Set(workload), MEMORY_LIMIT).await?;

        self.enter(Phase::Settle);
        let probing = !settings.probe.interval.is_zero();
        if probing {
            let interval = settings.probe.interval.into();
            self.lab.controller.start_probe(GUEST_ADDRESS.0, interval, PROBE_LIMIT).await?;
        }
        self.settle(source, wanted).await?;

        self.enter(Phase::Migrate);
        let wire_before = self.link.traffic().await?;
        let samples = self.job.folder.join("samples.jsonl");
        let course = Course {
            uri: &uri,
            settings: &settings.migrate,
            steps: &settings.steps(),
            samples_file: &samples,
        };
        let hands = timeline::Real { link: self.link, source, destination };
        let followed = follow::migrate(source, destination, &course, &hands, self.sink).await?;
        let wire_after = self.link.traffic().await?;
        note_migration(&mut self.draft.measured, &followed);
        note_link(&mut self.draft.measured, wire_before, wire_after);

        self.enter(Phase::Observe);
        let here = if followed.resumed.is_some() { destination } else { source };
        let since = followed.resumed.unwrap_or(followed.stopped);
        let in_force = followed.carried.iter().rev().find_map(|entry| entry.rate).unwrap_or(wanted);
        self.observe(here, since, in_force).await?;
        if probing {
            let probe = self.lab.controller.stop_probe().await?;
            let measured = &mut self.draft.measured;
            if followed.resumed.is_some() {
                measured.downtime_ms.client = Some(round_micros(probe.largest_gap_ns as f64 / 1e6));
            }
            measured.probe = Some(probe);
        }
        note_load(&mut self.draft.measured, source, here, &followed, wanted);

        self.enter(Phase::Verify);
        let verification = here.stressor.verify(MEMORY_LIMIT).await.map_err(|e| lost(&e))?;
        let ended = ended(followed.verdict, &verification);
        self.draft.measured.verified = Some(verification);
        Ok(ended)
    }

    async fn settle(&mut self, source: &Guest, wanted: Rate) -> Result<(), Trouble> {
        let since = Instant::now();
        source.stressor.request("start dirtying", Command::Start, SIGN_OF_LIFE_LIMIT).await?;
        let rate = source
            .stressor
            .wait_for_telemetry("reach a steady dirty rate", SETTLE_LIMIT, |beats| {
                load::settled(load::between(beats, since, Instant::now()), wanted)
            })
            .await?;
        self.draft.measured.stress.requested = load::limit(wanted);
        self.draft.measured.stress.before = Some(rate);
        Ok(())
    }

    /// Watches the guest where it is now: it must run, and go on dirtying if it is to.
    async fn observe(&self, here: &Guest, since: Instant, wanted: Rate) -> Result<(), Trouble> {
        let dirties = wanted != Rate::Limited(units::ByteRate::ZERO);
        let limit = OBSERVE + SIGN_OF_LIFE_LIMIT;
        let alive = here.stressor.wait_for_telemetry("show that it runs", limit, |beats| {
            let since_then = load::between(beats, since, Instant::now());
            let (first, last) = (since_then.first()?, since_then.last()?);
            let moves = last.telemetry.pages_dirtied > first.telemetry.pages_dirtied || !dirties;
            (last.seen - first.seen >= OBSERVE && moves).then_some(())
        });
        alive.await.map_err(|e| lost(&e))?;
        if !here.is_running().await? {
            return Err(Trouble::GuestLost(format!("QEMU {} has it stopped", here.role.which())));
        }
        Ok(())
    }

    /// Ends everything this attempt started, going on after failures; the first failure.
    async fn tear_down(&mut self) -> Result<(), Trouble> {
        // Refused where none runs any more, which is as it should be.
        let _ = self.lab.controller.stop_probe().await;
        let mut result = Ok(());
        for handle in self.handles.drain(..) {
            result = result.and(handle.kill().await);
        }
        Ok(result?)
    }
}

fn lost(error: &crate::driver::control_port::Error) -> Trouble {
    Trouble::GuestLost(error.to_string())
}

/// Sets both QEMUs up for the migration; where the destination listens.
async fn prepare(
    source: &Guest,
    destination: &Guest,
    settings: &Settings,
    link: Link<'_>,
) -> Result<String, Trouble> {
    let capabilities = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    let cap = settings.migrate.max_bandwidth.map_or(machine::NO_CAP, |cap| cap.to_byte_rate().get());
    let parameters = json!({
        "downtime-limit": settings.migrate.downtime_limit.as_millis(),
        "max-bandwidth": cap,
    });
    for guest in [source, destination] {
        guest.monitor.call("migrate-set-capabilities", capabilities.clone()).await?;
        guest.monitor.call("migrate-set-parameters", parameters.clone()).await?;
    }
    // Port 0: the kernel picks a free one, and QEMU says which.
    let address = link.destination_address();
    let listen = format!("tcp:{address}:0");
    destination.monitor.call("migrate-incoming", json!({ "uri": listen })).await?;
    let status = destination.monitor.call("query-migrate", json!({})).await?;
    let port = status["socket-address"][0]["port"].as_str().and_then(|p| p.parse::<u16>().ok());
    let port = port.ok_or_else(|| no_port(&status))?;
    Ok(format!("tcp:{address}:{port}"))
}

fn no_port(status: &Value) -> Trouble {
    Trouble::Migration(format!("QEMU does not say where it listens: {status}"))
}

/// The outcome: what became of the migration, unless the memory is not what was written.
fn ended(verdict: Verdict, verification: &Verification) -> Ended {
    match (&verification.first_bad, verdict) {
        (Some(bad), _) => {
            (Outcome::Corrupted, Some(format!("the guest's memory is not what was written: {bad}")))
        }
        (None, Verdict::Completed(_)) => (Outcome::Converged, None),
        (None, Verdict::GivenUp(reason)) => (Outcome::NotConverged, Some(reason)),
    }
}

/// What the migration link carried between two looks at it, and how well it was emulated.
fn note_link(measured: &mut Measured, before: Traffic, after: Traffic) {
    measured.transferred.wire_bytes = Some(after.sent_bytes.saturating_sub(before.sent_bytes));
    measured.link_lateness = after.late.map(LinkLateness::from);
}

fn note_migration(measured: &mut Measured, followed: &Followed) {
    measured.iterations = followed.passes();
    measured.timeline.clone_from(&followed.carried);
    // Not the last sample's: QEMU forgets its figures when a migration is cancelled.
    measured.transferred.qemu_bytes = followed.samples.iter().map(|s| s.transferred_bytes).max();
    if let Some(resumed) = followed.resumed {
        let total = resumed - followed.started;
        measured.total_time_ms = Some(round_micros(total.as_secs_f64() * 1e3));
    }
    if let Verdict::Completed(completion) = followed.verdict {
        measured.qemu = Some(completion);
        measured.downtime_ms.qemu = Some(completion.downtime_ms as f64);
    }
}

/// The rates during and after the migration, and the time the guest lost in it.
fn note_load(measured: &mut Measured, source: &Guest, here: &Guest, followed: &Followed, wanted: Rate) {
    let before = source.stressor.beats();
    let during = load::between(&before, followed.started, followed.stopped);
    measured.stress.during = load::rate(during);
    measured.stress.stretches =
        load::stretches(during, followed.started, followed.stopped, wanted, &followed.carried);
    measured.stress.forgone_bytes = load::forgone_bytes(during);
    measured.stress.longest_stall_ms = load::longest_stall_ms(during);
    let all = here.stressor.beats();
    let after = load::between(&all, followed.resumed.unwrap_or(followed.stopped), Instant::now());
    measured.stress.after = load::rate(after);
    if followed.resumed.is_some() {
        let readings = |beats: &[Beat]| -> Vec<Reading> {
            beats.iter().map(|b| Reading::new(b.seen, b.telemetry.clock_ns, followed.started)).collect()
        };
        let until_stop =
            load::between(&before, before.first().map_or(followed.started, |b| b.seen), followed.stopped);
        let lost = clock::time_lost_s(&readings(until_stop), &readings(after));
        measured.downtime_ms.guest = lost.map(|s| round_micros(s * 1e3));
    }
}
