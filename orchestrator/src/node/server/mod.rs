//! The node's side: it serves the calls of the protocol ([`serve`]) in namespaces of its own ([`isolate`],
//! [`outside`]).
//!
//! [`probe`] is the downtime probe that a node can run, [`tcp_buffers`] sets how far TCP's buffers may grow,
//! [`host`] uses the interfaces of another host, [`visit`] brings a user's program into a node.

mod frames;
pub mod host;
pub mod isolate;
pub mod outside;
pub mod probe;
pub mod serve;
pub mod tcp_buffers;
pub mod visit;
