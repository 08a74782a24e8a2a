//! The stressor dirties memory at a chosen rate and says what it achieved.
//!
//! It is the load in experiments with live migration. As PID 1 of a guest it is driven by the host over a
//! virtio-serial port; as an ordinary program it is driven by its command line. Either way the parts are:
//!
//! - [`workload`]: what is asked for, as people write it. [`machine`]: whether the machine has the memory.
//! - `content`: what a page holds, derivable from its index and generation. `memory`: pages and the table
//!   of their generations. [`verify`]: what a check of them found.
//! - [`pace`]: when the next page is due. `walk`: which one it is. `lane`: a thread that writes it.
//! - [`engine`]: memory and lanes behind five verbs: set, start, stop, verify, meter.
//! - [`meter`]: what the lanes count and how it is read. [`protocol`]: what host and stressor say to each
//!   other. [`control`]: the stressor's side of that conversation.
//! - [`init`]: PID 1. [`cli`] and [`program`]: the ordinary program.
//!
//! The host uses [`Workload`], [`protocol`] and [`verify`]; nothing in those does I/O.

mod cgroup;
pub mod cli;
mod clock;
mod content;
pub mod control;
pub mod engine;
mod error;
pub mod init;
mod lane;
pub mod machine;
mod memory;
pub mod meter;
pub mod pace;
pub mod program;
pub mod protocol;
mod share;
mod sys;
pub mod text;
pub mod verify;
mod walk;
pub mod workload;

pub use clock::monotonic_ns;
pub use error::Error;
pub use share::Share;
pub use workload::Workload;
