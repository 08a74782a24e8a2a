//! A scripted driver for tests: no hypervisor, and a guest that speaks the stressor's protocol.
//!
//! All times are the runtime's, so a test that pauses time finishes immediately and gets the same figures
//! every time.

use super::{Action, Driver, Error, Event, PageFaults, SavedFile, State, Status, control_port::ControlPort};
use crate::{
    matrix::Migrate,
    measure::{
        End,
        samples::{Completion, DiskProgress, MemoryProgress, Sample},
    },
    node::protocol::Traffic,
};
use netem::userspace::Lateness;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use stressor::{
    Workload,
    protocol::{Answer, Command, Latency, Message, Request, TELEMETRY_INTERVAL_MS, Telemetry},
    verify::{Area, BadPage, Verification},
    workload::{PAGE_BYTES, Rate},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{self, Instant},
};

/// The course of a scripted migration. Fields that are times say how long a step takes.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// How the disk is copied before memory is sent; not at all if absent.
    pub(crate) mirror: Option<ScriptedMirror>,
    /// How long the migration is set up before memory is sent; for ever if absent.
    pub(crate) setup: Option<Duration>,
    /// How long memory is sent until the guest stops; for ever if absent.
    pub(crate) active: Option<Duration>,
    /// How long the guest is stopped at the source until the migration completes there.
    pub(crate) downtime: Duration,
    /// How long the destination loads after that until the guest runs there; for ever if absent.
    pub(crate) loading: Option<Duration>,
    /// How long the rest of the memory takes once the guest is paused; for ever if absent.
    pub(crate) rest: Option<Duration>,
    /// How long the rest of the memory takes after a guest has moved by post-copy; for ever if absent.
    pub(crate) postcopy: Option<Duration>,
    /// How long the link is down after it has failed in post-copy; for ever if absent.
    pub(crate) recovering: Option<Duration>,
    /// When, counted from the migrate command, the link begins to lose everything.
    pub(crate) cut: Duration,
    /// The lateness that the link reports each time its traffic is read.
    pub(crate) late: Option<Lateness>,
    /// The interval in which the source answers no requests, counted from the migrate command.
    pub(crate) silence: (Duration, Duration),
    /// Whether the destination answers requests.
    pub(crate) destination_answers: bool,
    /// How long the migration takes to end once it is cancelled.
    pub(crate) cancelling: Duration,
    /// Bytes sent per second while memory is sent.
    pub(crate) bandwidth: u64,
    /// The duration of one pass.
    pub(crate) pass: Duration,
    /// How long the guest takes to answer a request while it dirties memory.
    pub(crate) answer: Duration,
    /// Whether the guest migrates through a file.
    pub(crate) file: bool,
    /// When, counted from the migrate command, the destination dies, if it does.
    pub(crate) death: Option<Duration>,
    /// The fault to inject, if any.
    pub(crate) fault: Option<Fault>,
}

/// The copy of a disk in a scripted migration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScriptedMirror {
    /// How long it takes until the copy is up to date; for ever if absent.
    pub(crate) bulk: Option<Duration>,
    /// How long it takes to complete while the guest is stopped; for ever if absent.
    pub(crate) completing: Option<Duration>,
    /// Whether it is known how much was sent.
    pub(crate) is_counted: bool,
}

impl Script {
    /// A migration of two seconds.
    pub(crate) const SHORT: Self = Self {
        mirror: None,
        setup: Some(Duration::ZERO),
        active: Some(Duration::from_secs(2)),
        downtime: Duration::from_millis(60),
        loading: Some(Duration::ZERO),
        rest: Some(Duration::from_secs(1)),
        postcopy: Some(Duration::from_secs(3)),
        recovering: None,
        cut: Duration::MAX,
        late: None,
        silence: (Duration::ZERO, Duration::ZERO),
        destination_answers: true,
        cancelling: Duration::ZERO,
        bandwidth: 100_000_000,
        pass: Duration::from_millis(500),
        answer: Duration::ZERO,
        file: false,
        death: None,
        fault: None,
    };
}

impl Default for Script {
    fn default() -> Self {
        Self::SHORT
    }
}

