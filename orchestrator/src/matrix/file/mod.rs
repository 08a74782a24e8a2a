//! The matrix file as its author wrote it, with every check that needs only the text.
//!
//! [`File::parse`] looks at nothing but the text. It finds invalid YAML, keys that are unknown or appear
//! twice, values of the wrong type, quantities without a unit, empty axes and invalid expressions, and
//! reports all of them together. [`File::expand`] then checks whether the settings of each cell make sense
//! together.
//!
//! An axis is named after the setting it varies. An axis that varies several settings together may have any
//! other name:
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
    diagnostic::{Diagnostics, KeyPath},
    expect::{Expectation, Reference},
    expression::Expression,
    settings::Settings,
    yaml::{DiagnosticSink, Document},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

mod read;

pub(crate) use read::{MAX_CELLS, MAX_REPEAT};

/// A matrix: a guest, a link, a workload and a way to migrate, and the axes along which they vary.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields, title = "Migration matrix")]
pub struct File {
    /// The name of the matrix, which also names the results folder: 1 to 64 letters, digits, `.`, `_` and
    /// `-`, of which the first is a letter or a digit. The only key that every matrix must have.
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub name: String,
    /// What the matrix is meant to show. Free text for readers; it has no effect on the run.
    #[schemars(default)]
    pub description: Option<String>,
    /// The settings that all cells share, unless an axis or an entry of `include` changes them.
    #[schemars(flatten)]
    pub settings: Settings,
    /// What varies between cells. Every combination of one value from each axis is a cell; the last axis
    /// varies fastest. An axis named after a setting, such as `stress.rate`, lists values of that setting. An
    /// axis with any other name lists mappings, each of which sets several settings together. At most 100,000
    /// cells.
    #[schemars(with = "BTreeMap<String, Vec<Value>>", default = "BTreeMap::<String, Vec<Value>>::new")]
    pub axes: Vec<Axis>,
    /// Additional cells, each a mapping from settings to values. Without `axes`, these are the only cells.
    #[schemars(with = "Vec<BTreeMap<String, Value>>", default = "Vec::<BTreeMap<String, Value>>::new")]
    pub include: Vec<Overrides>,
    /// Combinations of the axes to leave out: conditions such as `stress.rate > 96MB/s`, or mappings from
    /// settings to values, which match if all their values do. Each must match at least one cell. Cells from
    /// `include` are never left out.
    #[schemars(with = "Vec<Exclusion>", default = "Vec::<Exclusion>::new")]
    pub exclude: Vec<Expression>,
    /// The number of attempts for each cell.
    #[schemars(range(min = 1, max = MAX_REPEAT), default = "once")]
    pub repeat: u32,
    /// The order in which cells are measured. Every cell has its first attempt before any cell has a second
    /// one, and so on.
    #[schemars(default)]
    pub order: CellOrder,
    /// The seed of the shuffled order: the same seed gives the same order. By default it is derived from the
    /// cells, so that the same cells come in the same order every time. Only with `order: shuffled`.
    #[schemars(default)]
    pub seed: Option<u64>,
    /// What the attempts must show for the run to succeed. `testbed run` exits with code 1 if an expectation
    /// is violated or undecided.
    #[schemars(default = "Vec::<Expectation>::new")]
    pub expect: Vec<Expectation>,
    /// Published figures, which reports show beside the measured ones.
    #[schemars(default)]
    pub reference: Option<Reference>,
    /// The text and the positions of its keys, for error messages about cells.
    #[schemars(skip)]
    pub(super) document: Arc<Document>,
}

/// One axis of a matrix.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The path of the setting that the axis varies, or a free name if it varies several settings together.
    pub name: String,
    /// The values of the axis, in the order of the file; at least one.
    pub values: Vec<Overrides>,
}

/// Settings that replace shared ones: one value of an axis, or one cell of `include`.
#[derive(Debug, Clone)]
pub struct Overrides {
    /// Which settings are set, in the order of the file; no setting appears twice.
    pub(super) assignments: Vec<Assignment>,
    /// The new values, at the settings listed in `assignments`. All other settings here are meaningless.
    pub(super) values: Settings,
}

/// One setting that an axis or `include` sets.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    pub(super) setting: &'static Setting,
    /// The value in its canonical form: `1GB` even if the file says `1000MB`.
    pub(super) text: Arc<str>,
    /// The path in the file at which the value is written.
    pub(super) at: KeyPath,
}

impl Overrides {
    /// Copies the overriding values into `settings`.
    pub(super) fn apply(&self, settings: &mut Settings) {
        for assignment in &self.assignments {
            assignment.setting.copy(&self.values, settings);
        }
    }
}

/// The order in which cells are measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CellOrder {
    /// The order of the file: combinations of the axes with the last axis varying fastest, then `include`.
    #[default]
    AsWritten,
    /// A random order, shuffled again for each round of repeats, so that a slow drift of the host (warming
    /// up, other load) does not look like an effect of the settings.
    Shuffled,
}

/// An entry of `exclude`. Only its schema is used.
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
    /// Parses the text of a matrix file. `source_name` is the file's name in error messages; no file is
    /// opened.
    ///
    /// # Errors
    ///
    /// Returns every error in the text, with its line and column.
    pub fn parse(text: &str, source_name: &str) -> Result<Self, Diagnostics> {
        let document = Arc::new(Document::parse(text, source_name)?);
        let mut sink = DiagnosticSink::new(&document);
        let file = read::file(&document, &mut sink);
        match (sink.finish(())?, file) {
            ((), Some(file)) => Ok(file),
            // Unreachable: without a file there is at least one diagnostic, and `finish` has returned it.
            ((), None) => Err(Diagnostics::new(source_name, text.into())),
        }
    }
}
