//! The notes below the table of a stored run: the folders from which it was merged, what is missing, and what
//! differs between its parts.

use crate::results::parts::{Composition, DuplicateAttempt};
use frontend::one_line;
use std::{collections::HashMap, path::Path};
use units::counted;

/// The number of attempts or parts that are named if they are too many.
const NAMED: usize = 3;

/// Returns the notes, one line each. A complete run in one folder has no notes. A line that belongs to the
/// previous line is indented.
pub(super) fn sentences(composition: &Composition) -> Vec<String> {
    // Paths, cells and environments are texts from elsewhere.
    texts(composition).iter().map(|text| one_line(text)).collect()
}

fn texts(composition: &Composition) -> Vec<String> {
    let mut lines = Vec::new();
    let named = composition.parts.iter().filter_map(|part| {
        let shard = part.shard?;
        Some(format!("{shard} in {}", part.results.display()))
    });
    let named = named.collect::<Vec<_>>().join(", ");
    if !named.is_empty() {
        lines.push(format!("parts: {named}"));
    }
    let (named, others) = first(&composition.missing_parts);
    for part in named {
        let attempts = counted(part.attempts, "attempt");
        lines.push(format!("missing: part {}, with {attempts}", part.shard));
    }
    if !others.is_empty() {
        let attempts: usize = others.iter().map(|part| part.attempts).sum();
        let attempts = counted(attempts, "attempt");
        lines.push(format!("missing: {} more parts, with {attempts}", others.len()));
    }
    let missing = &composition.missing_attempts;
    if !missing.is_empty() {
        lines.push(format!("missing: {}: {}", counted(missing.len(), "attempt"), some(missing)));
    }
    if !composition.strange.is_empty() {
        let strange = some(&composition.strange);
        lines.push(format!("not in this matrix, so not checked against expectations: {strange}"));
    }
    lines.extend(duplicates(&composition.repeated));
    for difference in &composition.differences {
        let values = difference.values.iter().map(|(value, folders)| {
            let folders = folders.iter().map(|folder| folder.display().to_string());
            format!("{value} in {}", folders.collect::<Vec<_>>().join(", "))
        });
        let values = values.collect::<Vec<_>>().join("; ");
        lines.push(format!("differs between parts: {}: {values}", difference.what));
    }
    for why in &composition.unknown_environments {
        lines.push(format!("environment not compared: {why}"));
    }
    if let Some(why) = &composition.separate {
        lines.push(format!("not merged: {why}"));
    }
    lines
}

/// Returns a line for each pair of folders that have results of the same attempts, and an indented line for
/// each attempt with different outcomes.
fn duplicates(all: &[DuplicateAttempt]) -> Vec<String> {
    let mut pairs: Vec<(&Path, &Path)> = Vec::new();
    let mut members: HashMap<(&Path, &Path), Vec<&DuplicateAttempt>> = HashMap::new();
    for duplicate in all {
        let pair = (duplicate.counts.as_path(), duplicate.left_out.as_path());
        let of_pair = members.entry(pair).or_default();
        if of_pair.is_empty() {
            pairs.push(pair);
        }
        of_pair.push(duplicate);
    }
    let mut lines = Vec::new();
    for pair in pairs {
        let (counts, left_out) = (pair.0.display(), pair.1.display());
        let attempts: Vec<String> = members[&pair].iter().map(|d| d.attempt.clone()).collect();
        let attempts = some(&attempts);
        lines.push(format!(
            "attempted twice: {attempts}: the result in {counts} counts, as it started first; the one in \
             {left_out} is left out"
        ));
        for duplicate in members[&pair].iter().filter(|d| d.outcome != d.left_out_outcome) {
            let DuplicateAttempt { attempt, outcome, left_out_outcome: other, .. } = duplicate;
            lines.push(format!("    {attempt} is {outcome} in {counts} and {other} in {left_out}"));
        }
    }
    lines
}

/// Returns the names of the attempts, or of the first [`NAMED`] of them and the number of others.
fn some(attempts: &[String]) -> String {
    let (named, others) = first(attempts);
    let named = named.join(", ");
    if others.is_empty() { named } else { format!("{named} and {} more", others.len()) }
}

/// Returns those that are named, which are all unless they are too many, and the others.
fn first<T>(all: &[T]) -> (&[T], &[T]) {
    all.split_at(if all.len() <= NAMED + 1 { all.len() } else { NAMED })
}
