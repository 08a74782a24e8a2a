//! The results of a run: a folder that holds everything needed to read, check, continue and repeat it.
//!
//! ```text
//! matrix.yaml         the matrix file as run
//! selection.json      which part of the matrix is run: --only, --repeat, --shard
//! environment.json    what it ran on
//! cells.jsonl         one record per attempt, appended and synced as soon as it is known
//! summary.csv         the same in short, one row per attempt, written when the run ends
//! attempts/CELL.N/    samples.jsonl, source.log, destination.log of each attempt (and boot.log)
//! ```
//!
//! [`record`] is what is measured, [`store`] the folder, [`environment`] what it ran on,
//! [`agreement`] compares figures that were measured twice, [`verdict`] what the records say about what the matrix expects. [`parts`] puts folders together that
//! are parts of one run.

pub mod agreement;
pub mod environment;
pub mod obtained;
pub mod parts;
pub mod record;
pub mod store;
pub mod verdict;
