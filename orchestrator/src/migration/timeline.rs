//! Carries out the steps of a migration: the entries of the timeline, and the rates of phases, waves and
//! traces. It changes the link through the [`Network`], and the workload through the guest's control port.
//!
//! The guest cannot answer while it is stopped, and a request sent to it at the source may be lost with the
//! source. So no step begins once the guest has stopped there. A step that the stop interrupts is completed
//! as soon as the guest runs again, at the destination or, after a cancellation, at the source: the request
//! is sent again, which changes nothing if the guest has already received it.
//!
//! With post-copy, and while a paused guest's memory is sent, the migration continues after the stop. So do
//! the steps, but only those of the link: a guest that waits for memory may not answer until the link works
//! again. A change of the workload that post-copy interrupts is left out for the same reason.

use super::{Error, account, network::Network};
use crate::{
    driver::Driver,
    matrix::Step,
    measure::{End, link::LinkSetting},
    node::protocol::Traffic,
    results::record::AppliedChange,
};
use netem::Profile;
use std::{cell::RefCell, time::Duration};
use stressor::{protocol::Command, workload::Workload};
use tokio::{
    sync::watch::{self, error::RecvError},
    time::{self, Instant},
};

/// The longest that the guest may take to change its workload. Its memory stays as it is, so this normally
/// takes milliseconds.
const CHANGE_LIMIT: Duration = Duration::from_secs(40);

/// The progress of a migration that matters to its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationStage {
    /// The guest runs at the source.
    Source,
    /// The guest runs at the source, and the migration has been given up.
    GivenUp,
    /// The guest is stopped for the switchover.
    Stopped,
    /// The guest runs at the destination.
    Destination,
    /// The guest was paused, and the rest of its memory is being sent.
    Paused,
    /// The guest is stopped to move by post-copy.
    Moving,
    /// The guest runs at the destination, and the rest of its memory follows by post-copy.
    Moved,
}

impl MigrationStage {
    /// Returns whether the guest runs at the destination.
    pub fn is_at_destination(self) -> bool {
        matches!(self, Self::Destination | Self::Moved)
    }

    /// Returns whether no further step begins.
    fn is_over(self) -> bool {
        matches!(self, Self::GivenUp | Self::Stopped | Self::Destination)
    }

    /// Returns whether the guest has stopped at the source.
    fn has_left(self) -> bool {
        !matches!(self, Self::Source | Self::GivenUp)
    }
}

/// The means to carry out the changes of a timeline.
#[expect(async_fn_in_trait, reason = "the whole program runs on one thread, so no future has to be `Send`")]
pub trait Actuator {
    /// Shapes the migration link. Returns the settings that are now in force.
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, Error>;
    /// Changes the workload of the guest, which runs at this end.
    async fn set_workload(&self, end: End, workload: &Workload) -> Result<(), Error>;
    /// Returns the traffic over the migration link so far.
    async fn traffic(&self) -> Result<Traffic, Error>;
}

/// The actuator for a migration: the link of its network, and the guest of its driver.
pub struct LinkAndGuest<'a, N, D> {
    /// The network with the migration link.
    pub network: &'a N,
    /// The driver with the control ports of the guest.
    pub driver: &'a D,
}

impl<N: Network, D: Driver> Actuator for LinkAndGuest<'_, N, D> {
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, Error> {
        Ok(self.network.shape(link).await?)
    }

    async fn set_workload(&self, end: End, workload: &Workload) -> Result<(), Error> {
        let command = Command::Set(workload.clone());
        let port = self.driver.control_port(end)?;
        Ok(port.request("change its workload", command, CHANGE_LIMIT).await?)
    }

    async fn traffic(&self) -> Result<Traffic, Error> {
        Ok(self.network.traffic().await?)
    }
}

