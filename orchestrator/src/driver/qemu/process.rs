//! A running QEMU: its process, its last output, and the connections to its monitor and to its guest.

use super::machine::{self, GuestMachine, Role};
use crate::{
    driver::{
        control_port::{self, ControlPort},
        qemu::{qmp, query::QueryMigrate},
        unless_exited,
    },
    node::{
        self, Node, NodeError, Process,
        protocol::{ExitStatus, ProcessSpec},
    },
};
use futures::{
    FutureExt,
    future::{Either, select},
};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    fs::File,
    future::{self, Future},
    io::Write,
    path::Path,
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

/// The longest that QEMU may take to create its sockets.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest that a killed QEMU may take to exit.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The number of last lines of output that are quoted when a QEMU has ended.
const LAST_LINES: usize = 6;

/// The beginnings of the console lines with which a guest ends: a panic of its kernel, and a bug of the
/// stressor, which is its PID 1.
const PANICS: [&str; 2] = ["Kernel panic", "stressor: this is a bug"];

/// What the kernel says if PID 1 has ended. The line before it says why.
const PID_1_ENDED: &str = "Attempted to kill init";

/// How long a QEMU whose guest has panicked may take to exit. The guest resets immediately, which ends QEMU.
const PANIC_GRACE: Duration = Duration::from_secs(2);

/// How long the end of a QEMU may be reported after the end of the peer that exited because of it.
const CAUSE_GRACE: Duration = Duration::from_secs(1);

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
    #[error("the QEMU {which} ended ({status}){}", after_colon(.lines))]
    Died {
        /// The phrase from [`Role::which`].
        which: &'static str,
        /// How it has ended.
        status: ExitStatus,
        /// The last lines of output.
        lines: Vec<String>,
    },
    /// The guest panicked, which ends its QEMU.
    #[error("the guest panicked: {line}; the QEMU {which} {status}")]
    Panicked {
        /// The line on the guest's console that says why.
        line: String,
        /// The phrase from [`Role::which`].
        which: &'static str,
        /// The exit status of QEMU, or a note that it has none.
        status: String,
    },
}

impl Error {
    /// Whether QEMU exited by itself, with an exit status.
    pub(super) fn is_own_exit(&self) -> bool {
        matches!(self, Self::Died { status, .. } if status.is_own_exit())
    }
}

/// Returns the last lines of a program's output on one line, after `: `; empty without output.
pub(super) fn after_colon(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!(": {}", lines.join(" | ")) }
}

/// Does some work with a running QEMU, and fails if QEMU ends unexpectedly. See [`unless_exited`].
pub async fn while_alive<T, E: From<Error>>(
    process: &QemuProcess,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    unless_exited(|| process.died(), work).await
}

/// Waits until one of two connected QEMUs has ended unexpectedly, and returns why. When one ends, the other
/// fails, and the exit of the latter may be reported first. So after an end that can be such a consequence,
/// this function waits up to 1 s for an end that cannot be one: by a signal, or with a panic of the guest.
pub(super) async fn first_cause(
    one: impl Future<Output = Error>,
    other: impl Future<Output = Error>,
) -> Error {
    let (one, other) = (one.boxed_local(), other.boxed_local());
    let (first, rest) = match select(one, other).await {
        Either::Left(ended) | Either::Right(ended) => ended,
    };
    if !first.is_own_exit() {
        return first;
    }
    match time::timeout(CAUSE_GRACE, rest).await {
        Ok(second) if !second.is_own_exit() => second,
        _ => first,
    }
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
    output: Watched,
    exit_is_expected: AtomicBool,
}

impl QemuProcess {
    /// Starts a QEMU on a node, without an inherited disk. Its output is appended to `log`.
    pub async fn start(node: &Node, machine: &GuestMachine, role: Role, log: &Path) -> Result<Self, Error> {
        Self::start_as(node, machine::command(machine, role), role, Log::append(log)).await
    }

