//! The standard streams of the serving process, each on a thread of its own.
//!
//! A thread that reads from or writes to a connection without a working network may be blocked for hours, and
//! cannot be cancelled. Nothing waits for these threads: they end with the process.
//!
//! The reading thread answers keep-alives itself. So they tell whether the host and this process run, and not
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
    sync::{mpsc, oneshot},
    time,
};

/// How long the last message may take to be written; the connection may be cut.
const LAST_MESSAGE_LIMIT: Duration = Duration::from_millis(200);

/// The connection to the orchestrator.
pub(super) struct Streams {
    /// Takes the messages for the orchestrator.
    pub(super) out: mpsc::UnboundedSender<FromNode>,
    /// The messages from the orchestrator, without keep-alives. An error is the last one.
    pub(super) messages: mpsc::UnboundedReceiver<io::Result<ToNode>>,
    heard: Arc<Heard>,
    /// Closed when the last message has been written.
    written: oneshot::Receiver<()>,
}

/// What has been heard from the orchestrator.
struct Heard {
    /// The number of bytes that have arrived.
    bytes: AtomicU64,
    /// How long the orchestrator may be silent, in milliseconds.
    patience_ms: AtomicU64,
}

impl Streams {
    /// Begins to read from `input` and to write to `output`.
    pub(super) fn start(input: impl Read + Send + 'static, output: impl Write + Send + 'static) -> Self {
        let (out, outgoing) = mpsc::unbounded_channel();
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
            // An error means that nobody reads; then the input ends too, or is silent.
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

    /// Sends the last message; what is sent later is dropped. Returns a future that waits for a moment until
    /// it is written.
    pub(super) fn end(self, reason: String) -> impl Future<Output = ()> {
        let _ = self.out.send(FromNode::Ending { reason });
        async move {
            let _ = time::timeout(LAST_MESSAGE_LIMIT, self.written).await;
        }
    }
}

/// Reads messages until the input ends, and answers keep-alives.
fn read(
    input: Counted<impl Read>,
    messages: &mpsc::UnboundedSender<io::Result<ToNode>>,
    answers: &mpsc::UnboundedSender<FromNode>,
) {
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
            let _ = answers.send(FromNode::Alive);
            continue;
        }
        let failed = message.is_err();
        if messages.send(message).is_err() || failed {
            return;
        }
    }
}

/// Writes messages up to the last one.
fn write(mut output: impl Write, mut messages: mpsc::UnboundedReceiver<FromNode>) -> io::Result<()> {
    while let Some(message) = messages.blocking_recv() {
        let mut line = serde_json::to_vec(&message).unwrap_or_default();
        line.push(b'\n');
        output.write_all(&line)?;
        output.flush()?;
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
