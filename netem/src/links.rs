//! Creating and configuring network interfaces through rtnetlink, one method for each operation.
//!
//! The operations are limited to what a lab of network namespaces needs. The kernel removes the interfaces of
//! an anonymous namespace together with the namespace.

use crate::{
    error::{Error, Result},
    feature::Feature,
    interface::Interface,
    netlink::Netlink,
};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVeth, LinkMessage, MacVlanMode},
        route::RouteType,
    },
};
use serde::Serialize;
use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

pub use role::{LinkRole, LinkUser};

mod role;

/// The counters of an interface since it was created (`IFLA_STATS64`).
///
/// Bytes are those of Ethernet frames without preamble, frame check sequence and inter-frame gap. A packet
/// that crosses a veth pair unsegmented counts once, with one set of headers, whereas a qdisc's
/// [`QdiscStatistics`](crate::kernel::QdiscStatistics) count every segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Bytes received, with Ethernet headers.
    pub rx_bytes: u64,
    /// Bytes sent, with Ethernet headers.
    pub tx_bytes: u64,
    /// Packets received; an unsegmented packet counts once.
    pub rx_packets: u64,
    /// Packets sent; an unsegmented packet counts once.
    pub tx_packets: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that could not be sent because of an error.
    pub tx_errors: u64,
    /// Packets that the interface received and dropped.
    pub rx_dropped: u64,
    /// Packets that the interface dropped instead of sending them, without those that its qdisc dropped.
    pub tx_dropped: u64,
}

impl Counters {
    /// Returns the counters of an interface as they were when it was read.
    pub(crate) fn of(interface: &Interface) -> Result<Self> {
        let counters = interface.counters.ok_or_else(|| Error::Protocol {
            action: format!("read the counters of {}", interface.name),
            problem: "the kernel reports none".into(),
        })?;
        let [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped] =
            counters;
        Ok(Self { rx_bytes, tx_bytes, rx_packets, tx_packets, rx_errors, tx_errors, rx_dropped, tx_dropped })
    }
}

impl Netlink {
    /// Reads the counters of an interface.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface), and if the kernel reports no counters.
    pub async fn counters(&self, interface: &str) -> Result<Counters> {
        Counters::of(&self.interface(interface).await?)
    }

