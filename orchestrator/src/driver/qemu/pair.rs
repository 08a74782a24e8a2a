//! The QEMU driver: a QEMU process at each end, and the migration between them.

use super::{
    Error,
    channels::Channels,
    cpr::{self, CprTransfer},
    disk,
    file::MigrationFile,
    machine::{self, GuestMachine, Role},
    mirror::{JobState, Mirror, Stage},
    parameters::{Parameters, parameters},
    process::{self, Connections, Log, QemuProcess},
    qmp,
    query::{QueryMigrate, at_ms},
    recovery::{self, NextPort},
    saved::SavedGuest,
    tls::Certificates,
};
use crate::{
    driver::{self, Action, Driver, Event, PageFaults, SavedFile, State, Status, control_port::ControlPort},
    lab::Compute,
    matrix::{Migrate, Storage, StorageKind},
    measure::{End, samples::Sample},
    mode::Mode,
    node::{self, protocol::ProcessSpec},
};
use futures::future::join_all;
use serde_json::json;
use std::{
    cell::{OnceCell, RefCell},
    net::Ipv4Addr,
    path::Path,
    time::Duration,
};
use tokio::{
    sync::{
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        mpsc,
    },
    time::Instant,
};

/// The QEMU processes of one migration. Those that have not been started yet are absent.
pub struct Pair<'a> {
    spec: PairSpec<'a>,
    saved: &'a mut SavedGuest,
    /// The QEMU that boots the guest to be saved.
    boot: Option<QemuProcess>,
    source: Option<QemuProcess>,
    destination: Option<QemuProcess>,
    connections: Option<PairConnections>,
    /// The mirror of the disk, if it has to be copied.
    mirror: Option<Mirror>,
    /// The way by which the guest migrates.
    way: Way,
    /// The migration URI at which the destination listens; set by [`Driver::listen`].
    uri: OnceCell<String>,
    /// The destination's events since the migration began; none of them has been read yet.
    arrival: RefCell<Option<broadcast::Receiver<qmp::Event>>>,
    /// The ports for recoveries.
    ports: NextPort,
    channels: Channels,
}

/// The nodes, the machine and the files of a [`Pair`].
pub struct PairSpec<'a> {
    /// The node where the guest starts.
    pub source: &'a Compute,
    /// The node that the guest migrates to.
    pub destination: &'a Compute,
    /// The destination's address on the migration link.
    pub address: Ipv4Addr,
    /// The guest machine, the same at both ends.
    pub machine: &'a GuestMachine,
    /// The settings of the guest's disk.
    pub storage: &'a Storage,
    /// How the guest is migrated.
    pub migrate: &'a Migrate,
    /// The folder that the hosts share, if they do; the file of a migration through a file is created there.
    pub shared_folder: Option<&'a Path>,
    /// The folder for the logs of the QEMU processes.
    pub folder: &'a Path,
}

/// The connections to both QEMUs. A destination that has to get the guest's memory before anything else is
/// connected only after the source has started to migrate.
struct PairConnections {
    source: Connections,
    destination: OnceCell<Connections>,
}

/// How a guest gets to the destination.
enum Way {
    /// Over the migration link.
    Link,
    /// Through a file.
    File(MigrationFile),
    /// Over sockets of the host, by handing over its memory.
    Cpr(CprTransfer),
}

impl Way {
    fn of(migrate: &Migrate) -> Self {
        match migrate.mode {
            Mode::File => Self::File(MigrationFile::new(migrate.save_live)),
            Mode::CprTransfer => Self::Cpr(CprTransfer::default()),
            _ => Self::Link,
        }
    }

    /// Creates what both ends need, before they are started.
    async fn create(&mut self, spec: &PairSpec<'_>) -> Result<(), Error> {
        let [source, destination] = [&spec.source.node, &spec.destination.node];
        match self {
            Self::Link => {}
            Self::File(file) => file.create(source, destination, spec.shared_folder).await?,
            Self::Cpr(cpr) => cpr.create(source, destination).await?,
        }
        Ok(())
    }

    /// Returns the command of a QEMU in this role, extended by what the QEMU inherits for the migration.
    fn give_to(&self, role: Role, command: ProcessSpec) -> ProcessSpec {
        let ends = match self {
            Self::Link => None,
            Self::File(file) => file.ends(),
            Self::Cpr(cpr) => cpr.ends(),
        };
        let number = match (ends, role) {
            (Some([source, _]), Role::Source) => source.number(),
            (Some([_, destination]), Role::Destination) => destination.number(),
            _ => return command,
        };
        cpr::fill_in(number, ProcessSpec { files: vec![number], ..command })
    }
}