/// A fault to inject into a scripted migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Starting the two ends fails.
    Start,
    /// The stressor cannot fill its memory.
    Fill,
    /// The guest sends nothing and dirties nothing after its start.
    SilentGuest,
    /// The ends cannot be prepared.
    Prepare,
    /// The destination cannot listen.
    Listen,
    /// The migrate command is refused.
    Begin,
    /// The source does not report the state of the migration.
    Progress,
    /// The copy of the disk fails after a second.
    Mirror,
    /// The copy of the disk cannot be completed.
    CompleteDisk,
    /// The migration fails after a second.
    Migration,
    /// The migration fails while the guest is paused.
    PausedMigration,
    /// Somebody else cancels the migration after a second.
    CancelledByOthers,
    /// The guest runs at the destination, but the source does not complete the migration.
    NoCompletion,
    /// The connection fails a second after the guest has moved by post-copy.
    Postcopy,
    /// The migration cannot recover.
    Recovery,
    /// The guest is not moved although post-copy was started.
    NoPostcopy,
    /// Pre-copy completes although post-copy was started.
    LatePostcopy,
    /// The source does not report what it has sent by post-copy.
    NoPostcopyFigures,
    /// The migration continues although it was cancelled.
    NoCancel,
    /// The guest runs, but the driver reports it as stopped.
    Stopped,
    /// The guest sends nothing after the migration.
    SilentAfterwards,
    /// The guest's memory differs from what the stressor has written.
    Corruption,
    /// The ends cannot be shut down.
    ShutDown,
    /// Shutting the ends down never ends.
    EndlessShutDown,
}

/// A driver that plays a [`Script`].
pub(crate) struct MockDriver {
    shared: Arc<Shared>,
    ports: Option<[ControlPort; 2]>,
    migration: Mutex<Option<JoinHandle<()>>>,
}

/// The state of a [`MockDriver`] that a test can inspect and change while an attempt owns the driver.
pub(crate) struct Shared {
    script: Script,
    guest: Mutex<Guest>,
    /// The state, and the word for it in samples.
    state: Mutex<(State, &'static str)>,
    began: Mutex<Option<Instant>>,
    /// When sending of memory began, if a disk was copied first.
    memory_began: watch::Sender<Option<Instant>>,
    /// Whether the copy of the disk is complete.
    disk_is_complete: watch::Sender<bool>,
    /// Whether the guest is to be paused.
    pauses: watch::Sender<bool>,
    /// Whether the guest is to move by post-copy.
    moves: watch::Sender<bool>,
    /// Whether the migration has recovered from a failure of the link in post-copy.
    recovered: watch::Sender<bool>,
    dead: watch::Sender<Option<End>>,
    actions: Mutex<Vec<Action>>,
    rates: Mutex<Vec<(End, Rate)>>,
    /// When the guest had been saved to a file.
    saved: Mutex<Option<Instant>>,
    /// Whether the source's last figures were reported after that.
    saved_is_reported: AtomicBool,
    shut_down: watch::Sender<bool>,
}

impl Shared {
    /// Makes an end exit unexpectedly.
    pub(crate) fn kill(&self, end: End) {
        self.dead.send_replace(Some(end));
    }

    /// Returns the actions that the driver was asked to carry out.
    pub(crate) fn actions(&self) -> Vec<Action> {
        self.actions.lock().unwrap().clone()
    }

    /// Returns the dirty rates that were requested from the stressor, each with the end through which the
    /// request came.
    pub(crate) fn rates(&self) -> Vec<(End, Rate)> {
        self.rates.lock().unwrap().clone()
    }

