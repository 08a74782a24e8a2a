//! The table of a storm's outcomes: one row for each kind of strike and lab.

use super::{
    Lab,
    trial::{Promise, Trial},
};
use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};
use testbed::outcome::Outcome;

/// A row, for the trials that had the same strike.
#[derive(Default)]
struct Row {
    trials: usize,
    converged: usize,
    failed: usize,
    other: usize,
    unrecorded: usize,
    left: usize,
    lost: usize,
    unreadable: usize,
    not_resumed: usize,
}

impl Row {
    fn add(&mut self, trial: &Trial) {
        self.trials += 1;
        for (outcome, count) in &trial.attempts {
            *match outcome {
                Some(Outcome::Converged) => &mut self.converged,
                Some(Outcome::Failed) => &mut self.failed,
                Some(_) => &mut self.other,
                None => &mut self.unrecorded,
            } += count;
        }
        let broken = |promise| usize::from(trial.broken.iter().any(|(broken, _)| *broken == promise));
        self.left += broken(Promise::NothingLeft);
        self.lost += broken(Promise::NothingLost);
        self.unreadable += broken(Promise::Readable);
        self.not_resumed += usize::from(broken(Promise::Resumable) + broken(Promise::Ends) > 0);
    }
}

/// The table, in Markdown.
#[derive(Default)]
pub(crate) struct Table {
    rows: BTreeMap<(String, Lab), Row>,
}

impl Table {
    /// Adds a trial to the row of its strike, or to the row for several strikes or for no strike.
    pub(crate) fn add(&mut self, trial: &Trial) {
        let name = match &trial.hits[..] {
            [] => "none before the run's end",
            [(kind, _)] => kind.describe(),
            _ => "two or three of these",
        };
        self.rows.entry((name.to_owned(), trial.lab)).or_default().add(trial);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| strike | lab | trials | converged | failed | other | no record | left | lost | unreadable | \
             not resumed |"
        )?;
        writeln!(f, "|{}", "---|".repeat(11))?;
        for ((strike, lab), row) in &self.rows {
            let counts = [
                row.trials,
                row.converged,
                row.failed,
                row.other,
                row.unrecorded,
                row.left,
                row.lost,
                row.unreadable,
                row.not_resumed,
            ];
            let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
            writeln!(f, "| {strike} | {} | {} |", lab.name(), counts.join(" | "))?;
        }
        Ok(())
    }
}
