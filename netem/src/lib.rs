//! Traffic shaping for ordinary network interfaces: rate, delay, jitter, loss and other faults.
//!
//! A [`Profile`] describes what one direction of a link does to packets. [`Netlink`] is a connection to the
//! kernel in one network namespace. It applies profiles to interfaces, reads back what is in force, changes
//! it while traffic flows, and removes it, after which the interface has the kernel's default qdisc again:
//!
//! ```no_run
//! # async fn example() -> netem::Result<()> {
//! let netlink = netem::Netlink::open()?;
//! let profile = netem::Profile { rate: Some("928mbit".parse().unwrap()), ..Default::default() };
//! let applied = netlink.apply("eth0", &profile).await?;
//! println!("{} by the {} backend: {:?}", applied.interface, applied.backend, applied.tree);
//! assert_eq!(netlink.profile("eth0").await?, Some(profile));
//! netlink.clear("eth0").await?;
//! # Ok(()) }
//! ```
//!
//! - [`profile`](Profile) and [`named`]: the requested settings, validated before anything is changed.
//! - [`trace`]: rates over time.
//! - [`kernel`]: tbf, htb, netem and ifb through rtnetlink, never by running `tc`; [`wire`] encodes and
//!   decodes their netlink options.
//! - [`userspace`]: the same effects between two TUN devices, for kernels without `sch_netem`.
//! - [`links`]: veth pairs, bridges, addresses and counters, for a lab made of network namespaces.
//! - [`routes`]: the interfaces that carry a connection.
//! - [`show`]: the profiles, qdiscs and counters of an interface, as `netem show` prints them.
//! - [`interface`]: the interfaces of a namespace and their names; [`ethernet`]: frame sizes.
//! - [`measure`]: goodput, round trips and loss across a link.
//! - [`cli`]: the program `netem`.

#![warn(missing_docs)]

pub mod cli;
pub mod error;
pub mod ethernet;
pub mod feature;
pub mod interface;
pub mod kernel;
pub mod links;
pub mod measure;
pub mod named;
mod netlink;
mod netns;
mod percent;
mod profile;
pub mod routes;
pub mod show;
mod sys;
pub mod trace;
pub mod userspace;
pub mod wire;

pub use error::{Error, Result};
pub use feature::Feature;
pub use interface::Interface;
pub use kernel::{Applied, Backend};
pub use links::{Counters, LinkRole, LinkUser};
pub use netlink::Netlink;
pub use netns::Namespace;
pub use percent::{Percent, PercentError};
pub use profile::{Distribution, GilbertElliott, LinkProfile, Profile, ProfileError, Shaper, Slots};
