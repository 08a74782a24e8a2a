//! Interruption of `testbed setup`: SIGINT, SIGTERM and SIGHUP also end the commands that it has started.
//!
//! A signal sent only to this process would leave these commands behind: a terminal sends only SIGINT to all
//! of them.

use crate::process_tree;
use nix::sys::prctl;
use std::{io, process, thread, time::Duration};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// How long commands may take to end on their own before they are killed.
const PATIENCE: Duration = Duration::from_millis(500);

/// From now on, ends this process at the first SIGINT, SIGTERM or SIGHUP, after everything that it has
/// started has ended. A command gets the same signal, and 500 ms later SIGKILL. Signals that this process was
/// started to ignore are still ignored, as `nohup` wants it.
///
/// # Errors
///
/// The signals cannot be handled.
pub fn end_commands_on_signals() -> io::Result<()> {
    // A process whose parent ends first becomes a child of this process, and can still be found.
    prctl::set_child_subreaper(true)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let streams: Vec<_> = frontend::termination_signals()
        .map(|wanted| Ok((wanted, signal(SignalKind::from_raw(wanted as i32))?)))
        .collect::<io::Result<_>>()?;
    drop(inside);
    if streams.is_empty() {
        return Ok(());
    }
    thread::spawn(move || {
        let arrivals = streams.into_iter().map(|(signal, mut stream)| {
            Box::pin(async move {
                stream.recv().await;
                signal
            })
        });
        let (signal, ..) = runtime.block_on(futures::future::select_all(arrivals));
        // Without `/proc` the commands cannot be found.
        let _ = process_tree::end_descendants(signal, PATIENCE);
        process::exit(128 + signal as i32);
    });
    Ok(())
}
