//! A scripted driver for tests: no hypervisor, and a guest that speaks the stressor's protocol.
//!
//! All times are the runtime's, so a test that pauses time finishes at once and gets the same figures every
//! time.

use super::{Driver, Error, Event, State, Status, control_port::ControlPort};
use crate::{
    matrix::Migrate,
    measure::{
        End,
        samples::{Completion, Sample},
    },
    mode::Action,
};
use std::{
    sync::{Arc, Mutex},
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

/// The course of a scripted migration.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// How long memory is sent until the guest stops; endlessly if absent.
    pub(crate) active: Option<Duration>,
    /// How long the guest is stopped.
    pub(crate) downtime: Duration,
    /// Bytes sent per second while memory is sent.
    pub(crate) bandwidth: u64,
    /// The duration of one pass.
    pub(crate) pass: Duration,
    /// How long the guest takes to answer a request while it dirties memory.
    pub(crate) answer: Duration,
    /// The fault to inject, if any.
    pub(crate) fault: Option<Fault>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            active: Some(Duration::from_secs(2)),
            downtime: Duration::from_millis(60),
            bandwidth: 100_000_000,
            pass: Duration::from_millis(500),
            answer: Duration::ZERO,
            fault: None,
        }
    }
}

/// A fault to inject into a scripted migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Starting the two ends fails.
    Start,
    /// The stressor cannot fill its memory.
    Fill,
    /// The guest sends nothing and dirties nothing once it is started.
    SilentGuest,
    /// The ends cannot be prepared.
    Prepare,
    /// The migrate command is refused.
    Begin,
    /// The source does not report the state of the migration.
    Progress,
    /// The migration fails after a second.
    Migration,
    /// Somebody else cancels the migration after a second.
    CancelledByOthers,
    /// The migration completes, but the guest does not run.
    NoResume,
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
}

/// A driver that plays a [`Script`].
pub(crate) struct MockDriver {
    script: Script,
    shared: Arc<Shared>,
    ports: Option<[ControlPort; 2]>,
    migration: Mutex<Option<JoinHandle<()>>>,
}

/// The state of a [`MockDriver`] that a test can inspect and change while an attempt owns the driver.
pub(crate) struct Shared {
    guest: Mutex<Guest>,
    state: Mutex<State>,
    began: Mutex<Option<Instant>>,
    dead: watch::Sender<Option<End>>,
    actions: Mutex<Vec<Action>>,
    rates: Mutex<Vec<(End, Rate)>>,
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

    /// Returns the dirty rates that the stressor was told, each with the end through which it was told.
    pub(crate) fn rates(&self) -> Vec<(End, Rate)> {
        self.rates.lock().unwrap().clone()
    }

    /// Returns whether the driver was shut down.
    pub(crate) fn is_shut_down(&self) -> bool {
        *self.shut_down.borrow()
    }
}

/// The simulated guest with its stressor.
struct Guest {
    /// The end where the guest runs; none while it is stopped.
    location: Option<End>,
    rate: Rate,
    running: bool,
    pages: f64,
    clock: Duration,
    updated: Instant,
    sequence: u64,
}

impl Guest {
    /// Advances the guest's clock and its dirtied pages to the present. Both stand still while it is stopped.
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
        })
    }
}

impl MockDriver {
    pub(crate) fn new(script: Script) -> (Self, Arc<Shared>) {
        let guest = Guest {
            location: None,
            rate: Workload::default().rate,
            running: false,
            pages: 0.0,
            clock: Duration::ZERO,
            updated: Instant::now(),
            sequence: 0,
        };
        let shared = Arc::new(Shared {
            guest: Mutex::new(guest),
            state: Mutex::new(State::Other),
            began: Mutex::default(),
            dead: watch::Sender::new(None),
            actions: Mutex::default(),
            rates: Mutex::default(),
            shut_down: watch::Sender::new(false),
        });
        let mock = Self { script, shared: Arc::clone(&shared), ports: None, migration: Mutex::default() };
        (mock, shared)
    }

    /// Returns an error with this message if the script has this fault.
    fn inject(&self, fault: Fault, message: &str) -> Result<(), Error> {
        if self.script.fault == Some(fault) { Err(Error::Scripted(message.into())) } else { Ok(()) }
    }