impl<'a> Pair<'a> {
    /// Returns a pair that has not been started. `saved` describes the guest saved at the source; it must be
    /// kept as long as the lab exists.
    pub fn new(spec: PairSpec<'a>, saved: &'a mut SavedGuest) -> Self {
        let copies_disk = spec.storage.kind == StorageKind::Block;
        let mirror = copies_disk.then(|| Mirror::new(spec.storage.sync));
        Self {
            saved,
            boot: None,
            source: None,
            destination: None,
            connections: None,
            mirror,
            way: Way::of(spec.migrate),
            uri: OnceCell::new(),
            arrival: RefCell::default(),
            ports: NextPort::new(),
            channels: Channels::default(),
            spec,
        }
    }

    fn connections(&self) -> Result<&PairConnections, driver::Error> {
        self.connections.as_ref().ok_or(driver::Error::NotStarted)
    }

    /// Makes the source start sending memory.
    async fn migrate_memory(&self) -> Result<(), driver::Error> {
        let uri = self.uri.get().ok_or(driver::Error::NotStarted)?;
        self.connections()?.source.call("migrate", json!({ "uri": uri })).await?;
        Ok(())
    }

    fn connections_to(&self, end: End) -> Result<&Connections, driver::Error> {
        let PairConnections { source, destination } = self.connections()?;
        match end {
            End::Source => Ok(source),
            End::Destination => destination.get().ok_or(driver::Error::NotStarted),
        }
    }

    /// Hands the guest's memory over to the destination, which can then be connected, and makes the
    /// destination listen for the rest.
    async fn hand_over(
        &self,
        cpr: &CprTransfer,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<(), driver::Error> {
        let PairConnections { source, destination } = self.connections()?;
        let process = self.destination.as_ref().ok_or(driver::Error::NotStarted)?;
        source.call("migrate", cpr.outgoing()?).await?;
        let connected = connect(self.spec.destination, process).await?;
        let there = destination.get_or_init(|| connected);
        self.arrival.replace(Some(there.monitor.events()));
        tokio::spawn(forward_events(End::Destination, there.monitor.events(), events));
        configure(there, parameters(self.spec.migrate, false)).await?;
        there.call("migrate-incoming", cpr.incoming()?).await?;
        Ok(())
    }
}

impl Pair<'_> {
    /// Resumes a guest at the source after a failed migration that did not use the migration link, unless the
    /// guest may have run at the destination, whose QEMU is killed first.
    async fn take_back(&self) -> Result<(), driver::Error> {
        if let Some(process) = &self.destination {
            process.expect_exit();
            process.kill().await?;
            if !process.has_ended() {
                return Ok(());
            }
        }
        if let Ok(destination) = self.connections_to(End::Destination) {
            // Once its connection has closed, all that it announced has arrived.
            while destination.call_patiently("query-status", json!({})).await.is_ok() {}
        }
        if !self.arrival.take().is_some_and(may_have_run) {
            self.connections_to(End::Source)?.take_back().await?;
        }
        Ok(())
    }
}

