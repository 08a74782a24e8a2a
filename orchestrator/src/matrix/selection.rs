//! The part of a matrix that a run makes, as selected by `--only`, `--repeat` and `--shard`.

use super::{Expression, ExpressionError, Plan, Shard, ShardError};
use serde::{Deserialize, Serialize};

/// The options that select a part of a matrix. A run keeps those it was started with, so that `--resume`
/// continues with the same part.
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

    /// Returns the cells and repeats that all shards of this selection have together: applies everything but
    /// the shard.
    ///
    /// # Errors
    ///
    /// Fails if the expression is invalid.
    pub fn whole(&self, mut plan: Plan) -> Result<Plan, SelectionError> {
        plan.repeat = self.repeat.unwrap_or(plan.repeat);
        let Some(only) = &self.only else { return Ok(plan) };
        let only: Expression =
            only.parse().map_err(|error| SelectionError::Only { text: only.clone(), error })?;
        Ok(plan.only(&only))
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