    /// Does the same as [`QemuProcess::start`] with this command, which includes what QEMU inherits, and this
    /// log.
    pub(super) async fn start_as(
        node: &Node,
        command: ProcessSpec,
        role: Role,
        log: Log,
    ) -> Result<Self, Error> {
        let mut process = node.spawn(command).await?;
        let (_, nothing) = mpsc::unbounded_channel();
        let events = std::mem::replace(&mut process.events, nothing);
        let (output, watched) = Output::watch();
        tokio::spawn(copy_output(events, log, output));
        Ok(Self { role, process, output: watched, exit_is_expected: AtomicBool::new(false) })
    }

    /// Makes an exit expected from now on: a destination exits when its migration is cancelled.
    pub fn expect_exit(&self) {
        self.exit_is_expected.store(true, Ordering::Relaxed);
    }

    /// Returns the CPU time that QEMU has used; nothing if it has exited.
    pub async fn cpu_time(&self) -> Result<Option<Duration>, NodeError> {
        self.process.cpu_time().await
    }

    /// Waits until QEMU ends unexpectedly or its guest panics, and returns [`Error::Died`] or
    /// [`Error::Panicked`]. Never returns if the exit is expected, see [`QemuProcess::expect_exit`].
    pub async fn died(&self) -> Error {
        let status = self.status_after_end().await;
        if self.exit_is_expected.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
        let which = self.role.which();
        match (self.output.panicked.borrow().clone(), status) {
            (Some(line), Some(status)) => {
                Error::Panicked { line, which, status: format!("ended ({status})") }
            }
            (Some(line), None) => Error::Panicked { line, which, status: "has not ended".into() },
            (None, status) => {
                let status =
                    status.unwrap_or_else(|| ExitStatus::new(self.process.loss_of_node().to_string()));
                Error::Died { which, status, lines: self.last_lines() }
            }
        }
    }

    /// Waits until QEMU has exited, or until it should have because its guest has panicked. Returns the exit
    /// status, if there is one.
    async fn status_after_end(&self) -> Option<ExitStatus> {
        let Watched { mut ended, mut panicked, .. } = self.output.clone();
        let overdue = async {
            if panicked.wait_for(Option::is_some).await.is_err() {
                future::pending::<()>().await;
            }
            time::sleep(PANIC_GRACE).await;
        };
        tokio::select! {
            biased;
            ended = ended.wait_for(Option::is_some) => ended.ok().and_then(|status| status.clone()),
            () = overdue => None,
        }
    }

    /// Returns the last lines of QEMU's output.
    pub fn last_lines(&self) -> Vec<String> {
        self.output.last_lines.lock().unwrap().iter().cloned().collect()
    }

    /// Returns whether QEMU has ended, as its node has reported.
    pub(super) fn has_ended(&self) -> bool {
        self.output.ended.borrow().is_some()
    }

    /// Kills QEMU and everything that it has started, and waits at most 10 s until all of it is gone.
    pub async fn kill(&self) -> Result<(), NodeError> {
        let mut ended = self.output.ended.clone();
        let killed = async {
            self.process.kill().await?;
            // An error means that the node is gone, and QEMU with it.
            let _ = ended.wait_for(Option::is_some).await;
            Ok(())
        };
        time::timeout(KILL_LIMIT, killed).await.unwrap_or(Ok(()))
    }
}

/// What [`copy_output`] finds out about a process.
struct Output {
    last_lines: Arc<Mutex<VecDeque<String>>>,
    panicked: watch::Sender<Option<String>>,
    ended: watch::Sender<Option<ExitStatus>>,
}

