//! A client of QEMU's machine protocol (QMP).
//!
//! A single reader routes replies to their callers by number and broadcasts events, each with the time of its
//! arrival by the orchestrator's monotonic clock. A call can be abandoned at any time, by a timeout or an
//! interruption: its reply is dropped, and the next call works. Unknown events are broadcast and unknown
//! lines ignored; neither is an error, so newer versions of QEMU keep working.

use crate::node::{Channel, ChannelLine};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{self, Instant},
};

/// An error of a QMP call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// QEMU answered with an error.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The QMP command that failed.
        command: String,
        /// QEMU's description of the error.
        reason: String,
    },
    /// The reply does not have the expected type.
    #[error("QEMU's reply to {command} has an unexpected form: {reason}")]
    Malformed {
        /// The QMP command that failed.
        command: String,
        /// The error in the reply's JSON.
        reason: String,
    },
    /// QEMU runs, but does not answer.
    #[error("QEMU did not answer {command} within {} s", REPLY_LIMIT.as_secs())]
    Silent {
        /// The QMP command that failed.
        command: String,
    },
    /// QEMU or the connection to it is gone.
    #[error("the connection to QEMU's monitor closed")]
    Closed,
    /// What QEMU sent cannot be read; the connection has been closed.
    #[error("the connection to QEMU's monitor failed: {reason}")]
    Unreadable {
        /// The error of the connection.
        reason: String,
    },
}

/// An event that QEMU sent on its own.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name, for example `STOP`.
    pub name: String,
    /// The data that comes with the event; null if there is none.
    pub data: Value,
    /// When its line arrived, by the orchestrator's monotonic clock.
    pub received: Instant,
}

/// The calls that wait for a reply, by number, or the error of all calls once the connection has closed.
type PendingCalls = Result<HashMap<u64, oneshot::Sender<Result<Value, String>>>, Error>;

/// A connection to one QEMU's monitor. Dropping it closes the connection.
pub struct Client {
    next_id: AtomicU64,
    pending: Arc<Mutex<PendingCalls>>,
    write: Box<dyn Fn(String) + Send + Sync>,
    events: broadcast::Sender<Event>,
}

/// The longest that QEMU may take to answer. On a busy host it takes a second at most.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// The number of events that may wait for a slow listener before the oldest are dropped.
const EVENT_BACKLOG: usize = 1024;

/// A line from QEMU: a reply has an `id`, an event has an `event`, the greeting has neither.
#[derive(Deserialize)]
struct Incoming {
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<ErrorReply>,
}

#[derive(Deserialize)]
struct ErrorReply {
    desc: String,
}

impl Client {
    /// Connects to a monitor over a node's channel.
    pub async fn over(channel: Channel) -> Result<Self, Error> {
        let writer = channel.writer();
        Self::start(channel.lines, move |line| writer.write(line)).await
    }

    /// Connects to a monitor over any stream of lines, and negotiates capabilities: out-of-band commands, if
    /// QEMU supports them.
    pub async fn start(
        mut lines: mpsc::UnboundedReceiver<ChannelLine>,
        write: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let pending: Arc<Mutex<PendingCalls>> = Arc::new(Mutex::new(Ok(HashMap::new())));
        let client = Self {
            next_id: AtomicU64::new(1),
            pending: Arc::clone(&pending),
            write: Box::new(write),
            events: events.clone(),
        };
        tokio::spawn(async move {
            let mut closed = Error::Closed;
            while let Some(line) = lines.recv().await {
                let line = match line {
                    Ok(line) => line,
                    Err(reason) => {
                        closed = Error::Unreadable { reason };
                        break;
                    }
                };
                // A line that is cut short or unknown is skipped. serde would also read a list as an
                // `Incoming`.
                let Ok(message) = serde_json::from_str::<Map<String, Value>>(&line) else { continue };
                let Ok(incoming) = Incoming::deserialize(Value::Object(message)) else { continue };
                if let Some(name) = incoming.event {
                    let _ = events.send(Event { name, data: incoming.data, received: Instant::now() });
                } else if let Some(id) = incoming.id {
                    let reply = match (incoming.error, incoming.returned) {
                        (Some(error), _) => Err(error.desc),
                        (None, Some(returned)) => Ok(returned),
                        // This is not a reply, whatever its number.
                        (None, None) => continue,
                    };
                    // The caller may have abandoned the call; in that case, nobody waits for the reply.
                    let caller = pending.lock().unwrap().as_mut().ok().and_then(|calls| calls.remove(&id));
                    if let Some(caller) = caller {
                        let _ = caller.send(reply);
                    }
                }
            }
            // Dropping the senders makes every pending call fail.
            *pending.lock().unwrap() = Err(closed);
        });
        match client.call("qmp_capabilities", json!({ "enable": ["oob"] })).await {
            Err(Error::Refused { .. }) => client.call("qmp_capabilities", json!({})).await?,
            answer => answer?,
        };
        Ok(client)
    }