    /// Starts a connection to the guest through one end.
    fn port(&self, end: End) -> ControlPort {
        let (to_host, lines) = mpsc::unbounded_channel::<String>();
        let (to_guest, mut requests) = mpsc::unbounded_channel::<String>();
        let (shared, fault, answer) = (Arc::clone(&self.shared), self.script.fault, self.script.answer);
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
                if to_host.send(serde_json::to_string(&message).unwrap()).is_err() {
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
            Command::TelemetryEvery(_) => {}
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
    }

    fn set_state(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }

    /// Waits until an end has been killed.
    async fn death(&self) -> Error {
        let mut dead = self.dead.subscribe();
        let end = dead.wait_for(Option::is_some).await.ok().and_then(|dead| *dead);
        Error::Scripted(format!("the {} died", end.unwrap_or(End::Source).name()))
    }
}

/// Plays the migration of a script to its end.
async fn play(script: Script, shared: Arc<Shared>, events: mpsc::UnboundedSender<Event>) {
    shared.set_state(State::Active);
    let second = Duration::from_secs(1);
    match script.fault {
        Some(Fault::Migration) => {
            time::sleep(second).await;
            shared.set_state(State::Failed("the stream broke".into()));
            return;
        }
        Some(Fault::CancelledByOthers) => {
            time::sleep(second).await;
            shared.set_state(State::Cancelled("somebody cancelled it".into()));
            return;
        }
        _ => {}
    }
    let Some(active) = script.active else { return };
    time::sleep(active).await;
    shared.stop_guest();
    let _ = events.send(Event::Stopped(Instant::now()));
    shared.set_state(State::Other);
    time::sleep(script.downtime).await;
    if script.fault != Some(Fault::NoResume) {
        shared.start_guest(End::Destination);
        let _ = events.send(Event::Resumed(Instant::now()));
    }
    shared.set_state(State::Completed(Completion {
        total_time_ms: Some((active + script.downtime).as_millis() as u64),
        downtime_ms: Some(script.downtime.as_millis() as u64),
        setup_time_ms: None,
    }));
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

    async fn begin(&self) -> Result<mpsc::UnboundedReceiver<Event>, Error> {
        self.inject(Fault::Begin, "the command is refused")?;
        let (sender, events) = mpsc::unbounded_channel();
        *self.shared.began.lock().unwrap() = Some(Instant::now());
        let task = tokio::spawn(play(self.script.clone(), Arc::clone(&self.shared), sender));
        *self.migration.lock().unwrap() = Some(task);
        Ok(events)
    }

    async fn progress(&self, since: Instant) -> Result<Status, Error> {
        self.inject(Fault::Progress, "it does not answer")?;
        let began = self.shared.began.lock().unwrap().ok_or(Error::NotStarted)?;
        let sent = |time: Duration| (self.script.bandwidth as f64 * time.as_secs_f64()) as u64;
        let elapsed = began.elapsed().min(self.script.active.unwrap_or(Duration::MAX));
        let sample = Sample {
            at_ms: since.elapsed().as_secs_f64() * 1e3,
            status: "scripted".into(),
            transferred_bytes: sent(elapsed),
            remaining_bytes: sent(self.script.pass),
            pass: 1 + (elapsed.as_millis() / self.script.pass.as_millis()) as u64,
            ..Sample::default()
        };
        Ok(Status { state: self.shared.state.lock().unwrap().clone(), sample })
    }

    async fn act(&self, action: Action) -> Result<(), Error> {
        self.shared.actions.lock().unwrap().push(action);
        if action == Action::Cancel && self.script.fault != Some(Fault::NoCancel) {
            if let Some(migration) = self.migration.lock().unwrap().take() {
                migration.abort();
            }
            self.shared.set_state(State::Cancelled("it was cancelled".into()));
        }
        Ok(())
    }

    async fn is_running(&self, end: End) -> Result<bool, Error> {
        let stopped = self.script.fault == Some(Fault::Stopped);
        Ok(!stopped && self.shared.guest.lock().unwrap().location == Some(end))
    }

    async fn shut_down(&mut self) -> Result<(), Error> {
        self.shared.shut_down.send_replace(true);
        self.inject(Fault::ShutDown, "it cannot be killed")
    }
}