impl PairSpec<'_> {
    /// Starts a QEMU and immediately stores it in `slot`, so that [`Driver::shut_down`] finds it even if a
    /// later step fails. Before that, creates the disk that it needs.
    async fn spawn<'p>(
        &self,
        role: Role,
        way: &Way,
        slot: &'p mut Option<QemuProcess>,
    ) -> Result<&'p QemuProcess, Error> {
        let compute = match role {
            Role::Boot | Role::Source | Role::Trial => self.source,
            Role::Destination | Role::IncomingTrial => self.destination,
        };
        let disks = match &self.machine.disk {
            Some(disk) => {
                let confinement = self.machine.confinement;
                disk::create_for(&compute.node, role, disk, self.storage.written, confinement).await?
            }
            None => Vec::new(),
        };
        let log = Log::create(&self.folder.join(format!("{}.log", role.name())));
        let machine = self.machine.on(compute);
        // From then on only QEMU has the disks open, and they vanish with it.
        let disks_inherited = disks.iter().map(node::Disk::number).collect();
        let command = ProcessSpec { disks: disks_inherited, ..machine::command(&machine, role) };
        let process = QemuProcess::start_as(&compute.node, way.give_to(role, command), role, log).await?;
        Ok(slot.insert(process))
    }

    /// Starts the source's QEMU from the saved guest. If no guest with this machine is saved, boots and saves
    /// one first.
    async fn start_source(
        &self,
        way: &Way,
        saved: &mut SavedGuest,
        boot: &mut Option<QemuProcess>,
        source: &mut Option<QemuProcess>,
    ) -> Result<Connections, Error> {
        if !saved.has_machine(self.machine) {
            let process = self.spawn(Role::Boot, way, boot).await?;
            saved.save(&self.source.node, process, self.machine).await?;
            process.kill().await?;
            *boot = None;
        }
        let process = self.spawn(Role::Source, way, source).await?;
        connect(self.source, process).await
    }

    /// Starts the destination's QEMU, and connects to it unless it first waits for the source.
    async fn start_destination(
        &self,
        way: &Way,
        destination: &mut Option<QemuProcess>,
    ) -> Result<OnceCell<Connections>, Error> {
        let process = self.spawn(Role::Destination, way, destination).await?;
        if matches!(way, Way::Cpr(_)) {
            return Ok(OnceCell::new());
        }
        Ok(connect(self.destination, process).await?.into())
    }
}

/// Sets the capabilities and parameters of a migration in a QEMU.
async fn configure(qemu: &Connections, told: Parameters) -> Result<(), Error> {
    let Parameters { capabilities, parameters, .. } = told;
    qemu.call("migrate-set-capabilities", capabilities).await?;
    qemu.call("migrate-set-parameters", parameters).await?;
    Ok(())
}

async fn connect(compute: &Compute, process: &QemuProcess) -> Result<Connections, Error> {
    let connected = async { Ok(Connections::connect(&compute.node, process).await?) };
    process::while_alive(process, connected).await
}

