//! The orchestrator's side of a node: typed calls, processes and channels.
//!
//! A [`Node`] is made from any pair of byte streams that lead to a node process, and can be cloned. Calls can
//! be given up at any time: a reply that nobody waits for is dropped. When the streams end, every call that
//! waits, and every later one, fails with [`NodeError::Gone`].

use super::{
    protocol::{Call, Facts, FromNode, Spawn, ToNode, Traffic},
    server::probe,
};
use netem::{Applied, Profile};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{mpsc, oneshot},
    time,
};

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// The node process is gone, or the way to it.
    #[error("node {node} is gone")]
    Gone {
        /// The node's name.
        node: String,
    },
    /// The node tried and failed.
    #[error("node {node} could not {what}: {reason}")]
    Failed {
        /// The node's name.
        node: String,
        /// What was asked.
        what: String,
        /// Its words.
        reason: String,
    },
}

/// A node, as the orchestrator holds it.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    next: AtomicU64,
    out: mpsc::UnboundedSender<ToNode>,
    routes: Mutex<Routes>,
}

/// Where what the node sends is to go.
#[derive(Default)]
struct Routes {
    gone: bool,
    replies: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    channels: RouteTable<String>,
    processes: RouteTable<Event>,
}

/// The way to whoever holds a channel or a process. What comes before anybody does waits.
struct Route<T> {
    early: Vec<T>,
    to: Option<mpsc::UnboundedSender<T>>,
    ended: bool,
}

/// The routes to the holders of one kind of thing, by its number.
struct RouteTable<T>(HashMap<u64, Route<T>>);

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> RouteTable<T> {
    fn entry(&mut self, number: u64) -> &mut Route<T> {
        self.0.entry(number).or_insert(Route { early: Vec::new(), to: None, ended: false })
    }

    fn deliver(&mut self, number: u64, item: T) {
        let route = self.entry(number);
        match &route.to {
            Some(to) => {
                let _ = to.send(item);
            }
            None => route.early.push(item),
        }
    }

    /// Nothing more will come for this number.
    fn end(&mut self, number: u64) {
        let route = self.entry(number);
        route.ended = true;
        if route.to.is_some() {
            self.0.remove(&number);
        }
    }

    /// A receiver for this number, with all that came for it already.
    fn attach(&mut self, number: u64) -> mpsc::UnboundedReceiver<T> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let route = self.entry(number);
        for item in route.early.drain(..) {
            let _ = sender.send(item);
        }
        if route.ended {
            self.0.remove(&number);
        } else {
            route.to = Some(sender);
        }
        receiver
    }
}

/// What a process on a node did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wrote a line.
    Output(String),
    /// It ended, and how.
    Exited(String),
}

/// A process on a node.
pub struct Process {
    node: Node,
    number: u64,
    /// Its output, then its end. Ends without [`Event::Exited`] when the node is gone.
    pub events: mpsc::UnboundedReceiver<Event>,
}

/// A connection to a Unix socket on a node, line by line.
pub struct Channel {
    number: u64,
    node: Node,
    /// Lines that came in; ends when the other side closed, or the node is gone.
    pub lines: mpsc::UnboundedReceiver<String>,
}

impl Channel {
    /// A handle that writes to the channel.
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
    /// Writes a line; `text` holds no line end.
    pub fn write(&self, text: String) {
        let _ = self.node.shared.out.send(ToNode::Line { channel: self.number, text });
    }
}

