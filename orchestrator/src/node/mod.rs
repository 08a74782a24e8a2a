//! A node: a process that represents one host of the lab.
//!
//! In the local lab, a node lives in its own namespaces on this host. On another host it is the same process,
//! started over SSH; its namespaces take over interfaces of that host ([`server::host`]). In both cases the
//! orchestrator talks to the node through its standard input and output ([`protocol`]). A node owns
//! everything it starts, and all of it ends with the node.
//!
//! ```text
//! testbed ── testbed node (makes the namespaces) ── testbed node (first process inside) ── QEMU
//!    └──────────────── standard input and output ────────────────┘
//! ```
//!
//! [`client`] is the orchestrator's side, [`server`] the node's. [`alive`] distinguishes a lost node from a
//! busy machine. [`round_trip`] measures the latency between the orchestrator and its nodes.

pub mod alive;
pub mod client;
pub mod protocol;
pub mod round_trip;
pub mod server;

pub use client::{Channel, ChannelLine, ChannelWriter, Disk, Node, NodeError, Process, ProcessEvent};
