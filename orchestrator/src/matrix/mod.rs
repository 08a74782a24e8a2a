//! The way from a matrix file to the list of migrations that it defines.
//!
//! ```text
//!   text ── File::parse ──> File ── File::expand ──> Plan ── Plan::attempts ──> attempts, in order
//!                       (as written)             (as resolved)
//! ```
//!
//! [`File`] is the matrix as its author wrote it, with every check that needs only the text. [`Plan`] is the
//! list of cells, each with all of its [`Settings`], and each valid by itself. Both steps report all errors
//! together, as [`Diagnostics`] that name the key's path, the line and the column. An [`Expression`] selects
//! cells, both in the file and on the command line. [`Traces`] are the files that a matrix names.
//!
//! Nothing in this module looks at the host. If the host lacks something that a cell needs, the run skips
//! that cell later.

mod catalog;
mod changes;
mod diagnostic;
mod expect;
mod expression;
mod file;
mod numbers;
mod plan;
mod schema;
pub mod selection;
mod settings;
mod synonyms;
mod traces;
mod typed;
pub(crate) mod yaml;

pub use changes::Changes;
pub use diagnostic::{Diagnostic, Diagnostics, KeyPath, Position, Segment};
pub use expect::{
    Bound, Bounds, Expectation, Finding, Interval, Limits, NoDisagreements, Percentage, PercentageError,
    Reference, ReferenceRow, Subject,
};
pub use expression::{Expression, ExpressionError};
pub(crate) use file::MAX_REPEAT;
pub use file::{Axis, CellOrder, File, Overrides};
pub use numbers::{NumberUnit, SettingNumbers};
pub use plan::{Attempt, Cell, Plan, RunOrder, Shard, ShardError};
pub use schema::schema;
pub(crate) use settings::is_default;
pub use settings::{
    Accel, Bandwidth, CacheMode, Cycle, Guest, ImageFormat, Link, LinkChange, LoadRate, Migrate, MirrorSync,
    Probe, Settings, SettingsError, Step, Storage, StorageKind, Stress, StressChange, TimelineEntry,
    TraceFile, Transport, Wave, WaveShape, WorkingSet, ZeroPageDetection, kernel_reserve,
};
pub use traces::{TraceTexts, Traces};
