//! Results that a thread of its own writes to standard output.

use crate::{PATIENCE_MS, Text, takes_output, try_tell, unless_closed, write};
use nix::poll::PollTimeout;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

/// The largest number of texts that wait to be written.
const MAX_WAITING: usize = 1024;

/// A thread that prints results, for programs that do something else at the same time. What they do goes on
/// at its pace while nobody reads the output, and after the output has failed.
///
/// A thread, because a write may block although the descriptor is ready: a terminal may have room for a part
/// of the text only.
#[derive(Debug)]
pub struct Printer {
    texts: Sender<Text>,
    waiting: Arc<AtomicUsize>,
    written: Receiver<io::Result<()>>,
}

impl Printer {
    /// Starts the thread, which inherits the signal mask of the caller.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let (texts, queue) = mpsc::channel::<Text>();
        let (report, written) = mpsc::channel();
        let waiting = Arc::<AtomicUsize>::default();
        let left = Arc::clone(&waiting);
        thread::Builder::new().name("printer".into()).spawn(move || {
            let outcome = queue.iter().try_for_each(|text| {
                let written = unless_closed(write(&text));
                left.fetch_sub(1, Relaxed);
                written
            });
            if let Err(error) = &outcome {
                try_tell(format!("note: cannot write to standard output: {error}; the rest is not shown"));
            }
            // The program may have ended its wait for this thread.
            let _ = report.send(outcome);
        })?;
        Ok(Self { texts, waiting, written })
    }

    /// Returns whether so much text waits to be written that more would be dropped.
    pub fn is_behind(&self) -> bool {
        self.waiting.load(Relaxed) >= MAX_WAITING
    }

    /// Prints text after all earlier text, without waiting for it. Drops the text if the printer
    /// [is behind](Self::is_behind), or if the output has failed.
    pub fn print(&self, text: impl Into<Text>) {
        if !self.is_behind() {
            self.send(text.into());
        }
    }

    /// Prints the last text, and waits until everything is written. An output that takes nothing for 400 ms
    /// has failed.
    ///
    /// # Errors
    /// The reason why not everything is written. A reader that has closed the pipe does not want more, which
    /// is not an error.
    pub fn finish(self, last: impl Into<Text>) -> io::Result<()> {
        self.send(last.into());
        let Self { texts, written, .. } = self;
        drop(texts);
        loop {
            match written.recv_timeout(Duration::from_millis(PATIENCE_MS.into())) {
                Ok(outcome) => return outcome,
                // The thread has not run yet, as on a busy host.
                Err(RecvTimeoutError::Timeout) if takes_output(io::stdout(), PollTimeout::ZERO) => {}
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")),
            }
        }
    }

    fn send(&self, text: Text) {
        self.waiting.fetch_add(1, Relaxed);
        // After an error, which `finish` returns, the thread takes no more text.
        let _ = self.texts.send(text);
    }
}
