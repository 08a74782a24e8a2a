//! What runs a guest at both ends of a migration and migrates it.
//!
//! A [`Driver`] is all that an attempt knows of a hypervisor. It does what it is told and says what it sees;
//! when to act and when to give up is decided above it, by a [`crate::mode`]. [`qemu`] drives two QEMUs
//! through QMP. [`control_port`] is the conversation with the stressor in the guest, which every driver
//! offers for either end.

use crate::{
    matrix::Migrate,
    measure::{
        End,
        samples::{Completion, Sample},
    },
    mode::Action,
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

/// The two ends of one migration, from their start to their end.
///
/// The calls come in the order in which they stand here; [`Driver::end`] comes last, whatever has failed
/// before it, and even if nothing has been started.
#[expect(async_fn_in_trait, reason = "the whole program runs on one thread, so no future has to be `Send`")]
pub trait Driver {
    /// Starts both ends. Afterwards the guest is about to run at the source, and the destination is up.
    async fn start(&mut self) -> Result<(), Error>;

    /// The conversation with the stressor in the guest, through one end. At the destination it is silent
    /// until the guest runs there.
    ///
    /// # Errors
    ///
    /// Before [`Driver::start`].
    fn control_port(&self, end: End) -> Result<&ControlPort, Error>;

    /// Waits until an end ends by itself, and says which and why. Never returns for an end that may end, such
    /// as a destination whose migration has been cancelled.
    async fn ended(&self) -> Error;

    /// Sets both ends up for a migration with these settings, and has the destination listen.
    async fn prepare(&self, settings: &Migrate) -> Result<(), Error>;

    /// Begins the migration and returns what the ends announce from then on.
    async fn begin(&self) -> Result<mpsc::UnboundedReceiver<Event>, Error>;

    /// Asks the source how the migration stands; the sample's time counts from `since`.
    async fn progress(&self, since: Instant) -> Result<Status, Error>;

    /// Acts on a migration in progress.
    async fn act(&self, action: Action) -> Result<(), Error>;

    /// Whether the guest runs at this end, as the driver has it.
    async fn is_running(&self, end: End) -> Result<bool, Error>;

    /// Ends both ends, going on after failures; the first failure.
    async fn end(&mut self) -> Result<(), Error>;
}

/// An error in the driver's own words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// QEMU failed.
    #[error(transparent)]
    Qemu(#[from] qemu::Error),
    /// A call came before [`Driver::start`], or [`Driver::begin`] before [`Driver::prepare`].
    #[error("nothing has been started")]
    NotStarted,
    /// What a test's script says.
    #[cfg(test)]
    #[error("{0}")]
    Scripted(String),
}

/// Something that an end announces by itself.
#[derive(Debug)]
pub enum Event {
    /// The migration has changed its state or begun a pass: worth asking for its [`Status`] at once.
    Changed,
    /// The guest stopped at the source.
    Stopped(Instant),
    /// The guest started to run at the destination.
    Resumed(Instant),
    /// An end can no longer be heard.
    Lost(End, Error),
}

/// How a migration stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// What it means.
    pub state: State,
    /// The figures, with the state in the driver's own word.
    pub sample: Sample,
}

/// The state of a migration, as far as somebody has to act on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Memory is sent while the guest runs at the source: it can be acted on, and given up.
    Active,
    /// Something else, like the set-up or the switchover: it is left alone.
    Other,
    /// It has completed at the source.
    Completed(Completion),
    /// It has failed, for this reason.
    Failed(String),
    /// It has been cancelled, by us or, for this reason, not by us.
    Cancelled(String),
}

/// How long an end may take to die after something about it failed, so that its last words are known.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Does some work with running ends, which fails as soon as `ended` returns. When the work fails, an end that
/// ends shortly afterwards is taken to be the reason.
pub async fn unless_ended<T, E: From<D>, D, F: Future<Output = D>>(
    ended: impl Fn() -> F,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let result = tokio::select! {
        biased;
        reason = ended() => return Err(reason.into()),
        result = work => result,
    };
    if result.is_err()
        && let Ok(reason) = time::timeout(LAST_WORDS, ended()).await
    {
        return Err(reason.into());
    }
    result
}