/// The other end of an [`Output`].
#[derive(Clone)]
struct Watched {
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// The line on the console that announced the guest's panic.
    panicked: watch::Receiver<Option<String>>,
    /// How the process has ended, once it has.
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Output {
    fn watch() -> (Self, Watched) {
        let last_lines = Arc::<Mutex<VecDeque<String>>>::default();
        let ((panicked, sees_panic), (ended, sees_end)) = (watch::channel(None), watch::channel(None));
        let watched = Watched { last_lines: Arc::clone(&last_lines), panicked: sees_panic, ended: sees_end };
        (Self { last_lines, panicked, ended }, watched)
    }

    /// Keeps a line as one of the last ones, and notices if the guest panics with it.
    fn keep(&self, line: &str) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        let mut lines = self.last_lines.lock().unwrap();
        // A later panic is a consequence of the first.
        if self.panicked.borrow().is_none()
            && let Some(at) = PANICS.iter().find_map(|words| line.find(words))
        {
            let mut panic = line[at..].to_string();
            if panic.contains(PID_1_ENDED)
                && let Some(before) = lines.back()
            {
                panic = format!("{panic}, after \"{}\"", without_time(before));
            }
            self.panicked.send_replace(Some(panic));
        }
        lines.push_back(line.to_string());
        while lines.len() > LAST_LINES {
            lines.pop_front();
        }
    }
}

/// Returns a line of the kernel without the time in brackets with which it may begin.
fn without_time(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|line| line.split_once(']'));
    let is_time = |text: &str| text.trim().parse::<f64>().is_ok();
    rest.filter(|(time, _)| is_time(time)).map_or(line, |(_, rest)| rest.trim_start())
}

/// The largest log of a process, in bytes. A guest's kernel may write to its console without end.
const LOG_BYTES: usize = 16 << 20;

/// The log of a process. One that cannot be written is no reason to lose the measurement.
pub(super) struct Log {
    file: Option<File>,
    /// How many bytes more of the process's output it takes; nothing after some were left out.
    room: Option<usize>,
}

impl Log {
    /// Creates a log. Nothing is written to what is already in its place, such as a symbolic link.
    pub(super) fn create(path: &Path) -> Self {
        Self { file: File::create_new(path).ok(), room: Some(LOG_BYTES) }
    }

    /// Opens a log that may already have the output of other processes.
    fn append(path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path).ok();
        Self { file, room: Some(LOG_BYTES) }
    }

    /// Writes a line of the process, or instead of the first one for which there is no room, that this and
    /// all further ones are left out.
    fn output(&mut self, line: &str) {
        let Some(room) = self.room else { return };
        self.room = room.checked_sub(line.len() + 1);
        self.write(if self.room.is_some() { line } else { "[more output is left out]" });
    }

    fn write(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{line}");
        }
    }
}

/// Copies a process's output to its log, and keeps the important parts in `output`.
async fn copy_output(mut events: mpsc::UnboundedReceiver<node::ProcessEvent>, mut log: Log, output: Output) {
    while let Some(event) = events.recv().await {
        match event {
            node::ProcessEvent::Output(line) => {
                output.keep(&line);
                log.output(&line);
            }
            node::ProcessEvent::Exited(status) => {
                log.write(&format!("[ended: {status}]"));
                output.ended.send_replace(Some(status));
            }
        }
    }
}

/// Connects to the monitor of a QEMU on this node.
pub(super) async fn monitor(node: &Node, process: &QemuProcess) -> Result<qmp::Client, Error> {
    let path = machine::monitor_path(process.role);
    Ok(qmp::Client::over(node.connect(&process.process, &path, START_LIMIT).await?).await?)
}

/// The interval at which a QEMU is asked whether a paused guest can be resumed. The guest is down meanwhile.
const RESUME_INTERVAL: Duration = Duration::from_millis(1);

impl Connections {
    /// Connects to the monitor and the control port of a QEMU on this node.
    pub async fn connect(node: &Node, process: &QemuProcess) -> Result<Self, Error> {
        let role = process.role;
        let monitor = monitor(node, process).await?;
        let control = node.connect(&process.process, &machine::control_path(role), START_LIMIT).await?;
        Ok(Self { monitor, control_port: ControlPort::over(control) })
    }

    /// Runs a QMP command and returns its result.
    pub(super) async fn call(&self, command: &str, arguments: Value) -> Result<Value, super::Error> {
        Ok(self.monitor.call(command, arguments).await?)
    }

