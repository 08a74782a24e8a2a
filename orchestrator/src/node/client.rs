//! The orchestrator's side of a node: typed calls, processes and channels.
//!
//! A [`Node`] is built from any pair of byte streams that lead to a node process, and can be cloned. The
//! future of a call can be dropped at any time; its reply is then discarded. When the streams end, or a node
//! on another host is silent for too long, all pending and later calls fail ([`NodeError`]).

use super::{
    alive::{self, Carrier, KeepAlives, MOST_PATIENCE, Silence},
    protocol::{
        Call, CreatedDisk, DiskName, DiskUsage, ExitStatus, Facts, FromNode, ProbeProgress, ProcessSpec,
        ToNode, Traffic, UploadedFile,
    },
    server::probe::ProbeReport,
};
use crate::bounded::{NODE_LINE_BYTES, read_line};
use netem::{Applied, Profile};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf},
    sync::{mpsc, oneshot},
    time::{self, MissedTickBehavior},
};
use units::Bytes;

/// The number of a probe's reports that may wait to be read. Further reports are dropped.
const MOST_REPORTS: usize = 256;

/// An error of a call to a node.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// The node process has exited, or the connection to it is lost.
    #[error("node {node} is gone")]
    Gone {
        /// The name of the node.
        node: String,
    },
    /// The node has ended on its own, or is silent.
    #[error("node {node} is gone: {reason}")]
    Lost {
        /// The name of the node.
        node: String,
        /// Why it ended, or its silence.
        reason: String,
    },
    /// The connection to the node was closed because of what it sent, or could not be read.
    #[error("the connection to node {node} failed: {reason}")]
    Unreadable {
        /// The name of the node.
        node: String,
        /// The error of the connection.
        reason: String,
    },
    /// The node reported an error.
    #[error("node {node} could not {what}: {reason}")]
    Failed {
        /// The name of the node.
        node: String,
        /// The operation as a verb phrase that completes "could not".
        what: String,
        /// The error message from the node.
        reason: String,
    },
}

/// A handle to a node. The node ends when the last handle is dropped; processes and channels hold one too.
#[derive(Clone)]
pub struct Node {
    connection: Arc<Connection>,
}

struct Connection {
    name: String,
    /// Numbers the calls.
    next_id: AtomicU64,
    out: mpsc::UnboundedSender<ToNode>,
    dispatcher: Mutex<Dispatcher>,
    /// The number of bytes that have arrived from the node.
    received: AtomicU64,
    /// The number of bytes that have been, or are about to be, written to the node.
    written: AtomicU64,
    keep_alives: Mutex<KeepAlives>,
}

/// Hands each message from the node to the caller waiting for it.
#[derive(Default)]
struct Dispatcher {
    /// The error of all calls, if the node is gone.
    gone: Option<NodeError>,
    /// Why the node is ending, according to the node.
    ending: Option<String>,
    replies: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    channels: Mailboxes<ChannelLine>,
    processes: Mailboxes<ProcessEvent>,
    /// The receivers of the reports of running probes, by the numbers of the probes.
    probes: HashMap<u64, mpsc::Sender<ProbeProgress>>,
}

/// The messages for the holder of one channel or process.
struct Mailbox<T> {
    /// Messages that arrived before the holder subscribed.
    queued: Vec<T>,
    subscriber: Option<mpsc::UnboundedSender<T>>,
    ended: bool,
}

/// The mailboxes of all channels, or of all processes, by number.
struct Mailboxes<T>(HashMap<u64, Mailbox<T>>);

impl<T> Default for Mailboxes<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Mailboxes<T> {
    fn entry(&mut self, number: u64) -> &mut Mailbox<T> {
        self.0.entry(number).or_insert(Mailbox { queued: Vec::new(), subscriber: None, ended: false })
    }

    fn deliver(&mut self, number: u64, item: T) {
        let mailbox = self.entry(number);
        match &mailbox.subscriber {
            Some(subscriber) => {
                let _ = subscriber.send(item);
            }
            None => mailbox.queued.push(item),
        }
    }

