//! What an interface is and what uses it. This decides whether an interface can carry a macvlan.

use crate::{error::Result, netlink::Netlink};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

/// An interface's kind, its state and the interfaces of its network namespace that use it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The interface that it is a port of, if any: a bridge, a bond, a VRF.
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
    /// Reads what the interfaces of the namespace are and what uses them.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub async fn roles(&self) -> Result<Vec<LinkRole>> {
        let links = self.links().await?;
        Ok(links.iter().map(|link| role(link, &links)).collect())
    }
}

/// The kinds of interfaces that receive the frames of the interface that they are on.
const RECEIVERS: [&str; 4] = ["macvlan", "macvtap", "ipvlan", "ipvtap"];

fn role(link: &LinkMessage, all: &[LinkMessage]) -> LinkRole {
    let flags = link.header.flags;
    let controller = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let is_on_this = |other: &&LinkMessage| {
        let mut elsewhere = false;
        let mut parent = None;
        for attribute in &other.attributes {
            match attribute {
                LinkAttribute::Link(index) => parent = Some(*index),
                // The index is then one of another network namespace.
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                _ => {}
            }
        }
        !elsewhere && parent == Some(link.header.index)
    };
    let receives = |user: &LinkUser| RECEIVERS.contains(&user.kind.as_str());
    LinkRole {
        name: name(link),
        index: link.header.index,
        kind: kind(link),
        loopback: flags.contains(LinkFlags::Loopback),
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        controller: all.iter().find(|other| Some(other.header.index) == controller).map(user),
        users: all.iter().filter(is_on_this).map(user).filter(receives).collect(),
    }
}

fn user(link: &LinkMessage) -> LinkUser {
    LinkUser { name: name(link), kind: kind(link).unwrap_or_default() }
}

fn name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn kind(link: &LinkMessage) -> Option<String> {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}
