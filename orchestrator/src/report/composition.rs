//! What is said below the table of a stored run: the folders it was put together from, and what speaks against
//! taking them for one whole.

use crate::results::parts::{Composition, Repeated};
use std::{collections::HashMap, fmt::Write as _, path::Path};

/// How many attempts a line names before it only counts them.
const NAMED: usize = 3;

/// One line for each thing to say; nothing for a whole run that is complete.
pub fn render(composition: &Composition) -> String {
    let mut text = String::new();
    let named = composition.parts.iter().filter_map(|part| {
        let shard = part.shard?;
        Some(format!("{shard} in {}", part.results.display()))
    });
    let named = named.collect::<Vec<_>>().join(", ");
    if !named.is_empty() {
        let _ = writeln!(text, "parts: {named}");
    }
    for part in &composition.missing_parts {
        let attempts = counted(part.attempts, "attempt");
        let _ = writeln!(text, "missing: part {}, with {attempts}", part.shard);
    }
    let missing = &composition.missing_attempts;
    if !missing.is_empty() {
        let _ = writeln!(text, "missing: {}: {}", counted(missing.len(), "attempt"), some(missing));
    }
    if !composition.strange.is_empty() {
        let _ = writeln!(text, "not in this matrix, and not judged: {}", some(&composition.strange));
    }
    text += &repeated(&composition.repeated);
    for difference in &composition.differences {
        let values = difference.values.iter().map(|(value, folders)| {
            let folders = folders.iter().map(|folder| folder.display().to_string());
            format!("{value} in {}", folders.collect::<Vec<_>>().join(", "))
        });
        let _ = writeln!(
            text,
            "not the same in all parts: {}: {}",
            difference.what,
            values.collect::<Vec<_>>().join("; ")
        );
    }
    for why in &composition.unknown_environments {
        let _ = writeln!(text, "not compared with the other parts: {why}");
    }
    if let Some(why) = &composition.separate {
        let _ = writeln!(text, "not merged: {why}");
    }
    text
}

/// Attempts that two folders have, together for each pair of folders; and each that ended otherwise.
fn repeated(all: &[Repeated]) -> String {
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
    let mut text = String::new();
    for pair in pairs {
        let (counts, left_out) = (pair.0.display(), pair.1.display());
        let attempts: Vec<String> = members[&pair].iter().map(|one| one.attempt.clone()).collect();
        let _ = writeln!(
            text,
            "made twice: {}: {counts} counts, which began first; {left_out} is left out",
            some(&attempts)
        );
        for one in members[&pair].iter().filter(|one| one.outcome != one.left_out_outcome) {
            let (attempt, outcome, other) = (&one.attempt, one.outcome, one.left_out_outcome);
            let _ = writeln!(text, "    {attempt} is {outcome} in {counts} and {other} in {left_out}");
        }
    }
    text
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
