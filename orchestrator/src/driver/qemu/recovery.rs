//! Recovers a post-copy migration whose link has failed.
//!
//! If a link loses everything, neither end notices it for a quarter of an hour, which is how long TCP repeats
//! what it has sent. So both ends are made to close their connections (`migrate-pause`). Once packets get
//! through the link again, the destination listens at another port (`migrate-recover`), and the source
//! connects to it and sends what the destination does not have (`migrate` with `resume`). If that fails
//! again, all of it is repeated, for as long as the caller allows.
//!
//! The main loop of the destination's QEMU may be blocked by a page that does not come. So the destination
//! only gets commands that QEMU carries out without it, out of band. That is also why the kernel does not
//! choose the port: there would be no way to ask for it.

use super::{
    Error,
    process::Connections,
    qmp,
    query::{QueryMigrate, RecoveryState},
};
use crate::node::{Node, NodeError};
use serde_json::json;
use std::{cell::Cell, net::Ipv4Addr, ops::RangeInclusive, time::Duration};
use tokio::time::{self, Instant};

/// The ports at which the destination listens, one after the other: those that libvirt uses for migrations.
const PORTS: RangeInclusive<u16> = 49152..=49215;

/// The interval at which QEMU is queried, and of the packets that show whether the link works.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long a reply to a packet over the link may take.
const REPLY_LIMIT: Duration = Duration::from_secs(1);

/// How long the two ends may take to compare what the destination has, before the link counts as failed
/// again.
const COMPARISON_LIMIT: Duration = Duration::from_secs(5);

/// The port of the next recovery.
pub(super) struct NextPort(Cell<u16>);

impl NextPort {
    pub(super) fn new() -> Self {
        Self(Cell::new(*PORTS.start()))
    }

    fn take(&self) -> u16 {
        let port = self.0.get();
        self.0.set(if port == *PORTS.end() { *PORTS.start() } else { port + 1 });
        port
    }
}

/// The two ends of a migration during a recovery.
pub(super) struct Ends<'a> {
    /// The source's node.
    pub(super) node: &'a Node,
    /// The source's QEMU.
    pub(super) source: &'a Connections,
    /// The destination's QEMU.
    pub(super) destination: &'a Connections,
    /// The destination's address on the migration link.
    pub(super) address: Ipv4Addr,
    /// The ports at which the destination has not listened yet.
    pub(super) ports: &'a NextPort,
}

impl Ends<'_> {
    /// Recovers the migration, however long that takes. Returns when memory arrives again, or when the
    /// migration has ended.
    pub(super) async fn recover(&self) -> Result<(), Error> {
        loop {
            if self.pause().await? == RecoveryState::Ended {
                return Ok(());
            }
            self.wait_for_link().await?;
            let uri = self.listen().await?;
            let resume = json!({ "uri": uri, "resume": true });
            self.source.call_patiently("migrate", resume).await?;
            if self.resumes().await? {
                return Ok(());
            }
        }
    }

    /// Makes both ends close their connections. Returns the resulting state of the migration.
    async fn pause(&self) -> Result<RecoveryState, Error> {
        loop {
            // An end that has noticed the failure itself refuses the command.
            unless_refused(self.source.monitor.call_patiently("migrate-pause", json!({})).await)?;
            unless_refused(self.destination.monitor.call_out_of_band("migrate-pause", json!({})).await)?;
            let state = self.state().await?;
            if !matches!(state, RecoveryState::Follows | RecoveryState::Compares) {
                return Ok(state);
            }
            time::sleep(INTERVAL).await;
        }
    }

    /// Waits until the destination answers packets over the link.
    async fn wait_for_link(&self) -> Result<(), NodeError> {
        loop {
            let asked = Instant::now();
            // Not with the node's probe: an abandoned recovery would leave it running.
            match self.node.reach(self.address, INTERVAL, REPLY_LIMIT).await {
                Err(NodeError::Failed { .. }) => time::sleep_until(asked + INTERVAL).await,
                answered => return answered,
            }
        }
    }

    /// Makes the destination listen for new connections. Returns the migration URI.
    async fn listen(&self) -> Result<String, Error> {
        loop {
            let uri = format!("tcp:{}:{}", self.address, self.ports.take());
            let recover = self.destination.monitor.call_out_of_band("migrate-recover", json!({ "uri": uri }));
            // The command is refused while the destination has not closed all of its connections, and for a
            // port that is in use.
            if unless_refused(recover.await)? {
                return Ok(uri);
            }
            time::sleep(INTERVAL).await;
        }
    }

    /// Waits until the source has connected to the destination and memory arrives again, or the migration has
    /// ended. Returns false if the link has failed again.
    async fn resumes(&self) -> Result<bool, Error> {
        let (asked, mut connected) = (Instant::now(), None);
        loop {
            match self.state().await? {
                RecoveryState::Follows | RecoveryState::Ended => return Ok(true),
                // Before version 9.1, QEMU stays in this state until it is connected.
                RecoveryState::Paused if asked.elapsed() > REPLY_LIMIT => return Ok(false),
                RecoveryState::Paused | RecoveryState::Connects => {}
                RecoveryState::Compares => {
                    let since = *connected.get_or_insert_with(Instant::now);
                    if since.elapsed() > COMPARISON_LIMIT {
                        return Ok(false);
                    }
                }
            }
            time::sleep(INTERVAL).await;
        }
    }

    async fn state(&self) -> Result<RecoveryState, Error> {
        let answer = self.source.monitor.query_patiently::<QueryMigrate>("query-migrate").await?;
        Ok(answer.recovery_state())
    }
}

/// Returns whether QEMU has carried out a command, or has refused it.
fn unless_refused<T>(answer: Result<T, qmp::Error>) -> Result<bool, qmp::Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(qmp::Error::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
