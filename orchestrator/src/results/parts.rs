//! Several results folders, and which of them are parts of one run.
//!
//! Folders are parts of one run if each has a shard of the same matrix: the same by meaning (comments and
//! spelling do not count), with the same `--only` and `--repeat`, divided into as many parts. [`gather`] puts
//! such folders together as one [`Run`]; any other folder is a run by itself, so that two whole runs of one
//! matrix are compared and not mixed.
//!
//! Nothing is averaged away or left out in silence. A [`Run`] says which parts and attempts it lacks, which
//! attempts are in two folders, and in what the machines of its parts differ. Of an attempt that two folders
//! have a result of, the one that began first counts, as with `--resume`, which never makes an attempt again
//! that has a result; where both began at once, the folder that was named first. Interrupted attempts are no
//! results, and all of them are kept.

use super::{environment::Lab, record::Record, store};
use crate::{
    matrix::{
        Diagnostics, File, Plan, Settings, Shard,
        selection::{Selection, SelectionError},
    },
    outcome::Outcome,
};
use environments::{Difference, Part};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

mod environments;

/// Why a folder cannot be reported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Its matrix makes no sense.
    #[error(transparent)]
    Matrix(#[from] Diagnostics),
    /// Which part of the matrix it has makes no sense.
    #[error("{path}: {reason}")]
    Selection {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: SelectionError,
    },
}

/// A results folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What it is a part of: the matrix with `--only` and `--repeat`.
    plan: Plan,
    /// Which part; absent where it is the whole.
    shard: Option<Shard>,
    records: Vec<Record>,
}

impl Folder {
    /// Reads the folder of a finished or a running run.
    ///
    /// # Errors
    ///
    /// Where it is none, or something in it makes no sense.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (matrix, records) = store::read(path)?;
        let selection = store::selection(path)?;
        let plan = File::parse(&matrix, &path.join(store::MATRIX).display().to_string())?.expand()?;
        Self::new(path, plan, &selection, records)
            .map_err(|reason| Error::Selection { path: path.join(store::SELECTION), reason })
    }

    fn new(
        path: &Path,
        plan: Plan,
        selection: &Selection,
        records: Vec<Record>,
    ) -> Result<Self, SelectionError> {
        // Refuses what no run can have been started with.
        selection.of(plan.clone())?;
        let shard = selection.shard()?.filter(|shard| shard.count() > 1);
        Ok(Self { path: path.into(), plan: selection.whole(plan)?, shard, records })
    }

    /// Why the other folder is no part of the same run; nothing, where it is one.
    fn stranger(&self, other: &Self) -> Option<String> {
        let (Some(shard), Some(others)) = (self.shard, other.shard) else {
            return Some("one of them is a whole run".into());
        };
        if shard.count() != others.count() {
            return Some(format!("{shard} and {others} are parts of different divisions"));
        }
        let changes = self.plan.changes_to(&other.plan);
        let lines: Vec<String> = changes.measured.into_iter().chain(changes.judged).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// A folder of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The folder, as it was named.
    pub results: PathBuf,
    /// The part of the matrix that it has; absent where that is the whole.
    pub shard: Option<Shard>,
}

/// A part of which there is no folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingPart {
    /// The part.
    pub shard: Shard,
    /// How many attempts it has.
    pub attempts: usize,
}

/// An attempt that two folders have a result of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repeated {
    /// The attempt, as `CELL #N`.
    pub attempt: String,
    /// Where its result counts.
    pub counts: PathBuf,
    /// How it ended there.
    pub outcome: Outcome,
    /// Where its result is left out.
    pub left_out: PathBuf,
    /// How it ended there.
    pub left_out_outcome: Outcome,
}

/// What a run consists of and what speaks against taking it for a whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Composition {
    /// Its folders, in the order in which they were named.
    pub parts: Vec<Source>,
    /// Parts of which there is no folder. Their attempts are not among the missing ones.
    pub missing_parts: Vec<MissingPart>,
    /// Attempts that have no result, as `CELL #N`.
    pub missing_attempts: Vec<String>,
    /// Attempts that two folders have a result of.
    pub repeated: Vec<Repeated>,
    /// Records of cells that the matrix does not have, as `CELL #N`. They are not judged.
    pub strange: Vec<String>,
    /// In what the machines of the parts differ.
    pub differences: Vec<Difference>,
    /// Parts with results of which it is not known what they ran on, and why.
    pub unknown_environments: Vec<String>,
    /// Why its first folder was not taken for a part of an earlier run of the same name.
    pub separate: Option<String>,
}

impl Composition {
    /// Whether every attempt of the matrix has a result.
    pub const fn is_complete(&self) -> bool {
        self.missing_parts.is_empty() && self.missing_attempts.is_empty()
    }
}

/// A run: of one folder, or of several that are its parts.
#[derive(Debug)]
pub struct Run {
    /// What was to be run: the matrix with `--only` and `--repeat`, all parts together.
    pub plan: Plan,
    /// Every record that counts, and the interrupted ones. Those of one folder are in the order in which they
    /// were made, those of several in the order of the plan.
    pub records: Vec<Record>,
    /// The folder of each record, as a position in [`Composition::parts`].
    pub origins: Vec<usize>,
    /// What it consists of.
    pub composition: Composition,
}

/// What would carry out the links of these settings in this lab, in a word.
pub type BackendOf = fn(&Settings, &Lab) -> String;

