//! Links with a rate, a delay and faults, made of ordinary ones.
//!
//! A [`Profile`] says what one direction of a link does to packets. [`Netlink`] is a connection to the kernel
//! in one network namespace; it applies profiles to interfaces, shows what is in force, changes it while
//! traffic flows, and takes it away without a trace:
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
//! - [`profile`](Profile) and [`named`]: what is asked for, checked before anything is touched.
//! - [`trace`]: rates over time.
//! - [`kernel`]: tbf, htb, netem and ifb through rtnetlink, never by running `tc`; [`wire`] has their bytes.
//! - [`userspace`]: the same effects between two TUN devices, where the kernel has no `sch_netem`.
//! - [`links`]: veth pairs, bridges, addresses, counters: what a lab of namespaces needs.
//! - [`show`]: what is in force on an interface.
//! - [`ethernet`]: the sizes of frames.
//! - [`measure`]: goodput, round trips and loss across a link.
//! - [`cli`]: the program `netem`.

pub mod cli;
pub mod error;
pub mod ethernet;
pub mod feature;
pub mod kernel;
pub mod links;
pub mod measure;
pub mod named;
mod netlink;
mod netns;
mod percent;
mod profile;
pub mod show;
mod sys;
pub mod trace;
pub mod userspace;
pub mod wire;

pub use error::{Error, Result};
pub use feature::Feature;
pub use kernel::{Applied, Backend};
pub use links::Counters;
pub use netlink::{Interface, Netlink};
pub use netns::Namespace;
pub use percent::{Percent, PercentError};
pub use profile::{Distribution, GilbertElliott, LinkProfile, Profile, ProfileError, Shaper, Slots};
