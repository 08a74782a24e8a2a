//! The orchestrator's side of the connection to the stressor in the guest.
//!
//! A guest that migrates is reachable through two virtio-serial ports: first the source's, then the
//! destination's. Each has its own [`ControlPort`]. It keeps every telemetry sample with the time of its
//! arrival by the orchestrator's monotonic clock, which [`crate::measure::clock`] needs. A line that the
//! migration has cut short is skipped.

use crate::node::{Channel, ChannelLine};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use stressor::{
    disk::DiskVerification,
    protocol::{Answer, Command, Hello, Message, Request, Telemetry},
    verify::Verification,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};

/// An error carrying out a request to the stressor.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The stressor answered that the request failed.
    #[error("the stressor could not {what}: {reason}")]
    Failed {
        /// The request, as a verb phrase like "fill its memory".
        what: &'static str,
        /// The reason that the stressor gives.
        reason: String,
    },
    /// No answer, or not the expected telemetry, arrived in time.
    #[error("the guest did not {what} within {} s", limit.as_secs())]
    Silent {
        /// The request or the expectation, as a verb phrase like "fill its memory".
        what: &'static str,
        /// The time limit that has passed.
        limit: Duration,
    },
    /// The connection to the stressor is closed.
    #[error("the guest's control port closed")]
    Closed,
    /// What the guest sent cannot be read; the connection has been closed.
    #[error("the connection to the guest's control port failed: {reason}")]
    Unreadable {
        /// The error of the connection.
        reason: String,
    },
}

impl Error {
    /// Creates an error for a request whose answer lacks the requested result.
    fn without_result(what: &'static str) -> Self {
        Self::Failed { what, reason: "its answer contains no result".into() }
    }
}

/// One line of telemetry with the time of its arrival.
#[derive(Debug, Clone)]
pub struct TelemetrySample {
    /// When the line arrived, by the orchestrator's monotonic clock.
    pub received: Instant,
    /// The content of the line, timed by the guest's clock.
    pub telemetry: Telemetry,
}

/// Everything received through a port so far, and the requests that wait for an answer.
#[derive(Default)]
struct PortState {
    hello: Option<Hello>,
    telemetry: Vec<TelemetrySample>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    /// Why the connection has closed, unless the peer closed it.
    unreadable: Option<String>,
}

/// How much telemetry is kept, in bytes of its lines. A stressor sends some KiB per second.
const TELEMETRY_BYTES: usize = 512 << 20;

/// A connection to the stressor through one QEMU.
pub struct ControlPort {
    write: Box<dyn Fn(String) + Send + Sync>,
    next_id: AtomicU64,
    state: Arc<Mutex<PortState>>,
    /// Notifies of every valid line; closes with the port.
    changes: watch::Receiver<()>,
}

impl ControlPort {
    /// Connects to the stressor over a node's channel.
    pub fn over(channel: Channel) -> Self {
        let writer = channel.writer();
        Self::start(channel.lines, move |line| writer.write(line))
    }

    /// Connects to the stressor over any stream of lines.
    pub fn start(
        lines: mpsc::UnboundedReceiver<ChannelLine>,
        write: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        Self::start_bounded(lines, write, TELEMETRY_BYTES)
    }

