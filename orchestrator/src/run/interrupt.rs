//! Interruption: the first SIGINT, SIGTERM or SIGHUP asks the run to stop, the second leaves at once.

use std::{io, process};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The exit code of a run that was interrupted: 128 + SIGINT, as shells have it.
pub const EXIT_CODE: u8 = 130;

/// Whether the user has asked the run to stop.
#[derive(Debug, Clone)]
pub struct Interrupt {
    requested: watch::Receiver<bool>,
}

/// Asks a run to stop.
#[derive(Debug)]
pub struct Interrupter(watch::Sender<bool>);

impl Interrupter {
    /// Asks.
    pub fn interrupt(&self) {
        let _ = self.0.send(true);
    }
}

impl Interrupt {
    /// One that is asked for by its [`Interrupter`].
    pub fn new() -> (Interrupter, Self) {
        let (sender, requested) = watch::channel(false);
        (Interrupter(sender), Self { requested })
    }

    /// One that is asked for by signals. `notice` is called at the first.
    pub fn by_signals(notice: impl FnOnce() + Send + 'static) -> io::Result<Self> {
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
                    // Everything this process started ends with it.
                    None => process::exit(EXIT_CODE.into()),
                }
            }
        });
        Ok(interrupt)
    }

    /// Whether it was asked for.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Waits until it is asked for; for ever, if nobody can ask any more.
    pub async fn requested(&self) {
        let mut requested = self.requested.clone();
        if requested.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
