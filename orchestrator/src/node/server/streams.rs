//! The standard streams of the serving process, each on a thread of its own.
//!
//! A thread that reads from or writes to a connection without a working network may be blocked for hours, and
//! cannot be cancelled. Nothing waits for these threads: they end with the process.
//!
//! Messages wait in a queue to be written. It has no limit for answers, of which there are as many as calls.
//! Messages whose number others decide, such as the output of a process and reports of a probe, are held back
//! until the previous one is written, so that they do not pile up in the queue.
//!
//! The reading thread answers keep-alives itself. So they show whether the host and this process run, not
//! whether the node is busy.

use crate::{
    bounded::{NODE_LINE_BYTES, read_line_blocking},
    node::{
        alive::{LEAST_PATIENCE, LOOK_INTERVAL, MOST_PATIENCE, Silence},
        protocol::{FromNode, ToNode},
    },
};
use std::{
    io::{self, BufReader, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time,
};

/// How long the last message may take to be written; the connection may be cut.
const LAST_MESSAGE_LIMIT: Duration = Duration::from_secs(1);

/// The connection to the orchestrator.
pub(super) struct Streams {
    /// Accepts the messages for the orchestrator.
    pub(super) out: Outbox,
    /// The messages from the orchestrator, without keep-alives. An error is the last one.
    pub(super) messages: mpsc::UnboundedReceiver<io::Result<ToNode>>,
    heard: Arc<Heard>,
    /// Closed when the last message has been written.
    written: oneshot::Receiver<()>,
}

/// The queue of messages for the orchestrator.
#[derive(Clone)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Outgoing>,
    /// The place in the queue for a message that is held back.
    place: Arc<Semaphore>,
}

/// A message in the queue, with its place if it was held back.
struct Outgoing {
    message: FromNode,
    place: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    fn new() -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (queue, outgoing) = mpsc::unbounded_channel();
        (Self { queue, place: Arc::new(Semaphore::new(1)) }, outgoing)
    }

    /// Sends a message.
    pub(super) fn send(&self, message: FromNode) {
        // The receiver is closed only when the node is about to exit.
        let _ = self.queue.send(Outgoing { message, place: None });
    }

    /// Sends a message once all messages previously sent in this way have been written.
    pub(super) async fn send_in_turn(&self, message: FromNode) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.place).acquire_owned().await.ok();
        let _ = self.queue.send(Outgoing { message, place });
    }
}

/// What has arrived from the orchestrator.
struct Heard {
    /// The number of bytes that have arrived.
    bytes: AtomicU64,
    /// How long the orchestrator may be silent, in milliseconds.
    patience_ms: AtomicU64,
}

impl Streams {
    /// Starts reading from `input` and writing to `output`.
    pub(super) fn start(input: impl Read + Send + 'static, output: impl Write + Send + 'static) -> Self {
        let (out, outgoing) = Outbox::new();
        let (incoming, messages) = mpsc::unbounded_channel();
        let (done, written) = oneshot::channel();
        let heard = Arc::new(Heard {
            bytes: AtomicU64::new(0),
            patience_ms: AtomicU64::new(LEAST_PATIENCE.as_millis() as u64),
        });
        let input = Counted { input, heard: Arc::clone(&heard) };
        let answers = out.clone();
        thread::spawn(move || read(input, &incoming, &answers));
        thread::spawn(move || {
            // An error means that nobody reads any more; then the input ends too, or is silent.
            let _ = write(output, outgoing);
            drop(done);
        });
        Self { out, messages, heard, written }
    }

    /// Waits until the orchestrator has been silent for too long. Returns the length of the silence.
    pub(super) fn silence(&self) -> impl Future<Output = Duration> + use<> {
        let heard = Arc::clone(&self.heard);
        async move {
            let bytes = || heard.bytes.load(Ordering::Relaxed);
            let mut silence = Silence::new(Instant::now(), bytes());
            let mut patience = LEAST_PATIENCE;
            while !silence.exceeds(patience) {
                time::sleep(LOOK_INTERVAL).await;
                silence.look(Instant::now(), bytes());
                patience = Duration::from_millis(heard.patience_ms.load(Ordering::Relaxed));
            }
            silence.length()
        }
    }

    /// Sends the last message; later messages are dropped. Returns a future that waits briefly until it is
    /// written.
    pub(super) fn end(self, reason: String) -> impl Future<Output = ()> {
        self.out.send(FromNode::Ending { reason });
        async move {
            let _ = time::timeout(LAST_MESSAGE_LIMIT, self.written).await;
        }
    }
}

/// Reads messages until the input ends, and answers keep-alives.
fn read(input: Counted<impl Read>, messages: &mpsc::UnboundedSender<io::Result<ToNode>>, answers: &Outbox) {
    let heard = Arc::clone(&input.heard);
    let (mut input, mut line) = (BufReader::new(input), Vec::new());
    loop {
        let message = match read_line_blocking(&mut input, &mut line, NODE_LINE_BYTES) {
            Ok(true) => serde_json::from_slice(&line).map_err(io::Error::other),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        if let Ok(ToNode::Alive { patience_ms }) = message {
            let patience = Duration::from_millis(patience_ms).clamp(LEAST_PATIENCE, MOST_PATIENCE);
            heard.patience_ms.store(patience.as_millis() as u64, Ordering::Relaxed);
            answers.send(FromNode::Alive);
            continue;
        }
        let failed = message.is_err();
        if messages.send(message).is_err() || failed {
            return;
        }
    }
}

/// Writes messages up to the last one.
fn write(mut output: impl Write, mut messages: mpsc::UnboundedReceiver<Outgoing>) -> io::Result<()> {
    while let Some(Outgoing { message, place }) = messages.blocking_recv() {
        let mut line = serde_json::to_vec(&message).unwrap_or_default();
        line.push(b'\n');
        output.write_all(&line)?;
        output.flush()?;
        drop(place);
        if matches!(message, FromNode::Ending { .. }) {
            break;
        }
    }
    Ok(())
}

/// An input that counts its bytes.
struct Counted<R> {
    input: R,
    heard: Arc<Heard>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.heard.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::protocol::ProbeProgress;
    use std::{
        pin::pin,
        sync::mpsc::{Receiver, Sender, channel},
    };

    /// A connection that accepts a message only when the test allows it, and then forwards it.
    struct Gate {
        open: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(io::Error::other)?;
            self.written.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn reports_are_held_back_by_a_connection_that_takes_nothing_and_answers_are_not() {
        let ((open, gate), (written, lines)) = (channel(), channel());
        let streams = Streams::start(io::empty(), Gate { open: gate, written });
        let report = |probe| FromNode::Probed {
            probe,
            progress: ProbeProgress { began_before_ns: 0, window_ns: 1, windows: Vec::new() },
        };
        streams.out.send_in_turn(report(1)).await;
        let mut second = pin!(streams.out.send_in_turn(report(2)));
        assert!(futures::poll!(second.as_mut()).is_pending(), "the first is not written yet");
        streams.out.send(FromNode::Alive);
        open.send(()).unwrap();
        assert!(lines.recv().unwrap().contains(r#""probe":1"#));
        second.await;
        open.send(()).unwrap();
        assert_eq!(lines.recv().unwrap(), "\"alive\"\n", "it has not waited for the second report");
        open.send(()).unwrap();
        assert!(lines.recv().unwrap().contains(r#""probe":2"#));
    }
}
