//! What a kernel may lack, and how to find out without leaving a trace.

use crate::{
    error::{Error, Result},
    netlink::Netlink,
    netns::Namespace,
    wire::{
        htb::Htb,
        netem::{Netem, Verb},
        tbf::Tbf,
    },
};
use rtnetlink::{
    LinkBridge, LinkIfb, LinkMacVlan, LinkVeth,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{RouteNetlinkMessage, link::MacVlanMode, tc::TcHandle},
};
use serde::Serialize;
use std::{collections::BTreeSet, fmt, os::fd::AsFd};
use units::{BitRate, Bytes};

use super::tree;

/// A part of the kernel that shaping needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Rates by token bucket.
    Tbf,
    /// Rates by a hierarchy of token buckets.
    Htb,
    /// Delay, loss and everything else.
    Netem,
    /// What an interface receives can be handled at all.
    Ingress,
    /// The interface through which what is received passes as if it were sent.
    Ifb,
    /// The filter and the action that send it there.
    Redirect,
    /// Pairs of interfaces, each the other's wire.
    Veth,
    /// A switch.
    Bridge,
    /// Interfaces that share another's wire.
    Macvlan,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Tbf,
        Self::Htb,
        Self::Netem,
        Self::Ingress,
        Self::Ifb,
        Self::Redirect,
        Self::Veth,
        Self::Bridge,
        Self::Macvlan,
    ];

    /// The module that has it.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Tbf => "sch_tbf",
            Self::Htb => "sch_htb",
            Self::Netem => "sch_netem",
            Self::Ingress => "sch_ingress",
            Self::Ifb => "ifb",
            Self::Redirect => "act_mirred",
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
        }
    }

    /// The option with which it is built.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Tbf => "CONFIG_NET_SCH_TBF",
            Self::Htb => "CONFIG_NET_SCH_HTB",
            Self::Netem => "CONFIG_NET_SCH_NETEM",
            Self::Ingress => "CONFIG_NET_SCH_INGRESS",
            Self::Ifb => "CONFIG_IFB",
            Self::Redirect => "CONFIG_NET_ACT_MIRRED and CONFIG_NET_CLS_U32",
            Self::Veth => "CONFIG_VETH",
            Self::Bridge => "CONFIG_BRIDGE",
            Self::Macvlan => "CONFIG_MACVLAN",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.module())
    }
}

/// What this kernel has, found by trying each in a network namespace made for it, which is gone afterwards.
/// Modules that can be loaded are loaded by that, as by any use. Takes a few milliseconds.
///
/// # Errors
///
/// When no network namespace can be made, which takes `CAP_SYS_ADMIN`, if only in a user namespace.
pub async fn supported() -> Result<BTreeSet<Feature>> {
    let namespace = Namespace::new()?;
    let netlink = Netlink::open_in(namespace.as_fd())?;
    let loopback = netlink.interface("lo").await?;
    let mut found = BTreeSet::new();
    for feature in Feature::ALL {
        match netlink.attempt(feature, loopback.index).await.map_err(|e| e.or_missing(feature)) {
            Ok(()) => {
                found.insert(feature);
            }
            Err(Error::MissingFeature { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

impl Netlink {
    /// Uses a feature once, in a namespace where nothing else is.
    async fn attempt(&self, feature: Feature, loopback: u32) -> Result<()> {
        let clock = self.clock;
        let (rate, size) = (BitRate::new(1_000_000_000), Bytes::new(100_000));
        match feature {
            Feature::Tbf => {
                let tbf = Tbf { rate, burst: size, limit: size };
                self.attempt_qdisc(loopback, Tbf::KIND, tbf.encode(clock)).await
            }
            Feature::Htb => self.attempt_qdisc(loopback, Htb::KIND, Htb { default_class: 0 }.encode()).await,
            Feature::Netem => {
                let netem = Netem { limit: 1000, ..Netem::default() };
                self.attempt_qdisc(loopback, Netem::KIND, netem.encode(clock, Verb::Create)).await
            }
            Feature::Ingress => self.add_ingress(loopback, "lo").await,
            Feature::Redirect => {
                // Without an ingress qdisc there is nothing to attach it to: Feature::ALL has that first.
                match self.redirect(loopback, loopback, "lo").await {
                    Err(e) if e.errno() == Some(libc::EINVAL) => {
                        Err(Error::MissingFeature { doing: "redirect".into(), feature })
                    }
                    other => other,
                }
            }
            Feature::Ifb => self.attempt_link(LinkIfb::new("probe-ifb").build()).await,
            Feature::Veth => self.attempt_link(LinkVeth::new("probe-a", "probe-b").build()).await,
            Feature::Bridge => self.attempt_link(LinkBridge::new("probe-bridge").build()).await,
            Feature::Macvlan => {
                let message = LinkMacVlan::new("probe-macvlan", loopback, MacVlanMode::Bridge).build();
                match self.attempt_link(message).await {
                    // A kernel that has it does not put it on a loopback interface.
                    Err(e) if e.errno() == Some(libc::EINVAL) => Ok(()),
                    other => other,
                }
            }
        }
    }

    async fn attempt_qdisc(&self, index: u32, kind: &str, options: Vec<u8>) -> Result<()> {
        let handle = TcHandle { major: 1, minor: 0 };
        let message = tree::message(index, TcHandle::ROOT, handle, kind, options);
        let doing = || format!("try {kind}");
        let add = RouteNetlinkMessage::NewQueueDiscipline(message.clone());
        self.request(add, NLM_F_CREATE | NLM_F_EXCL, doing).await?;
        self.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0, doing).await
    }

    async fn attempt_link(&self, message: rtnetlink::packet_route::link::LinkMessage) -> Result<()> {
        let add = RouteNetlinkMessage::NewLink(message);
        self.request(add, NLM_F_CREATE | NLM_F_EXCL, || "try a link".into()).await
    }
}
