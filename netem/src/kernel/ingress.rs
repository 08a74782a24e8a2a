//! Shaping of what an interface receives: the packets are redirected to an `ifb`, which shapes them as if it
//! sent them.
//!
//! The `ifb` is named `netem-ifbN`, where N is the index of the interface. It is deleted when the profile is
//! cleared. A profile is in force only if every part of the chain is: the ingress qdisc, the filter that
//! redirects, the `ifb` to which it redirects, and the qdiscs of the `ifb`.

use super::{
    Applied, Direction, Handle, JitterDistribution, Shaping,
    filter::{self, Filter},
    qdisc::Qdisc,
};
use crate::{
    error::{Error, Result},
    feature::Feature,
    interface::Interface,
    netlink::Netlink,
    profile::Profile,
};
use rtnetlink::{
    LinkIfb,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle, TcMessage},
    },
};

/// The handle of the ingress qdisc. An interface has at most one, always with this handle.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// The kind of the ingress qdisc that this crate creates; the other one is `clsact`.
const KIND: &str = "ingress";
const IFB_KIND: &str = "ifb";
/// The names of the `ifb`s: this and the index of an interface, or, for an index of more than six digits,
/// the second one and the index in hexadecimal. A name has at most 15 bytes.
const IFB_PREFIX: &str = "netem-ifb";
const LONG_IFB_PREFIX: &str = "netem-";

/// Returns the name of the `ifb` that shapes what the interface with this index receives.
fn ifb_name(index: u32) -> String {
    if index < 1_000_000 { format!("{IFB_PREFIX}{index}") } else { format!("{LONG_IFB_PREFIX}{index:x}") }
}

/// Returns the index of the interface for which an interface is the `ifb`; `None` if it is anything else.
fn index_of_ifb(ifb: &Interface) -> Option<u32> {
    if ifb.kind.as_deref() != Some(IFB_KIND) {
        return None;
    }
    let short = ifb.name.strip_prefix(IFB_PREFIX).and_then(|number| number.parse().ok());
    let long = || u32::from_str_radix(ifb.name.strip_prefix(LONG_IFB_PREFIX)?, 16).ok();
    short.or_else(long).filter(|index| ifb_name(*index) == ifb.name)
}

/// What shapes what an interface receives, as read from the kernel.
struct Chain {
    /// The `ifb` of the interface.
    ifb: Option<Interface>,
    /// The qdisc to which filters for received packets are attached, no matter whose it is.
    qdisc: Option<Qdisc>,
    /// All filters of that qdisc.
    filters: Vec<Filter>,
    /// The profile of the `ifb`, and what is broken in the chain.
    shaping: Shaping,
}

impl Chain {
    /// Returns whether this crate created any part of the chain.
    fn is_ours(&self) -> bool {
        self.ifb.is_some() || self.filters.iter().any(Filter::is_ours)
    }

    /// Returns the first filter that somebody else has added, except one that redirects everything: that one
    /// stands in for the filter of this crate.
    fn foreign_filter(&self) -> Option<&Filter> {
        self.filters.iter().find(|filter| !filter.is_ours() && filter.redirects_to.is_none())
    }

    /// Returns an error if the interface has an ingress qdisc or a filter that this crate did not create.
    fn check_free(&self, link: &Interface) -> Result<()> {
        let Some(qdisc) = &self.qdisc else { return Ok(()) };
        if !self.is_ours() || qdisc.kind != KIND {
            let place = if qdisc.kind == KIND { "ingress" } else { "clsact" };
            return Err(Error::occupied(link, qdisc, place));
        }
        match self.foreign_filter() {
            Some(Filter { kind, preference, .. }) => Err(Error::OccupiedByFilter {
                interface: link.name.clone(),
                kind: kind.clone(),
                preference: *preference,
            }),
            None => Ok(()),
        }
    }
}

impl Netlink {
    /// Shapes what an interface receives, through an `ifb` created for it. This is independent of the shaping
    /// of what the interface sends. [`Netlink::clear`] removes both, an empty profile removes this one. If
    /// the existing chain is broken, this rebuilds it.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::apply`], and [`Error::Occupied`] or [`Error::OccupiedByFilter`] if the interface
    /// has an ingress qdisc or a filter that netem did not create. The interface is then unchanged.
    pub async fn apply_ingress(&self, interface: &str, profile: &Profile) -> Result<Applied> {
        self.shape_ingress(interface, profile, JitterDistribution::Requested).await
    }

