//! The part of a matrix that a run makes, as selected by `--only`, `--repeat` and `--shard`.

use super::{Expression, ExpressionError, MAX_REPEAT, Plan, Shard, ShardError};
use serde::{Deserialize, Serialize};
use units::counted;

/// The largest number of attempts of a whole run: at ten seconds each, four months.
const MAX_ATTEMPTS: usize = 1_000_000;

/// The options that select a part of a matrix. A run keeps the options that it was started with, so that
/// `--resume` continues with the same part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The text of an expression: only the cells that meet it are run.
    pub only: Option<String>,
    /// The number of attempts for each cell, instead of the one in the file.
    pub repeat: Option<u32>,
    /// A shard of the cells, as `I/N`.
    pub shard: Option<String>,
}

/// An error in the selection of a part of a matrix.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// The expression of `--only` is invalid.
    #[error("--only: {}", error.show(text))]
    Only {
        /// The text of the expression.
        text: String,
        /// What is wrong with it, and what to write instead.
        error: ExpressionError,
    },
    /// The text of `--shard` is not a shard.
    #[error("--shard: {0}")]
    Shard(#[from] ShardError),
    /// The number of attempts for each cell is out of range.
    #[error("--repeat: a cell cannot be measured {0} times; use a number from 1 to {MAX_REPEAT}")]
    Repeat(u32),
    /// The cells have more attempts than a run may have.
    #[error(
        "{} times {repeat} are more than {MAX_ATTEMPTS} attempts; use a smaller `repeat`, or select cells \
         with --only", counted(*cells, "cell")
    )]
    TooMany {
        /// The number of cells.
        cells: usize,
        /// The number of attempts for each.
        repeat: u32,
    },
    /// The selection leaves no cell to run.
    #[error("no cell of the matrix is left to run: check --only and --shard")]
    Nothing,
}

impl Selection {
    /// Returns the shard to run, or `None` for all cells.
    ///
    /// # Errors
    ///
    /// Fails if the text is not a shard.
    pub fn shard(&self) -> Result<Option<Shard>, ShardError> {
        self.shard.as_ref().map(|shard| shard.parse()).transpose()
    }

    /// Returns the cells and repeats of all shards of this selection together: applies everything but the
    /// shard.
    ///
    /// # Errors
    ///
    /// Fails if the expression is invalid or a number is out of range.
    pub fn whole(&self, mut plan: Plan) -> Result<Plan, SelectionError> {
        plan.repeat = self.repeat.unwrap_or(plan.repeat);
        if !(1..=MAX_REPEAT).contains(&plan.repeat) {
            return Err(SelectionError::Repeat(plan.repeat));
        }
        if let Some(only) = &self.only {
            let only: Expression =
                only.parse().map_err(|error| SelectionError::Only { text: only.clone(), error })?;
            plan = plan.only(&only);
        }
        let (cells, repeat) = (plan.cells.len(), plan.repeat);
        if cells.saturating_mul(repeat as usize) > MAX_ATTEMPTS {
            return Err(SelectionError::TooMany { cells, repeat });
        }
        Ok(plan)
    }

    /// Applies the selection to the plan of a whole matrix. Returns the part to run.
    ///
    /// # Errors
    ///
    /// Fails if the selection is invalid or leaves no cell to run.
    pub fn of(&self, plan: Plan) -> Result<Plan, SelectionError> {
        let whole = self.whole(plan)?;
        let part = match self.shard()? {
            Some(shard) => whole.shard(shard),
            None => whole,
        };
        if part.cells.is_empty() { Err(SelectionError::Nothing) } else { Ok(part) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::File;

    #[test]
    fn a_run_has_a_bounded_number_of_attempts() {
        let list = |count: u32| (1..=count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        let axes = format!("{{ guest.vcpus: [{}], migrate.max_passes: [{}] }}", list(40), list(26));
        let plan = || File::parse(&format!("name: n\naxes: {axes}\n"), "n").unwrap().expand().unwrap();
        let select = |repeat, only: Option<&str>| {
            let selection = Selection { only: only.map(Into::into), repeat: Some(repeat), shard: None };
            selection.of(plan()).map_err(|error| error.to_string())
        };
        assert_eq!(select(900, None).unwrap().attempts().len(), 900 * 1040);
        assert!(select(1000, Some("guest.vcpus == 1")).is_ok());
        let error = select(1000, None).unwrap_err();
        assert!(error.starts_with("1040 cells times 1000 are more than 1000000 attempts; use"), "{error}");
        for repeat in [0, 1001, u32::MAX] {
            assert!(select(repeat, None).unwrap_err().starts_with("--repeat: a cell cannot be measured"));
        }
    }
}