    /// Returns the time since the migrate command; zero before it.
    fn elapsed(&self) -> Duration {
        self.began.lock().unwrap().map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Returns the bytes of memory sent so far, and the number of the current pass.
    fn progress(&self) -> (u64, u64) {
        let Script { setup, active, bandwidth, pass, .. } = self.script;
        let since_memory = match self.script.mirror {
            Some(_) => self.memory_began.borrow().map_or(Duration::ZERO, |began| began.elapsed()),
            None => self.elapsed(),
        };
        let sending = since_memory.saturating_sub(setup.unwrap_or(Duration::MAX));
        let sending = sending.min(active.unwrap_or(Duration::MAX));
        (
            (bandwidth as f64 * sending.as_secs_f64()) as u64,
            1 + (sending.as_millis() / pass.as_millis()) as u64,
        )
    }

    /// Returns how far the copy of the disk has come, if there is one.
    fn disk(&self) -> Option<DiskProgress> {
        let bulk = self.script.mirror?.bulk.unwrap_or(Duration::MAX);
        let sent = (self.script.bandwidth as f64 * self.elapsed().min(bulk).as_secs_f64()) as u64;
        let sent_bytes = self.script.mirror?.is_counted.then_some(sent);
        Some(DiskProgress { copied_bytes: sent, remaining_bytes: 0, sent_bytes })
    }

    /// Returns the traffic that the link has counted at the source. It has sent memory with all headers, and
    /// since the stop of the guest 20 kB in each second, except in post-copy. What it has received carries no
    /// information.
    pub(crate) fn traffic(&self) -> Traffic {
        let Script { setup, active, cut, .. } = self.script;
        let stop = setup.and_then(|setup| setup.checked_add(active?)).unwrap_or(Duration::MAX);
        let until = if *self.moves.borrow() { stop } else { self.elapsed().min(cut) };
        let since_stop = until.saturating_sub(stop).as_secs();
        let disk = self.disk().and_then(|disk| disk.sent_bytes).unwrap_or(0);
        let sent_bytes = (self.progress().0 + disk) * 209 / 200 + 20_000 * since_stop;
        Traffic { sent_bytes, received_bytes: 60 * self.elapsed().as_secs(), late: self.script.late }
    }

    /// Waits until the source answers requests.
    async fn answers(&self) {
        let (from, to) = self.script.silence;
        let elapsed = self.elapsed();
        if (from..to).contains(&elapsed) {
            time::sleep(to.saturating_sub(elapsed)).await;
        }
    }

    /// Returns whether the driver was shut down.
    pub(crate) fn is_shut_down(&self) -> bool {
        *self.shut_down.borrow()
    }
}

/// The simulated guest with its stressor.
struct Guest {
    /// The end at which the guest runs; absent while it is stopped.
    location: Option<End>,
    /// Whether it has ever run at the destination.
    has_moved: bool,
    rate: Rate,
    running: bool,
    pages: f64,
    clock: Duration,
    updated: Instant,
    sequence: u64,
}

impl Guest {
    /// Advances the guest's clock and its dirtied pages to the present. Both stay as they are while it is
    /// stopped.
    fn catch_up(&mut self) {
        let elapsed = self.updated.elapsed();
        self.updated = Instant::now();
        if self.location.is_none() {
            return;
        }
        self.clock += elapsed;
        if let (true, Rate::Limited(rate)) = (self.running, self.rate) {
            self.pages += rate.get() as f64 * elapsed.as_secs_f64() / PAGE_BYTES as f64;
        }
    }

    fn telemetry(&mut self) -> Message {
        self.catch_up();
        self.sequence += 1;
        Message::Telemetry(Telemetry {
            sequence: self.sequence,
            clock_ns: self.clock.as_nanos() as u64,
            running: self.running,
            pages_dirtied: self.pages as u64,
            pages_forgone: 0,
            longest_stall_ns: 1_000_000,
            write_latency: Latency::default(),
            write_latencies: vec![self.pages as u64],
            disk: None,
        })
    }
}

impl MockDriver {
    pub(crate) fn new(script: Script) -> (Self, Arc<Shared>) {
        let guest = Guest {
            location: None,
            has_moved: false,
            rate: Workload::default().rate,
            running: false,
            pages: 0.0,
            clock: Duration::ZERO,
            updated: Instant::now(),
            sequence: 0,
        };
        let shared = Arc::new(Shared {
            script,
            guest: Mutex::new(guest),
            state: Mutex::new((State::Other, "none")),
            began: Mutex::default(),
            memory_began: watch::Sender::new(None),
            disk_is_complete: watch::Sender::new(false),
            pauses: watch::Sender::new(false),
            moves: watch::Sender::new(false),
            recovered: watch::Sender::new(false),
            dead: watch::Sender::new(None),
            actions: Mutex::default(),
            rates: Mutex::default(),
            saved: Mutex::default(),
            saved_is_reported: AtomicBool::new(false),
            shut_down: watch::Sender::new(false),
        });
        let mock = Self { shared: Arc::clone(&shared), ports: None, migration: Mutex::default() };
        (mock, shared)
    }

