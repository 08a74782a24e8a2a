//! Which part of a matrix is meant: `--only`, `--repeat` and `--shard`.

use super::{Expression, ExpressionError, Plan, Shard, ShardError};
use serde::{Deserialize, Serialize};

/// Which part of its matrix a run makes: what it was started with, so that it is continued with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Only the cells for which this expression holds.
    pub only: Option<String>,
    /// Repeats of each cell, instead of the file's.
    pub repeat: Option<u32>,
    /// A part of the cells, as `I/N`.
    pub shard: Option<String>,
}

/// What cannot be selected from a matrix.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// The expression makes no sense.
    #[error("--only: {0}")]
    Only(ExpressionError),
    /// It names no part.
    #[error("--shard: {0}")]
    Shard(#[from] ShardError),
    /// Nothing is selected.
    #[error("no cell of the matrix is left to run: check --only and --shard")]
    Nothing,
}

impl Selection {
    /// The part that is meant, where it is not all cells.
    ///
    /// # Errors
    ///
    /// Where the text names none.
    pub fn shard(&self) -> Result<Option<Shard>, ShardError> {
        self.shard.as_ref().map(|shard| shard.parse()).transpose()
    }

    /// The cells and repeats of a matrix that all parts have together: everything but the shard.
    ///
    /// # Errors
    ///
    /// Where the expression makes no sense.
    pub fn whole(&self, mut plan: Plan) -> Result<Plan, SelectionError> {
        plan.repeat = self.repeat.unwrap_or(plan.repeat);
        let Some(only) = &self.only else { return Ok(plan) };
        let only: Expression = only.parse().map_err(SelectionError::Only)?;
        Ok(plan.only(&only))
    }

    /// What is to be run of a matrix.
    ///
    /// # Errors
    ///
    /// Where nothing is left of it, or the selection makes no sense.
    pub fn of(&self, plan: Plan) -> Result<Plan, SelectionError> {
        let whole = self.whole(plan)?;
        let part = match self.shard()? {
            Some(shard) => whole.shard(shard),
            None => whole,
        };
        if part.cells.is_empty() { Err(SelectionError::Nothing) } else { Ok(part) }
    }
}
