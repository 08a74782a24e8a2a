//! The driver: a QEMU at each end, and the migration between them.

use super::{
    Error,
    machine::{Machine, Role},
    parameters::{Parameters, parameters},
    process::{self, Guest, Handle},
    qmp,
    query::QueryMigrate,
    saved::SavedGuest,
};
use crate::{
    driver::{self, Driver, Event, Status, control_port::ControlPort},
    lab::Compute,
    matrix::Migrate,
    measure::End,
    mode::Action,
};
use serde_json::json;
use std::{cell::OnceCell, net::Ipv4Addr, path::Path};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    time::Instant,
};

/// Two QEMUs, or what there is of them so far.
pub struct Pair<'a> {
    plan: Plan<'a>,
    saved: &'a mut SavedGuest,
    /// The QEMU that boots the guest which both ends start with.
    boot: Option<Handle>,
    source: Option<Handle>,
    destination: Option<Handle>,
    guests: Option<Guests>,
    /// Where the destination listens, as a migration URI.
    uri: OnceCell<String>,
}

/// What a [`Pair`] is made of.
pub struct Plan<'a> {
    /// Where the guest starts.
    pub source: &'a Compute,
    /// Where it migrates to.
    pub destination: &'a Compute,
    /// The destination's address on the migration link.
    pub address: Ipv4Addr,
    /// The machine of both.
    pub machine: &'a Machine,
    /// The folder for logs.
    pub folder: &'a Path,
}

/// Both QEMUs, once they have been connected to.
struct Guests {
    source: Guest,
    destination: Guest,
}

impl<'a> Pair<'a> {
    /// Returns a pair that has not been started. `saved` is which guest is saved at the source, and goes with
    /// the lab.
    pub fn new(plan: Plan<'a>, saved: &'a mut SavedGuest) -> Self {
        let uri = OnceCell::new();
        Self { plan, saved, boot: None, source: None, destination: None, guests: None, uri }
    }

    fn guests(&self) -> Result<&Guests, driver::Error> {
        self.guests.as_ref().ok_or(driver::Error::NotStarted)
    }

    fn guest(&self, end: End) -> Result<&Guest, driver::Error> {
        let Guests { source, destination } = self.guests()?;
        Ok(match end {
            End::Source => source,
            End::Destination => destination,
        })
    }
}

impl Plan<'_> {
    /// Starts a QEMU and puts it into `process` as soon as it is there, so that it is ended whatever follows.
    async fn spawn<'p>(&self, role: Role, process: &'p mut Option<Handle>) -> Result<&'p Handle, Error> {
        let compute = match role {
            Role::Boot | Role::Source => self.source,
            Role::Destination => self.destination,
        };
        let log = self.folder.join(format!("{}.log", role.name()));
        let handle = Handle::start(&compute.node, &self.machine.on(compute), role, &log).await?;
        Ok(process.insert(handle))
    }

    /// Starts the source's QEMU with a guest of this machine, which is booted and saved first unless that is
    /// done.
    async fn start_source(
        &self,
        saved: &mut SavedGuest,
        boot: &mut Option<Handle>,
        source: &mut Option<Handle>,
    ) -> Result<Guest, Error> {
        if !saved.is_of(self.machine) {
            let handle = self.spawn(Role::Boot, boot).await?;
            saved.save(&self.source.node, handle, self.machine).await?;
            handle.kill().await.map_err(process::Error::from)?;
            *boot = None;
        }
        let handle = self.spawn(Role::Source, source).await?;
        connect(self.source, handle).await
    }

    async fn start_destination(&self, destination: &mut Option<Handle>) -> Result<Guest, Error> {
        let handle = self.spawn(Role::Destination, destination).await?;
        connect(self.destination, handle).await
    }
}

async fn connect(compute: &Compute, handle: &Handle) -> Result<Guest, Error> {
    let connected = async { Ok(Guest::connect(&compute.node, handle).await?) };
    process::while_alive(handle, connected).await
}