    /// Creates a veth pair: `name` in the namespace of this connection, `peer` in `namespace`, or in the same
    /// one if that is `None`. Both interfaces are down.
    ///
    /// # Errors
    ///
    /// If a name is taken. As for every operation in this module:
    /// [`NotPermitted`](crate::Error::NotPermitted), or [`Kernel`](crate::Error::Kernel) with the kernel's
    /// error text.
    pub async fn add_veth(&self, name: &str, peer: &str, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut far = LinkMessageBuilder::<LinkUnspec>::new().name(peer);
        if let Some(namespace) = namespace {
            far = far.setns_by_fd(namespace.as_raw_fd());
        }
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far.build())))
            .build();
        self.add_link(message, || format!("create the veth pair {name} and {peer}"))
            .await
            .map_err(|e| e.or_missing(Feature::Veth))
    }

    /// Creates a bridge and sets it up.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::add_veth`].
    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        self.add_link(LinkBridge::new(name).build(), || format!("create the bridge {name}"))
            .await
            .map_err(|e| e.or_missing(Feature::Bridge))
    }

    /// Creates a macvlan interface in passthrough mode on `parent`. The interface is down. It is created in
    /// `namespace` if given, otherwise in the namespace of `parent`. As long as it exists, it receives all
    /// frames that `parent` receives, whatever their destination address, and the host receives none of them.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface), [`Kernel`](crate::Error::Kernel) with `EINVAL` if `parent`
    /// already has a passthrough macvlan, and those of [`Netlink::add_veth`].
    pub async fn add_macvlan(
        &self,
        name: &str,
        parent: &str,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let parent_index = self.interface(parent).await?.index;
        let mut message = LinkMacVlan::new(name, parent_index, MacVlanMode::Passthrough);
        if let Some(namespace) = namespace {
            message = message.setns_by_fd(namespace.as_raw_fd());
        }
        self.add_link(message.build(), || format!("create the macvlan {name} on {parent}"))
            .await
            .map_err(|e| e.or_missing(Feature::Macvlan))
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface) for the interface or the bridge, or
    /// [`Kernel`](crate::Error::Kernel).
    pub async fn enslave(&self, interface: &str, bridge: &str) -> Result<()> {
        let bridge_index = self.interface(bridge).await?.index;
        self.set(interface, |m| m.controller(bridge_index), || format!("add {interface} to {bridge}")).await
    }

    /// Sets an interface up.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface), or [`Kernel`](crate::Error::Kernel).
    pub async fn set_up(&self, interface: &str) -> Result<()> {
        self.set(interface, LinkMessageBuilder::up, || format!("set {interface} up")).await
    }

    /// Sets an interface down.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::set_up`].
    pub async fn set_down(&self, interface: &str) -> Result<()> {
        self.set(interface, LinkMessageBuilder::down, || format!("set {interface} down")).await
    }

    /// Sets the MTU of an interface: the size of the largest IP packet, in bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::set_up`].
    pub async fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.set(interface, |m| m.mtu(mtu), || format!("set the MTU of {interface} to {mtu}")).await
    }

    /// Adds an IPv4 address to an interface, and with it the route to its network.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::set_up`], and if the interface already has the address.
    pub async fn add_address(&self, interface: &str, address: Ipv4Addr, prefix_len: u8) -> Result<()> {
        let index = self.interface(interface).await?.index;
        let message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix_len).build();
        let action = || format!("add the address {address}/{prefix_len} to {interface}");
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, action).await
    }

    /// Prohibits sending to all addresses of an IPv4 network but one of them, in this network namespace.
    ///
    /// Without a route to an address, no connection from there can be established either: the answer to its
    /// first packet is not sent. The routes belong to no interface, so they stay if one goes down.
    ///
    /// # Errors
    ///
    /// If this process may not change routes, or has already prohibited the same.
    pub async fn prohibit_all_but(&self, peer: Ipv4Addr, prefix_len: u8) -> Result<()> {
        for (network, prefix_len) in all_but(peer, prefix_len) {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, prefix_len);
            let message = RouteNetlinkMessage::NewRoute(route.kind(RouteType::Prohibit).build());
            let action = || format!("prohibit sending to {network}/{prefix_len}");
            self.request(message, NLM_F_CREATE | NLM_F_EXCL, action).await?;
        }
        Ok(())
    }

    /// Deletes an interface; for a veth pair, both interfaces.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::set_up`].
    pub async fn delete(&self, interface: &str) -> Result<()> {
        let index = self.interface(interface).await?.index;
        self.delete_index(index, interface).await
    }

    pub(crate) async fn delete_index(&self, index: u32, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).build();
        self.request(RouteNetlinkMessage::DelLink(message), 0, || format!("delete {name}")).await
    }

    async fn add_link(&self, message: LinkMessage, action: impl Fn() -> String) -> Result<()> {
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, action).await
    }

    async fn set(
        &self,
        interface: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
        action: impl Fn() -> String,
    ) -> Result<()> {
        let index = self.interface(interface).await?.index;
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.request(RouteNetlinkMessage::SetLink(message), 0, action).await
    }
}

/// Returns the networks that together contain all addresses of a network with this prefix length, except
/// `one`: for each bit behind the prefix, the addresses that first differ from `one` in this bit.
fn all_but(one: Ipv4Addr, prefix_len: u8) -> impl Iterator<Item = (Ipv4Addr, u8)> {
    (prefix_len + 1..=32).map(move |prefix_len| {
        let bit = 1_u32 << (32 - prefix_len);
        (Ipv4Addr::from_bits((one.to_bits() ^ bit) & !(bit - 1)), prefix_len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_but_one_are_covered_exactly_once() {
        for one in [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 255)] {
            for last in 0..=255 {
                let address = Ipv4Addr::new(192, 0, 2, last);
                let covers = |(network, prefix_len): &(Ipv4Addr, u8)| {
                    (network.to_bits() ^ address.to_bits()) >> (32 - prefix_len) == 0
                };
                assert_eq!(all_but(one, 24).filter(covers).count(), usize::from(address != one), "{address}");
            }
        }
    }
}
