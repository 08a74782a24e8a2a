//! The interfaces that carry a connection of this host.
//!
//! Taking over one of them, for example with a macvlan in passthrough mode, cuts the connection. The
//! connection's address does not show which interfaces these are: it may be on `lo`, a dummy or a VRF, while
//! the packets pass through another interface. So the kernel is asked for the route of the connection's own
//! packets, with all rules of policy routing. The list of interfaces shows what is below the interface of the
//! route: a VLAN is on top of another interface, and a bridge has ports.
//!
//! The kernel does not report two things: through which interface packets arrive, if it is not the one
//! through which they leave, and where the packets of a tunnel go. So the interface with the connection's
//! address counts as carrying the connection, and if a tunnel carries it, so do the interfaces of the default
//! routes.

use crate::{
    error::Result,
    interface::Interface,
    netlink::{Message, Netlink, named},
};
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    route::{RouteAttribute, RouteFlags, RouteMessage},
};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// An address for documentation (RFC 5737), to which only a default route leads.
const ELSEWHERE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// An address for documentation (RFC 3849), to which only a default route leads.
const ELSEWHERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The link layer type of a GRE tunnel over IPv6 (`linux/if_arp.h`).
const ARPHRD_IP6GRE: u16 = 823;

/// The number of the protocol TCP.
const TCP: u8 = 6;

/// A TCP connection of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The name or the index of the interface that link-local addresses belong to; `None` for others.
    pub zone: Option<String>,
}

/// Why an interface carries a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It has this address of the connection.
    Address(IpAddr),
    /// The route to this address leaves through it.
    Route(IpAddr),
    /// The packets of this interface pass through it.
    Below(String),
    /// It has a default route, and this interface, which carries the connection too, is a tunnel.
    Tunnel(String),
}

impl fmt::Display for Reason {
    /// Writes a sentence in which "it" is the interface.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "it has the address {address}"),
            Self::Route(address) => write!(f, "the route to {address} leaves through it"),
            Self::Below(upper) => write!(f, "the packets of {upper} pass through it"),
            Self::Tunnel(tunnel) => write!(f, "it has the default route, and {tunnel} is a tunnel"),
        }
    }
}

impl Netlink {
    /// Returns why an interface carries a connection; `None` if it does not.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface), and if the kernel does not answer.
    pub async fn carries(&self, interface: &str, connection: &Connection) -> Result<Option<Reason>> {
        let all = self.interfaces().await?;
        let index = named(interface, &all)?.index;
        Ok(self.carriers(connection, &all).await?.remove(&index))
    }

    /// Finds the interfaces among `all` that carry a connection, by index.
    async fn carriers(&self, connection: &Connection, all: &[Interface]) -> Result<BTreeMap<u32, Reason>> {
        let mut found = Carriers { all, reasons: BTreeMap::new() };
        let (local, remote) = (connection.local.ip(), connection.remote.ip());
        // The interfaces and VRFs that the connection may be bound to.
        let mut bound_to = vec![None];
        for index in self.interfaces_with(local).await? {
            found.add(index, Reason::Address(local));
            bound_to.extend(found.interface(index).and_then(|interface| found.vrf_of(interface)).map(Some));
        }
        if let Some(zone) = &connection.zone {
            let number = zone.parse().ok();
            let is_zone = |interface: &&Interface| interface.name == *zone || number == Some(interface.index);
            bound_to = vec![all.iter().find(is_zone).map(|interface| interface.index)];
        }
        for interface in bound_to {
            for index in self.outputs(request_for(connection, interface)).await? {
                found.add(index, Reason::Route(remote));
            }
        }
        if let Some(tunnel) = found.tunnel() {
            for elsewhere in [ELSEWHERE_V4, ELSEWHERE_V6] {
                for index in self.outputs(request_to(elsewhere)).await? {
                    found.add(index, Reason::Tunnel(tunnel.clone()));
                }
            }
        }
        Ok(found.reasons)
    }

