//! Drivers: they run a guest at both ends of a migration and migrate it.
//!
//! [`Driver`] is an attempt's only interface to a hypervisor. A driver carries out commands and reports what
//! it observes. It does not decide when to act or when to give up; that is the job of a [`crate::mode`].
//! [`qemu`] drives two QEMU processes through QMP. [`control_port`] is the connection to the stressor in the
//! guest, which every driver provides for each end.

use crate::{
    matrix::Migrate,
    measure::{
        End,
        samples::{Completion, Sample},
    },
    node::NodeError,
};
use control_port::ControlPort;
use std::{future::Future, time::Duration};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

pub mod control_port;
#[cfg(test)]
pub(crate) mod mock;
pub mod qemu;

/// A hypervisor at both ends of one migration, from the start of the ends to their shutdown.
///
/// An attempt calls the methods in the order of their declaration. It always calls [`Driver::shut_down`]
/// last, even after a failure, and even if nothing has been started.
#[expect(async_fn_in_trait, reason = "the whole program runs on one thread, so no future has to be `Send`")]
pub trait Driver {
    /// Starts both ends. On return the guest is about to run at the source, and the destination is up.
    async fn start(&mut self) -> Result<(), Error>;

    /// Returns the connection to the stressor in the guest through the given end. The destination's is silent
    /// until the guest runs there.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`] before [`Driver::start`].
    fn control_port(&self, end: End) -> Result<&ControlPort, Error>;

    /// Waits until either end exits unexpectedly, and returns an error that says which end and why. Ignores
    /// an exit that is expected, for example the destination's after its migration has been cancelled.
    async fn unexpected_exit(&self) -> Error;

    /// Configures both ends for a migration with these settings.
    async fn prepare(&self, settings: &Migrate) -> Result<(), Error>;

    /// Makes the destination listen for the migration. Called just before [`Driver::begin`], because a
    /// listening destination takes whoever connects first for the source.
    async fn listen(&self) -> Result<(), Error>;

    /// Starts the migration: of the disk if it has to be copied, otherwise of memory. Returns a channel with
    /// the events that both ends announce from then on.
    async fn begin(&self) -> Result<mpsc::UnboundedReceiver<Event>, Error>;

    /// Asks the source for the state of the migration, and waits for the answer, however long it takes. The
    /// sample's time is counted from `since`.
    async fn progress(&self, since: Instant) -> Result<Status, Error>;

    /// Carries out an action on a migration in progress, and waits for the confirmation, however long it
    /// takes.
    async fn act(&self, action: Action) -> Result<(), Error>;

    /// Returns the CPU time that the source and the destination have used so far, without that of an end that
    /// has exited.
    async fn cpu_times(&self) -> Result<[Option<Duration>; 2], Error>;

    /// Returns the number of bytes that each connection of a migration over several connections has sent;
    /// nothing with a single connection.
    fn sent_by_connection(&self) -> Vec<u64>;

    /// Asks the destination what page faults have cost the guest, after a migration by post-copy.
    async fn page_faults(&self) -> Result<PageFaults, Error>;

    /// Returns what is known of the file through which the guest migrates; nothing before it is written, and
    /// in other modes.
    fn saved_file(&self) -> Option<SavedFile>;

    /// Returns whether the hypervisor reports the guest as running at this end.
    async fn is_running(&self, end: End) -> Result<bool, Error>;

    /// Shuts both ends down. Continues after a failure, and returns the first one.
    async fn shut_down(&mut self) -> Result<(), Error>;
}

/// An error reported by a driver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the node that runs an end.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An error of the QEMU driver.
    #[error(transparent)]
    Qemu(#[from] qemu::Error),
    /// A method was called before [`Driver::start`], or [`Driver::begin`] before [`Driver::listen`].
    #[error("the source and the destination have not been started, or the destination does not listen")]
    NotStarted,
    /// The error that a test's script asks for.
    #[cfg(test)]
    #[error("{0}")]
    Scripted(String),
}

/// An event that an end announces on its own.
#[derive(Debug)]
pub enum Event {
    /// The migration has changed its state or begun a pass. The caller should ask for its [`Status`]
    /// immediately.
    Changed,
    /// The switchover has begun. Until it ends, the driver may report nothing more.
    SwitchesOver,
    /// The guest stopped at the source.
    Stopped(Instant),
    /// The guest started to run at the destination.
    Resumed(Instant),
    /// The connection to an end was lost.
    Lost(End, Error),
}

