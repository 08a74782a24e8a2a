//! Carries out a timeline while the migration is followed: the link over the [`Network`], the load over the
//! guest's control port.
//!
//! The guest cannot answer while it is stopped, and what was said to it at the source may be lost with the
//! source. So no entry begins once the guest has stopped there. One that the stop interrupts is completed at
//! the destination, as soon as the guest runs there: it is asked again, which changes nothing if it heard it
//! before.

use super::{Error, network::Network};
use crate::{
    driver::Driver,
    matrix::Step,
    measure::{End, link::LinkSetting},
    results::record::{Carried, round_micros},
};
use netem::Profile;
use std::{cell::RefCell, time::Duration};
use stressor::{protocol::Command, workload::Workload};
use tokio::{
    sync::watch::{self, error::RecvError},
    time::{self, Instant},
};

/// The longest the guest may take to change its load. The memory stays, so it is a matter of milliseconds.
const CHANGE_LIMIT: Duration = Duration::from_secs(40);

/// Where the migration is, as far as its timeline is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The guest runs at the source.
    Source,
    /// The guest runs at the source, and the migration is over.
    GivenUp,
    /// The guest is stopped.
    Stopped,
    /// The guest runs at the destination.
    Destination,
}

/// What makes the changes.
#[expect(async_fn_in_trait, reason = "the whole program runs on one thread, so no future has to be `Send`")]
pub trait Actuator {
    /// Shapes the migration link; returns what was set.
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, Error>;
    /// Changes the load of the guest at this end.
    async fn load(&self, end: End, workload: &Workload) -> Result<(), Error>;
}

/// The link and the guest's two ends.
pub struct LinkAndGuest<'a, N, D> {
    /// Has the link.
    pub network: &'a N,
    /// Has the guest.
    pub driver: &'a D,
}

impl<N: Network, D: Driver> Actuator for LinkAndGuest<'_, N, D> {
    async fn shape(&self, link: &Profile) -> Result<LinkSetting, Error> {
        Ok(self.network.shape(link).await?)
    }

    async fn load(&self, end: End, workload: &Workload) -> Result<(), Error> {
        let command = Command::Set(workload.clone());
        let port = self.driver.control_port(end)?;
        Ok(port.request("change its load", command, CHANGE_LIMIT).await?)
    }
}

/// Carries out each step at its time after `started`, and adds it to `carried` when it is done. Ends when all
/// are done, or with the migration, whose stage is told through `stage`.
///
/// # Errors
///
/// The first step that fails, named by its time.
pub async fn play(
    actuator: &impl Actuator,
    steps: &[Step],
    started: Instant,
    mut stage: watch::Receiver<Stage>,
    carried: &RefCell<Vec<Carried>>,
) -> Result<(), Error> {
    for step in steps {
        let due = started + Duration::from(step.at);
        let over = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage != Stage::Source) => true,
            () = time::sleep_until(due) => false,
        };
        if over {
            return Ok(());
        }
        let millis = |at: Instant| round_micros((at - started).as_secs_f64() * 1e3);
        let began_ms = millis(Instant::now());
        let (link, by) = carry_out(actuator, step, &mut stage)
            .await
            .map_err(|cause| Error::Timeline { at: step.at, cause: Box::new(cause) })?;
        // A change that nobody confirmed is not in force for certain.
        let rate = step.workload.as_ref().filter(|_| by.is_some()).map(|workload| workload.rate);
        if link.is_none() && rate.is_none() {
            continue;
        }
        let due_ms = step.at.as_millis_f64();
        let done_ms = millis(Instant::now());
        carried.borrow_mut().push(Carried { due_ms, began_ms, done_ms, link, rate, by });
    }
    Ok(())
}