    pub(super) async fn shape_ingress(
        &self,
        interface: &str,
        profile: &Profile,
        distribution: JitterDistribution,
    ) -> Result<Applied> {
        profile.validate()?;
        super::check(profile)?;
        let link = self.interface(interface).await?;
        super::check_frame_fits(profile, &link)?;
        if profile.is_empty() {
            self.clear_ingress(&link).await?;
            return Ok(Applied::new(&link, &[], false));
        }
        let chain = self.chain(&link).await?;
        if let Some(ifb) = &chain.ifb
            && chain.shaping.problems.is_empty()
        {
            if ifb.mtu != link.mtu {
                self.set_mtu(&ifb.name, link.mtu).await?;
            }
            return self.shape_egress(&ifb.name, profile, distribution).await;
        }
        chain.check_free(&link)?;
        if chain.is_ours() {
            self.delete_chain(&link, &chain).await?;
        }
        self.delete_abandoned_ifbs().await?;
        let done = self.redirect_to_new_ifb(&link, profile).await;
        if done.is_err() {
            drop(self.clear_ingress(&link).await);
        }
        done.map(|applied| Applied { repaired: chain.shaping.problems, ..applied })
    }

    /// Reads the profile that applies to what an interface receives; `None` if there is none. As in
    /// [`Netlink::profile`], the distribution of jitter that does not keep the order is uniform.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`], and [`Error::Broken`] if a part of what shapes it is missing or was changed.
    pub async fn ingress_profile(&self, interface: &str) -> Result<Option<Profile>> {
        let link = self.interface(interface).await?;
        self.ingress_shaping(&link).await?.profile_of(&link, Direction::Ingress)
    }

    pub(super) async fn ingress_shaping(&self, link: &Interface) -> Result<Shaping> {
        Ok(self.chain(link).await?.shaping)
    }

    /// Reads the chain that shapes what an interface receives.
    async fn chain(&self, link: &Interface) -> Result<Chain> {
        let interfaces = self.interfaces().await?;
        let ifb = interfaces.iter().find(|i| index_of_ifb(i) == Some(link.index));
        let qdiscs = self.qdiscs_of(link).await?;
        let qdisc = qdiscs.into_iter().find(|q| q.parent == Handle::INGRESS);
        let filters = match &qdisc {
            Some(_) => self.filters(link.index, &link.name, INGRESS).await?,
            None => Vec::new(),
        };
        let mut chain = Chain { ifb: ifb.cloned(), qdisc, filters, shaping: Shaping::default() };
        if !chain.is_ours() {
            return Ok(chain);
        }
        let name = |index: u32| {
            let found = interfaces.iter().find(|i| i.index == index);
            found.map_or_else(|| "an interface that is gone".to_owned(), |i| i.name.clone())
        };
        let expected = ifb_name(link.index);
        let mut problems = Vec::new();
        let first = chain.filters.first();
        match first.map(|filter| (filter.redirects_to, filter.preference, &filter.kind)) {
            None => problems.push(format!("no filter redirects what {} receives to {expected}", link.name)),
            Some((Some(to), ..)) if ifb.is_none_or(|ifb| ifb.index != to) => {
                problems.push(format!(
                    "what {} receives goes to {} instead of {expected}",
                    link.name,
                    name(to)
                ));
            }
            Some((Some(_), ..)) => {}
            Some((None, preference, kind)) => problems.push(format!(
                "another filter (pref {preference} {kind}) precedes the redirection to {expected}"
            )),
        }
        match ifb {
            None => problems.push(format!("{expected} does not exist")),
            Some(ifb) => {
                if !ifb.is_up {
                    problems.push(format!("{} is down, so it drops what it should shape", ifb.name));
                }
                let shaping = self.egress_shaping(ifb).await?;
                if shaping.profile.is_none() && shaping.problems.is_empty() {
                    problems.push(format!("{} has no qdisc of netem", ifb.name));
                }
                problems.extend(shaping.problems.into_iter().map(|p| format!("{}: {p}", ifb.name)));
                chain.shaping.profile = shaping.profile;
            }
        }
        chain.shaping.problems = problems;
        Ok(chain)
    }