    /// Returns an error with this message if the script has this fault.
    fn inject(&self, fault: Fault, message: &str) -> Result<(), Error> {
        if self.shared.script.fault == Some(fault) { Err(Error::Scripted(message.into())) } else { Ok(()) }
    }

    /// Starts a connection to the guest through one end.
    fn port(&self, end: End) -> ControlPort {
        let (to_host, lines) = mpsc::unbounded_channel();
        let (to_guest, mut requests) = mpsc::unbounded_channel::<String>();
        let shared = Arc::clone(&self.shared);
        let Script { fault, answer, .. } = shared.script;
        tokio::spawn(async move {
            let mut ticker = time::interval(Duration::from_millis(TELEMETRY_INTERVAL_MS));
            loop {
                let request = tokio::select! {
                    request = requests.recv() => match request {
                        Some(request) => Some(request),
                        None => return,
                    },
                    _ = ticker.tick() => None,
                };
                if request.is_some() && shared.guest.lock().unwrap().running {
                    time::sleep(answer).await;
                }
                let mut guest = shared.guest.lock().unwrap();
                if guest.location != Some(end) {
                    continue;
                }
                let silent = match fault {
                    Some(Fault::SilentGuest) => guest.running,
                    Some(Fault::SilentAfterwards) => end == End::Destination,
                    _ => false,
                };
                let message = match request {
                    _ if silent => continue,
                    Some(request) => {
                        let Request { id, command } = serde_json::from_str(&request).unwrap();
                        if let Command::TelemetryEvery(ms) = command {
                            ticker = time::interval(Duration::from_millis(ms));
                        }
                        Message::Reply { id, answer: shared.answer(&mut guest, end, command, fault) }
                    }
                    None => guest.telemetry(),
                };
                if to_host.send(Ok(serde_json::to_string(&message).unwrap())).is_err() {
                    return;
                }
            }
        });
        ControlPort::start(lines, move |line| {
            let _ = to_guest.send(line);
        })
    }
}

impl Shared {
    fn answer(&self, guest: &mut Guest, end: End, command: Command, fault: Option<Fault>) -> Answer {
        guest.catch_up();
        match command {
            Command::Set(_) if fault == Some(Fault::Fill) => return Answer::Failed("out of memory".into()),
            Command::Set(workload) => {
                guest.rate = workload.rate;
                self.rates.lock().unwrap().push((end, workload.rate));
            }
            Command::Start => guest.running = true,
            Command::Stop => guest.running = false,
            Command::SetDisk(_) | Command::TelemetryEvery(_) => {}
            Command::Verify => {
                guest.running = false;
                let bad = fault == Some(Fault::Corruption);
                let first_bad = bad.then(|| BadPage {
                    area: Area::WorkingSet,
                    index: 7,
                    expected_generation: 3,
                    held: "zeros".into(),
                });
                return Answer::Verified(Verification {
                    pages_checked: 1000,
                    pages_bad: bad.into(),
                    first_bad,
                });
            }
            Command::VerifyDisk => return Answer::Failed("there is no disk to verify".into()),
        }
        Answer::Done
    }

    fn stop_guest(&self) {
        let mut guest = self.guest.lock().unwrap();
        guest.catch_up();
        guest.location = None;
    }

    fn start_guest(&self, end: End) {
        let mut guest = self.guest.lock().unwrap();
        guest.catch_up();
        guest.location = Some(end);
        guest.has_moved |= end == End::Destination;
    }

    fn set_state(&self, state: State, word: &'static str) {
        *self.state.lock().unwrap() = (state, word);
    }