/// What was set on the link, and which end of the guest changed its load.
async fn carry_out(
    actuator: &impl Actuator,
    step: &Step,
    stage: &mut watch::Receiver<Stage>,
) -> Result<(Option<String>, Option<End>), Error> {
    let link = match &step.link {
        Some(link) => Some(actuator.shape(link).await?.to_string()),
        None => None,
    };
    let Some(workload) = &step.workload else { return Ok((link, None)) };
    let stopped = |stage: &Stage| matches!(stage, Stage::Stopped | Stage::Destination);
    tokio::select! {
        biased;
        Ok(_) = stage.wait_for(stopped) => {}
        answer = actuator.load(End::Source, workload) => return answer.map(|()| (link, Some(End::Source))),
    }
    let resumed: Result<_, RecvError> = stage.wait_for(|stage| *stage == Stage::Destination).await.map(drop);
    if resumed.is_err() {
        // Whoever followed the migration has ended, and this with it.
        return Ok((link, None));
    }
    actuator.load(End::Destination, workload).await?;
    Ok((link, Some(End::Destination)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::control_port;
    use std::{future, iter};
    use stressor::workload::Rate;
    use units::{ByteRate, Span};

    /// Notes what it is asked, and does it unless it is told otherwise.
    #[derive(Default)]
    struct Mock {
        asked: RefCell<Vec<String>>,
        source_is_silent: bool,
        refuses: bool,
    }

    impl Actuator for Mock {
        async fn shape(&self, link: &Profile) -> Result<LinkSetting, Error> {
            let rate = link.rate.unwrap_or_default();
            self.asked.borrow_mut().push(format!("link {rate}"));
            Ok(LinkSetting::example(rate.to_string()))
        }

        async fn load(&self, end: End, workload: &Workload) -> Result<(), Error> {
            self.asked.borrow_mut().push(format!("{end:?} {}", workload.rate));
            if self.refuses {
                return Err(control_port::Error::Closed.into());
            }
            if self.source_is_silent && end == End::Source {
                future::pending::<()>().await;
            }
            Ok(())
        }
    }

    fn load(at_ms: u64, rate: u64) -> Step {
        let rate = Rate::Limited(ByteRate::new(rate));
        let workload = Some(Workload { rate, ..Workload::default() });
        Step { at: Span::from_millis(at_ms), link: None, workload }
    }

    fn link(at_ms: u64, rate: &str) -> Step {
        let link = Some(Profile { rate: Some(rate.parse().unwrap()), ..Profile::default() });
        Step { at: Span::from_millis(at_ms), link, workload: None }
    }

    /// Plays the steps while `migration` tells the stages; what was carried out, and how it ended.
    async fn played(
        mock: &Mock,
        steps: &[Step],
        migration: impl AsyncFnOnce(&watch::Sender<Stage>),
    ) -> (Vec<Carried>, Result<(), Error>) {
        let (tell, stage) = watch::channel(Stage::Source);
        let carried = RefCell::default();
        let ended = {
            let play = play(mock, steps, Instant::now(), stage, &carried);
            tokio::join!(play, migration(&tell)).0
        };
        (carried.into_inner(), ended)
    }

    #[tokio::test]
    async fn entries_are_carried_out_in_order_each_at_its_time_or_later() {
        let mock = Mock::default();
        let both = Step { link: link(0, "2mbit").link, ..load(3, 0) };
        let (carried, ended) = played(&mock, &[link(0, "1mbit"), load(1, 5), both], async |_| ()).await;
        ended.unwrap();
        assert_eq!(*mock.asked.borrow(), ["link 1mbit", "Source 5B/s", "link 2mbit", "Source 0"]);
        for Carried { due_ms, began_ms, done_ms, .. } in &carried {
            assert!(due_ms <= began_ms && began_ms <= done_ms, "{carried:?}");
        }
        let links: Vec<_> = carried.iter().map(|c| c.link.as_deref()).collect();
        assert_eq!(links, [Some("kernel backend: 1mbit"), None, Some("kernel backend: 2mbit")]);
        let rates: Vec<_> = carried.iter().map(|c| c.rate.map(|rate| rate.to_string())).collect();
        assert_eq!(rates, [None, Some("5B/s".into()), Some("0".into())]);
        assert_eq!(
            carried.iter().map(|c| c.by).collect::<Vec<_>>(),
            [None, Some(End::Source), Some(End::Source)]
        );
    }

    #[tokio::test]
    async fn what_the_end_of_the_migration_came_before_is_not_carried_out() {
        for over in [Stage::GivenUp, Stage::Stopped] {
            let mock = Mock::default();
            let steps = [load(0, 1), load(3_600_000, 2)];
            let end = async |tell: &watch::Sender<Stage>| {
                while mock.asked.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                tell.send(over).unwrap();
            };
            let (carried, ended) = played(&mock, &steps, end).await;
            ended.unwrap();
            assert_eq!(carried.len(), 1, "{over:?}");
            assert_eq!(*mock.asked.borrow(), ["Source 1B/s"], "{over:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_the_stop_interrupts_is_made_again_at_the_destination() {
        let mock = Mock { source_is_silent: true, ..Mock::default() };
        let migration = async |tell: &watch::Sender<Stage>| {
            for stage in iter::once(Stage::Stopped).chain([Stage::Destination]) {
                while mock.asked.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                tell.send(stage).unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (carried, ended) = played(&mock, &[load(0, 7), load(0, 8)], migration).await;
        ended.unwrap();
        assert_eq!(*mock.asked.borrow(), ["Source 7B/s", "Destination 7B/s"]);
        assert_eq!(carried.len(), 1);
        assert_eq!(carried[0].by, Some(End::Destination));
    }

    #[tokio::test]
    async fn an_entry_that_fails_is_named() {
        let mock = Mock { refuses: true, ..Mock::default() };
        let (carried, ended) = played(&mock, &[link(0, "1mbit"), load(1, 5)], async |_| ()).await;
        assert_eq!(carried.len(), 1);
        let words = ended.unwrap_err().to_string();
        assert_eq!(words, "the timeline's entry at 1ms: the guest's control port closed");
    }
}
