//! The plan: every cell of a matrix with all of its settings, and the order in which to measure them.

use super::{
    expect::{Expectation, Reference},
    expression::Expression,
    settings::Settings,
};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod expand;
mod order;

pub use order::{Shard, ShardError};

/// A matrix as resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The matrix's name.
    pub name: String,
    /// What the matrix shows, for people.
    pub description: Option<String>,
    /// The cells, in the order of the file; at least one, until [`Plan::only`] or [`Plan::shard`] leaves
    /// none.
    pub cells: Vec<Cell>,
    /// How often each cell is measured; at least once.
    pub repeat: u32,
    /// The order in which cells are measured.
    pub order: RunOrder,
    /// What the measurements have to show.
    pub expect: Vec<Expectation>,
    /// Published figures, to stand beside the measurements.
    pub reference: Option<Reference>,
    /// How many cells the whole matrix has.
    pub total_cells: usize,
}

/// One combination of settings, to be measured [`Plan::repeat`] times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Names the cell by what distinguishes it: `stress.rate=96MBps,link.delay=20ms`, or `base` where nothing
    /// does. Unique in the matrix, fit for a file name, and the same as long as the cell's axes are.
    pub id: String,
    /// Its place in the whole matrix, from 0; unchanged by filters.
    pub index: usize,
    /// What the axes set, by path, in the order of the file; each value as the setting prints it.
    pub axes: IndexMap<String, String>,
    /// All settings.
    pub settings: Settings,
}

/// One measurement of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The cell, as its position in [`Plan::cells`].
    pub cell: usize,
    /// Which of the cell's measurements this is, from 1.
    pub number: u32,
}

/// The order in which cells are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunOrder {
    /// As the file gives them.
    AsWritten,
    /// At random; the seed gives the same order again.
    Shuffled {
        /// The seed, as written or as derived from the cells.
        seed: u64,
    },
}

impl Plan {
    /// Every measurement, in the order in which to make them: each cell once before any a second time.
    ///
    /// The order of two cells does not depend on which others a filter left out.
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

    /// The cells for which a condition holds.
    #[must_use]
    pub fn only(mut self, condition: &Expression) -> Self {
        self.cells.retain(|cell| condition.matches(&cell.settings));
        self
    }

    /// One part of the cells: with `i/n`, every `n`-th, beginning with the `i`-th. All parts together are the
    /// whole, and each measures all repeats of its cells.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        let mut position = 0;
        self.cells.retain(|_| {
            position += 1;
            shard.has(position - 1)
        });
        self
    }

    /// The cell of this identity.
    pub fn cell(&self, id: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.id == id)
    }

    /// What is expected of a cell.
    pub fn expectations_of<'a>(&'a self, cell: &'a Cell) -> impl Iterator<Item = &'a Expectation> {
        self.expect.iter().filter(|expectation| expectation.applies_to(&cell.settings))
    }

    /// The paths that distinguish the cells, in the order in which they first appear: the columns of a table.
    pub fn axis_paths(&self) -> Vec<&str> {
        let paths: indexmap::IndexSet<&str> =
            self.cells.iter().flat_map(|cell| cell.axes.keys().map(String::as_str)).collect();
        paths.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