impl Node {
    /// Speaks to the node process at the other end of these streams.
    pub fn over(
        name: &str,
        read: impl AsyncRead + Send + Unpin + 'static,
        mut write: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let (out, mut outgoing) = mpsc::unbounded_channel::<ToNode>();
        let shared =
            Arc::new(Shared { name: name.into(), next: AtomicU64::new(1), out, routes: Mutex::default() });
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                let mut line = serde_json::to_vec(&message).unwrap_or_default();
                line.push(b'\n');
                if write.write_all(&line).await.is_err() || write.flush().await.is_err() {
                    break;
                }
            }
        });
        // Weak: when the last handle goes, the writer above ends, the node sees the end of its input and
        // ends too, and then this reader does.
        let reader = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(shared) = reader.upgrade() else { return };
                if let Ok(message) = serde_json::from_str(&line) {
                    shared.routes.lock().unwrap().deliver(message);
                }
            }
            if let Some(shared) = reader.upgrade() {
                *shared.routes.lock().unwrap() = Routes { gone: true, ..Routes::default() };
            }
        });
        Self { shared }
    }

    /// Tells the node at this interval that somebody is there, for as long as a handle to it is.
    pub fn keep_alive(&self, interval: Duration) {
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            let mut ticker = time::interval(interval);
            loop {
                ticker.tick().await;
                let Some(shared) = shared.upgrade() else { return };
                if shared.out.send(ToNode::Alive).is_err() {
                    return;
                }
            }
        });
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether the node process, or the way to it, is gone.
    pub fn is_gone(&self) -> bool {
        self.shared.routes.lock().unwrap().gone
    }

    fn gone(&self) -> NodeError {
        NodeError::Gone { node: self.shared.name.clone() }
    }

    async fn call<R: DeserializeOwned>(&self, what: &str, call: Call) -> Result<R, NodeError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        {
            let mut routes = self.shared.routes.lock().unwrap();
            if routes.gone {
                return Err(self.gone());
            }
            routes.replies.insert(id, sender);
        }
        self.shared.out.send(ToNode::Call { id, call }).map_err(|_| self.gone())?;
        let failed = |reason| NodeError::Failed { node: self.shared.name.clone(), what: what.into(), reason };
        let value = reply.await.map_err(|_| self.gone())?.map_err(failed)?;
        serde_json::from_value(value).map_err(|e| failed(format!("its answer makes no sense: {e}")))
    }

    /// What the node says of itself.
    pub async fn facts(&self) -> Result<Facts, NodeError> {
        self.call("describe itself", Call::Facts).await
    }

    /// How long it takes to hear from the node, which does nothing for it.
    pub async fn round_trip(&self) -> Result<Duration, NodeError> {
        let asked = Instant::now();
        self.call::<()>("answer", Call::Ping).await?;
        Ok(asked.elapsed())
    }

    /// Has the node show that its lab is complete.
    pub async fn announce(&self) -> Result<(), NodeError> {
        self.call("show that its lab is complete", Call::Announce).await
    }

    /// Starts a process. A caller that gives up in the middle leaves none behind: a process that nobody holds
    /// is killed.
    pub async fn spawn(&self, spawn: Spawn) -> Result<Process, NodeError> {
        let (give, take) = oneshot::channel();
        let node = self.clone();
        tokio::spawn(async move {
            let _ = give.send(node.start(spawn).await);
        });
        take.await.unwrap_or_else(|_| Err(self.gone()))
    }

    async fn start(&self, spawn: Spawn) -> Result<Process, NodeError> {
        let what = format!("start {}", spawn.program);
        let number = self.call(&what, Call::Spawn(spawn)).await?;
        let events = self.shared.routes.lock().unwrap().processes.attach(number);
        Ok(Process { node: self.clone(), number, events })
    }

    /// Connects to a Unix socket of a process started there.
    pub async fn connect(
        &self,
        process: &Process,
        path: &str,
        timeout: Duration,
    ) -> Result<Channel, NodeError> {
        let timeout_ms = timeout.as_millis() as u64;
        let call = Call::Connect { process: process.number, path: path.into(), timeout_ms };
        let number = self.call(&format!("connect to {path}"), call).await?;
        let lines = self.shared.routes.lock().unwrap().channels.attach(number);
        Ok(Channel { number, node: self.clone(), lines })
    }

    /// Makes a virtual Ethernet link whose other end lies in the network namespace of a process.
    pub async fn add_link(&self, name: &str, peer: &str, peer_pid: u32) -> Result<(), NodeError> {
        let call = Call::AddLink { name: name.into(), peer: peer.into(), peer_pid };
        self.call(&format!("add the link {name}"), call).await
    }

    /// Takes over the wire of one of the host's interfaces.
    pub async fn attach(&self, parent: &str, name: &str) -> Result<(), NodeError> {
        let call = Call::Attach { parent: parent.into(), name: name.into() };
        self.call(&format!("use its interface {parent}"), call).await
    }

    /// Makes an emulated link whose other end lies in the network namespace of a process.
    pub async fn add_emulated_link(&self, name: &str, peer: &str, peer_pid: u32) -> Result<(), NodeError> {
        let call = Call::AddEmulatedLink { name: name.into(), peer: peer.into(), peer_pid };
        self.call(&format!("add the emulated link {name}"), call).await
    }

    /// Lets TCP's buffers grow to at least so many bytes; with 0, as far as the kernel had it at first.
    pub async fn allow_tcp_buffers(&self, bytes: u64) -> Result<(), NodeError> {
        self.call("limit TCP's buffers", Call::AllowTcpBuffers { bytes }).await
    }

    /// Makes a bridge of these interfaces.
    pub async fn add_bridge(&self, name: &str, ports: &[&str]) -> Result<(), NodeError> {
        let ports = ports.iter().map(ToString::to_string).collect();
        self.call(&format!("add the bridge {name}"), Call::AddBridge { name: name.into(), ports }).await
    }

    /// Brings an interface up, with an address if one is given.
    pub async fn set_up(&self, interface: &str, address: Option<(Ipv4Addr, u8)>) -> Result<(), NodeError> {
        let call = Call::SetUp { interface: interface.into(), address };
        self.call(&format!("bring {interface} up"), call).await
    }

    /// Shapes what the node sends through an interface, or both directions of a link that it emulates.
    pub async fn shape(&self, interface: &str, profile: &Profile) -> Result<Applied, NodeError> {
        let call = Call::Shape { interface: interface.into(), profile: Box::new(profile.clone()) };
        self.call(&format!("shape {interface}"), call).await
    }

    /// What has passed through an interface, or an emulated link.
    pub async fn traffic(&self, interface: &str) -> Result<Traffic, NodeError> {
        self.call(&format!("count {interface}"), Call::Traffic { interface: interface.into() }).await
    }

    /// Starts the downtime probe; returns once the target answers.
    pub async fn start_probe(
        &self,
        target: Ipv4Addr,
        interval: Duration,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let call = Call::StartProbe {
            target,
            interval_ns: interval.as_nanos() as u64,
            timeout_ms: timeout.as_millis() as u64,
        };
        self.call(&format!("probe {target}"), call).await
    }

    /// Ends the downtime probe.
    pub async fn stop_probe(&self) -> Result<probe::Report, NodeError> {
        self.call("stop the probe", Call::StopProbe).await
    }
}