/// An action that a driver can carry out on a migration in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop the guest at the source now, and send the rest of its memory while it is stopped.
    Pause,
    /// Resume a guest that was stopped for the migration, at this end: at the source after a migration that
    /// failed. Does nothing if the guest runs. A guest that does not migrate over the migration link is
    /// complete at the source until it runs at the destination, which is prevented first. It stays stopped if
    /// it may have run there.
    Resume(End),
    /// Move the guest to the destination now, and send the rest of its memory afterwards. From then on the
    /// migration cannot be cancelled.
    StartPostcopy,
    /// Make new connections for the rest of the memory, after the link has failed in post-copy and once it
    /// works again.
    Recover,
    /// Begin to send memory, now that the copy of the disk is up to date.
    MigrateMemory,
    /// Complete the copy of the disk while the guest is stopped, and then continue the switchover.
    CompleteDisk,
    /// Cancel the migration, so that the guest stays at the source, and resume it there if it was paused.
    Cancel,
}

/// The status of a migration at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The state, reduced to what callers distinguish.
    pub state: State,
    /// The figures, and the state as the driver names it.
    pub sample: Sample,
}

/// The state of a migration. All states that need no action are one variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Memory is sent while the guest is still at the source. The migration accepts actions and can be given
    /// up.
    Active,
    /// The disk is copied while the guest runs at the source, and memory is not sent yet. The migration can
    /// be given up.
    Mirroring,
    /// The copy of the disk is up to date. The driver waits for [`Action::MigrateMemory`]. The migration can
    /// be given up.
    Mirrored,
    /// The guest is stopped, and the driver waits for [`Action::CompleteDisk`] before it hands the guest
    /// over. The migration can still be cancelled.
    BeforeSwitchover,
    /// The migration switches over. No action is taken.
    Switchover,
    /// The guest has moved by post-copy, and the rest of its memory follows. No action is taken.
    Postcopy,
    /// The connection has failed after the guest has moved by post-copy, for this reason. The guest waits for
    /// memory that is still at the source, until [`Action::Recover`].
    PostcopyPaused(String),
    /// Any other state, for example set-up or cancellation. No action is taken.
    Other,
    /// It has completed at the source.
    Completed(Completion),
    /// It has failed, for this reason.
    Failed(String),
    /// It has been cancelled, by this program or by somebody else. The text is the reason if it was somebody
    /// else.
    Cancelled(String),
}

/// What page faults have cost a guest that has moved by post-copy. Figures that the driver does not measure
/// are absent or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageFaults {
    /// The time in which all virtual CPUs waited for pages simultaneously, in milliseconds.
    pub all_blocked_ms: Option<u64>,
    /// The time for which each virtual CPU waited for pages, in milliseconds.
    pub vcpus_blocked_ms: Vec<u64>,
    /// The mean time from a page fault until the page has arrived, in nanoseconds.
    pub mean_latency_ns: Option<u64>,
    /// The numbers of page faults by their latency: entry `n` counts those of 2^n to 2^(n+1) microseconds.
    pub latency_distribution: Vec<u64>,
}

/// The file to which the guest was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedFile {
    /// Its length, in bytes.
    pub bytes: u64,
    /// The space that it takes, in bytes.
    pub allocated_bytes: u64,
    /// When the file was complete.
    pub at: Instant,
}

/// How long to wait, after work with an end has failed, for the end to exit and its last output to arrive.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// Does some work that needs running processes, and fails as soon as `exit` returns. If the work itself fails
/// and `exit` returns within 2 s afterwards, the exit is reported as the reason, since it explains more.
pub async fn unless_exited<T, E: From<D>, D, F: Future<Output = D>>(
    exit: impl Fn() -> F,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let result = tokio::select! {
        biased;
        reason = exit() => return Err(reason.into()),
        result = work => result,
    };
    if result.is_err()
        && let Ok(reason) = time::timeout(EXIT_GRACE, exit()).await
    {
        return Err(reason.into());
    }
    result
}