    async fn redirect_to_new_ifb(&self, link: &Interface, profile: &Profile) -> Result<Applied> {
        let ifb = ifb_name(link.index);
        let message = LinkIfb::new(&ifb).mtu(link.mtu).up().build();
        let action = || format!("create {ifb} to shape what {} receives", link.name);
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, action)
            .await
            .map_err(|e| e.or_missing(Feature::Ifb))?;
        let applied = self.apply(&ifb, profile).await?;
        let index = self.interface(&ifb).await?.index;
        self.add_ingress(link.index, &link.name).await.map_err(|e| e.or_missing(Feature::Ingress))?;
        self.redirect(link.index, index, &link.name).await.map_err(|e| e.or_missing(Feature::Redirect))?;
        let problems = self.chain(link).await?.shaping.problems;
        if problems.is_empty() {
            Ok(applied)
        } else {
            Err(Error::broken(link, Direction::Ingress, &problems))
        }
    }

    /// Stops the redirection of what an interface receives and deletes the `ifb`. Returns whether there was
    /// an `ifb`.
    pub(super) async fn clear_ingress(&self, link: &Interface) -> Result<bool> {
        let chain = self.chain(link).await?;
        if chain.is_ours() {
            self.delete_chain(link, &chain).await?;
        }
        Ok(chain.is_ours())
    }

    /// Deletes what this crate has created to shape what an interface receives. The ingress qdisc stays if
    /// somebody else has added a filter to it.
    async fn delete_chain(&self, link: &Interface, chain: &Chain) -> Result<()> {
        let action = || format!("stop redirecting what {} receives", link.name);
        let ended = match &chain.qdisc {
            Some(qdisc) if qdisc.kind == KIND && chain.foreign_filter().is_none() => {
                let mut message = TcMessage::with_index(link.index.cast_signed());
                message.header.parent = TcHandle::INGRESS;
                message.header.handle = INGRESS;
                self.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0, action).await
            }
            Some(_) => {
                let mut ended = Ok(());
                for ours in chain.filters.iter().filter(|filter| filter.is_ours()) {
                    let message = filter::deletion(link.index, ours, INGRESS);
                    ended = ended
                        .and(self.request(RouteNetlinkMessage::DelTrafficFilter(message), 0, action).await);
                }
                ended
            }
            None => Ok(()),
        };
        // Delete the ifb even if this failed.
        if let Some(ifb) = &chain.ifb {
            self.delete_index(ifb.index, &ifb.name).await?;
        }
        ended
    }

    /// Deletes the `ifb`s whose interface has been deleted or is in another namespace. The kernel has removed
    /// their redirection with the interface.
    pub(super) async fn delete_abandoned_ifbs(&self) -> Result<()> {
        let interfaces = self.interfaces().await?;
        for ifb in &interfaces {
            let abandoned = |index: u32| !interfaces.iter().any(|i| i.index == index);
            if index_of_ifb(ifb).is_some_and(abandoned) {
                self.delete_index(ifb.index, &ifb.name).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn add_ingress(&self, index: u32, name: &str) -> Result<()> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::INGRESS;
        message.header.handle = INGRESS;
        message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
        let action = || format!("add an ingress qdisc to {name}");
        self.request(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL, action)
            .await
    }

    /// Redirects everything that the interface `from` receives to the interface `to`, as if `to` sent it.
    pub(super) async fn redirect(&self, from: u32, to: u32, name: &str) -> Result<()> {
        let message = filter::redirection(from, to, INGRESS);
        let action = || format!("redirect what {name} receives");
        self.request(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL, action).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_ifb_has_the_index_and_fits() {
        for (index, name) in [
            (7, "netem-ifb7"),
            (999_999, "netem-ifb999999"),
            (1_000_000, "netem-f4240"),
            (0x7fff_ffff, "netem-7fffffff"),
        ] {
            assert_eq!(ifb_name(index), name);
            assert!(name.len() < libc::IFNAMSIZ);
        }
    }
}