/// Puts folders together that are parts of one run, in the order in which they were named. What their links
/// would be carried out by is asked of `backend`.
pub fn gather(folders: Vec<Folder>, backend: BackendOf) -> Vec<Run> {
    let mut groups: Vec<(Vec<Folder>, Option<String>)> = Vec::new();
    for folder in folders {
        if let Some((group, _)) = groups.iter_mut().find(|(group, _)| group[0].stranger(&folder).is_none()) {
            group.push(folder);
            continue;
        }
        let namesake = groups.iter().map(|(group, _)| &group[0]).find(|other| {
            other.shard.is_some() && folder.shard.is_some() && other.plan.name == folder.plan.name
        });
        let separate = namesake.and_then(|other| Some((&other.path, other.stranger(&folder)?)));
        let separate = separate.map(|(other, why)| {
            format!("{} and {} are not parts of one run: {why}", other.display(), folder.path.display())
        });
        groups.push((vec![folder], separate));
    }
    groups.into_iter().map(|(group, separate)| Run::of(group, separate, backend)).collect()
}

impl Run {
    /// At least one folder; several are parts of one run.
    fn of(folders: Vec<Folder>, separate: Option<String>, backend: BackendOf) -> Self {
        let plan = folders[0].plan.clone();
        let parts: Vec<Source> =
            folders.iter().map(|f| Source { results: f.path.clone(), shard: f.shard }).collect();
        let (differences, unknown_environments) = if folders.len() > 1 {
            let with_results = folders.iter().filter(|folder| !folder.records.is_empty());
            environments::compare(&plan, &with_results.map(Part::read).collect::<Vec<_>>(), backend)
        } else {
            Default::default()
        };
        let entries = folders
            .into_iter()
            .enumerate()
            .flat_map(|(origin, folder)| folder.records.into_iter().map(move |record| (origin, record)));
        let (entries, repeated) = counting(&plan, &parts, entries.collect());
        let known: HashSet<&str> = plan.cells.iter().map(|cell| cell.id.as_str()).collect();
        let strange = entries.iter().filter(|(_, record)| !known.contains(record.cell.as_str()));
        let strange = strange.map(|(_, record)| name(&record.cell, record.attempt)).collect();
        let (missing_parts, missing_attempts) = missing(&plan, &parts, &entries);
        let (origins, records) = entries.into_iter().unzip();
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
        Self { plan, records, origins, composition }
    }

    /// Its folders, for a heading.
    pub fn title(&self) -> String {
        let names = self.composition.parts.iter().map(|part| part.results.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }
}

/// A record, and the position of its folder.
type Entry = (usize, Record);

/// Leaves out what does not count of attempts that two folders have a result of, and sorts what several
/// folders have into the order of the plan.
fn counting(plan: &Plan, parts: &[Source], entries: Vec<Entry>) -> (Vec<Entry>, Vec<Repeated>) {
    if parts.len() == 1 {
        return (entries, Vec::new());
    }
    let places: HashMap<(&str, u32), usize> = plan
        .attempts()
        .iter()
        .enumerate()
        .map(|(place, attempt)| ((plan.cells[attempt.cell].id.as_str(), attempt.number), place))
        .collect();
    let mut entries = entries;
    // Stable, so that folders keep their order and interrupted attempts stay before those that were made
    // again.
    entries.sort_by_key(|(_, r)| places.get(&(r.cell.as_str(), r.attempt)).copied().unwrap_or(usize::MAX));

    let is_result = |record: &Record| record.outcome != Outcome::Interrupted;
    let mut first: HashMap<(String, u32), (usize, Outcome, jiff::Timestamp)> = HashMap::new();
    for (origin, record) in entries.iter().filter(|(_, record)| is_result(record)) {
        let found = (*origin, record.outcome, record.started_at);
        first
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
        let Some(&(counts, outcome, _)) = first.get(&(record.cell.clone(), record.attempt)) else {
            return true;
        };
        if counts == *origin || !is_result(record) {
            return true;
        }
        repeated.push(Repeated {
            attempt: name(&record.cell, record.attempt),
            counts: parts[counts].results.clone(),
            outcome,
            left_out: parts[*origin].results.clone(),
            left_out_outcome: record.outcome,
        });
        false
    });
    (entries, repeated)
}

/// Parts without a folder, and attempts of the others without a result.
fn missing(plan: &Plan, parts: &[Source], entries: &[Entry]) -> (Vec<MissingPart>, Vec<String>) {
    let made: HashSet<(&str, u32)> = entries
        .iter()
        .filter(|(_, record)| record.outcome != Outcome::Interrupted)
        .map(|(_, record)| (record.cell.as_str(), record.attempt))
        .collect();
    let given: HashSet<usize> = parts.iter().filter_map(|part| Some(part.shard?.number())).collect();
    let count = parts[0].shard.map(Shard::count);
    let part_of = |position| count.map(|count| Shard::at(position, count));
    let is_given = |shard: Option<Shard>| shard.is_none_or(|shard| given.contains(&shard.number()));
    let mut missing_parts: Vec<MissingPart> = Vec::new();
    for position in 0..plan.cells.len() {
        let Some(shard) = part_of(position).filter(|shard| !is_given(Some(*shard))) else { continue };
        let attempts = plan.repeat as usize;
        match missing_parts.iter_mut().find(|part| part.shard == shard) {
            Some(part) => part.attempts += attempts,
            None => missing_parts.push(MissingPart { shard, attempts }),
        }
    }
    missing_parts.sort_unstable_by_key(|part| part.shard.number());
    let attempts = plan.attempts().into_iter().filter(|attempt| is_given(part_of(attempt.cell)));
    let attempts = attempts.map(|attempt| (plan.cells[attempt.cell].id.as_str(), attempt.number));
    let missing = attempts.filter(|attempt| !made.contains(attempt));
    (missing_parts, missing.map(|(cell, number)| name(cell, number)).collect())
}

/// An attempt, for people.
fn name(cell: &str, attempt: u32) -> String {
    format!("{cell} #{attempt}")
}

#[cfg(test)]
mod tests;
