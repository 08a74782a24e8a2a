//! Runs a plan: attempt after attempt, each recorded before the next begins.
//!
//! The engine knows nothing of QEMU or namespaces. It asks a [`Bench`] for attempts, so that the whole logic
//! (order, repetition, skipping, resuming, interruption, expectations) is tested against one that needs
//! neither. [`real`] is the bench that migrates; [`interrupt`] turns signals into a request to stop.

use crate::{
    event::{Event, Sink},
    matrix::{Cell, Plan},
    outcome::Outcome,
    predict::precopy,
    results::{
        builder::RecordBuilder,
        environment::Environment,
        record::Record,
        store::{self, Store},
    },
};
use interrupt::Interrupt;
use std::{future::Future, path::Path, time::Duration};

pub mod environment;
pub mod interrupt;
pub mod real;

/// Something that can attempt a migration.
pub trait Bench {
    /// Why it could not even try.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Makes ready; what attempts will run on.
    fn prepare(&mut self, sink: &dyn Sink) -> impl Future<Output = Result<Environment, Self::Error>>;

    /// Why this cell cannot be attempted here, if it cannot. Asked after [`Bench::prepare`].
    fn lacks(&self, cell: &Cell) -> Option<String>;

    /// Makes an attempt; its samples and logs go to `folder`. Comes back soon after `interrupt` asks it to.
    fn attempt(
        &mut self,
        cell: &Cell,
        attempt: u32,
        folder: &Path,
        sink: &dyn Sink,
        interrupt: &Interrupt,
    ) -> impl Future<Output = Result<Record, Self::Error>>;
}

/// Why a run ended before all of its attempts were made.
#[derive(Debug, thiserror::Error)]
pub enum Error<B: std::error::Error> {
    /// The bench failed.
    #[error(transparent)]
    Bench(B),
    /// A result could not be written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every attempt of the plan has a result.
    Complete,
    /// The user stopped it.
    Interrupted,
}

/// What one attempt takes besides its migration, until some have been seen.
const USUAL_OVERHEAD: Duration = Duration::from_secs(4);

/// Makes every attempt of the plan that the store has no result of, and says to `sink` what happens.
pub async fn run<B: Bench>(
    plan: &Plan,
    store: &mut Store,
    bench: &mut B,
    sink: &dyn Sink,
    interrupt: &Interrupt,
) -> Result<Ending, Error<B::Error>> {
    let ended = attempts(plan, store, bench, sink, interrupt).await;
    sink.take(&Event::RunEnded);
    ended
}

async fn attempts<B: Bench>(
    plan: &Plan,
    store: &mut Store,
    bench: &mut B,
    sink: &dyn Sink,
    interrupt: &Interrupt,
) -> Result<Ending, Error<B::Error>> {
    let attempts: Vec<(&Cell, u32)> = plan
        .attempts()
        .into_iter()
        .map(|attempt| (&plan.cells[attempt.cell], attempt.number))
        .filter(|(cell, number)| !store.has(&cell.id, *number))
        .collect();
    if attempts.is_empty() {
        return Ok(Ending::Complete);
    }
    let environment = tokio::select! {
        () = interrupt.requested() => return Ok(Ending::Interrupted),
        environment = bench.prepare(sink) => environment.map_err(Error::Bench)?,
    };
    store.write_environment(&environment)?;
    let mut pace = Pace::default();
    for (i, (cell, number)) in attempts.iter().enumerate() {
        if interrupt.is_requested() {
            return Ok(Ending::Interrupted);
        }
        let left = attempts[i..].iter().map(|(cell, _)| pace.expected(cell)).sum();
        let name = if plan.repeat > 1 { format!("{} #{number}", cell.id) } else { cell.id.clone() };
        sink.take(&Event::AttemptStarted { number: i + 1, total: attempts.len(), name: &name, left });
        let record = if let Some(reason) = bench.lacks(cell) {
            RecordBuilder::start().freeze(cell, *number, Outcome::Skipped, Some(reason))
        } else {
            let folder = store.attempt_folder(&cell.id, *number)?;
            bench.attempt(cell, *number, &folder, sink, interrupt).await.map_err(Error::Bench)?
        };
        pace.learn(cell, &record);
        let interrupted = record.outcome == Outcome::Interrupted;
        store.append(record.clone())?;
        sink.take(&Event::AttemptEnded(&record));
        if interrupted {
            return Ok(Ending::Interrupted);
        }
    }
    Ok(Ending::Complete)
}

/// How long attempts take, against what the model says: for the estimate of what is left.
#[derive(Default)]
struct Pace {
    overheads: Vec<f64>,
}

impl Pace {
    fn expected(&self, cell: &Cell) -> Duration {
        let overhead = if self.overheads.is_empty() {
            USUAL_OVERHEAD.as_secs_f64()
        } else {
            self.overheads.iter().sum::<f64>() / self.overheads.len() as f64
        };
        Duration::from_secs_f64((predicted_s(cell) + overhead).max(0.0))
    }

    fn learn(&mut self, cell: &Cell, record: &Record) {
        if record.outcome != Outcome::Skipped {
            self.overheads.push(record.measured.wall_time_ms / 1e3 - predicted_s(cell));
        }
    }
}

fn predicted_s(cell: &Cell) -> f64 {
    precopy::predict(&cell.settings).total_time.as_secs_f64()
}
