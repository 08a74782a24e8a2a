//! The orchestrator of the live-migration testbed.

pub mod guest;
pub mod setup;