    /// Waits until an end has been killed.
    async fn death(&self) -> Error {
        let mut dead = self.dead.subscribe();
        let end = dead.wait_for(Option::is_some).await.ok().and_then(|dead| *dead);
        Error::Scripted(format!("the {} died", end.unwrap_or(End::Source).name()))
    }
}

/// Sleeps, unless the time is zero: even the shortest sleep would let other tasks run first.
async fn pause(time: Duration) {
    if !time.is_zero() {
        time::sleep(time).await;
    }
}

/// Plays a migration through a file, before which the guest is stopped.
async fn play_file(shared: &Shared, events: &mpsc::UnboundedSender<Event>) {
    let script = &shared.script;
    shared.stop_guest();
    let _ = events.send(Event::Stopped(Instant::now()));
    shared.set_state(State::Active, "active");
    if script.fault == Some(Fault::Migration) {
        time::sleep(Duration::from_secs(1)).await;
        shared.start_guest(End::Source);
        shared.set_state(State::Failed("the disk is full".into()), "failed");
        return;
    }
    let Some(active) = script.active else { return };
    time::sleep(active).await;
    *shared.saved.lock().unwrap() = Some(Instant::now());
    shared.set_state(State::Other, "loading");
    let _ = events.send(Event::Changed);
    let Some(loading) = script.loading else { return };
    time::sleep(loading).await;
    shared.start_guest(End::Destination);
    let _ = events.send(Event::Resumed(Instant::now()));
    let total_time_ms = Some(active.as_millis() as u64);
    let completion = Completion { total_time_ms, ..Completion::default() };
    shared.set_state(State::Completed(completion), "completed");
    let _ = events.send(Event::Changed);
}

/// Plays the migration of the driver's script to its end.
async fn play(shared: Arc<Shared>, events: mpsc::UnboundedSender<Event>) {
    let script = &shared.script;
    if script.file {
        return play_file(&shared, &events).await;
    }
    if let Some(mirror) = script.mirror {
        shared.set_state(State::Mirroring, "mirroring");
        if script.fault == Some(Fault::Mirror) {
            time::sleep(Duration::from_secs(1)).await;
            shared.set_state(State::Failed("the disk is full".into()), "mirroring");
            return;
        }
        let Some(bulk) = mirror.bulk else { return };
        pause(bulk).await;
        shared.set_state(State::Mirrored, "mirroring");
        let _ = events.send(Event::Changed);
        let _ = shared.memory_began.subscribe().wait_for(Option::is_some).await;
    }
    shared.set_state(State::Other, "setup");
    let Some(setup) = script.setup else { return };
    pause(setup).await;
    shared.set_state(State::Active, "active");
    let second = Duration::from_secs(1);
    match script.fault {
        Some(Fault::Migration) => {
            time::sleep(second).await;
            shared.set_state(State::Failed("the stream broke".into()), "failed");
            return;
        }
        Some(Fault::CancelledByOthers) => {
            time::sleep(second).await;
            shared.set_state(State::Cancelled("somebody cancelled it".into()), "cancelled");
            return;
        }
        _ => {}
    }
    let is_moved = script.fault != Some(Fault::LatePostcopy);
    let moves = async { drop(shared.moves.subscribe().wait_for(|moves| *moves && is_moved).await) };
    let told = async { drop(shared.pauses.subscribe().wait_for(|pauses| *pauses).await) };
    let active = script.active.unwrap_or(Duration::MAX);
    let paused = tokio::select! {
        () = moves => return play_postcopy(&shared, &events).await,
        () = told => true,
        () = time::sleep(active) => false,
    };
    shared.stop_guest();
    let _ = events.send(Event::Stopped(Instant::now()));
    if paused {
        // The rest is sent, whatever the script says about a running guest.
        let Some(rest) = script.rest else { return };
        time::sleep(rest).await;
        if script.fault == Some(Fault::PausedMigration) {
            shared.set_state(State::Failed("the stream broke".into()), "failed");
            return;
        }
    }
    if script.mirror.is_some() {
        shared.set_state(State::BeforeSwitchover, "pre-switchover");
        let _ = events.send(Event::Changed);
        let _ = shared.disk_is_complete.subscribe().wait_for(|complete| *complete).await;
    }
    shared.set_state(State::Switchover, "device");
    let _ = events.send(Event::SwitchesOver);
    time::sleep(script.downtime).await;
    let completion = Completion {
        total_time_ms: Some(active.saturating_add(script.downtime).as_millis() as u64),
        downtime_ms: Some(script.downtime.as_millis() as u64),
        setup_time_ms: None,
    };
    if script.fault != Some(Fault::NoCompletion) {
        shared.set_state(State::Completed(completion), "completed");
        let _ = events.send(Event::Changed);
    }
    let Some(loading) = script.loading else { return };
    pause(loading).await;
    if paused {
        drop(shared.pauses.subscribe().wait_for(|told| !told).await);
    }
    shared.start_guest(End::Destination);
    let _ = events.send(Event::Resumed(Instant::now()));
}

/// Plays the rest of a migration whose guest moves by post-copy.
async fn play_postcopy(shared: &Shared, events: &mpsc::UnboundedSender<Event>) {
    let script = &shared.script;
    if script.fault == Some(Fault::NoPostcopy) {
        return;
    }
    shared.stop_guest();
    let _ = events.send(Event::Stopped(Instant::now()));
    shared.set_state(State::Postcopy, "postcopy-active");
    time::sleep(script.downtime).await;
    shared.start_guest(End::Destination);
    let _ = events.send(Event::Resumed(Instant::now()));
    let recovered = async { drop(shared.recovered.subscribe().wait_for(|recovered| *recovered).await) };
    if script.fault == Some(Fault::Postcopy) {
        time::sleep(Duration::from_secs(1)).await;
        shared.set_state(State::PostcopyPaused("no route to host".into()), "postcopy-paused");
        recovered.await;
        time::sleep(script.postcopy.unwrap_or(Duration::MAX)).await;
    } else if let Some(rest) = script.postcopy {
        time::sleep(rest).await;
    } else {
        recovered.await;
    }
    let completion =
        Completion { downtime_ms: Some(script.downtime.as_millis() as u64), ..Completion::default() };
    shared.set_state(State::Completed(completion), "completed");
    let _ = events.send(Event::Changed);
}

impl Driver for MockDriver {
    async fn start(&mut self) -> Result<(), Error> {
        self.inject(Fault::Start, "it does not start")?;
        tokio::select! {
            () = time::sleep(Duration::from_millis(300)) => {}
            death = self.shared.death() => return Err(death),
        }
        self.ports = Some([self.port(End::Source), self.port(End::Destination)]);
        self.shared.start_guest(End::Source);
        Ok(())
    }

