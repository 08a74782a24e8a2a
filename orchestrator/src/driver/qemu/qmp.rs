//! A client of QEMU's machine protocol (QMP).
//!
//! One reader routes replies to their callers by number and sends events to all who listen, each with the
//! host's monotonic time at which its line came in. A call can be given up at any time (a timeout, an
//! interruption): its reply is then dropped, and the next call works. Replies and events that this program
//! does not know are passed on or ignored, never an error, so newer QEMUs keep working.

use crate::node::Channel;
use serde::Deserialize;
use serde_json::{Value, json};
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

/// Why a QMP call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// QEMU refused or failed.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// A reply is not what the protocol says.
    #[error("QEMU's answer to {command} makes no sense: {reason}")]
    Nonsense {
        /// The command.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
    /// QEMU runs, but does not answer.
    #[error("QEMU did not answer {command} within {} s", REPLY_LIMIT.as_secs())]
    Silent {
        /// The command.
        command: String,
    },
    /// QEMU, or the way to it, is gone.
    #[error("QEMU's monitor closed")]
    Closed,
}

/// Something that QEMU reported by itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name, like `STOP`.
    pub name: String,
    /// What it carries.
    pub data: Value,
    /// When its line came in.
    pub seen: Instant,
}

type Waiting = Option<HashMap<u64, oneshot::Sender<Result<Value, String>>>>;

/// A connection to one QEMU's monitor; dropping it closes the connection.
pub struct Client {
    next: AtomicU64,
    waiting: Arc<Mutex<Waiting>>,
    write: Box<dyn Fn(String) + Send + Sync>,
    events: broadcast::Sender<Event>,
}

/// How long QEMU may take to answer; a busy machine takes a second at most.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// How many events may wait for a slow listener before the oldest are dropped.
const EVENT_BACKLOG: usize = 1024;

