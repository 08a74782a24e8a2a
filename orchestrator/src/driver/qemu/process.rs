//! A running QEMU: its process, its last output, and the connections to its monitor and to its guest.

use super::machine::{self, GuestMachine, Role};
use crate::{
    driver::{
        control_port::{self, ControlPort},
        qemu::qmp,
        unless_exited,
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

/// The longest QEMU may take to create its sockets.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest a killed QEMU may take to exit.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The number of last lines of output that are quoted when a QEMU has ended.
const LAST_LINES: usize = 6;

/// An error starting a QEMU or communicating with it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The node could not start QEMU, or connect to its sockets.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A command to QEMU's monitor failed.
    #[error(transparent)]
    Monitor(#[from] qmp::Error),
    /// The stressor in the guest did not answer.
    #[error(transparent)]
    ControlPort(#[from] control_port::Error),
    /// QEMU ended unexpectedly.
    #[error("the QEMU {which} ended ({status}){output}")]
    Died {
        /// The phrase from [`Role::which`].
        which: &'static str,
        /// The exit status or the signal, as text.
        status: String,
        /// The last lines of output after `: `; empty without output.
        output: String,
    },
}

/// Does some work with a running QEMU, and fails if QEMU ends unexpectedly. See [`unless_exited`].
pub async fn while_alive<T, E: From<Error>>(
    process: &QemuProcess,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    unless_exited(|| process.died(), work).await
}

/// The connections to a QEMU and its guest.
pub struct Connections {
    /// The connection to QEMU's monitor.
    pub monitor: qmp::Client,
    /// The connection to the stressor in the guest; silent at the destination until the guest has arrived.
    pub control_port: ControlPort,
}

/// A QEMU process. Its output is written to a log, and its exit is noticed.
pub struct QemuProcess {
    role: Role,
    process: Process,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// The exit status or the signal, once the process has exited.
    ended: watch::Receiver<Option<String>>,
    exit_is_expected: AtomicBool,
}

impl QemuProcess {
    /// Starts a QEMU on a node. Its output is appended to `log`.
    pub async fn start(node: &Node, machine: &GuestMachine, role: Role, log: &Path) -> Result<Self, Error> {
        let mut process = node.spawn(machine::spawn(machine, role)).await?;
        let last_lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let (tell_ended, ended) = watch::channel(None);
        let (_, nothing) = mpsc::unbounded_channel();
        let events = std::mem::replace(&mut process.events, nothing);
        tokio::spawn(copy_output(events, log.to_path_buf(), Arc::clone(&last_lines), tell_ended));
        Ok(Self { role, process, last_lines, ended, exit_is_expected: AtomicBool::new(false) })
    }

    /// Makes an exit expected from now on: a destination exits when its migration is cancelled.
    pub fn expect_exit(&self) {
        self.exit_is_expected.store(true, Ordering::Relaxed);
    }

    /// Waits until QEMU ends unexpectedly, and returns [`Error::Died`]. Never returns if the exit is
    /// expected, see [`QemuProcess::expect_exit`].
    pub async fn died(&self) -> Error {
        let mut ended = self.ended.clone();
        let status = match ended.wait_for(Option::is_some).await {
            Ok(status) => status.clone().unwrap_or_default(),
            Err(_) => "its node is gone".into(),
        };
        if self.exit_is_expected.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
        Error::Died { which: self.role.which(), status, output: self.last_output() }
    }

    /// Returns the last lines of QEMU's output on one line, after `: `; empty without output.
    pub fn last_output(&self) -> String {
        let lines = self.last_lines.lock().unwrap();
        let output = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        if output.is_empty() { output } else { format!(": {output}") }
    }

    /// Kills QEMU and waits until it has exited, for at most 10 s.
    pub async fn kill(&self) -> Result<(), NodeError> {
        self.process.kill().await?;
        let mut ended = self.ended.clone();
        // An error means that the node is gone, and QEMU with it.
        let _ = time::timeout(KILL_LIMIT, ended.wait_for(Option::is_some)).await;
        Ok(())
    }
}

/// Copies a process's output to its log, keeps its last lines, and reports its exit.
async fn copy_output(
    mut events: mpsc::UnboundedReceiver<node::ProcessEvent>,
    log: PathBuf,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    ended: watch::Sender<Option<String>>,
) {
    // A log that cannot be written is no reason to lose the measurement.
    let mut log = OpenOptions::new().create(true).append(true).open(log).ok();
    while let Some(event) = events.recv().await {
        let line = match event {
            node::ProcessEvent::Output(line) => {
                let mut lines = last_lines.lock().unwrap();
                if !line.trim().is_empty() {
                    lines.push_back(line.trim().to_string());
                }
                while lines.len() > LAST_LINES {
                    lines.pop_front();
                }
                line
            }
            node::ProcessEvent::Exited(status) => {
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

impl Connections {
    /// Connects to the monitor and the control port of a QEMU on this node.
    pub async fn connect(node: &Node, process: &QemuProcess) -> Result<Self, Error> {
        let role = process.role;
        let monitor = node.connect(&process.process, &machine::monitor_path(role), START_LIMIT).await?;
        let monitor = qmp::Client::over(monitor).await?;
        let control = node.connect(&process.process, &machine::control_path(role), START_LIMIT).await?;
        Ok(Self { monitor, control_port: ControlPort::over(control) })
    }

    /// Runs a QMP command and returns its result.
    pub(super) async fn call(&self, command: &str, arguments: Value) -> Result<Value, super::Error> {
        Ok(self.monitor.call(command, arguments).await?)
    }
}