    fn control_port(&self, end: End) -> Result<&ControlPort, Error> {
        let [source, destination] = self.ports.as_ref().ok_or(Error::NotStarted)?;
        Ok(match end {
            End::Source => source,
            End::Destination => destination,
        })
    }

    async fn unexpected_exit(&self) -> Error {
        self.shared.death().await
    }

    async fn prepare(&self, _: &Migrate) -> Result<(), Error> {
        self.inject(Fault::Prepare, "a capability is refused")
    }

    async fn listen(&self) -> Result<(), Error> {
        self.inject(Fault::Listen, "the address is in use")
    }

    async fn begin(&self) -> Result<mpsc::UnboundedReceiver<Event>, Error> {
        self.inject(Fault::Begin, "the command is refused")?;
        let (sender, events) = mpsc::unbounded_channel();
        *self.shared.began.lock().unwrap() = Some(Instant::now());
        let task = tokio::spawn(play(Arc::clone(&self.shared), sender));
        *self.migration.lock().unwrap() = Some(task);
        if let Some(after) = self.shared.script.death {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                time::sleep(after).await;
                shared.kill(End::Destination);
            });
        }
        Ok(events)
    }

    async fn progress(&self, since: Instant) -> Result<Status, Error> {
        self.inject(Fault::Progress, "it does not answer")?;
        self.shared.began.lock().unwrap().ok_or(Error::NotStarted)?;
        self.shared.answers().await;
        let Script { bandwidth, pass: pass_time, .. } = self.shared.script;
        let (transferred_bytes, pass) = self.shared.progress();
        let (state, mut word) = self.shared.state.lock().unwrap().clone();
        let is_loading = self.shared.saved.lock().unwrap().is_some();
        // The source's last figures are reported once.
        let is_first = !self.shared.saved_is_reported.fetch_or(is_loading, Ordering::Relaxed);
        if is_loading && is_first {
            word = "saved";
        }
        let has_memory = word != "mirroring" && (!is_loading || is_first);
        let is_known =
            *self.shared.moves.borrow() && self.shared.script.fault != Some(Fault::NoPostcopyFigures);
        let sent_by_postcopy = if self.shared.script.fault == Some(Fault::LatePostcopy) { 0 } else { 1000 };
        let sample = Sample {
            at_ms: since.elapsed().as_secs_f64() * 1e3,
            status: word.into(),
            disk: self.shared.disk(),
            memory: has_memory.then(|| MemoryProgress {
                transferred_bytes,
                postcopy_bytes: is_known.then_some(sent_by_postcopy),
                page_requests: is_known.then_some(0),
                remaining_bytes: (bandwidth as f64 * pass_time.as_secs_f64()) as u64,
                pass,
                ..MemoryProgress::default()
            }),
            ..Sample::default()
        };
        Ok(Status { state, sample })
    }