impl Driver for Pair<'_> {
    async fn start(&mut self) -> Result<(), driver::Error> {
        let Self { plan, saved, boot, source, destination, .. } = self;
        let (source, destination) =
            tokio::try_join!(plan.start_source(saved, boot, source), plan.start_destination(destination))?;
        self.guests = Some(Guests { source, destination });
        Ok(())
    }

    fn control_port(&self, end: End) -> Result<&ControlPort, driver::Error> {
        Ok(&self.guest(end)?.stressor)
    }

    async fn ended(&self) -> driver::Error {
        let (Some(source), Some(destination)) = (&self.source, &self.destination) else {
            return driver::Error::NotStarted;
        };
        let died = tokio::select! {
            died = source.died() => died,
            died = destination.died() => died,
        };
        Error::from(died).into()
    }

    async fn prepare(&self, settings: &Migrate) -> Result<(), driver::Error> {
        let Guests { source, destination } = self.guests()?;
        let Parameters { capabilities, parameters } = parameters(settings);
        for guest in [source, destination] {
            guest.call("migrate-set-capabilities", capabilities.clone()).await?;
            guest.call("migrate-set-parameters", parameters.clone()).await?;
        }
        // Port 0: the kernel picks a free one, and QEMU says which.
        let address = self.plan.address;
        destination.call("migrate-incoming", json!({ "uri": format!("tcp:{address}:0") })).await?;
        let answer = destination.call("query-migrate", json!({})).await?;
        let port = serde_json::from_value(answer.clone()).ok().and_then(|query: QueryMigrate| query.port());
        let port = port.ok_or_else(|| Error::NoPort(answer.to_string()))?;
        // Called once: a second call would have been refused by QEMU.
        self.uri.get_or_init(|| format!("tcp:{address}:{port}"));
        Ok(())
    }

    async fn begin(&self) -> Result<mpsc::UnboundedReceiver<Event>, driver::Error> {
        let Guests { source, destination } = self.guests()?;
        let uri = self.uri.get().ok_or(driver::Error::NotStarted)?;
        let (tell, events) = mpsc::unbounded_channel();
        tokio::spawn(announce(End::Source, source.monitor.events(), tell.clone()));
        tokio::spawn(announce(End::Destination, destination.monitor.events(), tell));
        source.call("migrate", json!({ "uri": uri })).await?;
        Ok(events)
    }

    async fn progress(&self, since: Instant) -> Result<Status, driver::Error> {
        let answer = self.guests()?.source.monitor.query::<QueryMigrate>("query-migrate").await;
        let at_ms = since.elapsed().as_micros() as f64 / 1e3;
        Ok(answer.map_err(Error::from)?.status(at_ms))
    }

    async fn act(&self, action: Action) -> Result<(), driver::Error> {
        let source = &self.guests()?.source;
        match action {
            Action::SetDowntimeLimit(limit) => {
                source.call("migrate-set-parameters", json!({ "downtime-limit": limit.as_millis() })).await?;
            }
            Action::Cancel => {
                // It ends when the source tells it.
                self.destination.iter().for_each(Handle::may_end);
                source.call("migrate_cancel", json!({})).await?;
            }
        }
        Ok(())
    }

    async fn is_running(&self, end: End) -> Result<bool, driver::Error> {
        Ok(self.guest(end)?.call("query-status", json!({})).await?["running"] == true)
    }

    async fn end(&mut self) -> Result<(), driver::Error> {
        let mut result = Ok(());
        for handle in [self.boot.take(), self.source.take(), self.destination.take()].into_iter().flatten() {
            result = result.and(handle.kill().await);
        }
        Ok(result?)
    }
}

/// Passes on what one end announces, until it or the listener is gone.
async fn announce(end: End, mut events: broadcast::Receiver<qmp::Event>, tell: mpsc::UnboundedSender<Event>) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            // Some were missed; the samples show the state all the same.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => {
                let closed = Error::from(qmp::Error::Closed);
                let _ = tell.send(Event::Lost(end, closed.into()));
                return;
            }
        };
        let event = match (end, event.name.as_str()) {
            (End::Source, "STOP") => Event::Stopped(event.seen),
            (End::Destination, "RESUME") => Event::Resumed(event.seen),
            (End::Source, "MIGRATION_PASS" | "MIGRATION") => Event::Changed,
            _ => continue,
        };
        if tell.send(event).is_err() {
            return;
        }
    }
}
