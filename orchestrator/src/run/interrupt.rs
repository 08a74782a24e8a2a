//! Interruption of a run: the first SIGINT, SIGTERM or SIGHUP asks the run to stop, the second exits
//! immediately.

use std::{future::poll_fn, io, process, task::Poll, thread};
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
}

/// The sending end of a request to stop a run.
#[derive(Debug)]
pub struct Interrupter(watch::Sender<bool>);

impl Interrupter {
    /// Asks the run to stop. Further calls have no effect.
    pub fn interrupt(&self) {
        let _ = self.0.send(true);
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
        let (sender, requested) = watch::channel(false);
        (Interrupter(sender), Self { requested })
    }

    /// Returns a request that is made by the first signal, which then calls `notice`. The second signal exits
    /// the process. Signals that this process was started to ignore stay ignored.
    ///
    /// # Errors
    /// If the signals cannot be caught.
    pub fn on_signals(notice: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (interrupter, interrupt) = Self::new();
        // A separate thread, because the run's thread may wait for a terminal that does not accept output.
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _context = runtime.enter();
            frontend::termination_signals()
                .map(|caught| signal(SignalKind::from_raw(caught as i32)))
                .collect::<io::Result<Vec<_>>>()?
        };
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(arrival(&mut signals));
            interrupter.interrupt();
            // It may wait for the terminal too. The run also ends without it.
            let _ = thread::Builder::new().spawn(notice);
            runtime.block_on(arrival(&mut signals));
            // Everything that this process started ends with it.
            process::exit(EXIT_CODE.into());
        })?;
        Ok(interrupt)
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
