//! Making and plumbing interfaces: one verb for each operation, all through rtnetlink.
//!
//! What the local lab needs and no more. Everything made in an anonymous namespace goes with it.

use crate::{error::Result, feature::Feature, netlink::Netlink};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage, MacVlanMode},
    },
};
use serde::Serialize;
use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

/// What an interface has counted since it was made (`IFLA_STATS64`).
///
/// Bytes are those of Ethernet frames without preamble, check sequence and gap. A packet that crosses a veth
/// unsegmented counts once, with one set of headers: a qdisc's [`Statistics`](crate::kernel::Statistics)
/// count every segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets received in error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received and dropped by the interface.
    pub rx_dropped: u64,
    /// Packets dropped by the interface instead of being sent; a qdisc counts its own.
    pub tx_dropped: u64,
}

impl Netlink {
    /// What an interface has counted.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface).
    pub async fn counters(&self, interface: &str) -> Result<Counters> {
        let index = self.interface(interface).await?.index;
        let links = self.links().await?;
        let attributes = links.iter().filter(|l| l.header.index == index).flat_map(|l| &l.attributes);
        let mut stats =
            attributes.filter_map(|a| if let LinkAttribute::Stats64(s) = a { Some(*s) } else { None });
        let s = stats.next().unwrap_or_default();
        Ok(Counters {
            rx_bytes: s.rx_bytes,
            tx_bytes: s.tx_bytes,
            rx_packets: s.rx_packets,
            tx_packets: s.tx_packets,
            rx_errors: s.rx_errors,
            tx_errors: s.tx_errors,
            rx_dropped: s.rx_dropped,
            tx_dropped: s.tx_dropped,
        })
    }

    /// Makes a pair of interfaces, each the other's wire: `name` here, `peer` in another namespace, or here
    /// when none is given. Both are down.
    ///
    /// # Errors
    ///
    /// When a name is taken, and as every operation here: [`NotPermitted`](crate::Error::NotPermitted), or
    /// the kernel's refusal in its own words.
    pub async fn add_veth(&self, name: &str, peer: &str, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut far = LinkMessageBuilder::<LinkUnspec>::new().name(peer);
        if let Some(namespace) = namespace {
            far = far.setns_by_fd(namespace.as_raw_fd());
        }
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far.build())))
            .build();
        self.add_link(message, || format!("make the veth pair {name} and {peer}"))
            .await
            .map_err(|e| e.or_missing(Feature::Veth))
    }

    /// Makes a bridge, which is up.
    ///
    /// # Errors
    ///
    /// As [`Netlink::add_veth`].
    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        self.add_link(LinkBridge::new(name).build(), || format!("make the bridge {name}"))
            .await
            .map_err(|e| e.or_missing(Feature::Bridge))
    }

    /// Makes an interface that takes over another's wire, a macvlan in passthrough mode; it is down. It is
    /// made on `parent`, which is here, and lies in another namespace where one is given. While it is there
    /// it gets all frames that `parent` receives, for whichever address, and its host gets none.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface), the kernel's refusal (`EINVAL`) where `parent` is taken
    /// over already, and as [`Netlink::add_veth`].
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
        self.add_link(message.build(), || format!("make {name} on {parent}"))
            .await
            .map_err(|e| e.or_missing(Feature::Macvlan))
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface) for either, or the kernel's refusal.
    pub async fn enslave(&self, interface: &str, bridge: &str) -> Result<()> {
        let bridge_index = self.interface(bridge).await?.index;
        self.set(interface, |m| m.controller(bridge_index), || format!("put {interface} into {bridge}")).await
    }

    /// Sets an interface up.
    ///
    /// # Errors
    ///
    /// [`NoInterface`](crate::Error::NoInterface), or the kernel's refusal.
    pub async fn set_up(&self, interface: &str) -> Result<()> {
        self.set(interface, LinkMessageBuilder::up, || format!("set {interface} up")).await
    }

    /// Sets an interface down.
    ///
    /// # Errors
    ///
    /// As [`Netlink::set_up`].
    pub async fn set_down(&self, interface: &str) -> Result<()> {
        self.set(interface, LinkMessageBuilder::down, || format!("set {interface} down")).await
    }

    /// Sets the MTU, in bytes of IP packet.
    ///
    /// # Errors
    ///
    /// As [`Netlink::set_up`].
    pub async fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.set(interface, |m| m.mtu(mtu), || format!("set the MTU of {interface} to {mtu}")).await
    }

    /// Gives an interface an IPv4 address and the route to its network.
    ///
    /// # Errors
    ///
    /// As [`Netlink::set_up`]; besides when it has that address already.
    pub async fn add_address(&self, interface: &str, address: Ipv4Addr, prefix_len: u8) -> Result<()> {
        let index = self.interface(interface).await?.index;
        let message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix_len).build();
        let doing = || format!("give {interface} the address {address}/{prefix_len}");
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, doing).await
    }

    /// Deletes an interface; of a veth pair, both.
    ///
    /// # Errors
    ///
    /// As [`Netlink::set_up`].
    pub async fn delete(&self, interface: &str) -> Result<()> {
        let index = self.interface(interface).await?.index;
        self.delete_index(index, interface).await
    }

    pub(crate) async fn delete_index(&self, index: u32, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).build();
        self.request(RouteNetlinkMessage::DelLink(message), 0, || format!("delete {name}")).await
    }

    async fn add_link(&self, message: LinkMessage, doing: impl Fn() -> String) -> Result<()> {
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, doing).await
    }

    async fn set(
        &self,
        interface: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
        doing: impl Fn() -> String,
    ) -> Result<()> {
        let index = self.interface(interface).await?.index;
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.request(RouteNetlinkMessage::SetLink(message), 0, doing).await
    }
}
