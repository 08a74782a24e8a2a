//! From a matrix file to the list of migrations it asks for.
//!
//! ```text
//!   text ── File::parse ──> File ── File::expand ──> Plan ── Plan::attempts ──> what to run, in order
//!           (as written)            (as resolved)
//! ```
//!
//! [`File`] is what the author wrote, checked as far as the text alone allows; [`Plan`] is every cell with
//! all of its [`Settings`], each sound in itself. Both steps report everything they find at once, as
//! [`Diagnostics`] that name the key's path, the line and the column. Nothing here looks at the machine: what
//! it lacks becomes a skipped cell later. An [`Expression`] selects cells, in the file and on the command
//! line.

mod catalog;
mod changes;
mod diagnostic;
mod expect;
mod expression;
mod file;
mod plan;
mod schema;
pub mod selection;
mod settings;
mod typed;
mod yaml;

pub use changes::Changes;
pub use diagnostic::{Diagnostic, Diagnostics, FilePath, Position, Segment};
pub use expect::{Bound, Bounds, Expectation, Reference, ReferenceRow, Subject};
pub use expression::{Expression, ExpressionError};
pub use file::{Axis, File, Order, Point};
pub use plan::{Attempt, Cell, Plan, RunOrder, Shard, ShardError};
pub use schema::schema;
pub use settings::{
    Accel, Bandwidth, Entry, Guest, LinkChange, Migrate, Probe, Problem, Settings, Step, Stress,
    StressChange, WorkingSet, kernel_reserve,
};
