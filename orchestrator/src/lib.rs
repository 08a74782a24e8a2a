//! Runs a matrix of real QEMU live migrations and reports what it measured.

pub mod matrix;
pub mod model;
pub mod outcome;
