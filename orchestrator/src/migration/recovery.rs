//! The recovery of a post-copy migration whose link has failed: when it begins, how long it may take, and
//! what is recorded of it.
//!
//! The driver carries it out: see [`Action::Recover`](crate::driver::Action::Recover).

use std::time::Duration;
use tokio::time::Instant;

/// How long no data may pass over the link in post-copy before it counts as failed. TCP itself repeats what
/// was lost in shorter failures.
pub const FAILURE: Duration = Duration::from_secs(5);

/// The recoveries of one migration.
pub(super) struct Recoveries {
    /// How long each recovery may take.
    patience: Duration,
    /// When all recoveries must have ended.
    deadline: Instant,
    /// The failure from which the migration is to recover.
    failure: Option<Failure>,
    /// The intervals in which no memory arrived, one for each recovery.
    done: Vec<(Instant, Instant)>,
}

/// A failure of the link.
struct Failure {
    /// When the migration last made progress before the failure.
    since: Instant,
    /// When the failure was noticed.
    noticed: Instant,
    /// Why the link counts as failed.
    reason: String,
}

impl Recoveries {
    pub(super) fn new(patience: Duration, deadline: Instant) -> Self {
        Self { patience, deadline, failure: None, done: Vec::new() }
    }

    /// Returns whether a migration may recover if its link fails now.
    pub(super) fn are_possible(&self) -> bool {
        !self.patience.is_zero() && Instant::now() < self.deadline
    }

    /// Returns whether a recovery is in progress.
    pub(super) fn is_under_way(&self) -> bool {
        self.failure.is_some()
    }

    /// Notes that the link has failed. The migration last made progress at `since`.
    pub(super) fn begin(&mut self, since: Instant, reason: String) {
        self.failure = Some(Failure { since, noticed: Instant::now(), reason });
    }

    /// Notes that memory arrives again, or that all of it has arrived.
    pub(super) fn end(&mut self) {
        if let Some(failure) = self.failure.take() {
            self.done.push((failure.since, Instant::now()));
        }
    }

    /// Returns why the recovery in progress is given up; nothing if it is not.
    pub(super) fn overdue(&self) -> Option<String> {
        let Failure { noticed, reason, .. } = self.failure.as_ref()?;
        let now = Instant::now();
        if now >= self.deadline {
            Some(format!("{reason}, and the migration has not recovered by its deadline"))
        } else if now >= *noticed + self.patience {
            let patience = self.patience.as_secs_f64();
            Some(format!("{reason}, and the migration has not recovered within {patience} s"))
        } else {
            None
        }
    }

    /// Returns the intervals in which no memory arrived, one for each recovery.
    pub(super) fn into_done(self) -> Vec<(Instant, Instant)> {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_recovery_that_is_given_up_late_names_its_time_limit() {
        let begun = Instant::now();
        let mut recoveries = Recoveries::new(Duration::from_millis(1500), begun + Duration::from_secs(60));
        recoveries.begin(begun, "the link has failed".into());
        advance(Duration::from_millis(1400)).await;
        assert_eq!(recoveries.overdue(), None);
        advance(Duration::from_secs(2)).await;
        let reason = "the link has failed, and the migration has not recovered within 1.5 s";
        assert_eq!(recoveries.overdue().as_deref(), Some(reason));
    }
}
