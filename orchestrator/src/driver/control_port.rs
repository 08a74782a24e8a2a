//! The host's side of the conversation with the stressor in the guest.
//!
//! A guest that migrates has two ends: the source's virtio-serial port, then the destination's. There is one
//! [`ControlPort`] for each; telemetry is kept with the time it came in on the host's monotonic clock,
//! which [`crate::measure::clock`] needs. A line that a migration cut short is skipped.

use crate::node::Channel;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use stressor::{
    protocol::{Answer, Command, Hello, Message, Request, Telemetry},
    verify::Verification,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};

/// Why the guest did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It tried and failed.
    #[error("the stressor could not {what}: {reason}")]
    Failed {
        /// What was asked.
        what: &'static str,
        /// Its words.
        reason: String,
    },
    /// It said nothing in time.
    #[error("the guest did not {what} within {} s", limit.as_secs())]
    Silent {
        /// What was expected.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The way to it is gone.
    #[error("the guest's control port closed")]
    Closed,
}

/// One telemetry line and when it came in.
#[derive(Debug, Clone)]
pub struct TelemetrySample {
    /// By the host's monotonic clock.
    pub seen: Instant,
    /// What the stressor said.
    pub telemetry: Telemetry,
}

/// What the conversation has brought so far.
#[derive(Default)]
struct Heard {
    hello: Option<Hello>,
    telemetry: Vec<TelemetrySample>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

/// A conversation with the stressor through one QEMU.
pub struct ControlPort {
    write: Box<dyn Fn(String) + Send + Sync>,
    next: AtomicU64,
    heard: Arc<Mutex<Heard>>,
    /// Changes with every line that makes sense; closes with the port.
    news: watch::Receiver<()>,
}

impl ControlPort {
    /// Speaks to the stressor over a node's channel.
    pub fn over(channel: Channel) -> Self {
        let writer = channel.writer();
        Self::start(channel.lines, move |line| writer.write(line))
    }

    /// Speaks to the stressor over any stream of lines.
    pub fn start(
        mut lines: mpsc::UnboundedReceiver<String>,
        write: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (tell, news) = watch::channel(());
        let shared = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                let seen = Instant::now();
                let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
                let mut heard = shared.lock().unwrap();
                match message {
                    Message::Hello(hello) => heard.hello = Some(hello),
                    Message::Telemetry(telemetry) => {
                        heard.telemetry.push(TelemetrySample { seen, telemetry });
                    }
                    Message::Reply { id, answer } => {
                        if let Some(waiting) = heard.waiting.remove(&id) {
                            let _ = waiting.send(answer);
                        }
                    }
                }
                drop(heard);
                let _ = tell.send(());
            }
            shared.lock().unwrap().waiting.clear();
        });
        Self { write: Box::new(write), next: AtomicU64::new(1), heard, news }
    }

    /// Waits for the stressor to say that it runs.
    pub async fn hello(&self, limit: Duration) -> Result<Hello, Error> {
        self.wait_for("start its stressor", limit, |heard| heard.hello.clone()).await
    }

    /// Waits until `telemetry` makes something of what came in; it is called again after every line.
    pub async fn wait_for_telemetry<T>(
        &self,
        what: &'static str,
        limit: Duration,
        mut telemetry: impl FnMut(&[TelemetrySample]) -> Option<T>,
    ) -> Result<T, Error> {
        self.wait_for(what, limit, |heard| telemetry(&heard.telemetry)).await
    }

    async fn wait_for<T>(
        &self,
        what: &'static str,
        limit: Duration,
        mut check: impl FnMut(&Heard) -> Option<T>,
    ) -> Result<T, Error> {
        let mut news = self.news.clone();
        let wait = async {
            loop {
                if let Some(found) = check(&self.heard.lock().unwrap()) {
                    return Ok(found);
                }
                news.changed().await.map_err(|_| Error::Closed)?;
            }
        };
        time::timeout(limit, wait).await.map_err(|_| Error::Silent { what, limit })?
    }

    /// All telemetry so far, oldest first.
    pub fn telemetry(&self) -> Vec<TelemetrySample> {
        self.heard.lock().unwrap().telemetry.clone()
    }

    /// Asks the stressor for something that is answered with a plain yes.
    pub async fn request(&self, what: &'static str, command: Command, limit: Duration) -> Result<(), Error> {
        match self.ask(what, command, limit).await? {
            Answer::Failed(reason) => Err(Error::Failed { what, reason }),
            Answer::Done | Answer::Verified(_) => Ok(()),
        }
    }

    /// Has the stressor compare all of its memory with what it wrote; it stops dirtying for that.
    pub async fn verify(&self, limit: Duration) -> Result<Verification, Error> {
        let what = "check its memory";
        match self.ask(what, Command::Verify, limit).await? {
            Answer::Verified(verification) => Ok(verification),
            Answer::Failed(reason) => Err(Error::Failed { what, reason }),
            Answer::Done => Err(Error::Failed { what, reason: "it answered something else".into() }),
        }
    }

    async fn ask(&self, what: &'static str, command: Command, limit: Duration) -> Result<Answer, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.heard.lock().unwrap().waiting.insert(id, sender);
        let line = serde_json::to_string(&Request { id, command })
            .map_err(|e| Error::Failed { what, reason: e.to_string() })?;
        (self.write)(line);
        let answer = time::timeout(limit, answer).await.map_err(|_| Error::Silent { what, limit })?;
        answer.map_err(|_| Error::Closed)
    }
}