/// Carries out each step at its time after `started`, and adds it to `applied` when it is done. A step that
/// may be late is skipped if the next one is already due, and becomes part of that one. Returns when all
/// steps are done, or as soon as the guest has stopped for good, the migration has been given up or `stage`
/// is closed, and no step is in progress.
///
/// # Errors
///
/// The error of the first step that fails, with the step's time.
pub async fn play(
    actuator: &impl Actuator,
    steps: &[Step],
    started: Instant,
    mut stage: watch::Receiver<MigrationStage>,
    applied: &RefCell<Vec<AppliedChange>>,
) -> Result<(), Error> {
    let mut left_out: Option<Step> = None;
    for (number, step) in steps.iter().enumerate() {
        let due = started + Duration::from(step.at);
        let over = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| stage.is_over()) => true,
            () = time::sleep_until(due) => false,
        };
        if over {
            return Ok(());
        }
        let mut step = step.clone();
        if let Some(before) = left_out.take() {
            step.link = step.link.or(before.link);
            step.workload = step.workload.or(before.workload);
        }
        let is_due = |step: &Step| started + Duration::from(step.at) <= Instant::now();
        if step.may_be_late && steps.get(number + 1).is_some_and(is_due) {
            left_out = Some(step);
            continue;
        }
        let millis = |at| account::millis(started, at);
        let began_ms = millis(Instant::now());
        if stage.borrow().has_left() {
            step.workload = None;
        }
        if step.link.is_none() && step.workload.is_none() {
            continue;
        }
        let (link, by) = carry_out(actuator, &step, &mut stage)
            .await
            .map_err(|cause| Error::Timeline { at: step.at, cause: Box::new(cause) })?;
        let rate = by.and(step.workload.as_ref()).map(|workload| workload.rate);
        let due_ms = step.at.as_millis_f64();
        let done_ms = millis(Instant::now());
        let link_bits_per_s = step.link.as_ref().and_then(|link| Some(link.rate?.get()));
        if link.is_none() && rate.is_none() {
            continue;
        }
        let change = AppliedChange { due_ms, began_ms, done_ms, link, link_bits_per_s, rate, by };
        applied.borrow_mut().push(change);
    }
    Ok(())
}