impl Process {
    /// Kills the process; its [`Event::Exited`] follows.
    pub async fn kill(&self) -> Result<(), NodeError> {
        self.node.call("kill a process", Call::Kill { process: self.number }).await
    }
}

impl Drop for Process {
    /// Has it killed, unless it has ended: without an answer, since nobody could wait for one.
    fn drop(&mut self) {
        let Shared { next, out, .. } = &*self.node.shared;
        let call = Call::Kill { process: self.number };
        let _ = out.send(ToNode::Call { id: next.fetch_add(1, Ordering::Relaxed), call });
    }
}

impl Routes {
    fn deliver(&mut self, message: FromNode) {
        match message {
            FromNode::Reply { id, result } => {
                if let Some(waiting) = self.replies.remove(&id) {
                    let _ = waiting.send(result);
                }
            }
            FromNode::Line { channel, text } => self.channels.deliver(channel, text),
            FromNode::Closed { channel } => self.channels.end(channel),
            FromNode::Output { process, text } => self.processes.deliver(process, Event::Output(text)),
            FromNode::Exited { process, status } => {
                self.processes.deliver(process, Event::Exited(status));
                self.processes.end(process);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Has a node start a process for a caller that gives up before or after the node's answer.
    async fn given_up(answered: bool) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(ours);
        let node = Node::over("compute1", read, write);
        let (heard, mut say) = tokio::io::split(theirs);
        let mut heard = BufReader::new(heard).lines();
        let given_up = tokio::spawn({
            let node = node.clone();
            async move { node.spawn(Spawn::default()).await.map(drop) }
        });
        let call: ToNode = serde_json::from_str(&heard.next_line().await.unwrap().unwrap()).unwrap();
        let ToNode::Call { id, call: Call::Spawn(_) } = call else { panic!("{call:?}") };
        if !answered {
            given_up.abort();
            assert!(given_up.await.is_err());
        }
        let reply = json!({ "reply": { "id": id, "result": { "Ok": 4711 } } });
        say.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
        let call: ToNode = serde_json::from_str(&heard.next_line().await.unwrap().unwrap()).unwrap();
        assert!(matches!(call, ToNode::Call { call: Call::Kill { process: 4711 }, .. }), "{call:?}");
    }

    #[tokio::test]
    async fn a_process_whose_starter_gave_up_is_killed() {
        given_up(false).await;
    }

    #[tokio::test]
    async fn a_process_that_nobody_holds_is_killed() {
        given_up(true).await;
    }
}