#[derive(Deserialize)]
struct Incoming {
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Client {
    /// Speaks QMP over a node's channel.
    pub async fn over(channel: Channel) -> Result<Self, Error> {
        let writer = channel.writer();
        Self::start(channel.lines, move |line| writer.write(line)).await
    }

    /// Speaks QMP over any stream of lines and negotiates capabilities.
    pub async fn start(
        mut lines: mpsc::UnboundedReceiver<String>,
        write: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let waiting: Arc<Mutex<Waiting>> = Arc::new(Mutex::new(Some(HashMap::new())));
        let client = Self {
            next: AtomicU64::new(1),
            waiting: Arc::clone(&waiting),
            write: Box::new(write),
            events: events.clone(),
        };
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                // Neither a reply nor an event: the greeting.
                let Ok(incoming) = serde_json::from_str::<Incoming>(&line) else { continue };
                if let Some(name) = incoming.event {
                    let _ = events.send(Event { name, data: incoming.data, seen: Instant::now() });
                } else if let Some(id) = incoming.id {
                    let reply = match incoming.error {
                        Some(refusal) => Err(refusal.desc),
                        None => Ok(incoming.returned.unwrap_or_default()),
                    };
                    // A caller may have given up; then nobody waits.
                    let caller = waiting.lock().unwrap().as_mut().and_then(|w| w.remove(&id));
                    if let Some(caller) = caller {
                        let _ = caller.send(reply);
                    }
                }
            }
            // Wakes every caller with `Closed`.
            waiting.lock().unwrap().take();
        });
        client.call("qmp_capabilities", json!({})).await?;
        Ok(client)
    }

    /// All events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Runs a command and waits for its reply.
    pub async fn call(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        self.waiting.lock().unwrap().as_mut().ok_or(Error::Closed)?.insert(id, sender);
        let mut line = json!({ "execute": command, "id": id });
        if arguments.as_object().is_some_and(|a| !a.is_empty()) {
            line["arguments"] = arguments;
        }
        (self.write)(line.to_string());
        time::timeout(REPLY_LIMIT, reply)
            .await
            .map_err(|_| Error::Silent { command: command.into() })?
            .map_err(|_| Error::Closed)?
            .map_err(|reason| Error::Refused { command: command.into(), reason })
    }

    /// Runs a command and reads its reply as a `T`.
    pub async fn query<T: serde::de::DeserializeOwned>(&self, command: &str) -> Result<T, Error> {
        let value = self.call(command, json!({})).await?;
        serde_json::from_value(value)
            .map_err(|e| Error::Nonsense { command: command.into(), reason: e.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that answers what the test tells it to.
    struct Peer {
        to_client: mpsc::UnboundedSender<String>,
        from_client: mpsc::UnboundedReceiver<String>,
    }

    impl Peer {
        async fn client() -> (Client, Self) {
            let (to_client, lines) = mpsc::unbounded_channel();
            let (from, from_client) = mpsc::unbounded_channel();
            let mut peer = Self { to_client, from_client };
            peer.say(r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": ["oob"]}}"#);
            let started = Client::start(lines, move |line| from.send(line).unwrap());
            let (client, ()) = tokio::join!(started, async {
                let id = peer.hear().await["id"].clone();
                peer.say(&json!({ "return": {}, "id": id }).to_string());
            });
            (client.unwrap(), peer)
        }

        fn say(&self, line: &str) {
            self.to_client.send(line.into()).unwrap();
        }

        async fn hear(&mut self) -> Value {
            serde_json::from_str(&self.from_client.recv().await.unwrap()).unwrap()
        }
    }

    #[tokio::test]
    async fn replies_reach_their_callers_in_any_order() {
        let (client, mut peer) = Peer::client().await;
        let (a, b, ()) =
            tokio::join!(client.call("a", json!({})), client.call("b", json!({ "x": 1 })), async {
                let (a, b) = (peer.hear().await, peer.hear().await);
                assert_eq!((&a["execute"], a.get("arguments")), (&json!("a"), None));
                assert_eq!(b["arguments"], json!({ "x": 1 }));
                peer.say(&json!({ "return": "for b", "id": b["id"] }).to_string());
                peer.say("half a li");
                peer.say(&json!({ "error": { "class": "X", "desc": "no" }, "id": a["id"] }).to_string());
            });
        assert_eq!(b.unwrap(), "for b");
        assert_eq!(a.unwrap_err().to_string(), "QEMU refused a: no");
    }

    #[tokio::test]
    async fn a_call_that_was_given_up_does_not_disturb_the_next() {
        let (client, mut peer) = Peer::client().await;
        let given_up = time::timeout(Duration::from_millis(1), client.call("slow", json!({}))).await;
        assert!(given_up.is_err());
        let late = peer.hear().await["id"].clone();
        let (next, ()) = tokio::join!(client.call("next", json!({})), async {
            let next = peer.hear().await["id"].clone();
            peer.say(&json!({ "return": "late", "id": late }).to_string());
            peer.say(&json!({ "return": "right", "id": next }).to_string());
        });
        assert_eq!(next.unwrap(), "right");
    }

    #[tokio::test]
    async fn events_go_to_all_who_listen_even_unknown_ones() {
        let (client, peer) = Peer::client().await;
        let (mut one, mut two) = (client.events(), client.events());
        peer.say(r#"{"event": "FROM_THE_FUTURE", "data": {"n": 1}, "timestamp": {"seconds": 1, "microseconds": 2}}"#);
        assert_eq!(one.recv().await.unwrap().name, "FROM_THE_FUTURE");
        assert_eq!(two.recv().await.unwrap().data, json!({ "n": 1 }));
    }

    #[tokio::test]
    async fn the_end_of_qemu_wakes_callers() {
        let (client, peer) = Peer::client().await;
        let (call, ()) = tokio::join!(client.call("quit", json!({})), async { drop(peer) });
        assert!(matches!(call, Err(Error::Closed)));
        assert!(matches!(client.call("more", json!({})).await, Err(Error::Closed)));
    }
}
