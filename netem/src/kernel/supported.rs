//! What this kernel has, found out without leaving a trace.

use super::tree;
use crate::{
    error::{Error, Result},
    feature::Feature,
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
use std::{collections::BTreeSet, os::fd::AsFd};
use units::{BitRate, Bytes};

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