/// Carries out one step. Returns the new settings of the link, and the end through which the guest has
/// confirmed its new workload.
async fn carry_out(
    actuator: &impl Actuator,
    step: &Step,
    stage: &mut watch::Receiver<MigrationStage>,
) -> Result<(Option<String>, Option<End>), Error> {
    let link = match &step.link {
        Some(link) => Some(actuator.shape(link).await?.to_string()),
        None => None,
    };
    let Some(workload) = &step.workload else { return Ok((link, None)) };
    // A stopped guest can no longer answer. If the migration is given up, the wait continues, since the guest
    // keeps running at the source and will answer.
    tokio::select! {
        biased;
        Ok(_) = stage.wait_for(|stage| stage.has_left()) => {}
        answer = actuator.set_workload(End::Source, workload) => {
            return answer.map(|()| (link, Some(End::Source)));
        }
    }
    if matches!(*stage.borrow(), MigrationStage::Moving | MigrationStage::Moved) {
        return Ok((link, None));
    }
    let resumed: Result<_, RecvError> = stage.wait_for(|stage| stage.is_at_destination()).await.map(drop);
    // If the channel is closed, the migration has a verdict, and the guest does not arrive at the
    // destination: it runs at the source again.
    let end = if resumed.is_ok() { End::Destination } else { End::Source };
    actuator.set_workload(end, workload).await?;
    Ok((link, Some(end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::control_port;
    use std::{cell::Cell, future, iter};
    use stressor::workload::Rate;
    use units::{ByteRate, Span};

    /// An actuator that records every request. It confirms all requests unless configured otherwise.
    #[derive(Default)]
    struct MockActuator {
        requests: RefCell<Vec<String>>,
        source_is_silent: bool,
        /// Set when a silent source answers again.
        source_answers: Cell<bool>,
        refuses: bool,
    }

    impl Actuator for MockActuator {
        async fn shape(&self, link: &Profile) -> Result<LinkSetting, Error> {
            let rate = link.rate.unwrap_or_default();
            self.requests.borrow_mut().push(format!("link {rate}"));
            Ok(LinkSetting::example(rate.to_string()))
        }

        async fn set_workload(&self, end: End, workload: &Workload) -> Result<(), Error> {
            self.requests.borrow_mut().push(format!("{end:?} {}", workload.rate));
            if self.refuses {
                return Err(control_port::Error::Closed.into());
            }
            if self.source_is_silent && end == End::Source && !self.source_answers.get() {
                future::pending::<()>().await;
            }
            Ok(())
        }

        async fn traffic(&self) -> Result<Traffic, Error> {
            Ok(Traffic::default())
        }
    }

    fn load(at_ms: u64, rate: u64) -> Step {
        let rate = Rate::Limited(ByteRate::new(rate));
        let workload = Some(Workload { rate, ..Workload::default() });
        Step { at: Span::from_millis(at_ms), link: None, workload, may_be_late: false }
    }

    fn link(at_ms: u64, rate: &str) -> Step {
        let link = Some(Profile { rate: Some(rate.parse().unwrap()), ..Profile::default() });
        Step { at: Span::from_millis(at_ms), link, workload: None, may_be_late: false }
    }

    /// Plays the steps while `migration` announces the stages. Returns the applied changes and the result.
    async fn played(
        mock: &MockActuator,
        steps: &[Step],
        migration: impl AsyncFnOnce(&watch::Sender<MigrationStage>),
    ) -> (Vec<AppliedChange>, Result<(), Error>) {
        let (sender, stage) = watch::channel(MigrationStage::Source);
        let applied = RefCell::default();
        let result = {
            let play = play(mock, steps, Instant::now(), stage, &applied);
            tokio::join!(play, migration(&sender)).0
        };
        (applied.into_inner(), result)
    }

    #[tokio::test(start_paused = true)]
    async fn entries_are_carried_out_in_order_each_at_its_time_or_later() {
        let mock = MockActuator::default();
        let both = Step { link: link(0, "2mbit").link, ..load(3, 0) };
        let (applied, result) = played(&mock, &[link(0, "1mbit"), load(1, 5), both], async |_| ()).await;
        result.unwrap();
        assert_eq!(*mock.requests.borrow(), ["link 1mbit", "Source 5B/s", "link 2mbit", "Source 0"]);
        for AppliedChange { due_ms, began_ms, done_ms, .. } in &applied {
            assert!(due_ms <= began_ms && began_ms <= done_ms, "{applied:?}");
        }
        let links: Vec<_> = applied.iter().map(|c| c.link.as_deref()).collect();
        assert_eq!(links, [Some("kernel backend: 1mbit"), None, Some("kernel backend: 2mbit")]);
        let rates: Vec<_> = applied.iter().map(|c| c.rate.map(|rate| rate.to_string())).collect();
        assert_eq!(rates, [None, Some("5B/s".into()), Some("0".into())]);
        assert_eq!(
            applied.iter().map(|c| c.by).collect::<Vec<_>>(),
            [None, Some(End::Source), Some(End::Source)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_a_wave_or_a_trace_that_comes_too_late_is_part_of_the_next() {
        let mock = MockActuator::default();
        let moving = |step: Step| Step { may_be_late: true, ..step };
        let steps =
            [moving(link(0, "1mbit")), moving(load(0, 1)), moving(load(0, 2)), load(0, 3), load(0, 4)];
        let (applied, result) = played(&mock, &steps, async |_| ()).await;
        result.unwrap();
        assert_eq!(*mock.requests.borrow(), ["link 1mbit", "Source 3B/s", "Source 4B/s"]);
        assert_eq!(applied.len(), 2, "entries of the timeline are never left out");
        assert_eq!(applied[0].link_bits_per_s, Some(1_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn entries_after_the_end_of_the_migration_are_not_carried_out() {
        for over in [MigrationStage::GivenUp, MigrationStage::Stopped] {
            let mock = MockActuator::default();
            let steps = [load(0, 1), load(3_600_000, 2)];
            let end = async |sender: &watch::Sender<MigrationStage>| {
                while mock.requests.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                sender.send(over).unwrap();
            };
            let (applied, result) = played(&mock, &steps, end).await;
            result.unwrap();
            assert_eq!(applied.len(), 1, "{over:?}");
            assert_eq!(*mock.requests.borrow(), ["Source 1B/s"], "{over:?}");
        }
    }

    /// Returns a migration that goes through these stages after the first request, and ends after the second.
    fn continues(
        mock: &MockActuator,
        stages: &[MigrationStage],
    ) -> impl AsyncFnOnce(&watch::Sender<MigrationStage>) {
        async move |sender| {
            let requests = |count| mock.requests.borrow().len() >= count;
            while !requests(1) {
                tokio::task::yield_now().await;
            }
            for stage in stages {
                sender.send(*stage).unwrap();
            }
            while !requests(2) {
                time::sleep(Duration::from_millis(1)).await;
            }
            sender.send(MigrationStage::Destination).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_link_keeps_changing_in_post_copy_and_while_the_guest_is_paused() {
        let both = Step { link: link(0, "2mbit").link, ..load(20, 7) };
        let steps = [load(0, 1), load(10, 2), both, link(3_600_000, "3mbit")];
        for stages in [&[MigrationStage::Moving, MigrationStage::Moved][..], &[MigrationStage::Paused]] {
            let mock = MockActuator::default();
            let (applied, result) = played(&mock, &steps, continues(&mock, stages)).await;
            result.unwrap();
            assert_eq!(*mock.requests.borrow(), ["Source 1B/s", "link 2mbit"]);
            assert_eq!(applied.iter().map(|change| change.rate.is_some()).collect::<Vec<_>>(), [true, false]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_post_copy_interrupts_does_not_hold_up_the_link() {
        let mock = MockActuator { source_is_silent: true, ..MockActuator::default() };
        let stages = [MigrationStage::Moving, MigrationStage::Moved];
        let steps = [load(0, 7), link(20, "2mbit"), link(3_600_000, "3mbit")];
        let (applied, result) = played(&mock, &steps, continues(&mock, &stages)).await;
        result.unwrap();
        assert_eq!(*mock.requests.borrow(), ["Source 7B/s", "link 2mbit"]);
        assert_eq!(applied.iter().map(|change| change.rate).collect::<Vec<_>>(), [None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_the_stop_interrupts_is_repeated_at_the_destination() {
        let mock = MockActuator { source_is_silent: true, ..MockActuator::default() };
        let migration = async |sender: &watch::Sender<MigrationStage>| {
            for stage in iter::once(MigrationStage::Stopped).chain([MigrationStage::Destination]) {
                while mock.requests.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                sender.send(stage).unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (applied, result) = played(&mock, &[load(0, 7), load(0, 8)], migration).await;
        result.unwrap();
        assert_eq!(*mock.requests.borrow(), ["Source 7B/s", "Destination 7B/s"]);
        assert_eq!(applied.len(), 1);
        assert_eq!(applied[0].by, Some(End::Destination));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_the_stop_interrupts_is_repeated_at_the_source_after_a_cancellation() {
        let mock = MockActuator { source_is_silent: true, ..MockActuator::default() };
        let (sender, stage) = watch::channel(MigrationStage::Source);
        let applied = RefCell::default();
        let steps = [load(0, 7)];
        let migration = async {
            while mock.requests.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            sender.send(MigrationStage::Stopped).unwrap();
            tokio::task::yield_now().await;
            mock.source_answers.set(true);
            drop(sender);
        };
        let (result, ()) = tokio::join!(play(&mock, &steps, Instant::now(), stage, &applied), migration);
        result.unwrap();
        assert_eq!(*mock.requests.borrow(), ["Source 7B/s", "Source 7B/s"]);
        assert_eq!(applied.borrow()[0].by, Some(End::Source));
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_of_an_entry_names_its_time() {
        let mock = MockActuator { refuses: true, ..MockActuator::default() };
        let (applied, result) = played(&mock, &[link(0, "1mbit"), load(1, 5)], async |_| ()).await;
        assert_eq!(applied.len(), 1);
        let message = result.unwrap_err().to_string();
        assert_eq!(message, "the change due at 1ms failed: the guest's control port closed");
    }
}
