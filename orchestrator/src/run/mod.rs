//! The engine that runs a plan, attempt by attempt, and records each attempt before the next one starts.
//!
//! The engine does not depend on QEMU or namespaces. It asks a [`Bench`] to make each attempt, so that all of
//! its logic (order, repetition, skipping, resuming, interruption, expectations) is tested with a bench that
//! needs neither. [`real`] is the bench that migrates guests; [`screen`] finds the cells that it cannot
//! attempt; [`interrupt`] turns signals into a request to stop.

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
mod folder;
pub mod interrupt;
pub mod real;
pub mod screen;
mod space;

/// An implementation of attempts, which the engine calls.
pub trait Bench {
    /// An error that prevents the bench from making attempts at all.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Prepares the bench for attempts. Returns the environment in which they will run.
    fn prepare(&mut self, sink: &dyn Sink) -> impl Future<Output = Result<Environment, Self::Error>>;

    /// Returns why this cell must be skipped in this environment, or nothing if it can be attempted. Called
    /// after [`Bench::prepare`].
    fn skip_reason(&self, cell: &Cell) -> Option<String>;

    /// Makes an attempt and writes its samples and logs to `folder`. Called after [`Bench::prepare`]. Returns
    /// soon after `interrupt` is requested.
    fn attempt(
        &mut self,
        cell: &Cell,
        attempt: u32,
        folder: &Path,
        sink: &dyn Sink,
        interrupt: &Interrupt,
    ) -> impl Future<Output = Result<Record, Self::Error>>;

    /// Ends what the attempts needed. Called once, after the last attempt.
    fn end(&mut self) -> impl Future<Output = ()>;
}

/// An error that ends a run before all attempts were made.
#[derive(Debug, thiserror::Error)]
pub enum Error<B: std::error::Error> {
    /// The bench could not make attempts.
    #[error(transparent)]
    Bench(B),
    /// The results folder could not be written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The result of a run that was not ended by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// Every attempt of the plan has a result.
    Complete,
    /// The user interrupted the run.
    Interrupted,
}

/// The estimated duration of an attempt without its migration, until attempts have been made.
const USUAL_OVERHEAD: Duration = Duration::from_secs(4);

/// Makes every attempt of the plan that has no result in the store, and sends events to `sink`. Returns
/// whether the run is complete or was interrupted.
pub async fn run<B: Bench>(
    plan: &Plan,
    store: &mut Store,
    bench: &mut B,
    sink: &dyn Sink,
    interrupt: &Interrupt,
) -> Result<RunOutcome, Error<B::Error>> {
    let ended = attempts(plan, store, bench, sink, interrupt).await;
    bench.end().await;
    sink.handle(&Event::RunEnded);
    ended
}

async fn attempts<B: Bench>(
    plan: &Plan,
    store: &mut Store,
    bench: &mut B,
    sink: &dyn Sink,
    interrupt: &Interrupt,
) -> Result<RunOutcome, Error<B::Error>> {
    let attempts: Vec<(&Cell, u32)> = plan
        .attempts()
        .into_iter()
        .map(|attempt| (&plan.cells[attempt.cell], attempt.number))
        .filter(|(cell, number)| !store.has(&cell.id, *number))
        .collect();
    if attempts.is_empty() {
        return Ok(RunOutcome::Complete);
    }
    let environment = tokio::select! {
        () = interrupt.requested() => return Ok(RunOutcome::Interrupted),
        environment = bench.prepare(sink) => environment.map_err(Error::Bench)?,
    };
    store.write_environment(&environment)?;
    let mut estimator = Estimator::default();
    let mut predicted_left_s: f64 = attempts.iter().map(|(cell, _)| predicted_s(cell)).sum();
    for (i, (cell, number)) in attempts.iter().enumerate() {
        if interrupt.is_requested() {
            return Ok(RunOutcome::Interrupted);
        }
        let left = estimator.estimate(attempts.len() - i, predicted_left_s);
        predicted_left_s -= predicted_s(cell);
        let name = if plan.repeat > 1 { format!("{} #{number}", cell.id) } else { cell.id.clone() };
        sink.handle(&Event::AttemptStarted { number: i + 1, total: attempts.len(), name: &name, left });
        let record = if let Some(reason) = bench.skip_reason(cell) {
            RecordBuilder::start().freeze(cell, *number, Outcome::Skipped, Some(reason))
        } else {
            let folder = store.attempt_folder(&cell.id, *number)?;
            bench.attempt(cell, *number, &folder, sink, interrupt).await.map_err(Error::Bench)?
        };
        estimator.observe(cell, &record);
        let interrupted = record.outcome == Outcome::Interrupted;
        // If an attempt's record cannot be stored, it is shown before the run ends.
        let stored = store.append(record.clone());
        sink.handle(&Event::AttemptEnded(&record));
        stored?;
        if interrupted {
            return Ok(RunOutcome::Interrupted);
        }
    }
    Ok(RunOutcome::Complete)
}

/// An estimator of the duration of attempts: the model's prediction of the migration, plus the mean overhead
/// of the attempts so far.
#[derive(Default)]
struct Estimator {
    /// The duration of all attempts so far minus the predicted duration of their migrations, in seconds.
    overhead_s: f64,
    attempts: usize,
}

impl Estimator {
    /// Returns the estimated duration of this many attempts, given the total predicted duration of their
    /// migrations.
    fn estimate(&self, attempts: usize, predicted_s: f64) -> Duration {
        let overhead_s = match self.attempts {
            0 => USUAL_OVERHEAD.as_secs_f64(),
            so_far => self.overhead_s / so_far as f64,
        };
        Duration::from_secs_f64((predicted_s + attempts as f64 * overhead_s).max(0.0))
    }

    fn observe(&mut self, cell: &Cell, record: &Record) {
        if let Some(wall_time_ms) = record.measured.wall_time_ms {
            self.overhead_s += wall_time_ms / 1e3 - predicted_s(cell);
            self.attempts += 1;
        }
    }
}

fn predicted_s(cell: &Cell) -> f64 {
    precopy::estimate(&cell.settings).total_time.as_secs_f64()
}
