//! The results of a run: a folder with everything that is needed to read, check, continue and repeat the run.
//!
//! ```text
//! matrix.yaml         the matrix file that is run
//! selection.json      the part of the matrix that is run: --only, --repeat, --shard
//! environment.json    the hosts, QEMU and guest of the run
//! cells.jsonl         one record per attempt, appended and synced when the attempt ends
//! summary.csv         a summary with one row per attempt, written when the run ends
//! report.html         the report as a page for a browser, written when the run ends
//! attempts/CELL.N/    samples.jsonl, telemetry.jsonl, probe.jsonl, source.log and destination.log of each
//!                     attempt (and boot.log); probe-live.jsonl of the attempt in progress
//! ```
//!
//! - [`record`] and [`environment`] define what is written: plain data in a versioned [`format`](mod@format).
//! - [`figures`] defines each figure of a record; [`builder`] fills a record while its attempt runs.
//! - [`store`] reads and writes the folder, [`samples`] reads the samples of an attempt, [`telemetry`] its
//!   guest's reports, [`client`] what its probe saw, and [`schema`] describes the files as JSON Schema.
//! - [`agreement`] compares figures that measure the same quantity, [`verdict`] compares the records with the
//!   expectations of the matrix, and [`threshold`] finds the dirty rate at which convergence ends.
//! - [`parts`] merges folders that are parts of one run.
//!
//! This module does not depend on labs, nodes or QEMU, so that results can be read on hosts without any of
//! them.

pub mod agreement;
pub mod builder;
pub mod client;
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
pub mod telemetry;
pub mod threshold;
pub mod verdict;