    /// Subscribes to all events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Runs a command and waits at most 60 s for its reply. Returns the reply's value.
    pub async fn call(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        time::timeout(REPLY_LIMIT, self.call_patiently(command, arguments))
            .await
            .map_err(|_| Error::Silent { command: command.into() })?
    }

    /// Runs a command and waits for its reply as long as the connection lasts. Returns the reply's value.
    ///
    /// QEMU does not reply at all while it sends the rest of a migration with the guest stopped, which may
    /// take arbitrarily long.
    pub async fn call_patiently(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        self.execute("execute", command, arguments).await
    }

    /// Does the same as [`Client::call_patiently`], but QEMU carries out the command immediately, even if its
    /// main loop is blocked. Only few commands allow that; QEMU refuses the others.
    pub async fn call_out_of_band(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        self.execute("exec-oob", command, arguments).await
    }

    async fn execute(&self, how: &str, command: &str, arguments: Value) -> Result<Value, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        self.pending.lock().unwrap().as_mut().map_err(|closed| closed.clone())?.insert(id, sender);
        let mut line = json!({ how: command, "id": id });
        if arguments.as_object().is_some_and(|a| !a.is_empty()) {
            line["arguments"] = arguments;
        }
        (self.write)(line.to_string());
        reply
            .await
            .map_err(|_| self.closed())?
            .map_err(|reason| Error::Refused { command: command.into(), reason })
    }

    /// Returns why the connection has closed.
    fn closed(&self) -> Error {
        self.pending.lock().unwrap().as_ref().err().cloned().unwrap_or(Error::Closed)
    }

    /// Runs a command without arguments, waits at most 60 s for its reply, and deserializes it.
    pub async fn query<T: DeserializeOwned>(&self, command: &str) -> Result<T, Error> {
        deserialized(command, self.call(command, json!({})).await?)
    }

    /// Runs a command without arguments, waits for its reply as long as the connection lasts, and
    /// deserializes it.
    pub async fn query_patiently<T: DeserializeOwned>(&self, command: &str) -> Result<T, Error> {
        deserialized(command, self.call_patiently(command, json!({})).await?)
    }
}

