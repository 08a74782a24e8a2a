//! The orchestrator of the live-migration testbed.

pub mod docs;
pub mod guest;
pub mod setup;
