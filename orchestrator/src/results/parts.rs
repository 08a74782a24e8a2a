//! Merging of results folders that are parts of one run.
//!
//! Folders are parts of one run if each has a shard of the same matrix, with the same `--only` and `--repeat`
//! and the same number of shards. Matrices are compared by meaning, so comments and spelling do not count.
//! [`gather`] merges these folders into one [`Run`]. Any other folder is a run of its own, so that two whole
//! runs of one matrix are compared rather than mixed.
//!
//! Nothing is averaged, and nothing is left out silently. A [`Run`] states which parts and attempts are
//! missing, which attempts are in two folders, and how the hosts of its parts differ. If two folders have a
//! result of the same attempt, the result that started first counts, as with `--resume`, which never repeats
//! an attempt that has a result. If both started at the same time, the folder that was named first counts.
//! Interrupted attempts, and those that failed for lack of disk space, have no result. All of their records
//! are kept.

use super::{
    environment::Lab,
    record::Record,
    store,
    verdict::{self, RunVerdict},
};
use crate::{
    matrix::{
        Diagnostics, File, Plan, Settings, Shard, Traces,
        selection::{Selection, SelectionError},
    },
    outcome::Outcome,
};
use environments::{EnvironmentDifference, PartEnvironment};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

mod environments;

/// An error reading a results folder for a report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder or one of its files cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The folder's matrix is invalid.
    #[error(transparent)]
    Matrix(#[from] Diagnostics),
    /// The folder's selection of a part of the matrix is invalid.
    #[error("{path}: {reason}")]
    Selection {
        /// The path of the selection file.
        path: PathBuf,
        /// What is invalid about the selection.
        reason: SelectionError,
    },
}

/// A results folder with its records, not yet merged with others.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The whole plan that the folder is a part of: the matrix with `--only` and `--repeat`.
    plan: Plan,
    /// The part of the plan; absent if it is the whole plan.
    shard: Option<Shard>,
    records: Vec<Record>,
}

impl Folder {
    /// Reads the folder of a run that is finished or in progress.
    ///
    /// # Errors
    ///
    /// Fails if the path is not a results folder, or if its matrix, selection or records are invalid.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (matrix, records) = store::read(path)?;
        let selection = store::selection(path)?;
        let mut traces = Traces::kept(store::traces(path)?);
        let file = File::parse(&matrix, &path.join(store::MATRIX).display().to_string())?;
        let plan = file.expand_with(&mut traces)?;
        Self::new(path, plan, &selection, records)
            .map_err(|reason| Error::Selection { path: path.join(store::SELECTION), reason })
    }

    fn new(
        path: &Path,
        plan: Plan,
        selection: &Selection,
        records: Vec<Record>,
    ) -> Result<Self, SelectionError> {
        // Fails for a selection with which no run can have been started.
        selection.of(plan.clone())?;
        let shard = selection.shard()?.filter(|shard| shard.count() > 1);
        Ok(Self { path: path.into(), plan: selection.whole(plan)?, shard, records })
    }

    /// Returns why the other folder is not part of the same run, or nothing if it is.
    fn mismatch(&self, other: &Self) -> Option<String> {
        let (Some(shard), Some(others)) = (self.shard, other.shard) else {
            return Some("one of them is a whole run".into());
        };
        if shard.count() != others.count() {
            return Some(format!("{shard} and {others} have different numbers of parts"));
        }
        let changes = self.plan.changes_to(&other.plan);
        let lines: Vec<String> = changes.invalidating.into_iter().chain(changes.harmless).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// A results folder that a run consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartFolder {
    /// The path of the folder, as the user named it.
    pub results: PathBuf,
    /// The part of the matrix that it has; absent if it has the whole matrix.
    pub shard: Option<Shard>,
}

/// A part of the run for which no folder was named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingPart {
    /// The number of the part, and how many there are.
    pub shard: Shard,
    /// The number of attempts in that part.
    pub attempts: usize,
}

/// An attempt that has a result in two folders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DuplicateAttempt {
    /// The name of the attempt, as `CELL #N`.
    pub attempt: String,
    /// The folder whose result counts.
    pub counts: PathBuf,
    /// The outcome that counts.
    pub outcome: Outcome,
    /// The folder whose result is left out.
    pub left_out: PathBuf,
    /// The outcome that is left out.
    pub left_out_outcome: Outcome,
}