    async fn act(&self, action: Action) -> Result<(), Error> {
        self.shared.actions.lock().unwrap().push(action);
        self.shared.answers().await;
        match action {
            Action::MigrateMemory => {
                self.shared.memory_began.send_replace(Some(Instant::now()));
            }
            Action::CompleteDisk => {
                self.inject(Fault::CompleteDisk, "the disk is full")?;
                match self.shared.script.mirror.and_then(|mirror| mirror.completing) {
                    Some(completing) => pause(completing).await,
                    None => std::future::pending().await,
                }
                self.shared.disk_is_complete.send_replace(true);
            }
            Action::Pause => drop(self.shared.pauses.send_replace(true)),
            Action::Resume(End::Destination) => drop(self.shared.pauses.send_replace(false)),
            Action::Resume(End::Source) => {
                self.shared.pauses.send_replace(false);
                let stays = {
                    let guest = self.shared.guest.lock().unwrap();
                    guest.location.is_none() && !guest.has_moved
                };
                if stays {
                    self.migration.lock().unwrap().take().inspect(JoinHandle::abort);
                    self.shared.start_guest(End::Source);
                }
            }
            Action::StartPostcopy => drop(self.shared.moves.send_replace(true)),
            Action::Recover => {
                match self.shared.script.recovering {
                    Some(failure) => pause(failure).await,
                    None => std::future::pending().await,
                }
                self.inject(Fault::Recovery, "the port is in use")?;
                self.shared.set_state(State::Postcopy, "postcopy-active");
                self.shared.recovered.send_replace(true);
            }
            Action::Cancel => {}
        }
        if action == Action::Cancel && self.shared.script.fault != Some(Fault::NoCancel) {
            if let Some(migration) = self.migration.lock().unwrap().take() {
                migration.abort();
            }
            self.shared.set_state(State::Other, "cancelling");
            let (shared, cancelling) = (Arc::clone(&self.shared), self.shared.script.cancelling);
            let paused = self.shared.pauses.send_replace(false);
            tokio::spawn(async move {
                pause(cancelling).await;
                if !paused {
                    shared.start_guest(End::Source);
                }
                shared.set_state(State::Cancelled("it was cancelled".into()), "cancelled");
            });
            if paused {
                // A guest that was paused is resumed afterwards.
                time::sleep(cancelling + Duration::from_millis(200)).await;
                self.shared.start_guest(End::Source);
            }
        }
        Ok(())
    }

    async fn cpu_times(&self) -> Result<[Option<Duration>; 2], Error> {
        let elapsed = self.shared.elapsed();
        Ok([Some(elapsed / 2), Some(elapsed / 4)])
    }

    fn sent_by_connection(&self) -> Vec<u64> {
        Vec::new()
    }

    async fn page_faults(&self) -> Result<PageFaults, Error> {
        let vcpus_blocked_ms = vec![120];
        Ok(PageFaults { all_blocked_ms: Some(120), vcpus_blocked_ms, ..PageFaults::default() })
    }

    fn saved_file(&self) -> Option<SavedFile> {
        let at = (*self.shared.saved.lock().unwrap())?;
        Some(SavedFile { bytes: 300_000_000, allocated_bytes: 200_000_000, at })
    }

    async fn is_running(&self, end: End) -> Result<bool, Error> {
        if *self.shared.dead.borrow() == Some(end) {
            return Err(Error::Scripted(format!("the {} is dead", end.name())));
        }
        if end == End::Destination && !self.shared.script.destination_answers {
            std::future::pending::<()>().await;
        }
        let stopped = self.shared.script.fault == Some(Fault::Stopped);
        Ok(!stopped && self.shared.guest.lock().unwrap().location == Some(end))
    }

    async fn shut_down(&mut self) -> Result<(), Error> {
        self.shared.shut_down.send_replace(true);
        if self.shared.script.fault == Some(Fault::EndlessShutDown) {
            std::future::pending::<()>().await;
        }
        self.inject(Fault::ShutDown, "it cannot be killed")
    }
}
