//! What an interface is and what uses it. This decides whether an interface can carry a macvlan.

use crate::{error::Result, interface::Interface, netlink::Netlink};

/// An interface's kind, its state and the interfaces of its network namespace that use it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's answer")]
pub struct LinkRole {
    /// The interface's name.
    pub name: String,
    /// The interface's index, unique within its network namespace.
    pub index: u32,
    /// The kind as `ip -details link` prints it, such as `bridge`, `veth` or `wireguard`; `None` for physical
    /// devices and for the loopback interface.
    pub kind: Option<String>,
    /// Whether it is a loopback interface.
    pub loopback: bool,
    /// Whether its frames are Ethernet frames. Those of a TUN device or a tunnel are not.
    pub ethernet: bool,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has a carrier; always `false` for an interface that is down.
    pub carrier: bool,
    /// The bridge, bond or VRF of which it is a port, if any.
    pub controller: Option<LinkUser>,
    /// The interfaces on top of it that receive its frames: those of the kinds macvlan, macvtap, ipvlan and
    /// ipvtap. Those in other network namespaces are not seen.
    pub users: Vec<LinkUser>,
}

/// An interface that uses another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkUser {
    /// The interface's name.
    pub name: String,
    /// The interface's kind, such as `bridge` or `ipvlan`; empty for a physical device.
    pub kind: String,
}

impl Netlink {
    /// Reads the kind of each interface in the namespace and what uses it.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub async fn roles(&self) -> Result<Vec<LinkRole>> {
        let all = self.interfaces().await?;
        Ok(all.iter().map(|interface| role(interface, &all)).collect())
    }
}

/// The kinds of interfaces that receive the frames of the interface below them.
const RECEIVERS: [&str; 4] = ["macvlan", "macvtap", "ipvlan", "ipvtap"];

fn role(interface: &Interface, all: &[Interface]) -> LinkRole {
    let controller = all.iter().find(|other| Some(other.index) == interface.controller);
    let on_this = all.iter().filter(|other| other.lower() == Some(interface.index));
    let receives = |user: &LinkUser| RECEIVERS.contains(&user.kind.as_str());
    LinkRole {
        name: interface.name.clone(),
        index: interface.index,
        kind: interface.kind.clone(),
        loopback: interface.has(libc::IFF_LOOPBACK),
        ethernet: interface.link_layer == libc::ARPHRD_ETHER,
        up: interface.is_up,
        carrier: interface.is_up && interface.has(libc::IFF_LOWER_UP),
        controller: controller.map(user),
        users: on_this.map(user).filter(receives).collect(),
    }
}

fn user(interface: &Interface) -> LinkUser {
    LinkUser { name: interface.name.clone(), kind: interface.kind.clone().unwrap_or_default() }
}
