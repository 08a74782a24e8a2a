//! A node: one process that stands for one host of the lab.
//!
//! On this machine it lives in namespaces of its own; elsewhere it is the same process on another host, started
//! over SSH, in such namespaces too, which take over wires of the host's ([`host`]). Either way the orchestrator
//! talks to it through its standard input and output ([`protocol`]), it owns everything it starts, and everything
//! it started goes when it goes.
//!
//! ```text
//! testbed ── testbed node (makes the namespaces) ── testbed node (first process inside) ── QEMU
//!    └──────────────── standard input and output ────────────────┘
//! ```
//!
//! [`client`] is the orchestrator's side, [`serve`] the node's, [`isolate`] makes the namespaces, [`probe`]
//! is the downtime probe that a node can run, [`tcp_buffers`] sets how far TCP's buffers may grow, [`round_trip`] measures how far away
//! nodes are, [`visit`] brings a user's
//! program into a node.

pub mod client;
mod frames;
pub mod host;
pub mod isolate;
pub mod probe;
pub mod protocol;
pub mod round_trip;
pub mod serve;
pub mod tcp_buffers;
pub mod visit;

pub use client::{Channel, ChannelWriter, Event, Node, NodeError, Process};
