//! What is said below the table of a stored run: the folders it was put together from, and what speaks
//! against taking them for one whole.

use crate::results::parts::{Composition, Repeated};
use std::{collections::HashMap, path::Path};

/// How many attempts a line names before it only counts them.
const NAMED: usize = 3;

/// Returns one line for each thing to say; none for a whole run that is complete. What belongs to the line
/// before is indented.
pub(super) fn sentences(composition: &Composition) -> Vec<String> {
    let mut lines = Vec::new();
    let named = composition.parts.iter().filter_map(|part| {
        let shard = part.shard?;
        Some(format!("{shard} in {}", part.results.display()))
    });
    let named = named.collect::<Vec<_>>().join(", ");
    if !named.is_empty() {
        lines.push(format!("parts: {named}"));
    }
    for part in &composition.missing_parts {
        let attempts = counted(part.attempts, "attempt");
        lines.push(format!("missing: part {}, with {attempts}", part.shard));
    }
    let missing = &composition.missing_attempts;
    if !missing.is_empty() {
        lines.push(format!("missing: {}: {}", counted(missing.len(), "attempt"), some(missing)));
    }
    if !composition.strange.is_empty() {
        lines.push(format!("not in this matrix, and not judged: {}", some(&composition.strange)));
    }
    lines.extend(repeated(&composition.repeated));
    for difference in &composition.differences {
        let values = difference.values.iter().map(|(value, folders)| {
            let folders = folders.iter().map(|folder| folder.display().to_string());
            format!("{value} in {}", folders.collect::<Vec<_>>().join(", "))
        });
        let values = values.collect::<Vec<_>>().join("; ");
        lines.push(format!("not the same in all parts: {}: {values}", difference.what));
    }
    for why in &composition.unknown_environments {
        lines.push(format!("not compared with the other parts: {why}"));
    }
    if let Some(why) = &composition.separate {
        lines.push(format!("not merged: {why}"));
    }
    lines
}

/// Attempts that two folders have, together for each pair of folders; and each that ended otherwise.
fn repeated(all: &[Repeated]) -> Vec<String> {
    let mut pairs: Vec<(&Path, &Path)> = Vec::new();
    let mut members: HashMap<(&Path, &Path), Vec<&Repeated>> = HashMap::new();
    for one in all {
        let pair = (one.counts.as_path(), one.left_out.as_path());
        let of_pair = members.entry(pair).or_default();
        if of_pair.is_empty() {
            pairs.push(pair);
        }
        of_pair.push(one);
    }
    let mut lines = Vec::new();
    for pair in pairs {
        let (counts, left_out) = (pair.0.display(), pair.1.display());
        let attempts: Vec<String> = members[&pair].iter().map(|one| one.attempt.clone()).collect();
        let attempts = some(&attempts);
        lines.push(format!(
            "made twice: {attempts}: {counts} counts, which began first; {left_out} is left out"
        ));
        for one in members[&pair].iter().filter(|one| one.outcome != one.left_out_outcome) {
            let (attempt, outcome, other) = (&one.attempt, one.outcome, one.left_out_outcome);
            lines.push(format!("    {attempt} is {outcome} in {counts} and {other} in {left_out}"));
        }
    }
    lines
}

fn some(attempts: &[String]) -> String {
    if attempts.len() <= NAMED + 1 {
        return attempts.join(", ");
    }
    format!("{} and {} more", attempts[..NAMED].join(", "), attempts.len() - NAMED)
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