    /// Closes a mailbox: no more messages will arrive for this number.
    fn end(&mut self, number: u64) {
        let mailbox = self.entry(number);
        mailbox.ended = true;
        if mailbox.subscriber.is_some() {
            self.0.remove(&number);
        }
    }

    /// Returns a receiver for this number. It starts with the messages that have already arrived.
    fn subscribe(&mut self, number: u64) -> mpsc::UnboundedReceiver<T> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mailbox = self.entry(number);
        for item in mailbox.queued.drain(..) {
            let _ = sender.send(item);
        }
        if mailbox.ended {
            self.0.remove(&number);
        } else {
            mailbox.subscriber = Some(sender);
        }
        receiver
    }
}

/// An event of a process on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// The process wrote this line to standard output or standard error.
    Output(String),
    /// The process has ended.
    Exited(ExitStatus),
}

/// A process on a node; killed when dropped.
pub struct Process {
    node: Node,
    number: u64,
    /// The process's output lines, then its exit. Ends without [`ProcessEvent::Exited`] if the node is gone.
    pub events: mpsc::UnboundedReceiver<ProcessEvent>,
}

/// A disk on a node; closed when dropped.
pub struct Disk {
    node: Node,
    number: u64,
    path: String,
}

/// A line received on a channel. An error is the last item, and says why the node closed the channel.
pub type ChannelLine = Result<String, String>;

/// A line-based connection to a Unix socket on a node.
pub struct Channel {
    number: u64,
    node: Node,
    /// The lines received; closes when the peer closes the connection or the node is gone.
    pub lines: mpsc::UnboundedReceiver<ChannelLine>,
}

impl Channel {
    /// Returns a handle that writes to the channel.
    pub fn writer(&self) -> ChannelWriter {
        ChannelWriter { number: self.number, node: self.node.clone() }
    }
}

/// Writes lines to a [`Channel`].
#[derive(Clone)]
pub struct ChannelWriter {
    number: u64,
    node: Node,
}

impl ChannelWriter {
    /// Writes a line. `text` must not contain a line terminator; the node appends it.
    pub fn write(&self, text: String) {
        let _ = self.node.connection.out.send(ToNode::Line { channel: self.number, text });
    }
}

