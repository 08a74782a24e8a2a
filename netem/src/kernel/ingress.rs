//! Shaping what an interface receives: an `ifb`, to which the packets are redirected, shapes them as if it
//! sent them.
//!
//! The `ifb` is named `netem-ifbN`, where N is the index of the interface. It is deleted when the profile is
//! cleared.

use super::{Applied, Handle};
use crate::{
    error::{Error, Result},
    feature::Feature,
    netlink::{Interface, Netlink},
    profile::Profile,
};
use rtnetlink::{
    LinkIfb,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        tc::{
            TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption,
            TcActionOption, TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage,
            TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
        },
    },
};

/// The handle of the ingress qdisc. An interface has at most one, always with this handle.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// Returns the name of the `ifb` that shapes what an interface receives.
fn ifb_name(link: &Interface) -> String {
    format!("netem-ifb{}", link.index)
}

impl Netlink {
    /// Shapes what an interface receives, through an `ifb` created for it. This is independent of the shaping
    /// of what the interface sends. [`Netlink::clear`] removes both, an empty profile removes this one.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::apply`], and [`Error::Occupied`] if the interface has an ingress qdisc that netem
    /// did not create. The interface is then unchanged.
    pub async fn apply_ingress(&self, interface: &str, profile: &Profile) -> Result<Applied> {
        profile.validate()?;
        super::check(profile)?;
        let link = self.interface(interface).await?;
        let ifb = ifb_name(&link);
        if profile.is_empty() {
            self.clear_ingress(&link).await?;
            return Ok(Applied::new(&link, &[], false));
        }
        if self.interfaces().await?.iter().any(|i| i.name == ifb) {
            return self.apply(&ifb, profile).await;
        }
        if let Some(other) = self.qdiscs_of(&link).await?.into_iter().find(|q| q.parent == Handle::INGRESS) {
            return Err(Error::Occupied {
                interface: link.name,
                kind: other.kind,
                handle: other.handle.to_string(),
                place: "ingress",
            });
        }
        let done = self.redirect_to_new_ifb(&link, &ifb, profile).await;
        if done.is_err() {
            drop(self.clear_ingress(&link).await);
        }
        done
    }

    /// Reads the profile that applies to what an interface receives; `None` if there is none. As in
    /// [`Netlink::profile`], the distribution of jitter that does not keep the order is uniform.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`].
    pub async fn ingress_profile(&self, interface: &str) -> Result<Option<Profile>> {
        let link = self.interface(interface).await?;
        match self.profile(&ifb_name(&link)).await {
            Err(Error::NoInterface { .. }) => Ok(None),
            other => other,
        }
    }

    async fn redirect_to_new_ifb(&self, link: &Interface, ifb: &str, profile: &Profile) -> Result<Applied> {
        let message = LinkIfb::new(ifb).mtu(link.mtu).up().build();
        let action = || format!("create {ifb} to shape what {} receives", link.name);
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, action)
            .await
            .map_err(|e| e.or_missing(Feature::Ifb))?;
        let applied = self.apply(ifb, profile).await?;
        let index = self.interface(ifb).await?.index;
        self.add_ingress(link.index, &link.name).await.map_err(|e| e.or_missing(Feature::Ingress))?;
        self.redirect(link.index, index, &link.name).await.map_err(|e| e.or_missing(Feature::Redirect))?;
        Ok(applied)
    }

    /// Stops the redirection of what an interface receives and deletes the `ifb`. Returns whether there was
    /// one.
    pub(super) async fn clear_ingress(&self, link: &Interface) -> Result<bool> {
        let ifb = ifb_name(link);
        let Some(ours) = self.interfaces().await?.into_iter().find(|i| i.name == ifb) else {
            return Ok(false);
        };
        let mut message = TcMessage::with_index(link.index.cast_signed());
        message.header.parent = TcHandle::INGRESS;
        message.header.handle = INGRESS;
        let action = || format!("stop redirecting what {} receives", link.name);
        let ended = self.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0, action).await;
        // Delete the ifb even if this failed: if creating the qdisc failed before, there is none to delete.
        self.delete_index(ours.index, &ifb).await?;
        match ended {
            Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EINVAL)) => Ok(true),
            other => other.map(|()| true),
        }
    }

    pub(super) async fn add_ingress(&self, index: u32, name: &str) -> Result<()> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::INGRESS;
        message.header.handle = INGRESS;
        message.attributes.push(TcAttribute::Kind("ingress".to_owned()));
        let action = || format!("add an ingress qdisc to {name}");
        self.request(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL, action)
            .await
    }

    /// Redirects everything that the interface `from` receives to the interface `to`, as if `to` sent it.
    pub(super) async fn redirect(&self, from: u32, to: u32, name: &str) -> Result<()> {
        let message = redirection(from, to);
        let action = || format!("redirect what {name} receives");
        self.request(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL, action).await
    }
}

/// Returns the message of
/// `tc filter add dev FROM ingress protocol all u32 match u32 0 0 action mirred egress redirect dev TO`.
fn redirection(from: u32, to: u32) -> TcMessage {
    const PRIORITY: u16 = 1;
    /// `ETH_P_ALL`, every protocol, in network byte order.
    const EVERY_PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();

    let mut everything = TcU32Selector::default();
    everything.flags = TcU32SelectorFlags::Terminal;
    everything.nkeys = 1;
    everything.keys = vec![TcU32Key::default()];

    let mut mirror = TcMirror::default();
    mirror.generic = TcActionGeneric::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];

    let mut message = TcMessage::with_index(from.cast_signed());
    message.header.parent = INGRESS;
    message.header.info = u32::from(TcHandle { major: PRIORITY, minor: EVERY_PROTOCOL });
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(everything)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    message
}