/// The folders that a run consists of, and the reasons why it may not be complete or uniform.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Composition {
    /// The folders of the run, in the order in which the user named them.
    pub parts: Vec<PartFolder>,
    /// The parts without a folder. Their attempts are not listed in `missing_attempts`.
    pub missing_parts: Vec<MissingPart>,
    /// The attempts without a result, as `CELL #N`.
    pub missing_attempts: Vec<String>,
    /// The attempts that have a result in two folders.
    pub repeated: Vec<DuplicateAttempt>,
    /// The attempts at cells that the matrix does not have, as `CELL #N`. Expectations do not check them.
    pub strange: Vec<String>,
    /// The differences between the environments of the parts.
    pub differences: Vec<EnvironmentDifference>,
    /// For each part with results whose environment is unknown, the reason.
    pub unknown_environments: Vec<String>,
    /// Why its first folder was not merged with an earlier run of the same name.
    pub separate: Option<String>,
}

impl Composition {
    /// Returns whether every attempt of the matrix has a result.
    pub const fn is_complete(&self) -> bool {
        self.missing_parts.is_empty() && self.missing_attempts.is_empty()
    }
}

/// A run, read from one folder or from several that are its parts.
#[derive(Debug)]
pub struct Run {
    /// The plan of the whole run: the matrix with `--only` and `--repeat`, with all parts.
    pub plan: Plan,
    /// Every record that counts, and the interrupted ones. They are in the order in which they were made if
    /// the run is read from one folder, and in the order of the plan otherwise.
    pub records: Vec<Record>,
    /// For each record, the index of its folder in [`Composition::parts`].
    pub origins: Vec<usize>,
    /// The folders of the run, and what is missing or differs.
    pub composition: Composition,
    /// The verdict on the records.
    pub verdict: RunVerdict,
}

/// A function that returns the name of the backend that shapes the links of these settings in this lab.
pub type BackendOf = fn(&Settings, &Lab) -> String;

/// Merges folders that are parts of one run, and returns the runs in the order in which their first folders
/// were named. `backend` names the backend that shapes a link, to compare the environments of the parts.
pub fn gather(folders: Vec<Folder>, backend: BackendOf) -> Vec<Run> {
    let mut groups: Vec<(Vec<Folder>, Option<String>)> = Vec::new();
    for folder in folders {
        if let Some((group, _)) = groups.iter_mut().find(|(group, _)| group[0].mismatch(&folder).is_none()) {
            group.push(folder);
            continue;
        }
        let same_name = groups.iter().map(|(group, _)| &group[0]).find(|other| {
            other.shard.is_some() && folder.shard.is_some() && other.plan.name == folder.plan.name
        });
        let separate = same_name.and_then(|other| Some((&other.path, other.mismatch(&folder)?)));
        let separate = separate.map(|(other, why)| {
            format!("{} and {} are not parts of the same run: {why}", other.display(), folder.path.display())
        });
        groups.push((vec![folder], separate));
    }
    groups.into_iter().map(|(group, separate)| Run::merge(group, separate, backend)).collect()
}

impl Run {
    /// Merges the folders, at least one, which are parts of one run.
    fn merge(folders: Vec<Folder>, separate: Option<String>, backend: BackendOf) -> Self {
        let plan = folders[0].plan.clone();
        let parts: Vec<PartFolder> =
            folders.iter().map(|f| PartFolder { results: f.path.clone(), shard: f.shard }).collect();
        let (differences, unknown_environments) = if folders.len() > 1 {
            let with_results = folders.iter().filter(|folder| !folder.records.is_empty());
            let parts: Vec<PartEnvironment> = with_results.map(PartEnvironment::read).collect();
            environments::compare(&plan, &parts, backend)
        } else {
            Default::default()
        };
        let entries = folders
            .into_iter()
            .enumerate()
            .flat_map(|(origin, folder)| folder.records.into_iter().map(move |record| (origin, record)));
        let (entries, repeated) = resolve_duplicates(&plan, &parts, entries.collect());
        let known: HashSet<&str> = plan.cells.iter().map(|cell| cell.id.as_str()).collect();
        let strange = entries.iter().filter(|(_, record)| !known.contains(record.cell.as_str()));
        let strange = strange.map(|(_, record)| attempt_name(&record.cell, record.attempt)).collect();
        let (missing_parts, missing_attempts) = missing(&plan, &parts, &entries);
        let (origins, records): (_, Vec<Record>) = entries.into_iter().unzip();
        let composition = Composition {
            parts,
            missing_parts,
            missing_attempts,
            repeated,
            strange,
            differences,
            unknown_environments,
            separate,
        };
        let verdict = verdict::evaluate(&plan, &records);
        Self { plan, records, origins, composition, verdict }
    }

