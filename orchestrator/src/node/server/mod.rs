//! The node's side of the protocol: it serves calls ([`serve`]) in its own namespaces ([`isolate`],
//! [`outside`]).
//!
//! [`probe`] is the downtime probe, [`tcp_buffers`] raises the limits of TCP's buffers, [`host`] takes over
//! interfaces of the host that a remote node runs on, `wire` counts the bytes that a node sends and
//! `connections` those of TCP connections, `boot_files` checks the files that QEMU boots on another host,
//! `disks` holds the disks of guests, `userfaultfd` lets QEMU be the destination of post-copy, and `streams`
//! reads and writes messages.
//!
//! [`visit`] runs a user's program in a node, through [`session`], which gives it a terminal and a user of
//! its own. [`process`] checks that a process is the node that it claims to be.

mod boot_files;
mod connections;
mod disks;
mod frames;
pub mod host;
pub mod isolate;
pub mod outside;
pub mod parent;
pub mod probe;
pub mod process;
pub mod serve;
pub mod session;
mod streams;
pub mod tcp_buffers;
mod userfaultfd;
pub mod visit;
mod wire;
