//! The data for the sections of a page: a run, whether it was just made or read from its folders.

use super::{FinishedRun, Stage, timeline::Curves};
use crate::{
    matrix::{Cell, Plan},
    outcome::Outcome,
    report::composition,
    results::{parts::Run, record::Record, store, verdict::RunVerdict},
};
use maud::{Markup, html};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

/// A run, as the sections of a page see it.
pub(super) struct View<'a> {
    pub(super) plan: &'a Plan,
    pub(super) records: &'a [Record],
    pub(super) verdict: &'a RunVerdict,
    /// The results folders of the run, as the user named them.
    pub(super) folders: Vec<&'a Path>,
    /// The curves in the timeline of each record.
    pub(super) curves: Vec<Curves>,
    /// The attempts that have samples but no record yet, by name, if the run is in progress.
    pub(super) in_progress: Vec<(String, Curves)>,
    /// Notes about its folders.
    pub(super) composition: Vec<String>,
    /// Whether every attempt has a result.
    pub(super) is_complete: bool,
    /// Whether the run is in progress.
    pub(super) is_running: bool,
    /// The number of the run on the page, from 1.
    number: usize,
}

impl<'a> View<'a> {
    pub(super) fn of_run(run: &'a Run, number: usize, stage: Stage<'_>) -> Self {
        let folders: Vec<&Path> = run.composition.parts.iter().map(|part| part.results.as_path()).collect();
        let origin = |index: usize| folders[run.origins[index]];
        let is_running = matches!(stage, Stage::Running { .. }) && !run.composition.is_complete();
        let is_last = last_of_their_attempts(&run.records, |i| run.origins[i]);
        let curves = run.records.iter().zip(is_last).enumerate().map(|(i, (record, is_last))| {
            let has_files = is_last && !(is_running && is_made_again(origin(i), record));
            Curves::read(origin(i), record, has_files)
        });
        Self {
            plan: &run.plan,
            records: &run.records,
            verdict: &run.verdict,
            curves: curves.collect(),
            composition: composition::sentences(&run.composition),
            is_complete: run.composition.is_complete(),
            in_progress: if is_running { in_progress(run, &folders) } else { Vec::new() },
            is_running,
            number,
            folders,
        }
    }

    pub(super) fn of_finished(run: &FinishedRun<'a>) -> Self {
        let is_last = last_of_their_attempts(run.records, |_| 0);
        let curves = run.records.iter().zip(is_last);
        let curves = curves.map(|(record, is_last)| Curves::read(run.folder, record, is_last));
        Self {
            plan: run.plan,
            records: run.records,
            verdict: run.verdict,
            folders: vec![run.folder],
            curves: curves.collect(),
            in_progress: Vec::new(),
            composition: Vec::new(),
            is_complete: run.complete,
            is_running: false,
            number: 1,
        }
    }

    /// Returns a name for an element that is unique on the page.
    pub(super) fn id(&self, name: &str) -> String {
        format!("r{}-{name}", self.number)
    }

    /// Returns the name of the element that shows the attempt of this record.
    pub(super) fn attempt_id(&self, index: usize) -> String {
        self.id(&format!("a{index}"))
    }

    /// Returns the records of a cell, with their indexes.
    pub(super) fn attempts_of(&self, cell: &Cell) -> Vec<(usize, &'a Record)> {
        self.records.iter().enumerate().filter(|(_, record)| record.cell == cell.id).collect()
    }

    /// Returns the number of attempts that the plan makes.
    pub(super) fn planned(&self) -> usize {
        self.plan.cells.len() * self.plan.repeat as usize
    }
}

/// Returns for each record whether it is the last of its attempt in its folder. The files of an attempt are
/// those of the last time that it was made.
fn last_of_their_attempts(records: &[Record], origin: impl Fn(usize) -> usize) -> Vec<bool> {
    let mut later = HashSet::new();
    let is_last = records.iter().enumerate().rev();
    let is_last = is_last.map(|(i, record)| later.insert((origin(i), &record.cell, record.attempt)));
    let mut is_last: Vec<bool> = is_last.collect();
    is_last.reverse();
    is_last
}

/// Returns whether an attempt without a result is being made again, or was without a record of it: its folder
/// is newer than all records.
fn is_made_again(folder: &Path, record: &Record) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    let attempt = modified(&store::attempt_path(folder, &record.cell, record.attempt));
    !record.is_result() && attempt > modified(&folder.join(store::CELLS))
}

/// Returns the attempts of the plan that have samples in one of these folders but no record, or none of the
/// time that these samples are of.
fn in_progress(run: &Run, folders: &[&Path]) -> Vec<(String, Curves)> {
    let recorded = run.records.iter().map(|record| ((record.cell.as_str(), record.attempt), record));
    let recorded: HashMap<(&str, u32), &Record> = recorded.collect();
    let is_recorded = |cell: &Cell, number: u32, folder: &Path| {
        let last = recorded.get(&(cell.id.as_str(), number));
        last.is_some_and(|record| record.is_result() || !is_made_again(folder, record))
    };
    let curves = run.plan.attempts().into_iter().filter_map(|attempt| {
        let (cell, number) = (&run.plan.cells[attempt.cell], attempt.number);
        let open = folders.iter().filter(|folder| !is_recorded(cell, number, folder));
        let mut curves = open.map(|folder| Curves::in_progress(folder, &cell.id, number));
        let curves = curves.find(|curves| !curves.is_empty())?;
        Some((format!("{} #{number}", cell_name(cell)), curves))
    });
    curves.collect()
}

/// Returns the name of a cell for people: its values on the axes, or its ID if there are no axes.
pub(super) fn cell_name(cell: &Cell) -> String {
    name(cell.axes.iter().map(|(path, value)| (path.as_str(), value.as_str())), &cell.id)
}

/// Returns the name of an attempt for people.
pub(super) fn attempt_name(record: &Record) -> String {
    let axes = record.axes.iter().map(|(path, value)| (path.as_str(), value.as_str()));
    format!("{} #{}", name(axes, &record.cell), record.attempt)
}

fn name<'b>(axes: impl Iterator<Item = (&'b str, &'b str)>, id: &str) -> String {
    let values: Vec<String> = axes.map(|(path, value)| format!("{path} {value}")).collect();
    if values.is_empty() { id.to_owned() } else { values.join(", ") }
}

/// Returns the symbol of an outcome, which distinguishes it without color.
pub(super) const fn sign(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Converged => "✓",
        Outcome::NotConverged => "✗",
        Outcome::Corrupted => "≠",
        Outcome::Failed => "!",
        Outcome::GuestLost => "?",
        Outcome::Skipped => "–",
        Outcome::Interrupted => "…",
    }
}

/// Returns the class of an outcome, for its color.
pub(super) const fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Converged => "ok",
        Outcome::NotConverged => "no",
        Outcome::Corrupted | Outcome::Failed | Outcome::GuestLost => "bad",
        Outcome::Skipped | Outcome::Interrupted => "none",
    }
}

/// Returns an outcome as a symbol and a word.
pub(super) fn outcome(outcome: Outcome) -> Markup {
    html! { span.outcome.(class(outcome)) { (sign(outcome)) " " (outcome.as_str()) } }
}