impl Driver for Pair<'_> {
    async fn start(&mut self) -> Result<(), driver::Error> {
        let Self { spec, saved, boot, source, destination, way, .. } = self;
        way.create(spec).await?;
        let way = &*way;
        let (source, destination) = tokio::try_join!(
            spec.start_source(way, saved, boot, source),
            spec.start_destination(way, destination)
        )?;
        self.connections = Some(PairConnections { source, destination });
        Ok(())
    }

    fn control_port(&self, end: End) -> Result<&ControlPort, driver::Error> {
        Ok(&self.connections_to(end)?.control_port)
    }

    async fn unexpected_exit(&self) -> driver::Error {
        let (Some(source), Some(destination)) = (&self.source, &self.destination) else {
            return driver::Error::NotStarted;
        };
        Error::from(process::first_cause(source.died(), destination.died()).await).into()
    }

    async fn prepare(&self, settings: &Migrate) -> Result<(), driver::Error> {
        let told = parameters(settings, self.mirror.is_some());
        self.channels.prepare(settings.multifd);
        let source = self.connections_to(End::Source)?;
        if let Way::Cpr(cpr) = &self.way {
            // The destination is configured as soon as it can be.
            cpr.open_socket().await?;
            return Ok(configure(source, told).await?);
        }
        let destination = self.connections_to(End::Destination)?;
        if told.is_postcopy() {
            let confinement = self.spec.machine.confinement;
            confinement.offer_userfaultfd(&self.spec.destination.node).await?;
        }
        if told.is_encrypted() {
            let certificates = Certificates::new().map_err(Error::from)?;
            let confinement = self.spec.machine.confinement;
            for (end, compute, qemu) in [
                (End::Source, self.spec.source, source),
                (End::Destination, self.spec.destination, destination),
            ] {
                let given = certificates.give_to(end, &compute.node, &qemu.monitor, confinement).await;
                given.map_err(Error::from)?;
            }
        }
        for qemu in [source, destination] {
            configure(qemu, told.clone()).await?;
        }
        Ok(())
    }

    async fn listen(&self) -> Result<(), driver::Error> {
        if !matches!(self.way, Way::Link) {
            return Ok(());
        }
        let destination = self.connections_to(End::Destination)?;
        // With port 0 the kernel picks a free port, which QEMU then reports.
        let address = self.spec.address;
        destination.call("migrate-incoming", json!({ "uri": format!("tcp:{address}:0") })).await?;
        let answer = destination.call("query-migrate", json!({})).await?;
        let port = serde_json::from_value(answer.clone()).ok().and_then(|query: QueryMigrate| query.port());
        let port = port.ok_or_else(|| Error::NoPort(answer.to_string()))?;
        // The cell is still empty: QEMU would have refused a second `migrate-incoming`.
        self.uri.get_or_init(|| format!("tcp:{address}:{port}"));
        if let Some(mirror) = &self.mirror {
            mirror.export(destination, address).await?;
        }
        Ok(())
    }

    async fn begin(&self) -> Result<mpsc::UnboundedReceiver<Event>, driver::Error> {
        let source = self.connections_to(End::Source)?;
        // Subscribes before the migrate command, so that no event is missed.
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(forward_events(End::Source, source.monitor.events(), sender.clone()));
        if let Way::Cpr(cpr) = &self.way {
            self.hand_over(cpr, sender).await?;
            return Ok(events);
        }
        let destination = self.connections_to(End::Destination)?;
        self.arrival.replace(Some(destination.monitor.events()));
        tokio::spawn(forward_events(End::Destination, destination.monitor.events(), sender.clone()));
        match (&self.way, &self.mirror) {
            (Way::File(file), _) => file.save(source, sender).await?,
            (_, Some(mirror)) => mirror.begin(source, self.spec.address).await?,
            (_, None) => self.migrate_memory().await?,
        }
        Ok(events)
    }

    async fn progress(&self, since: Instant) -> Result<Status, driver::Error> {
        let source = &self.connections()?.source;
        let job = match &self.mirror {
            Some(mirror) if matches!(mirror.stage(), Stage::Alone | Stage::WithMemory) => {
                Some(mirror.job(&self.spec.source.node, source).await?)
            }
            _ => None,
        };
        if let Some((_, port)) = self.uri.get().and_then(|uri| uri.rsplit_once(':')) {
            let port = port.parse().unwrap_or_default();
            self.channels.count(&self.spec.source.node, port).await?;
        }
        let answer = source.monitor.query_patiently::<QueryMigrate>("query-migrate").await;
        let at_ms = at_ms(since);
        let mut status = answer.map_err(Error::from)?.status(at_ms);
        if let Way::File(file) = &self.way {
            let there = self.connections_to(End::Destination)?;
            return Ok(file.follow(there, self.destination.as_ref(), status, since).await?);
        }
        let Some(mirror) = &self.mirror else { return Ok(status) };
        // An action requested meanwhile may have changed the stage.
        match (mirror.stage(), job) {
            (Stage::Alone, Some(job)) => status = job.without_memory(at_ms),
            (Stage::WithMemory, Some(job)) => {
                status.sample.disk = job.progress();
                if let (JobState::Failed(reason), State::Active | State::BeforeSwitchover) =
                    (job, &status.state)
                {
                    status.state = State::Failed(Error::Mirror(reason).to_string());
                }
            }
            (Stage::Completed, _) => status.sample.disk = mirror.progress(),
            // QEMU reports no migration, or the one by which its guest was restored.
            (Stage::CancelledAlone, _) => {
                status.state = State::Cancelled(String::new());
                status.sample = Sample { at_ms, status: "cancelled".into(), ..Sample::default() };
            }
            _ => {}
        }
        Ok(status)
    }

    async fn act(&self, action: Action) -> Result<(), driver::Error> {
        let source = self.connections_to(End::Source)?;
        match (action, &self.mirror) {
            (Action::Pause, _) => {
                source.call_patiently("stop", json!({})).await?;
            }
            (Action::Resume(End::Source), _) if !matches!(self.way, Way::Link) => self.take_back().await?,
            (Action::Resume(end), _) => self.connections_to(end)?.resume().await?,
            (Action::StartPostcopy, _) => {
                source.call_patiently("migrate-start-postcopy", json!({})).await?;
            }
            (Action::Recover, _) => {
                let (node, address) = (&self.spec.source.node, self.spec.address);
                let destination = self.connections_to(End::Destination)?;
                let ends = recovery::Ends { node, source, destination, address, ports: &self.ports };
                ends.recover().await?;
            }
            (Action::MigrateMemory, Some(mirror)) => {
                self.migrate_memory().await?;
                mirror.enter(Stage::WithMemory);
            }
            (Action::CompleteDisk, Some(mirror)) => {
                let node = &self.spec.source.node;
                let destination = self.connections_to(End::Destination)?;
                if let Err(error) = mirror.complete(node, source, destination).await {
                    // The guest runs at the source again.
                    let _ = source.call_patiently("migrate_cancel", json!({})).await;
                    return Err(error.into());
                }
                let stage = json!({ "state": "pre-switchover" });
                source.call_patiently("migrate-continue", stage).await?;
            }
            (Action::MigrateMemory | Action::CompleteDisk, None) => {}
            (Action::Cancel, mirror) => {
                // The destination's QEMU exits when the source closes the migration stream.
                self.destination.iter().for_each(QemuProcess::expect_exit);
                source.call_patiently("migrate_cancel", json!({})).await?;
                if let Some(mirror) = mirror {
                    mirror.cancel(source).await;
                }
                source.resume().await?;
            }
        }
        Ok(())
    }

    async fn cpu_times(&self) -> Result<[Option<Duration>; 2], driver::Error> {
        let (Some(source), Some(destination)) = (&self.source, &self.destination) else {
            return Err(driver::Error::NotStarted);
        };
        let (source, destination) = tokio::try_join!(source.cpu_time(), destination.cpu_time())?;
        Ok([source, destination])
    }

    fn sent_by_connection(&self) -> Vec<u64> {
        self.channels.sent()
    }

    async fn page_faults(&self) -> Result<PageFaults, driver::Error> {
        let monitor = &self.connections_to(End::Destination)?.monitor;
        let answer = monitor.query::<QueryMigrate>("query-migrate").await;
        Ok(answer.map_err(Error::from)?.page_faults())
    }

    fn saved_file(&self) -> Option<SavedFile> {
        match &self.way {
            Way::File(file) => file.saved(),
            Way::Link | Way::Cpr(_) => None,
        }
    }

    async fn is_running(&self, end: End) -> Result<bool, driver::Error> {
        Ok(self.connections_to(end)?.call("query-status", json!({})).await?["running"] == true)
    }

    async fn shut_down(&mut self) -> Result<(), driver::Error> {
        let processes = [self.boot.take(), self.source.take(), self.destination.take()];
        let killed = join_all(processes.iter().flatten().map(QemuProcess::kill)).await;
        Ok(killed.into_iter().collect::<Result<(), _>>()?)
    }
}

