//! Interruption of a run: the first SIGINT, SIGTERM or SIGHUP asks the run to stop, the second exits
//! immediately, as does the first after the run has ended.

use std::{
    future::poll_fn,
    io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    thread,
};
use tokio::{
    runtime::Builder,
    signal::unix::{self, SignalKind, signal},
    sync::watch,
};

/// The exit code of a run that was interrupted: 128 + SIGINT, as in shells.
pub const EXIT_CODE: u8 = 130;

/// The receiving end of a request to stop a run.
#[derive(Debug, Clone)]
pub struct Interrupt {
    requested: watch::Receiver<bool>,
    run_has_ended: Arc<AtomicBool>,
}

/// The sending end of a request to stop a run.
#[derive(Debug)]
pub struct Interrupter {
    request: watch::Sender<bool>,
    run_has_ended: Arc<AtomicBool>,
}

impl Interrupter {
    /// Asks the run to stop. Further calls have no effect.
    pub fn interrupt(&self) {
        let _ = self.request.send(true);
    }

    /// Makes the request at the first signal, which then calls `notice`. The second signal exits the process,
    /// as does the first after [the run has ended](Interrupt::run_has_ended). Signals that this process was
    /// started to ignore stay ignored.
    ///
    /// # Errors
    /// If the signals cannot be caught.
    pub fn on_signals(self, notice: impl FnOnce() + Send + 'static) -> io::Result<()> {
        // A separate thread, because the main thread may wait for a reader of its results.
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _context = runtime.enter();
            frontend::termination_signals()
                .map(|caught| signal(SignalKind::from_raw(caught as i32)))
                .collect::<io::Result<Vec<_>>>()?
        };
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(arrival(&mut signals));
            if !self.run_has_ended.load(Relaxed) {
                self.interrupt();
                // It may wait for the terminal. The run also ends without it.
                let _ = thread::Builder::new().spawn(notice);
                runtime.block_on(arrival(&mut signals));
            }
            // Everything that this process started ends with it.
            process::exit(EXIT_CODE.into());
        })?;
        Ok(())
    }
}

/// Waits for one of these signals.
async fn arrival(signals: &mut [unix::Signal]) {
    poll_fn(|context| {
        let arrived = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if arrived { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Interrupt {
    /// Returns both ends of a request.
    pub fn new() -> (Interrupter, Self) {
        let (request, requested) = watch::channel(false);
        let run_has_ended = Arc::<AtomicBool>::default();
        let interrupter = Interrupter { request, run_has_ended: Arc::clone(&run_has_ended) };
        (interrupter, Self { requested, run_has_ended })
    }

    /// Tells that there is no run to stop any more: the next signal exits the process.
    pub fn run_has_ended(&self) {
        self.run_has_ended.store(true, Relaxed);
    }

    /// Returns whether the run was asked to stop.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Waits until the run is asked to stop. Waits for ever if the sending end was dropped without a request.
    pub async fn requested(&self) {
        let mut requested = self.requested.clone();
        if requested.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