fn deserialized<T: DeserializeOwned>(command: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
        .map_err(|e| Error::Malformed { command: command.into(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The QEMU side of a connection, scripted by a test.
    struct Peer {
        to_client: mpsc::UnboundedSender<ChannelLine>,
        from_client: mpsc::UnboundedReceiver<String>,
    }

    impl Peer {
        async fn client() -> (Client, Self) {
            let (to_client, lines) = mpsc::unbounded_channel();
            let (from, from_client) = mpsc::unbounded_channel();
            let mut peer = Self { to_client, from_client };
            peer.send(r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": ["oob"]}}"#);
            let started = Client::start(lines, move |line| from.send(line).unwrap());
            let (client, ()) = tokio::join!(started, async {
                let id = peer.receive().await["id"].clone();
                peer.send(&json!({ "return": {}, "id": id }).to_string());
            });
            (client.unwrap(), peer)
        }

        fn send(&self, line: &str) {
            self.to_client.send(Ok(line.into())).unwrap();
        }

        async fn receive(&mut self) -> Value {
            serde_json::from_str(&self.from_client.recv().await.unwrap()).unwrap()
        }
    }

    #[tokio::test]
    async fn only_an_object_with_a_result_or_an_error_is_a_reply() {
        let (client, mut peer) = Peer::client().await;
        let (reply, ()) = tokio::join!(client.call("a", json!({})), async {
            let id = peer.receive().await["id"].clone();
            for line in [json!([id, null, null, 1, null]), json!({ "id": id })] {
                peer.send(&line.to_string());
            }
            peer.send(&json!({ "return": { "status": "running" }, "id": id }).to_string());
        });
        assert_eq!(reply.unwrap(), json!({ "status": "running" }));
    }

    #[tokio::test]
    async fn replies_reach_their_callers_in_any_order() {
        let (client, mut peer) = Peer::client().await;
        let (a, b, ()) =
            tokio::join!(client.call("a", json!({})), client.call("b", json!({ "x": 1 })), async {
                let (a, b) = (peer.receive().await, peer.receive().await);
                assert_eq!((&a["execute"], a.get("arguments")), (&json!("a"), None));
                assert_eq!(b["arguments"], json!({ "x": 1 }));
                peer.send(&json!({ "return": "for b", "id": b["id"] }).to_string());
                peer.send("half a li");
                peer.send(&json!({ "error": { "class": "X", "desc": "no" }, "id": a["id"] }).to_string());
            });
        assert_eq!(b.unwrap(), "for b");
        assert_eq!(a.unwrap_err().to_string(), "QEMU refused a: no");
    }

    #[tokio::test]
    async fn commands_are_carried_out_out_of_band_if_qemu_can() {
        let (to_client, lines) = mpsc::unbounded_channel();
        let (from, from_client) = mpsc::unbounded_channel();
        let mut peer = Peer { to_client, from_client };
        let started = Client::start(lines, move |line| from.send(line).unwrap());
        let (client, ()) = tokio::join!(started, async {
            // A QEMU without out-of-band commands refuses to enable them.
            let first = peer.receive().await;
            assert_eq!(first["arguments"], json!({ "enable": ["oob"] }));
            peer.send(&json!({ "error": { "class": "X", "desc": "no" }, "id": first["id"] }).to_string());
            let second = peer.receive().await;
            assert_eq!((&second["execute"], second.get("arguments")), (&json!("qmp_capabilities"), None));
            peer.send(&json!({ "return": {}, "id": second["id"] }).to_string());
        });
        let client = client.unwrap();
        let (reply, ()) = tokio::join!(client.call_out_of_band("a", json!({})), async {
            let asked = peer.receive().await;
            assert_eq!((&asked["exec-oob"], asked.get("execute")), (&json!("a"), None));
            peer.send(&json!({ "return": 1, "id": asked["id"] }).to_string());
        });
        assert_eq!(reply.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_patient_call_outlasts_the_limit_of_others() {
        let (client, mut peer) = Peer::client().await;
        let asked = Instant::now();
        let (hasty, patient, ()) = tokio::join!(
            async { (client.call("hasty", json!({})).await, asked.elapsed()) },
            client.call_patiently("patient", json!({})),
            async {
                let ids = [peer.receive().await["id"].clone(), peer.receive().await["id"].clone()];
                time::sleep(2 * REPLY_LIMIT).await;
                for id in ids {
                    peer.send(&json!({ "return": "late", "id": id }).to_string());
                }
            }
        );
        let (error, after) = hasty;
        assert_eq!(error.unwrap_err().to_string(), "QEMU did not answer hasty within 60 s");
        assert_eq!(after, REPLY_LIMIT);
        assert_eq!(patient.unwrap(), "late");
    }

    #[tokio::test]
    async fn the_reply_to_an_abandoned_call_does_not_disturb_the_next_call() {
        let (client, mut peer) = Peer::client().await;
        let abandoned = time::timeout(Duration::from_millis(1), client.call("slow", json!({}))).await;
        assert!(abandoned.is_err());
        let late = peer.receive().await["id"].clone();
        let (next, ()) = tokio::join!(client.call("next", json!({})), async {
            let next = peer.receive().await["id"].clone();
            peer.send(&json!({ "return": "late", "id": late }).to_string());
            peer.send(&json!({ "return": "right", "id": next }).to_string());
        });
        assert_eq!(next.unwrap(), "right");
    }

    #[tokio::test]
    async fn every_subscriber_gets_all_events_including_unknown_ones() {
        let (client, peer) = Peer::client().await;
        let (mut one, mut two) = (client.events(), client.events());
        peer.send(r#"{"event": "FROM_THE_FUTURE", "data": {"n": 1}, "timestamp": {"seconds": 1}}"#);
        assert_eq!(one.recv().await.unwrap().name, "FROM_THE_FUTURE");
        assert_eq!(two.recv().await.unwrap().data, json!({ "n": 1 }));
    }

    #[tokio::test]
    async fn pending_calls_fail_when_qemu_ends() {
        let (client, peer) = Peer::client().await;
        let (call, ()) = tokio::join!(client.call("quit", json!({})), async { drop(peer) });
        assert!(matches!(call, Err(Error::Closed)));
        assert!(matches!(client.call("more", json!({})).await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn calls_fail_with_the_reason_if_a_line_is_too_long() {
        let (client, peer) = Peer::client().await;
        let too_long = peer.to_client.send(Err("a line is longer than 4 MiB".into()));
        let expected = "the connection to QEMU's monitor failed: a line is longer than 4 MiB";
        let (call, ()) = tokio::join!(client.call("quit", json!({})), async { too_long.unwrap() });
        assert_eq!(call.unwrap_err().to_string(), expected);
        assert_eq!(client.call("more", json!({})).await.unwrap_err().to_string(), expected);
    }
}
