//! The threshold of convergence: the highest dirty rate up to which every attempt converged, in sentences.

use super::record::Record;
use crate::{
    matrix::{Cell, Plan},
    outcome::Outcome,
};
use stressor::workload::Rate;

const DIRTY_RATE: &str = "stress.rate";

/// Returns a sentence for each combination of the other axes that states up to which dirty rate every attempt
/// converged. Returns no sentences if the matrix does not vary the dirty rate. `decided` are the attempts
/// whose migration converged or was given up.
pub(super) fn sentences(plan: &Plan, decided: &[(&Cell, &Record)]) -> Vec<String> {
    if !plan.axis_paths().contains(&DIRTY_RATE) {
        return Vec::new();
    }
    let mut groups: Vec<(String, Vec<(&Cell, &Record)>)> = Vec::new();
    for &(cell, record) in decided {
        let others = cell.axes.iter().filter(|(path, _)| *path != DIRTY_RATE);
        let name = others.map(|(path, value)| format!("{path} {value}")).collect::<Vec<_>>().join(", ");
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, members)) => members.push((cell, record)),
            None => groups.push((name, vec![(cell, record)])),
        }
    }
    groups.iter().filter_map(|(name, members)| sentence(name, members)).collect()
}

/// Returns the sentence for one combination of the other axes, which `group` names. Returns nothing if no
/// member has a limited dirty rate. A workload with phases has no single rate, so it is left out.
fn sentence(group: &str, members: &[(&Cell, &Record)]) -> Option<String> {
    let mut levels: Vec<(u64, &str, bool)> = Vec::new();
    for (cell, record) in members {
        let stress = &cell.settings.stress;
        let Rate::Limited(rate) = stress.rate else { continue };
        if !stress.phases.is_empty() {
            continue;
        }
        let converged = record.outcome == Outcome::Converged;
        match levels.iter_mut().find(|(known, ..)| *known == rate.get()) {
            Some((.., all)) => *all &= converged,
            None => levels.push((rate.get(), cell.axes.get(DIRTY_RATE)?, converged)),
        }
    }
    levels.sort_unstable_by_key(|(rate, ..)| *rate);
    let highest = levels.iter().take_while(|(.., converged)| *converged).last();
    let lowest = levels.iter().find(|(.., converged)| !*converged);
    let place = if group.is_empty() { String::new() } else { format!("With {group}: ") };
    let sentence = match (highest, lowest) {
        (Some((limit, up_to, _)), Some((_, from, _))) => {
            let above = if levels.iter().all(|(rate, _, converged)| *converged == (rate <= limit)) {
                format!("at {from} and above it never did")
            } else {
                format!("at {from} it did not; some higher rates did, so repeat the run")
            };
            format!("pre-copy converged at every dirty rate up to {up_to}; {above}.")
        }
        (Some((_, up_to, _)), None) => {
            format!("pre-copy converged at every dirty rate tried, up to {up_to}.")
        }
        (None, Some((_, from, _))) => format!("pre-copy did not converge even at {from}."),
        (None, None) => return None,
    };
    let mut sentence = place + &sentence;
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Some(sentence)
}

#[cfg(test)]
mod tests;