    /// Returns the paths of its folders, for a heading.
    pub fn title(&self) -> String {
        let names = self.composition.parts.iter().map(|part| part.results.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }
}

/// A record, and the index of its folder.
type Entry = (usize, Record);

/// Sorts the records of several folders into the order of the plan, and removes results that do not count
/// because another folder has an earlier result of the same attempt. Returns the remaining records and the
/// duplicates.
fn resolve_duplicates(
    plan: &Plan,
    parts: &[PartFolder],
    entries: Vec<Entry>,
) -> (Vec<Entry>, Vec<DuplicateAttempt>) {
    if parts.len() == 1 {
        return (entries, Vec::new());
    }
    let positions: HashMap<(&str, u32), usize> = plan
        .attempts()
        .iter()
        .enumerate()
        .map(|(position, attempt)| ((plan.cells[attempt.cell].id.as_str(), attempt.number), position))
        .collect();
    let mut entries = entries;
    // The sort is stable, so folders keep their order, and interrupted attempts stay before their
    // repetitions.
    entries.sort_by_key(|(_, r)| positions.get(&(r.cell.as_str(), r.attempt)).copied().unwrap_or(usize::MAX));

    let is_result = Record::is_result;
    let mut earliest: HashMap<(String, u32), (usize, Outcome, jiff::Timestamp)> = HashMap::new();
    for (origin, record) in entries.iter().filter(|(_, record)| is_result(record)) {
        let found = (*origin, record.outcome, record.started_at);
        earliest
            .entry((record.cell.clone(), record.attempt))
            .and_modify(|known| {
                if found.2 < known.2 {
                    *known = found;
                }
            })
            .or_insert(found);
    }
    let mut repeated = Vec::new();
    entries.retain(|(origin, record)| {
        let Some(&(counts, outcome, _)) = earliest.get(&(record.cell.clone(), record.attempt)) else {
            return true;
        };
        if counts == *origin || !(is_result(record) || record.lacked_disk()) {
            return true;
        }
        repeated.push(DuplicateAttempt {
            attempt: attempt_name(&record.cell, record.attempt),
            counts: parts[counts].results.clone(),
            outcome,
            left_out: parts[*origin].results.clone(),
            left_out_outcome: record.outcome,
        });
        false
    });
    (entries, repeated)
}

/// Returns the parts without a folder, and the attempts of all other parts that have no result.
fn missing(plan: &Plan, parts: &[PartFolder], entries: &[Entry]) -> (Vec<MissingPart>, Vec<String>) {
    let made: HashSet<(&str, u32)> = entries
        .iter()
        .filter(|(_, record)| record.is_result())
        .map(|(_, record)| (record.cell.as_str(), record.attempt))
        .collect();
    let named: HashSet<usize> = parts.iter().filter_map(|part| Some(part.shard?.number())).collect();
    let count = parts[0].shard.map(Shard::count);
    let part_of = |position| count.map(|count| Shard::at(position, count));
    let is_named = |shard: Option<Shard>| shard.is_none_or(|shard| named.contains(&shard.number()));
    let cells = plan.cells.len();
    // The first cell of each part that has any, followed by every `count`-th one.
    let parts = count.into_iter().flat_map(|count| {
        (0..cells.min(count)).map(move |first| (Shard::at(first, count), (cells - first).div_ceil(count)))
    });
    let missing_parts = parts.filter(|(shard, _)| !is_named(Some(*shard)));
    let missing_parts = missing_parts
        .map(|(shard, cells)| MissingPart { shard, attempts: cells * plan.repeat as usize })
        .collect();
    let attempts = plan.attempts().into_iter().filter(|attempt| is_named(part_of(attempt.cell)));
    let attempts = attempts.map(|attempt| (plan.cells[attempt.cell].id.as_str(), attempt.number));
    let missing = attempts.filter(|attempt| !made.contains(attempt));
    (missing_parts, missing.map(|(cell, number)| attempt_name(cell, number)).collect())
}

/// Returns the name of an attempt in reports.
fn attempt_name(cell: &str, attempt: u32) -> String {
    format!("{cell} #{attempt}")
}

#[cfg(test)]
mod tests;
