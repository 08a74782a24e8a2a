//! A thread that shows progress at the pace of standard error, which may take no output: after Ctrl-S, or
//! while a pager shows an earlier page.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

/// The interval at which a display that is finishing looks whether it must give up.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one drawing after the other. The run, which is measured at the same time, does not wait
/// for it.
pub struct Display {
    jobs: Sender<Job>,
    waiting: Arc<AtomicUsize>,
    is_hurried: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Display {
    /// Starts the thread. `is_hurried` tells whether the program must end even if not everything is shown.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(is_hurried: impl Fn() -> bool + Send + Sync + 'static) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let waiting = Arc::<AtomicUsize>::default();
        let left = Arc::clone(&waiting);
        thread::Builder::new().name("display".into()).spawn(move || {
            for job in queue {
                left.fetch_sub(1, Relaxed);
                job();
            }
        })?;
        Ok(Self { jobs, waiting, is_hurried: Box::new(is_hurried) })
    }

    /// Shows something after everything else, without waiting for it.
    pub fn show(&self, job: impl FnOnce() + Send + 'static) {
        self.waiting.fetch_add(1, Relaxed);
        // The thread ends with this sender.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Shows something that is soon replaced by something newer, unless something else already waits.
    pub fn show_now(&self, job: impl FnOnce() + Send + 'static) {
        if self.waiting.load(Relaxed) == 0 {
            self.show(job);
        }
    }

    /// Waits until everything is shown. If the program must end, gives up once standard error takes no output
    /// for 400 ms.
    pub fn finish(&self) {
        let (not_yet, shown) = mpsc::channel::<()>();
        self.show(|| drop(not_yet));
        while shown.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if (self.is_hurried)() && !frontend::takes_diagnostics() {
                break;
            }
        }
    }
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Display").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, Mutex};

    #[test]
    fn what_is_soon_replaced_is_not_shown_late() {
        let display = Display::start(|| false).unwrap();
        let (begun, goes_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let shown = Arc::<Mutex<Vec<&str>>>::default();
        let show = |text| {
            let shown = Arc::clone(&shown);
            move || shown.lock().unwrap().push(text)
        };
        display.show_now(show("sample 1"));
        let (begins, waits) = (Arc::clone(&begun), Arc::clone(&goes_on));
        display.show(move || {
            begins.wait();
            waits.wait();
        });
        begun.wait();
        display.show(show("message"));
        display.show_now(show("sample 2"));
        goes_on.wait();
        display.finish();
        assert_eq!(*shown.lock().unwrap(), ["sample 1", "message"]);
    }
}
