//! The stressor dirties memory at a chosen rate, reports the rate it achieves, and verifies the memory. It
//! does the same with a disk.
//!
//! It generates the load in live migration experiments. As PID 1 of a guest it is controlled by the host over
//! a virtio-serial port; as an ordinary program it is controlled by its command line. Both use the same
//! parts:
//!
//! - [`workload`]: the settings, as people write them. [`machine`]: the check that there is enough memory,
//!   within all limits (`headroom`) and in `huge_pages`.
//! - `content`: the content of a page, derived from its index and generation. `memory`: regions of pages and
//!   the table of their generations. [`verify`]: the result of comparing memory with its expected content.
//! - [`pace`]: when the next page is due. `walk`: which page that is. `lane`: a thread that writes pages.
//! - [`engine`]: memory and lanes behind five operations: set, start, stop, verify, meter.
//! - [`disk`]: the content of the blocks of a disk, and the load on it. [`disk_engine`]: the threads that
//!   write and read it.
//! - [`meter`]: the counters of the lanes and their reader. [`protocol`]: the messages between the host and
//!   the stressor. [`control`]: the stressor's side of that protocol.
//! - [`init`]: PID 1. [`cli`] and [`program`]: the ordinary program.
//!
//! The host uses [`Workload`], [`protocol`] and [`verify`], which do no I/O, and [`disk`] to write images.

#![warn(missing_docs)]

pub mod cgroup;
pub mod cli;
mod clock;
mod content;
pub mod control;
pub mod disk;
pub mod disk_engine;
pub mod engine;
mod error;
mod headroom;
mod huge_pages;
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
pub use share::Percentage;
pub use workload::Workload;
