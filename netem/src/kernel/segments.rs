//! The limit of segments per unsegmented packet (`IFLA_GSO_MAX_SEGS`), and the previous limit of an
//! interface.
//!
//! The limit stays on an interface when its qdiscs go, and somebody else may have set one. So the previous
//! limit is stored beside it, in an alternative name of the interface (`ip link property`), like
//! `netem-gso-65535-1-5f3a9c07`: the previous limit, the one in force, and a random number, because a name is
//! unique in a network namespace.

use crate::{
    error::{Error, Result},
    interface::Interface,
    netlink::Netlink,
};
use rtnetlink::{
    LinkUnspec,
    packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, Prop},
    },
};

const PREFIX: &str = "netem-gso-";

/// The limit that an interface had before this crate lowered it, and the lowered limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lowered {
    from: u32,
    to: u32,
}

impl Lowered {
    fn parse(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix(PREFIX)?.split('-');
        Some(Self { from: numbers.next()?.parse().ok()?, to: numbers.next()?.parse().ok()? })
    }

    fn name(self) -> Result<String> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| Error::system("read a random number")(error.into()))?;
        Ok(format!("{PREFIX}{}-{}-{:08x}", self.from, self.to, u32::from_ne_bytes(random)))
    }
}

impl Netlink {
    /// Limits the number of segments per unsegmented packet on an interface to `wanted`, but never above the
    /// limit that the interface has without this crate; that one applies if `wanted` is `None`.
    pub(super) async fn limit_segments(&self, link: &Interface, wanted: Option<u32>) -> Result<()> {
        let Some(now) = link.gso_max_segments else { return Ok(()) };
        let notes: Vec<&String> = link.altnames.iter().filter(|n| Lowered::parse(n).is_some()).collect();
        // A limit that differs from the one set here was set by somebody else since, and stays.
        let known = notes.iter().find_map(|note| Lowered::parse(note).filter(|lowered| lowered.to == now));
        let own = known.map_or(now, |lowered| lowered.from);
        let lowered = Lowered { from: own, to: wanted.map_or(own, |wanted| wanted.min(own)) };

        let keeps = |note: &str| lowered.to < lowered.from && Lowered::parse(note) == Some(lowered);
        if lowered.to < lowered.from && !notes.iter().any(|note| keeps(note)) {
            let add = NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND;
            let message = RouteNetlinkMessage::NewLinkProp(note(link.index, lowered.name()?));
            self.request(message, add, || format!("note the segment limit of {}", link.name)).await?;
        }
        if lowered.to != now {
            let message = LinkUnspec::new_with_index(link.index)
                .append_extra_attribute(LinkAttribute::GsoMaxSegs(lowered.to))
                .build();
            let action = || format!("limit packets on {} to {} segments", link.name, lowered.to);
            self.request(RouteNetlinkMessage::SetLink(message), 0, action).await?;
        }
        for name in notes.into_iter().filter(|note| !keeps(note)) {
            let message = RouteNetlinkMessage::DelLinkProp(note(link.index, name.clone()));
            self.request(message, 0, || format!("delete the name {name} of {}", link.name)).await?;
        }
        Ok(())
    }
}

/// Returns a message about an alternative name of an interface.
fn note(index: u32, name: String) -> LinkMessage {
    LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::PropList(vec![Prop::AltIfName(name)]))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_read_from_the_name_that_notes_them() {
        let lowered = Lowered { from: 65_535, to: 1 };
        assert_eq!(Lowered::parse(&lowered.name().unwrap()), Some(lowered));
        for name in ["", "eth0", "netem-gso-", "netem-gso-1", "netem-gso-a-b-c"] {
            assert_eq!(Lowered::parse(name), None, "{name}");
        }
    }
}