impl Node {
    /// Creates a handle to the node process at the other end of these streams. Nothing is sent yet.
    pub fn from_streams(
        name: &str,
        read: impl AsyncRead + Send + Unpin + 'static,
        mut write: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let (out, mut outgoing) = mpsc::unbounded_channel::<ToNode>();
        let connection = Arc::new(Connection {
            name: name.into(),
            next_id: AtomicU64::new(1),
            out,
            dispatcher: Mutex::default(),
            received: AtomicU64::new(0),
            written: AtomicU64::new(0),
            keep_alives: Mutex::default(),
        });
        let writer = Arc::downgrade(&connection);
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                let mut line = serde_json::to_vec(&message).unwrap_or_default();
                line.push(b'\n');
                if let Some(connection) = writer.upgrade() {
                    connection.written.fetch_add(line.len() as u64, Ordering::Relaxed);
                }
                if write.write_all(&line).await.is_err() || write.flush().await.is_err() {
                    break;
                }
            }
        });
        // Weak, so that dropping the last handle closes everything: the writer task above ends, the node sees
        // the end of its input and exits, and then this reader ends.
        let reader = Arc::downgrade(&connection);
        tokio::spawn(async move {
            let counted = Counted { input: read, connection: Weak::clone(&reader) };
            let (mut read, mut line) = (BufReader::new(counted), Vec::new());
            let error = loop {
                match read_line(&mut read, &mut line, NODE_LINE_BYTES).await {
                    Ok(true) => {}
                    Ok(false) => break None,
                    Err(error) => break Some(error.to_string()),
                }
                let Some(connection) = reader.upgrade() else { return };
                match serde_json::from_slice(&line) {
                    Ok(FromNode::Alive) => connection.keep_alives.lock().unwrap().answered(now()),
                    Ok(message) => connection.dispatcher.lock().unwrap().deliver(message),
                    Err(_unknown) => {}
                }
            };
            if let Some(connection) = reader.upgrade() {
                let node = connection.name.clone();
                let ending = connection.dispatcher.lock().unwrap().ending.take();
                connection.end(match (error, ending) {
                    (Some(reason), _) => NodeError::Unreadable { node, reason },
                    (None, Some(reason)) => NodeError::Lost { node, reason },
                    (None, None) => NodeError::Gone { node },
                });
            }
        });
        Self { connection }
    }

    /// Sends keep-alives to the node for as long as a handle to it exists, and considers the node gone after
    /// a silence: see [`alive`]. `carrier` is the process that carries the connection, such as `ssh`. While
    /// it hears from the other host, the node itself may be stopped or starved, so this waits up to
    /// [`MOST_PATIENCE`] for it.
    pub fn keep_alive(&self, carrier: Carrier) {
        let connection = Arc::downgrade(&self.connection);
        tokio::spawn(async move {
            let mut ticker = time::interval(alive::LOOK_INTERVAL);
            ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (mut node, mut host) = (Silence::new(now(), 0), Silence::new(now(), 0));
            let (mut due, mut told, mut of_host) = (now(), None, 0);
            loop {
                ticker.tick().await;
                let Some(connection) = connection.upgrade() else { return };
                let now = now();
                let received = connection.received.load(Ordering::Relaxed);
                // All data that the carrier has read came from the other host, except for this. The carrier
                // reads this later.
                let written = connection.written.load(Ordering::Relaxed);
                let from_host = carrier.read_bytes().unwrap_or(0).saturating_sub(written);
                of_host = from_host.max(of_host);
                node.look(now, received);
                host.look(now, received + of_host);
                let mut keep_alives = connection.keep_alives.lock().unwrap();
                let patience = keep_alives.patience();
                if host.exceeds(patience) || node.exceeds(MOST_PATIENCE) {
                    let seconds = node.length().as_secs();
                    let reason = format!("nothing was heard from it for {seconds} s");
                    connection.end(NodeError::Lost { node: connection.name.clone(), reason });
                    return;
                }
                let is_due = now + alive::LOOK_INTERVAL / 2 >= due;
                if is_due || keep_alives.is_due_at_once() || told != Some(patience) {
                    keep_alives.sent(due.min(now));
                    (due, told) = (now + alive::INTERVAL, Some(patience));
                    let patience_ms = patience.as_millis() as u64;
                    if connection.out.send(ToNode::Alive { patience_ms }).is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Returns the node's name: `controller`, `compute1` or `compute2`.
    pub fn name(&self) -> &str {
        &self.connection.name
    }

    /// Returns whether the node process has exited or the connection to it is lost.
    pub fn is_gone(&self) -> bool {
        self.connection.dispatcher.lock().unwrap().gone.is_some()
    }

    fn gone(&self) -> NodeError {
        let gone = self.connection.dispatcher.lock().unwrap().gone.clone();
        gone.unwrap_or_else(|| NodeError::Gone { node: self.connection.name.clone() })
    }

    async fn call<R: DeserializeOwned>(&self, what: &str, call: Call) -> Result<R, NodeError> {
        let id = self.connection.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        {
            let mut dispatcher = self.connection.dispatcher.lock().unwrap();
            if let Some(gone) = &dispatcher.gone {
                return Err(gone.clone());
            }
            dispatcher.replies.insert(id, sender);
        }
        self.connection.out.send(ToNode::Call { id, call }).map_err(|_| self.gone())?;
        let failed =
            |reason| NodeError::Failed { node: self.connection.name.clone(), what: what.into(), reason };
        let value = reply.await.map_err(|_| self.gone())?.map_err(failed)?;
        serde_json::from_value(value).map_err(|e| failed(format!("its reply is invalid: {e}")))
    }

    /// Makes a call without waiting for its reply.
    fn ask(&self, call: Call) {
        let Connection { next_id, out, .. } = &*self.connection;
        let _ = out.send(ToNode::Call { id: next_id.fetch_add(1, Ordering::Relaxed), call });
    }

    /// Asks the node to describe itself and its host.
    pub async fn facts(&self) -> Result<Facts, NodeError> {
        self.call("describe itself", Call::Facts).await
    }

    /// Measures the time from sending [`Call::Ping`], which does nothing, until its reply arrives.
    pub async fn round_trip(&self) -> Result<Duration, NodeError> {
        let sent_at = Instant::now();
        self.call::<()>("answer", Call::Ping).await?;
        Ok(sent_at.elapsed())
    }

    /// Marks the node as part of a complete lab: see [`Call::Announce`].
    pub async fn announce(&self) -> Result<(), NodeError> {
        self.call("announce that its lab is complete", Call::Announce).await
    }

    /// Writes a file in the node's own folder: see [`Call::WriteFile`].
    pub async fn write_file(&self, path: String, text: String, user: Option<u32>) -> Result<(), NodeError> {
        self.call("write a file", Call::WriteFile { path, text, user }).await
    }

    /// Allows QEMU to use userfaultfd: see [`Call::OfferUserfaultfd`].
    pub async fn offer_userfaultfd(&self, user: u32) -> Result<(), NodeError> {
        self.call("offer userfaultfd", Call::OfferUserfaultfd { user }).await
    }

    /// Starts a process. If this future is dropped before it returns, the process is killed as soon as it has
    /// started.
    pub async fn spawn(&self, spec: ProcessSpec) -> Result<Process, NodeError> {
        let what = format!("start {}", spec.program);
        self.start(what, Call::Spawn(spec)).await
    }

    /// Runs a program until it exits. Returns its output, and how it has ended.
    pub async fn run(&self, program: &str, args: &[&str]) -> Result<(Vec<String>, ExitStatus), NodeError> {
        let args = args.iter().map(ToString::to_string).collect();
        self.spawn(ProcessSpec { program: program.into(), args, ..ProcessSpec::default() }).await?.end().await
    }

    /// Makes a call that starts a process, as [`Self::spawn`] does.
    async fn start(&self, what: String, call: Call) -> Result<Process, NodeError> {
        let node = self.clone();
        self.keep(async move {
            let number = node.call(&what, call).await?;
            let events = node.connection.dispatcher.lock().unwrap().processes.subscribe(number);
            Ok(Process { node, number, events })
        })
        .await
    }

    /// Waits for a call that returns a resource which ends when it is dropped. The call is made in a task of
    /// its own: if the caller has gone away, the result is dropped there.
    async fn keep<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, NodeError>> + Send + 'static,
    ) -> Result<T, NodeError> {
        let (sender, result) = oneshot::channel();
        tokio::spawn(async move {
            let _ = sender.send(call.await);
        });
        result.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Creates a disk of this size, whose first part, of the size `written`, is written beforehand. Its file
    /// is in the file system of a folder on the node's host: see [`Call::CreateDisk`].
    pub async fn create_disk(
        &self,
        folder: &Path,
        name: DiskName,
        size: Bytes,
        written: Bytes,
    ) -> Result<Disk, NodeError> {
        let folder = folder.display().to_string();
        let call = Call::CreateDisk { folder, name, bytes: size.get(), written_bytes: written.get() };
        self.keep_disk("create a disk", call).await
    }

    /// Opens a disk of another node, which has returned its path: see [`Call::OpenDisk`].
    pub async fn open_disk(&self, path: &str) -> Result<Disk, NodeError> {
        self.keep_disk("open a disk", Call::OpenDisk { path: path.into() }).await
    }

    /// Creates a folder for sockets: see [`Call::CreateFolder`].
    pub async fn create_folder(&self) -> Result<Disk, NodeError> {
        self.keep_disk("create a folder", Call::CreateFolder).await
    }

    /// Opens a folder of another node, which has returned its path: see [`Call::OpenFolder`].
    pub async fn open_folder(&self, path: &str) -> Result<Disk, NodeError> {
        self.keep_disk("open a folder", Call::OpenFolder { path: path.into() }).await
    }

    /// Makes a call that returns a disk.
    async fn keep_disk(&self, what: &'static str, call: Call) -> Result<Disk, NodeError> {
        let node = self.clone();
        self.keep(async move {
            let CreatedDisk { disk, path } = node.call(what, call).await?;
            Ok(Disk { node, number: disk, path })
        })
        .await
    }

    /// Starts an NFS server for a disk of this node: see [`Call::ServeDisk`].
    pub async fn serve_disk(
        &self,
        disk: &Disk,
        address: Ipv4Addr,
        interface: &str,
    ) -> Result<Process, NodeError> {
        let call = Call::ServeDisk { disk: disk.number, address, interface: interface.into() };
        self.start("serve a disk".into(), call).await
    }

    /// Connects to a Unix socket of a process on this node: see [`Call::Connect`].
    pub async fn connect(
        &self,
        process: &Process,
        path: &str,
        timeout: Duration,
    ) -> Result<Channel, NodeError> {
        let timeout_ms = timeout.as_millis() as u64;
        let call = Call::Connect { process: process.number, path: path.into(), timeout_ms };
        let number = self.call(&format!("connect to {path}"), call).await?;
        let lines = self.connection.dispatcher.lock().unwrap().channels.subscribe(number);
        Ok(Channel { number, node: self.clone(), lines })
    }

    /// Makes the node copy an uploaded file and check the copy: see [`Call::TakeUpload`]. Returns its path.
    pub async fn take_upload(&self, file: UploadedFile) -> Result<String, NodeError> {
        self.call("take the guest's files", Call::TakeUpload(file)).await
    }

    /// Creates a veth pair between the node and the network namespace of a process on the same host.
    pub async fn add_link(&self, name: &str, peer: &str, peer_pid: u32) -> Result<(), NodeError> {
        let call = Call::AddLink { name: name.into(), peer: peer.into(), peer_pid };
        self.call(&format!("add the link {name}"), call).await
    }

    /// Takes over the host interface `parent` as the node's interface `name`: see [`Call::Attach`].
    pub async fn attach(&self, parent: &str, name: &str) -> Result<(), NodeError> {
        let call = Call::Attach { parent: parent.into(), name: name.into() };
        self.call(&format!("use its interface {parent}"), call).await
    }

    /// Creates an emulated link between the node and the network namespace of a process on the same host.
    pub async fn add_emulated_link(&self, name: &str, peer: &str, peer_pid: u32) -> Result<(), NodeError> {
        let call = Call::AddEmulatedLink { name: name.into(), peer: peer.into(), peer_pid };
        self.call(&format!("add the emulated link {name}"), call).await
    }

    /// Raises the limit of TCP's buffers to at least `bytes`; 0 restores the kernel's original limit.
    pub async fn allow_tcp_buffers(&self, bytes: u64) -> Result<(), NodeError> {
        self.call("set the limits of TCP's buffers", Call::AllowTcpBuffers { bytes }).await
    }

    /// Creates a bridge with these interfaces as ports and brings all of them up.
    pub async fn add_bridge(&self, name: &str, ports: &[&str]) -> Result<(), NodeError> {
        let ports = ports.iter().map(ToString::to_string).collect();
        self.call(&format!("add the bridge {name}"), Call::AddBridge { name: name.into(), ports }).await
    }

    /// Brings an interface up, after adding the address and prefix length if given.
    pub async fn set_up(&self, interface: &str, address: Option<(Ipv4Addr, u8)>) -> Result<(), NodeError> {
        let call = Call::SetUp { interface: interface.into(), address };
        self.call(&format!("bring {interface} up"), call).await
    }

    /// Prohibits sending to all addresses of a network but one: see [`Call::ProhibitAllBut`].
    pub async fn prohibit_all_but(&self, peer: Ipv4Addr, prefix: u8) -> Result<(), NodeError> {
        self.call("restrict its link", Call::ProhibitAllBut { peer, prefix }).await
    }

    /// Shapes what the node sends through an interface; if the node emulates the link, both directions.
    pub async fn shape(&self, interface: &str, profile: &Profile) -> Result<Applied, NodeError> {
        let call = Call::Shape { interface: interface.into(), profile: Box::new(profile.clone()) };
        self.call(&format!("shape {interface}"), call).await
    }

    /// Reads the traffic counted so far on an interface or an emulated link.
    pub async fn traffic(&self, interface: &str) -> Result<Traffic, NodeError> {
        let call = Call::Traffic { interface: interface.into() };
        self.call(&format!("read the counters of {interface}"), call).await
    }

    /// Returns what TCP connections from the node to a port have sent, by their near port: see
    /// [`Call::TcpSent`].
    pub async fn tcp_sent(&self, port: u16) -> Result<Vec<(u16, u64)>, NodeError> {
        self.call("count what its connections have sent", Call::TcpSent { port }).await
    }

    /// Pings an address until it answers. Fails if it does not answer within `timeout`. Nothing keeps running
    /// if the caller stops waiting for the result.
    pub async fn reach(
        &self,
        target: Ipv4Addr,
        interval: Duration,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let call = Call::Reach {
            target,
            interval_ns: interval.as_nanos() as u64,
            timeout_ms: timeout.as_millis() as u64,
        };
        self.call(&format!("reach {target}"), call).await
    }

    /// Starts the downtime probe. Returns what it reports while it runs, when the target's first reply has
    /// arrived. What is not read in time is dropped. Fails if no reply arrives within `timeout`.
    pub async fn start_probe(
        &self,
        target: Ipv4Addr,
        interval: Duration,
        timeout: Duration,
    ) -> Result<mpsc::Receiver<ProbeProgress>, NodeError> {
        let probe = self.connection.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reports) = mpsc::channel(MOST_REPORTS);
        {
            let probes = &mut self.connection.dispatcher.lock().unwrap().probes;
            probes.retain(|_, reader| !reader.is_closed());
            probes.insert(probe, sender);
        }
        let call = Call::StartProbe {
            probe,
            target,
            interval_ns: interval.as_nanos() as u64,
            timeout_ms: timeout.as_millis() as u64,
        };
        self.call::<()>(&format!("probe {target}"), call).await?;
        Ok(reports)
    }

    /// Stops the downtime probe when the next reply arrives, or after `patience` without one, and returns its
    /// report.
    pub async fn stop_probe(&self, patience: Duration) -> Result<ProbeReport, NodeError> {
        let call = Call::StopProbe { patience_ms: patience.as_millis() as u64 };
        self.call("stop the probe", call).await
    }
}

impl Process {
    /// Kills the process, and everything that it has started, with SIGKILL; [`ProcessEvent::Exited`] follows.
    pub async fn kill(&self) -> Result<(), NodeError> {
        self.node.call("kill a process", Call::Kill { process: self.number }).await
    }

    /// Returns the CPU time that the process has used; nothing if it has exited.
    pub async fn cpu_time(&self) -> Result<Option<Duration>, NodeError> {
        let call = Call::CpuTime { process: self.number };
        let nanos: Option<u64> = self.node.call("tell the CPU time of a process", call).await?;
        Ok(nanos.map(Duration::from_nanos))
    }

    /// Waits until the process has exited. Returns the rest of its output, and how it has ended.
    ///
    /// # Errors
    ///
    /// If the node is gone.
    pub async fn end(&mut self) -> Result<(Vec<String>, ExitStatus), NodeError> {
        let mut lines = Vec::new();
        while let Some(event) = self.events.recv().await {
            match event {
                ProcessEvent::Output(line) => lines.push(line),
                ProcessEvent::Exited(status) => return Ok((lines, status)),
            }
        }
        Err(self.loss_of_node())
    }

    /// Returns why the process's events have ended without [`ProcessEvent::Exited`].
    pub fn loss_of_node(&self) -> NodeError {
        self.node.gone()
    }
}

impl Drop for Process {
    /// Asks the node to kill the process, without waiting for the reply: `drop` cannot wait.
    fn drop(&mut self) {
        self.node.ask(Call::Kill { process: self.number });
    }
}

impl Disk {
    /// Returns the number of the disk, for [`ProcessSpec::disks`].
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Closes the disk, and waits until that is done: a named file has then been removed.
    pub async fn close(self) -> Result<(), NodeError> {
        self.node.call("close a disk", Call::CloseDisk { disk: self.number }).await
    }

    /// Returns the size of the disk's file.
    pub async fn usage(&self) -> Result<DiskUsage, NodeError> {
        self.node.call("measure a disk", Call::DiskUsage { disk: self.number }).await
    }

    /// Lets all users connect to a socket in this folder: see [`Call::OpenSocket`].
    pub async fn open_socket(&self, name: &str) -> Result<bool, NodeError> {
        self.node.call("open a socket", Call::OpenSocket { folder: self.number, name: name.into() }).await
    }

    /// Returns the path of the disk's file on the node's host: see [`CreatedDisk::path`].
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Disk {
    /// Asks the node to close the disk, without waiting for the reply: `drop` cannot wait.
    fn drop(&mut self) {
        self.node.ask(Call::CloseDisk { disk: self.number });
    }
}

/// Returns the time by tokio's clock, which tests may stop.
fn now() -> Instant {
    time::Instant::now().into_std()
}

impl Connection {
    /// Makes all pending and later calls fail with this error, unless they already fail.
    fn end(&self, error: NodeError) {
        let mut dispatcher = self.dispatcher.lock().unwrap();
        if dispatcher.gone.is_none() {
            *dispatcher = Dispatcher { gone: Some(error), ..Dispatcher::default() };
        }
    }
}

/// A stream that counts the bytes of its connection.
struct Counted<R> {
    input: R,
    connection: Weak<Connection>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.input).poll_read(cx, buffer);
        if let Some(connection) = self.connection.upgrade() {
            connection.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        }
        read
    }
}

impl Dispatcher {
    fn deliver(&mut self, message: FromNode) {
        match message {
            FromNode::Reply { id, result } => {
                if let Some(caller) = self.replies.remove(&id) {
                    let _ = caller.send(result);
                }
            }
            FromNode::Line { channel, text } => self.channels.deliver(channel, Ok(text)),
            FromNode::Closed { channel, reason } => {
                if let Some(reason) = reason {
                    self.channels.deliver(channel, Err(reason));
                }
                self.channels.end(channel);
            }
            FromNode::Output { process, text } => self.processes.deliver(process, ProcessEvent::Output(text)),
            FromNode::Exited { process, status } => {
                self.processes.deliver(process, ProcessEvent::Exited(status));
                self.processes.end(process);
            }
            FromNode::Probed { probe, progress } => {
                // A reader that has gone away or is too slow does not delay the connection.
                let _ = self.probes.get(&probe).map(|reader| reader.try_send(progress));
            }
            FromNode::Ending { reason } => self.ending = Some(reason),
            // No one waits for this message.
            FromNode::Alive => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::AsyncBufReadExt;

    /// Checks that a process is killed: if `replied`, when its handle is dropped, else when its starter was
    /// cancelled before the node replied.
    async fn assert_killed(replied: bool) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(ours);
        let node = Node::from_streams("compute1", read, write);
        let (calls, mut answers) = tokio::io::split(theirs);
        let mut received = BufReader::new(calls).lines();
        let starter = tokio::spawn({
            let node = node.clone();
            async move { node.spawn(ProcessSpec::default()).await.map(drop) }
        });
        let call: ToNode = serde_json::from_str(&received.next_line().await.unwrap().unwrap()).unwrap();
        let ToNode::Call { id, call: Call::Spawn(_) } = call else { panic!("{call:?}") };
        if !replied {
            starter.abort();
            assert!(starter.await.is_err());
        }
        let reply = json!({ "reply": { "id": id, "result": { "Ok": 4711 } } });
        answers.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
        let call: ToNode = serde_json::from_str(&received.next_line().await.unwrap().unwrap()).unwrap();
        assert!(matches!(call, ToNode::Call { call: Call::Kill { process: 4711 }, .. }), "{call:?}");
    }

    #[tokio::test]
    async fn a_process_whose_start_was_cancelled_is_killed() {
        assert_killed(false).await;
    }

    #[tokio::test]
    async fn a_process_whose_handle_is_dropped_is_killed() {
        assert_killed(true).await;
    }

    /// Connects to a node that answers the first `count` keep-alives, and nothing else.
    fn with_answers(count: usize) -> Node {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(ours);
        let node = Node::from_streams("compute1", read, write);
        tokio::spawn(async move {
            let (calls, mut answers) = tokio::io::split(theirs);
            let mut calls = BufReader::new(calls).lines();
            let mut left = count;
            while let Ok(Some(call)) = calls.next_line().await {
                let is_alive = matches!(serde_json::from_str(&call).unwrap(), ToNode::Alive { .. });
                if is_alive && left > 0 {
                    left -= 1;
                    let answer = serde_json::to_string(&FromNode::Alive).unwrap();
                    answers.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                }
            }
        });
        node
    }

    /// Returns after how many seconds a call fails, and its error.
    async fn failure_of_a_call(node: &Node) -> (u64, String) {
        let start = now();
        let error = node.facts().await.unwrap_err().to_string();
        assert!(node.is_gone());
        ((now() - start).as_secs(), error)
    }

    /// A PID that no process has.
    const NOBODY: Carrier = Carrier { pid: u32::MAX };

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_gone_after_the_patience() {
        let node = with_answers(3);
        node.keep_alive(NOBODY);
        let (seconds, error) = failure_of_a_call(&node).await;
        assert_eq!(error, "node compute1 is gone: nothing was heard from it for 8 s");
        assert!((8..15).contains(&seconds), "after the third keep-alive: {seconds}");
        let node = with_answers(0);
        node.keep_alive(NOBODY);
        let (seconds, error) = failure_of_a_call(&node).await;
        assert_eq!((seconds, &error[..]), (60, "node compute1 is gone: nothing was heard from it for 60 s"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_on_a_host_that_answers_is_waited_for_longer() {
        let node = with_answers(3);
        // This process reads at least its own counters.
        let carrier = Carrier { pid: std::process::id() };
        if carrier.read_bytes().is_none() {
            println!("skipped: this kernel does not count what a process reads");
            return;
        }
        node.keep_alive(carrier);
        let (seconds, error) = failure_of_a_call(&node).await;
        assert_eq!(error, "node compute1 is gone: nothing was heard from it for 60 s");
        assert!((60..67).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_answers_keep_alives_is_waited_for() {
        let node = with_answers(usize::MAX);
        node.keep_alive(NOBODY);
        assert!(time::timeout(Duration::from_secs(3600), node.facts()).await.is_err());
        assert!(!node.is_gone());
    }

    #[tokio::test]
    async fn a_node_that_ends_by_itself_says_why() {
        let last = serde_json::to_string(&FromNode::Ending { reason: "it is tired".into() }).unwrap();
        let node = Node::from_streams("compute1", io::Cursor::new(format!("{last}\n")), tokio::io::sink());
        assert_eq!(node.facts().await.unwrap_err().to_string(), "node compute1 is gone: it is tired");
    }

    #[tokio::test]
    async fn a_node_that_sends_an_endless_line_is_gone_with_the_reason() {
        let node = Node::from_streams("compute1", tokio::io::repeat(b'['), tokio::io::sink());
        let expected = "the connection to node compute1 failed: a line is longer than 32 MiB";
        for _ in 0..2 {
            assert_eq!(node.facts().await.unwrap_err().to_string(), expected);
        }
        assert!(node.is_gone());
    }

    #[tokio::test]
    async fn a_channel_that_the_node_closed_says_why() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(ours);
        let node = Node::from_streams("compute1", read, write);
        let (calls, mut answers) = tokio::io::split(theirs);
        tokio::spawn(async move {
            let mut calls = BufReader::new(calls).lines();
            while let Ok(Some(call)) = calls.next_line().await {
                let ToNode::Call { id, .. } = serde_json::from_str(&call).unwrap() else { continue };
                for message in [
                    json!({ "line": { "channel": 5, "text": "hello" } }),
                    json!({ "closed": { "channel": 5, "reason": "a line is longer than 4 MiB" } }),
                    json!({ "reply": { "id": id, "result": { "Ok": 5 } } }),
                ] {
                    answers.write_all(format!("{message}\n").as_bytes()).await.unwrap();
                }
            }
        });
        let process = node.spawn(ProcessSpec::default()).await.unwrap();
        let mut channel = node.connect(&process, "monitor", Duration::from_secs(1)).await.unwrap();
        let mut lines = Vec::new();
        while let Some(line) = channel.lines.recv().await {
            lines.push(line);
        }
        assert_eq!(lines[..2], [Ok("hello".into()), Err("a line is longer than 4 MiB".into())]);
    }
}
