//! What is shown of a run when it has ended, one format a file.

pub mod composition;
pub mod csv;
pub mod table;
