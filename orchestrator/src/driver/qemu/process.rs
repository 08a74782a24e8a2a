//! A running QEMU: its process, its monitor, the conversation with its guest, and its last words.

use super::machine::{self, Machine, Role};
use crate::{
    driver::{
        control_port::{self, ControlPort},
        qemu::qmp,
        unless_ended,
    },
    node::{self, Node, NodeError, Process},
};
use serde_json::Value;
use std::{
    collections::VecDeque,
    fs::OpenOptions,
    future::{self, Future},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time,
};

/// How long QEMU may take until its sockets are there.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a killed QEMU may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How many of its last lines tell why a QEMU ended.
const LAST_LINES: usize = 6;

/// Why there is no running QEMU.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The node could not start it.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Its monitor failed.
    #[error(transparent)]
    Monitor(#[from] qmp::Error),
    /// The stressor in its guest was not heard.
    #[error(transparent)]
    ControlPort(#[from] control_port::Error),
    /// It ended by itself.
    #[error("QEMU {which} ended ({status}){words}")]
    Died {
        /// Which one.
        which: &'static str,
        /// How it ended.
        status: String,
        /// Its last lines, if it had any, with a lead-in.
        words: String,
    },
}

/// Does some work with a running QEMU, see [`unless_ended`].
pub async fn while_alive<T, E: From<Error>>(
    process: &Handle,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    unless_ended(|| process.died(), work).await
}

/// A QEMU and its guest.
pub struct Guest {
    /// Its monitor.
    pub monitor: qmp::Client,
    /// The stressor in it; silent at the destination until the guest has come in.
    pub stressor: ControlPort,
}

/// A QEMU process, whose output goes to a log and whose end is noticed.
pub struct Handle {
    role: Role,
    process: Process,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    ended: watch::Receiver<Option<String>>,
    may_end: AtomicBool,
}

impl Handle {
    /// Starts a QEMU on a node; what it writes is appended to `log`.
    pub async fn start(node: &Node, machine: &Machine, role: Role, log: &Path) -> Result<Self, Error> {
        let mut process = node.spawn(machine::spawn(machine, role)).await?;
        let last_lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let (tell, ended) = watch::channel(None);
        let (_, nothing) = mpsc::unbounded_channel();
        let events = std::mem::replace(&mut process.events, nothing);
        tokio::spawn(follow(events, log.to_path_buf(), Arc::clone(&last_lines), tell));
        Ok(Self { role, process, last_lines, ended, may_end: AtomicBool::new(false) })
    }

    /// Allows this QEMU to end from now on: a destination does when its migration is cancelled.
    pub fn may_end(&self) {
        self.may_end.store(true, Ordering::Relaxed);
    }

    /// Waits until it ends by itself and says how; for ever, once [`Handle::may_end`] has been called.
    pub async fn died(&self) -> Error {
        let mut ended = self.ended.clone();
        let status = match ended.wait_for(Option::is_some).await {
            Ok(status) => status.clone().unwrap_or_default(),
            Err(_) => "its node is gone".into(),
        };
        if self.may_end.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
        Error::Died { which: self.role.which(), status, words: self.last_words() }
    }

    /// The last lines that it wrote, with a lead-in; empty without any.
    pub fn last_words(&self) -> String {
        let lines = self.last_lines.lock().unwrap();
        let words = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        if words.is_empty() { words } else { format!(": {words}") }
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(&self) -> Result<(), NodeError> {
        self.process.kill().await?;
        let mut ended = self.ended.clone();
        // An error means that the node has gone, and the process with it.
        let _ = time::timeout(KILL_LIMIT, ended.wait_for(Option::is_some)).await;
        Ok(())
    }
}

/// Copies a process's output to its log until it ends.
async fn follow(
    mut events: mpsc::UnboundedReceiver<node::Event>,
    log: PathBuf,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    ended: watch::Sender<Option<String>>,
) {
    // A log that cannot be written is missed, but is no reason to lose the measurement.
    let mut log = OpenOptions::new().create(true).append(true).open(log).ok();
    while let Some(event) = events.recv().await {
        let line = match event {
            node::Event::Output(line) => {
                let mut lines = last_lines.lock().unwrap();
                if !line.trim().is_empty() {
                    lines.push_back(line.trim().to_string());
                }
                while lines.len() > LAST_LINES {
                    lines.pop_front();
                }
                line
            }
            node::Event::Exited(status) => {
                let line = format!("[ended: {status}]");
                let _ = ended.send(Some(status));
                line
            }
        };
        if let Some(log) = &mut log {
            let _ = writeln!(log, "{line}");
        }
    }
}

impl Guest {
    /// Connects to a QEMU that was started on this node.
    pub async fn connect(node: &Node, process: &Handle) -> Result<Self, Error> {
        let role = process.role;
        let monitor = node.connect(&process.process, &machine::monitor_path(role), START_LIMIT).await?;
        let monitor = qmp::Client::over(monitor).await?;
        let control = node.connect(&process.process, &machine::control_path(role), START_LIMIT).await?;
        Ok(Self { monitor, stressor: ControlPort::over(control) })
    }

    /// Runs a command of its monitor.
    pub(super) async fn call(&self, command: &str, arguments: Value) -> Result<Value, super::Error> {
        Ok(self.monitor.call(command, arguments).await?)
    }
}
