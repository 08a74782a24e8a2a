//! A node: one process that stands for one host of the lab.
//!
//! On this machine it lives in namespaces of its own; elsewhere it is the same process on another host,
//! started over SSH, in such namespaces too, which take over wires of the host's ([`server::host`]). Either
//! way the orchestrator talks to it through its standard input and output ([`protocol`]), it owns everything
//! it starts, and everything it started goes when it goes.
//!
//! ```text
//! testbed ── testbed node (makes the namespaces) ── testbed node (first process inside) ── QEMU
//!    └──────────────── standard input and output ────────────────┘
//! ```
//!
//! [`client`] is the orchestrator's side, [`server`] the node's. [`round_trip`] measures how far away nodes
//! are.

pub mod client;
pub mod protocol;
pub mod round_trip;
pub mod server;

pub use client::{Channel, ChannelWriter, Event, Node, NodeError, Process};
