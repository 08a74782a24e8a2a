//! Runs a matrix of real QEMU live migrations and reports what it measured.

pub mod docs;
pub mod guest;
pub mod matrix;
pub mod outcome;
pub mod setup;
