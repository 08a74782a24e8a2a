//! The names and addresses of a lab's nodes and interfaces. They are the same in every lab.
//!
//! The addresses are from the ranges reserved for documentation (RFC 5737) and for measurements of networks
//! (RFC 2544, the storage network's); they exist only inside the lab.

use std::net::Ipv4Addr;

/// The names of a lab's nodes: the controller, the source and the destination.
pub const NODES: [&str; 3] = ["controller", "compute1", "compute2"];

/// The controller's address on the guests' network.
pub const CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The addresses of source and destination on the link shaped by the kernel.
pub const SHAPED_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
/// The addresses of source and destination on the emulated link.
pub const EMULATED_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
/// The name of a compute node's interface on the migration link shaped by the kernel.
pub const MIGRATION: &str = "migration";
/// The name of a compute node's interface on the emulated migration link.
pub const EMULATED: &str = "emulated";
/// The name of a node's interface on the guests' network.
pub const GUESTS: &str = "guests";

/// The controller's address on the storage network, at which it serves disks.
pub const STORAGE_CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The addresses of source and destination on the storage network.
pub const STORAGE_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 2), Ipv4Addr::new(198, 18, 0, 3)];
/// The name of a node's interface on the storage network; the controller's is a bridge.
pub const STORAGE: &str = "storage";
/// The names of the bridge's ports: the controller's ends of the links to source and destination.
pub const STORAGE_PORTS: [&str; 2] = ["storage1", "storage2"];

/// The guest's address and prefix length on the guests' network.
pub const GUEST_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 51, 100, 10), 24);

/// The prefix length of every network in the lab.
pub const PREFIX: u8 = 24;

/// The guest's Ethernet address: locally administered, in QEMU's usual range.
pub const GUEST_MAC: &str = "52:54:00:12:34:56";
