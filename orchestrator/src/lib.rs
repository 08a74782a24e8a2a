//! A testbed for QEMU live migrations: runs a matrix of real migrations and reports what it measured.

pub mod bounded;
pub mod cli;
pub mod docs;
pub mod driver;
pub mod event;
pub mod finding;
pub mod host;
pub mod image;
pub mod input;
pub mod inspect;
pub mod lab;
pub mod layout;
pub mod matrix;
pub mod measure;
pub mod migration;
pub mod mode;
pub mod nfs;
pub mod node;
pub mod outcome;
pub mod predict;
pub mod process_tree;
pub mod progress;
pub mod report;
pub mod results;
pub mod run;
pub mod setup;
mod sys;
