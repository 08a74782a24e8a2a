//! The matrix file as its author wrote it: read and checked as far as the text alone allows.
//!
//! [`File::parse`] looks at nothing but the text. It finds what is not YAML, keys that are unknown or appear
//! twice, values of the wrong type, quantities without a unit, empty axes and expressions that do not hold
//! together; it reports all of them at once. Whether the settings of each cell make sense together is for
//! [`File::expand`].
//!
//! An axis is named by the setting it varies, or, when it varies several together, by any other word:
//!
//! ```yaml
//! axes:
//!   stress.rate: [64MB/s, 96MB/s]
//!   patience:
//!     - { migrate.timeout: 10s, migrate.downtime_limit: 300ms }
//!     - { migrate.timeout: 60s, migrate.downtime_limit: 30ms }
//! ```

use super::{
    catalog::Setting,
    diagnostic::{Diagnostics, FilePath},
    expect::{Expectation, Reference},
    expression::Expression,
    settings::Settings,
    yaml::{Document, Sink},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

mod read;

pub(crate) use read::MOST_CELLS;

/// A matrix file as written.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields, title = "Migration matrix")]
pub struct File {
    /// Names the results: letters, digits, `.`, `_` and `-`, at most 64 of them.
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub name: String,
    /// What the matrix shows, for people.
    #[schemars(default)]
    pub description: Option<String>,
    /// The settings that all cells share, but for what an axis or `include` changes.
    #[schemars(flatten)]
    pub settings: Settings,
    /// What varies: every combination of one value from each axis is a cell, the last axis varying fastest.
    /// An axis is named by a setting and lists its values; under any other name, it lists mappings that set
    /// several settings together.
    #[schemars(with = "BTreeMap<String, Vec<Value>>", default = "BTreeMap::<String, Vec<Value>>::new")]
    pub axes: Vec<Axis>,
    /// More cells, each a mapping from settings to values. With `include` and without `axes`, these are the
    /// only cells.
    #[schemars(with = "Vec<BTreeMap<String, Value>>", default = "Vec::<BTreeMap<String, Value>>::new")]
    pub include: Vec<Point>,
    /// Cells of the axes to leave out: conditions, or mappings from settings to values. Does not apply to
    /// `include`.
    #[schemars(with = "Vec<Exclusion>", default = "Vec::<Exclusion>::new")]
    pub exclude: Vec<Expression>,
    /// How often each cell is measured.
    #[schemars(range(min = 1, max = 1000), default = "once")]
    pub repeat: u32,
    /// The order in which cells are measured. Each is measured once before any is measured again.
    #[schemars(default)]
    pub order: Order,
    /// Fixes the shuffled order; without it, the order follows from the cells.
    #[schemars(default)]
    pub seed: Option<u64>,
    /// What the measurements have to show for the run to succeed.
    #[schemars(default = "Vec::<Expectation>::new")]
    pub expect: Vec<Expectation>,
    /// Published figures, to stand beside the measurements.
    #[schemars(default)]
    pub reference: Option<Reference>,
    /// The text, for messages about cells.
    #[schemars(skip)]
    pub(super) document: Arc<Document>,
}

/// One axis of a matrix.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The setting it varies, or a name of its own.
    pub name: String,
    /// Its values; at least one.
    pub points: Vec<Point>,
}

/// Settings that are set together: one value of an axis, or one cell of `include`.
#[derive(Debug, Clone)]
pub struct Point {
    /// What is set, in the order of the file, no setting twice.
    pub(super) assignments: Vec<Assignment>,
    /// Settings that have these values; the rest of them means nothing.
    pub(super) values: Settings,
}

/// One setting that an axis or `include` sets.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    pub(super) setting: &'static Setting,
    /// The value as the setting prints it, whichever way it was written: `1GB` for `1000MB`.
    pub(super) text: Arc<str>,
    /// Where it is written.
    pub(super) at: FilePath,
}

impl Point {
    /// Sets what it sets.
    pub(super) fn apply(&self, settings: &mut Settings) {
        for assignment in &self.assignments {
            assignment.setting.copy(&self.values, settings);
        }
    }
}

/// The order in which cells are measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// As the axes give them.
    #[default]
    AsWritten,
    /// At random, anew in each round of repeats, so that a drift of the machine does not look like an effect.
    Shuffled,
}

/// The schema of an entry of `exclude`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the file, is never made")]
enum Exclusion {
    Condition(Expression),
    Settings(BTreeMap<String, Value>),
}

const fn once() -> u32 {
    1
}

impl File {
    /// Reads a matrix file. `source_name` is what messages call it; nothing is opened.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the text, with its place.
    pub fn parse(text: &str, source_name: &str) -> Result<Self, Diagnostics> {
        let document = Arc::new(Document::parse(text, source_name)?);
        let mut sink = Sink::new(&document);
        let file = read::file(&document, &mut sink);
        match (sink.finish(())?, file) {
            ((), Some(file)) => Ok(file),
            // A file that could not be read has left a reason, so this is not reached.
            ((), None) => Err(Diagnostics::new(source_name, text.into())),
        }
    }
}