    /// Returns the indexes of the interfaces that have this address.
    async fn interfaces_with(&self, wanted: IpAddr) -> Result<Vec<u32>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(request, || "list the addresses".into()).await?;
        let is_wanted = |attribute: &AddressAttribute| {
            matches!(attribute, AddressAttribute::Address(address) | AddressAttribute::Local(address)
                if *address == wanted)
        };
        let messages = answers.into_iter().filter_map(|answer| match answer {
            Message::Route(RouteNetlinkMessage::NewAddress(message)) => Some(message),
            _ => None,
        });
        let wanted = messages.filter(|message| message.attributes.iter().any(is_wanted));
        Ok(wanted.map(|message| message.header.index).collect())
    }

    /// Returns the interfaces of a route: the one that the kernel uses now, and those of the whole entry in
    /// the routing table, because a route with several next hops may use another one later. Returns an empty
    /// list if there is no route.
    async fn outputs(&self, request: RouteMessage) -> Result<Vec<u32>> {
        let mut whole_entry = request.clone();
        whole_entry.header.flags = RouteFlags::FibMatch;
        let mut outputs = Vec::new();
        for request in [request, whole_entry] {
            let answers = self.ask(RouteNetlinkMessage::GetRoute(request), || "look up a route".into()).await;
            let answers = match answers {
                Err(no_route) if no_route.errno().is_some() => continue,
                answers => answers?,
            };
            for answer in answers {
                let Message::Route(RouteNetlinkMessage::NewRoute(route)) = answer else { continue };
                for attribute in route.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => outputs.push(index),
                        RouteAttribute::MultiPath(hops) => {
                            outputs.extend(hops.iter().map(|hop| hop.interface_index));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(outputs)
    }
}

/// Returns the request for the route to an address.
fn request_to(destination: IpAddr) -> RouteMessage {
    let mut request = RouteMessage::default();
    let is_v4 = destination.is_ipv4();
    request.header.address_family = if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    request.header.destination_prefix_length = if is_v4 { 32 } else { 128 };
    request.attributes.push(RouteAttribute::Destination(destination.into()));
    request
}

/// Returns the request for the route of a connection's packets, assuming that the connection is bound to this
/// interface or VRF.
fn request_for(connection: &Connection, bound_to: Option<u32>) -> RouteMessage {
    let Connection { local, remote, .. } = connection;
    let mut request = request_to(remote.ip());
    request.header.source_prefix_length = request.header.destination_prefix_length;
    request.attributes.extend([
        RouteAttribute::Source(local.ip().into()),
        RouteAttribute::IpProto(TCP),
        RouteAttribute::Sport(local.port()),
        RouteAttribute::Dport(remote.port()),
    ]);
    request.attributes.extend(bound_to.map(RouteAttribute::Oif));
    request
}

/// The interfaces found to carry a connection so far.
struct Carriers<'a> {
    all: &'a [Interface],
    /// The reason for each interface, by its index.
    reasons: BTreeMap<u32, Reason>,
}

impl<'a> Carriers<'a> {
    fn interface(&self, index: u32) -> Option<&'a Interface> {
        self.all.iter().find(|interface| interface.index == index)
    }

    /// Adds an interface and all that its packets pass through, except for those that are known already.
    fn add(&mut self, index: u32, reason: Reason) {
        let mut pending = vec![(index, reason)];
        while let Some((index, reason)) = pending.pop() {
            let Some(interface) = self.interface(index) else { continue };
            if self.reasons.contains_key(&index) {
                continue;
            }
            self.reasons.insert(index, reason);
            let below = self.below(interface).into_iter();
            pending.extend(below.map(|index| (index, Reason::Below(interface.name.clone()))));
        }
    }

    /// Returns the interfaces through which the packets of an interface pass next: the ports of a bridge or
    /// bond, the interface below a VLAN or macvlan, and the other end of a veth pair with the bridge of which
    /// it is a port.
    fn below(&self, interface: &Interface) -> Vec<u32> {
        let ports = self.all.iter().filter(|port| port.controller == Some(interface.index));
        let mut below: Vec<u32> = ports.map(|port| port.index).collect();
        let lower = interface.lower();
        below.extend(lower);
        if interface.kind.as_deref() == Some("veth") {
            below.extend(lower.and_then(|other_end| self.interface(other_end)?.controller));
        }
        below
    }

    /// Returns the VRF that an interface is or belongs to.
    fn vrf_of(&self, interface: &Interface) -> Option<u32> {
        let around = interface.controller.and_then(|index| self.interface(index));
        let vrf = [Some(interface), around].into_iter().flatten().find(|i| i.kind.as_deref() == Some("vrf"));
        vrf.map(|vrf| vrf.index)
    }

    /// Returns the name of a tunnel that carries the connection.
    fn tunnel(&self) -> Option<String> {
        let tunnel = self.reasons.keys().filter_map(|index| self.interface(*index)).find(|i| is_tunnel(i));
        tunnel.map(|tunnel| tunnel.name.clone())
    }
}