/// Returns whether the guest may have run where QEMU has announced these events. QEMU announces that a guest
/// runs before the guest does so.
fn may_have_run(mut events: broadcast::Receiver<qmp::Event>) -> bool {
    loop {
        match events.try_recv() {
            Ok(event) if event.name == "RESUME" => return true,
            Ok(_) => {}
            // The announcement may be among the missed events.
            Err(TryRecvError::Lagged(_)) => return true,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return false,
        }
    }
}

/// Forwards one end's QMP events as driver events, until the monitor's connection or the listener is gone.
async fn forward_events(
    end: End,
    mut events: broadcast::Receiver<qmp::Event>,
    sender: mpsc::UnboundedSender<Event>,
) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            // Some events were missed; the samples taken at intervals show the state anyway.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => {
                let closed = Error::from(qmp::Error::Closed);
                let _ = sender.send(Event::Lost(end, closed.into()));
                return;
            }
        };
        let event = match (end, event.name.as_str()) {
            (End::Source, "STOP") => Event::Stopped(event.received),
            (End::Destination, "RESUME") => Event::Resumed(event.received),
            (End::Source, "MIGRATION") if event.data["status"] == "device" => Event::SwitchesOver,
            (End::Source, "MIGRATION_PASS" | "MIGRATION" | "BLOCK_JOB_READY" | "BLOCK_JOB_ERROR") => {
                Event::Changed
            }
            _ => continue,
        };
        if sender.send(event).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str) -> qmp::Event {
        qmp::Event { name: name.into(), data: json!({}), received: Instant::now() }
    }

    #[test]
    fn a_guest_has_not_run_where_everything_but_that_was_announced() {
        let after = |names: &[&str], backlog| {
            let (sender, events) = broadcast::channel(backlog);
            for name in names {
                sender.send(event(name)).unwrap();
            }
            may_have_run(events)
        };
        assert!(!after(&["MIGRATION", "MIGRATION"], 8));
        assert!(after(&["MIGRATION", "RESUME", "STOP"], 8));
        assert!(after(&["MIGRATION", "MIGRATION", "MIGRATION"], 2), "one is not known");
    }
}