    fn start_bounded(
        mut lines: mpsc::UnboundedReceiver<ChannelLine>,
        write: impl Fn(String) + Send + Sync + 'static,
        limit: usize,
    ) -> Self {
        let state: Arc<Mutex<PortState>> = Arc::default();
        let (notify, changes) = watch::channel(());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            let mut room = limit;
            while let Some(line) = lines.recv().await {
                let received = Instant::now();
                let line = match line {
                    Ok(line) => line,
                    Err(reason) => {
                        shared.lock().unwrap().unreadable = Some(reason);
                        break;
                    }
                };
                let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
                let mut state = shared.lock().unwrap();
                if matches!(message, Message::Telemetry(_)) {
                    let Some(left) = room.checked_sub(line.len()) else {
                        state.unreadable = Some(format!("it has sent more than {limit} bytes of telemetry"));
                        break;
                    };
                    room = left;
                }
                match message {
                    Message::Hello(hello) => state.hello = Some(hello),
                    Message::Telemetry(telemetry) => {
                        state.telemetry.push(TelemetrySample { received, telemetry });
                    }
                    Message::Reply { id, answer } => {
                        if let Some(waiting) = state.waiting.remove(&id) {
                            let _ = waiting.send(answer);
                        }
                    }
                }
                drop(state);
                let _ = notify.send(());
            }
            // Dropping the senders makes every pending request fail.
            shared.lock().unwrap().waiting.clear();
        });
        Self { write: Box::new(write), next_id: AtomicU64::new(1), state, changes }
    }

    /// Waits for the stressor's greeting, which it sends once when it starts.
    pub async fn hello(&self, limit: Duration) -> Result<Hello, Error> {
        self.wait_for("start its stressor", limit, |state| state.hello.clone()).await
    }

    /// Waits until `condition` returns a value for all telemetry received so far, and returns that value.
    /// Calls `condition` immediately and again after every line.
    pub async fn wait_for_telemetry<T>(
        &self,
        what: &'static str,
        limit: Duration,
        mut condition: impl FnMut(&[TelemetrySample]) -> Option<T>,
    ) -> Result<T, Error> {
        self.wait_for(what, limit, |state| condition(&state.telemetry)).await
    }

    async fn wait_for<T>(
        &self,
        what: &'static str,
        limit: Duration,
        mut condition: impl FnMut(&PortState) -> Option<T>,
    ) -> Result<T, Error> {
        let mut changes = self.changes.clone();
        let wait = async {
            loop {
                if let Some(value) = condition(&self.state.lock().unwrap()) {
                    return Ok(value);
                }
                changes.changed().await.map_err(|_| self.closed())?;
            }
        };
        time::timeout(limit, wait).await.map_err(|_| Error::Silent { what, limit })?
    }

    /// Returns why the connection has closed.
    fn closed(&self) -> Error {
        let unreadable = self.state.lock().unwrap().unreadable.clone();
        unreadable.map_or(Error::Closed, |reason| Error::Unreadable { reason })
    }

    /// Returns all telemetry received so far, oldest first.
    pub fn telemetry(&self) -> Vec<TelemetrySample> {
        self.state.lock().unwrap().telemetry.clone()
    }

    /// Sends the stressor a command whose answer carries no data, and waits for that answer. `what` names the
    /// command in errors, as a verb phrase.
    pub async fn request(&self, what: &'static str, command: Command, limit: Duration) -> Result<(), Error> {
        match self.ask(what, command, limit).await? {
            Answer::Failed(reason) => Err(Error::Failed { what, reason }),
            Answer::Done | Answer::Verified(_) | Answer::DiskVerified(_) => Ok(()),
        }
    }

    /// Makes the stressor compare all of its memory with what it has written. Meanwhile the stressor does not
    /// dirty memory.
    pub async fn verify(&self, limit: Duration) -> Result<Verification, Error> {
        let what = "verify its memory";
        match self.ask(what, Command::Verify, limit).await? {
            Answer::Verified(verification) => Ok(verification),
            Answer::Failed(reason) => Err(Error::Failed { what, reason }),
            Answer::Done | Answer::DiskVerified(_) => Err(Error::without_result(what)),
        }
    }

    /// Makes the stressor compare the whole disk with what was written to it. The stressor first stops the
    /// disk load and waits until no write is in flight.
    pub async fn verify_disk(&self, limit: Duration) -> Result<DiskVerification, Error> {
        let what = "verify its disk";
        match self.ask(what, Command::VerifyDisk, limit).await? {
            Answer::DiskVerified(verification) => Ok(verification),
            Answer::Failed(reason) => Err(Error::Failed { what, reason }),
            Answer::Done | Answer::Verified(_) => Err(Error::without_result(what)),
        }
    }

    async fn ask(&self, what: &'static str, command: Command, limit: Duration) -> Result<Answer, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.state.lock().unwrap().waiting.insert(id, sender);
        // Nobody would answer, and the reader that makes pending requests fail has ended.
        if self.changes.has_changed().is_err() {
            return Err(self.closed());
        }
        let line = serde_json::to_string(&Request { id, command })
            .map_err(|e| Error::Failed { what, reason: e.to_string() })?;
        (self.write)(line);
        let answer = time::timeout(limit, answer).await.map_err(|_| Error::Silent { what, limit })?;
        answer.map_err(|_| self.closed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stressor::protocol::Latency;

    #[tokio::test(start_paused = true)]
    async fn a_request_fails_at_once_when_the_port_closes_or_has_closed() {
        let (to_port, lines) = mpsc::unbounded_channel();
        let port = ControlPort::start(lines, drop);
        drop(to_port);
        for _ in 0..2 {
            let error = port.verify_disk(Duration::from_secs(60)).await.unwrap_err();
            assert!(matches!(error, Error::Closed), "{error}");
        }
    }

    #[tokio::test]
    async fn telemetry_without_end_closes_the_port() {
        let (to_port, lines) = mpsc::unbounded_channel();
        let port = ControlPort::start_bounded(lines, drop, 10_000);
        let telemetry = Message::Telemetry(Telemetry {
            sequence: 0,
            clock_ns: 0,
            running: false,
            pages_dirtied: 0,
            pages_forgone: 0,
            longest_stall_ns: 0,
            write_latency: Latency::default(),
            write_latencies: Vec::new(),
            disk: None,
        });
        let telemetry = serde_json::to_string(&telemetry).unwrap();
        for _ in 0..100 {
            to_port.send(Ok(telemetry.clone())).unwrap();
        }
        let error = port.verify_disk(Duration::from_secs(60)).await.unwrap_err().to_string();
        assert!(error.ends_with("failed: it has sent more than 10000 bytes of telemetry"), "{error}");
        assert!(!port.telemetry().is_empty(), "what came before is kept");
    }
}