/// The kinds of tunnels that carry Ethernet frames, or may carry them.
const TUNNELS: [&str; 11] = [
    "amt",
    "bareudp",
    "erspan",
    "geneve",
    "gretap",
    "gtp",
    "ip6erspan",
    "ip6gretap",
    "tun",
    "vxlan",
    "wireguard",
];

/// Returns whether the packets of an interface travel in other packets, or may travel so.
fn is_tunnel(interface: &Interface) -> bool {
    // Tunnels of other kinds carry IP packets without the header of a link layer.
    interface.kind.as_deref().is_some_and(|kind| TUNNELS.contains(&kind))
        || matches!(
            interface.link_layer,
            libc::ARPHRD_NONE
                | libc::ARPHRD_PPP
                | libc::ARPHRD_TUNNEL
                | libc::ARPHRD_TUNNEL6
                | libc::ARPHRD_SIT
                | libc::ARPHRD_IPGRE
                | ARPHRD_IP6GRE
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Describes an interface that is on top of `lower` and a port of `controller`, unless these are 0.
    fn link(index: u32, name: &str, kind: &str, [lower, controller]: [u32; 2]) -> Interface {
        Interface {
            index,
            name: name.into(),
            kind: Some(kind.into()),
            link_layer: libc::ARPHRD_ETHER,
            linked_to: (lower != 0).then_some(lower),
            controller: (controller != 0).then_some(controller),
            ..Interface::default()
        }
    }

    /// Returns the names of the interfaces that carry the packets leaving through this one.
    fn carriers(all: &[Interface], index: u32) -> Vec<&str> {
        let mut found = Carriers { all, reasons: BTreeMap::new() };
        found.add(index, Reason::Route(ELSEWHERE_V4));
        found.reasons.keys().map(|index| &*found.interface(*index).unwrap().name).collect()
    }

    #[test]
    fn the_ports_of_a_bond_below_a_vlan_below_a_bridge_carry_its_packets() {
        let links = [
            link(1, "eth0", "dummy", [0, 3]),
            link(2, "eth1", "dummy", [0, 3]),
            link(3, "bond0", "bond", [0, 0]),
            link(4, "bond0.5", "vlan", [3, 5]),
            link(5, "br0", "bridge", [0, 0]),
            link(6, "bond0.6", "vlan", [3, 0]),
            link(7, "eth2", "dummy", [0, 0]),
        ];
        assert_eq!(carriers(&links, 5), ["eth0", "eth1", "bond0", "bond0.5", "br0"]);
        assert_eq!(carriers(&links, 1), ["eth0"]);
        assert_eq!(carriers(&links, 9), [""; 0]);
    }

    #[test]
    fn a_veth_pair_leads_to_the_bridge_of_its_other_end_if_that_is_here() {
        let mut links = [
            link(1, "eth0", "dummy", [0, 4]),
            link(2, "near", "veth", [3, 0]),
            link(3, "far", "veth", [2, 4]),
            link(4, "br0", "bridge", [0, 0]),
        ];
        assert_eq!(carriers(&links, 2), ["eth0", "near", "far", "br0"]);
        links[1].linked_elsewhere = true;
        assert_eq!(carriers(&links, 2), ["near"], "the index is that of another namespace");
    }

    #[test]
    fn an_interface_and_its_ports_are_in_the_vrf() {
        let links = [
            link(1, "eth0", "dummy", [0, 2]),
            link(2, "vrf0", "vrf", [0, 0]),
            link(3, "eth1", "dummy", [0, 4]),
            link(4, "br0", "bridge", [0, 0]),
        ];
        let found = Carriers { all: &links, reasons: BTreeMap::new() };
        let vrfs = links.iter().map(|link| found.vrf_of(link));
        assert_eq!(vrfs.collect::<Vec<_>>(), [Some(2), Some(2), None, None]);
    }

    #[test]
    fn interfaces_without_a_link_layer_are_tunnels() {
        let mut ipip = link(1, "tunl7", "ipip", [0, 0]);
        assert!(!is_tunnel(&ipip));
        ipip.link_layer = libc::ARPHRD_TUNNEL;
        assert!(is_tunnel(&ipip));
        assert!(is_tunnel(&link(1, "tap7", "tun", [0, 0])));
        assert!(!is_tunnel(&link(1, "eth0", "veth", [0, 0])));
    }
}
