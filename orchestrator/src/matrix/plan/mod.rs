//! The plan: every cell of a matrix with all of its settings, and the order in which to measure them.

use super::{
    expect::{Expectation, Reference, Subject},
    expression::Expression,
    settings::Settings,
};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod baseline;
mod expand;
mod order;

pub use order::{Shard, ShardError};

/// A resolved matrix: every cell with all of its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The name of the matrix.
    pub name: String,
    /// What the matrix is meant to show, as its author describes it.
    pub description: Option<String>,
    /// The cells, in the order of the file. At least one, unless [`Plan::only`] or [`Plan::shard`] removed
    /// them all.
    pub cells: Vec<Cell>,
    /// The number of attempts for each cell; at least one.
    pub repeat: u32,
    /// The order in which cells are measured.
    pub order: RunOrder,
    /// What the attempts must show for the run to succeed.
    pub expect: Vec<Expectation>,
    /// Published figures, which reports show beside the measured ones.
    pub reference: Option<Reference>,
    /// The number of cells of the whole matrix, before [`Plan::only`] and [`Plan::shard`].
    pub total_cells: usize,
}

/// One combination of settings, to be measured [`Plan::repeat`] times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The name of the cell, made of the settings that distinguish it: `stress.rate=96MBps,link.delay=20ms`,
    /// or `base` if there are none. Unique in the matrix, usable as a file name, and stable as long as these
    /// settings keep their values.
    pub id: String,
    /// The position of the cell in the whole matrix, from 0; filters do not change it.
    pub index: usize,
    /// The settings that the axes or `include` set, as canonical text by path, in the order of the file.
    pub axes: IndexMap<String, String>,
    /// All settings of the cell, whether shared or its own.
    pub settings: Settings,
}

/// One migration of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The cell, as an index into [`Plan::cells`].
    pub cell: usize,
    /// The number of this attempt among those of its cell, from 1.
    pub number: u32,
}

/// The order in which cells are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunOrder {
    /// The order of the file.
    AsWritten,
    /// A random order, which the seed reproduces.
    Shuffled {
        /// The seed, either from the file or derived from the cells.
        seed: u64,
    },
}

impl Plan {
    /// Returns all attempts in the order in which to make them: every cell has its first attempt before any
    /// has its second.
    ///
    /// The order of two cells does not depend on the cells that a filter removed.
    pub fn attempts(&self) -> Vec<Attempt> {
        let by_index: IndexMap<usize, usize> =
            self.cells.iter().enumerate().map(|(position, cell)| (cell.index, position)).collect();
        let mut shuffle = match self.order {
            RunOrder::AsWritten => None,
            RunOrder::Shuffled { seed } => Some(order::Shuffle::new(seed)),
        };
        let mut attempts = Vec::with_capacity(self.cells.len() * self.repeat as usize);
        for number in 1..=self.repeat {
            let mut round: Vec<usize> = (0..self.total_cells).collect();
            if let Some(shuffle) = &mut shuffle {
                shuffle.apply(&mut round);
            }
            let cells = round.iter().filter_map(|index| by_index.get(index));
            attempts.extend(cells.map(|&cell| Attempt { cell, number }));
        }
        attempts
    }

    /// Keeps only the cells that meet a condition.
    #[must_use]
    pub fn only(mut self, condition: &Expression) -> Self {
        self.cells.retain(|cell| condition.matches(&cell.settings));
        self
    }

    /// Keeps only the cells of a shard: for `i/n`, every `n`-th cell, beginning with the `i`-th. The shards
    /// of a plan are disjoint and together have all of its cells, each with all of its repeats.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        let mut position = 0;
        self.cells.retain(|_| {
            position += 1;
            shard.contains(position - 1)
        });
        self
    }

    /// Returns the cell with this ID.
    pub fn cell(&self, id: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.id == id)
    }

    /// Returns the published figure of a subject for a cell, in milliseconds or bytes.
    pub fn published(&self, cell: &Cell, subject: Subject) -> Option<f64> {
        self.reference.as_ref()?.row_for(&cell.settings)?.figure(subject)
    }

    /// Returns the paths of all settings that distinguish cells, in the order in which they first appear.
    /// They become the columns of a table.
    pub fn axis_paths(&self) -> Vec<&str> {
        let paths: indexmap::IndexSet<&str> =
            self.cells.iter().flat_map(|cell| cell.axes.keys().map(String::as_str)).collect();
        paths.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
