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
//! [`record`] and [`environment`] are what is written, plain data in a versioned [`format`](mod@format);
//! [`builder`] makes a record while an attempt runs, [`figures`] says what each figure is. [`store`] is the
//! folder, [`samples`] reads an attempt's samples, [`schema`] describes all of it. [`agreement`] compares
//! figures that were measured twice, [`verdict`] what was measured with what the matrix expects, and
//! `threshold` says where convergence ends. [`parts`] puts folders together that are parts of one run.
//!
//! Nothing here knows labs, nodes or QEMU: results are read where none of them is.

pub mod agreement;
pub mod builder;
pub mod environment;
pub mod figures;
#[cfg(test)]
mod fixtures;
pub mod format;
pub mod parts;
pub mod record;
pub mod samples;
pub mod schema;
pub mod store;
mod threshold;
pub mod verdict;
