//! Interruption of a run: the first SIGINT, SIGTERM or SIGHUP asks the run to stop, the second exits
//! immediately.

use std::{io, process};
use tokio::{
    signal::unix::{SignalKind, signal},
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

impl Interrupt {
    /// Returns both ends of a request.
    pub fn new() -> (Interrupter, Self) {
        let (sender, requested) = watch::channel(false);
        (Interrupter(sender), Self { requested })
    }

    /// Returns a request that the first signal makes, after it has called `notice`. The second signal exits
    /// the process.
    pub fn on_signals(notice: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (interrupter, interrupt) = Self::new();
        let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()?;
        tokio::spawn(async move {
            let mut notice = Some(notice);
            loop {
                let [int, term, hup] = &mut signals[..] else { return };
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                    _ = hup.recv() => {}
                }
                match notice.take() {
                    Some(notice) => {
                        notice();
                        interrupter.interrupt();
                    }
                    // Everything that this process started ends with it.
                    None => process::exit(EXIT_CODE.into()),
                }
            }
        });
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