    /// Runs a QMP command and returns its result, however long that takes.
    pub(super) async fn call_patiently(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, super::Error> {
        Ok(self.monitor.call_patiently(command, arguments).await?)
    }

    /// Resumes a paused guest, once it has been loaded, or once QEMU has cleaned up after a migration. Does
    /// nothing to a guest that is not paused.
    ///
    /// QEMU keeps a guest's state across a migration: a paused guest stays paused, at the destination or, if
    /// the migration fails, at the source.
    pub(super) async fn resume(&self) -> Result<(), super::Error> {
        self.resume_if(&["paused"]).await
    }

    /// Ends the migration of a guest and resumes the guest here, even if QEMU regards it as having left. It
    /// must not be running elsewhere.
    pub(super) async fn take_back(&self) -> Result<(), super::Error> {
        // This does nothing to a migration that has ended.
        self.call_patiently("migrate_cancel", json!({})).await?;
        while !self.monitor.query_patiently::<QueryMigrate>("query-migrate").await?.has_ended() {
            time::sleep(RESUME_INTERVAL).await;
        }
        self.resume_if(&["paused", "postmigrate"]).await
    }

    /// Resumes a guest in one of these states, once QEMU has finished with its migration. Does nothing to a
    /// guest in any other state.
    async fn resume_if(&self, states: &[&str]) -> Result<(), super::Error> {
        loop {
            let answer = self.call_patiently("query-status", json!({})).await?;
            match answer["status"].as_str() {
                Some(now) if states.contains(&now) => break,
                Some("inmigrate" | "finish-migrate") => time::sleep(RESUME_INTERVAL).await,
                _ => return Ok(()),
            }
        }
        self.call_patiently("cont", json!({})).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the panic that these lines of a console show.
    fn panic(lines: &[&str]) -> Option<String> {
        let (output, watched) = Output::watch();
        for line in lines {
            output.keep(line);
        }
        assert!(watched.last_lines.lock().unwrap().len() <= LAST_LINES);
        watched.panicked.borrow().clone()
    }

    #[test]
    fn a_panic_is_named_by_its_line_however_much_follows() {
        let trace =
            ["CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0 #1", "Call Trace:", " <TASK>", " panic+0x1"];
        let boot = "[    0.514][    T1] Kernel panic - not syncing: VFS: Unable to mount root fs on \
                    unknown-block(0,0)";
        let lines: Vec<&str> = ["Booting from ROM..", boot].into_iter().chain(trace.repeat(4)).collect();
        let expected = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)";
        assert_eq!(panic(&lines).as_deref(), Some(expected));
        assert_eq!(
            panic(&["---[ end Kernel panic - not syncing: x ]---"]).unwrap(),
            "Kernel panic - not syncing: x ]---"
        );
        assert_eq!(panic(&["Booting from ROM..", "reboot: Power down"]), None);
        // The first of two is the cause.
        let two = ["Kernel panic - not syncing: a", "Kernel panic - not syncing: b"];
        assert_eq!(panic(&two).unwrap(), "Kernel panic - not syncing: a");
    }

    #[test]
    fn the_end_of_pid_1_is_explained_by_the_line_before() {
        let killed = [
            "[    9.1] Out of memory: Killed process 1 (init)",
            "[    9.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009",
        ];
        assert_eq!(
            panic(&killed).unwrap(),
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009, after \"Out of memory: \
             Killed process 1 (init)\""
        );
        let bug = [
            "stressor: this is a bug: panicked at src/lane.rs:1:2: index out of bounds",
            "reboot: Power down",
        ];
        assert_eq!(panic(&bug).as_deref(), Some(bug[0]));
    }

    /// Two QEMUs end: the first with `first`, and the other after `delay_ms`. Returns whose end is the cause.
    async fn cause_of(first: (Role, &str), second: (Role, &str), delay_ms: u64) -> String {
        let died = |(role, status): (Role, &str)| Error::Died {
            which: role.which(),
            status: ExitStatus::new(status),
            lines: Vec::new(),
        };
        let later = async {
            time::sleep(Duration::from_millis(delay_ms)).await;
            died(second)
        };
        first_cause(future::ready(died(first)), later).await.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_qemu_is_the_cause_of_the_exit_of_its_peer() {
        let (source, destination) = (Role::Source, Role::Destination);
        let (exits, killed) = ("exit status: 1", "signal: 9 (SIGKILL)");
        let cause = cause_of((destination, exits), (source, killed), 300).await;
        assert_eq!(cause, "the QEMU at the source ended (signal: 9 (SIGKILL))");
        let cause = cause_of((source, exits), (destination, killed), 300).await;
        assert_eq!(cause, "the QEMU at the destination ended (signal: 9 (SIGKILL))");
        // Of two equal ends the first counts, and an end long afterwards has another cause.
        let first = "the QEMU at the destination ended (exit status: 1)";
        assert_eq!(cause_of((destination, exits), (source, exits), 300).await, first);
        assert_eq!(cause_of((destination, exits), (source, killed), 5000).await, first);
        let first = "the QEMU at the destination ended (signal: 9 (SIGKILL))";
        assert_eq!(cause_of((destination, killed), (source, killed), 1).await, first);
    }

    #[tokio::test]
    async fn lines_and_the_end_reach_the_log_and_the_watcher() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("source.log");
        let (sender, events) = mpsc::unbounded_channel();
        let (output, watched) = Output::watch();
        sender.send(node::ProcessEvent::Output("Kernel panic - not syncing: x".into())).unwrap();
        sender.send(node::ProcessEvent::Exited(ExitStatus::new("exit status: 0"))).unwrap();
        drop(sender);
        copy_output(events, Log::create(&log), output).await;
        assert_eq!(
            std::fs::read_to_string(log).unwrap(),
            "Kernel panic - not syncing: x\n[ended: exit status: 0]\n"
        );
        assert!(watched.ended.borrow().as_ref().unwrap().is_success());
        assert_eq!(watched.panicked.borrow().as_deref(), Some("Kernel panic - not syncing: x"));
        let line = watched.panicked.borrow().clone().unwrap();
        let error =
            Error::Panicked { line, which: Role::Source.which(), status: "ended (exit status: 0)".into() };
        assert_eq!(
            error.to_string(),
            "the guest panicked: Kernel panic - not syncing: x; the QEMU at the source ended (exit status: 0)"
        );
    }

    #[tokio::test]
    async fn a_link_in_the_place_of_a_log_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [victim, log] = ["victim", "source.log"].map(|name| folder.path().join(name));
        std::fs::write(&victim, "").unwrap();
        std::os::unix::fs::symlink(&victim, &log).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let (output, watched) = Output::watch();
        sender.send(node::ProcessEvent::Output("Kernel panic - not syncing: x".into())).unwrap();
        drop(sender);
        copy_output(events, Log::create(&log), output).await;
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "");
        assert!(watched.panicked.borrow().is_some(), "what matters is still noticed");
    }

    #[tokio::test]
    async fn output_without_end_is_left_out_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("source.log");
        let (sender, events) = mpsc::unbounded_channel();
        let line = "x".repeat((1 << 20) - 1);
        for _ in 0..20 {
            sender.send(node::ProcessEvent::Output(line.clone())).unwrap();
        }
        sender.send(node::ProcessEvent::Output("Kernel panic - not syncing: x".into())).unwrap();
        sender.send(node::ProcessEvent::Exited(ExitStatus::new("exit status: 0"))).unwrap();
        drop(sender);
        let (output, watched) = Output::watch();
        copy_output(events, Log::create(&log), output).await;
        let text = std::fs::read_to_string(log).unwrap();
        let lines: Vec<&str> = text.lines().skip(16).collect();
        assert_eq!(lines, ["[more output is left out]", "[ended: exit status: 0]"]);
        assert!(watched.panicked.borrow().is_some(), "what matters is still noticed");
    }
}
