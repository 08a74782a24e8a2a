//! Detects which features the running kernel has, without leaving anything behind.

use super::tree;
use crate::{
    error::{Error, Result},
    feature::Feature,
    netlink::Netlink,
    netns::Namespace,
    wire::{
        htb::Htb,
        netem::{Netem, Operation},
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

/// Detects the features of this kernel by using each once in a temporary network namespace. Like any other
/// use, this loads modules that are available. Takes a few milliseconds.
///
/// # Errors
///
/// If no network namespace can be created, which needs `CAP_SYS_ADMIN`, if only in a user namespace.
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
    /// Uses a feature once, in an otherwise empty namespace.
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
                self.attempt_qdisc(loopback, Netem::KIND, netem.encode(clock, Operation::Create)).await
            }
            Feature::Ingress => self.add_ingress(loopback, "lo").await,
            Feature::Redirect => {
                // The filter is attached to the ingress qdisc, which comes first in Feature::ALL.
                match self.redirect(loopback, loopback, "lo").await {
                    Err(e) if e.errno() == Some(libc::EINVAL) => {
                        Err(Error::MissingFeature { action: "redirect packets".into(), feature })
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
                    // A kernel with macvlan refuses it on a loopback interface with EINVAL.
                    Err(e) if e.errno() == Some(libc::EINVAL) => Ok(()),
                    other => other,
                }
            }
        }
    }

    async fn attempt_qdisc(&self, index: u32, kind: &str, options: Vec<u8>) -> Result<()> {
        let handle = TcHandle { major: 1, minor: 0 };
        let message = tree::message(index, TcHandle::ROOT, handle, kind, options);
        let action = || format!("test for {kind}");
        let add = RouteNetlinkMessage::NewQueueDiscipline(message.clone());
        self.request(add, NLM_F_CREATE | NLM_F_EXCL, action).await?;
        self.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0, action).await
    }

    async fn attempt_link(&self, message: rtnetlink::packet_route::link::LinkMessage) -> Result<()> {
        let add = RouteNetlinkMessage::NewLink(message);
        self.request(add, NLM_F_CREATE | NLM_F_EXCL, || "test for a type of interface".into()).await
    }
}
