//! Runs a matrix of real QEMU live migrations and reports what it measured.

pub mod cli;
pub mod docs;
pub mod guest;
pub mod host;
pub mod lab;
pub mod matrix;
pub mod measure;
pub mod migration;
pub mod model;
pub mod node;
pub mod outcome;
pub mod preview;
pub mod qemu;
pub mod qmp;
pub mod results;
pub mod run;
pub mod setup;
mod sys;
pub mod ui;
pub mod workload;
