//! The filter that redirects what an interface receives to its `ifb`, and the filters that others have added.

use crate::{
    error::{Error, Result},
    netlink::Message,
    netlink::Netlink,
    wire::{Reader, TCA_OPTIONS},
};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption,
        TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
        TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
    },
};

/// The preference of the redirection; filters with lower preferences come first.
const PREFERENCE: u16 = 1;
/// The number of the redirection among the filters of its preference, by which it is recognised.
const NODE: u32 = 0x6e6;
/// The bits with that number in the handle of a u32 filter. The other bits are those of its hash table.
const NODE_BITS: u32 = 0xfff;

const TCA_KIND: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;

/// A filter for what an interface receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// The kind as the kernel names it, such as `u32`.
    pub(super) kind: String,
    /// The preference of the filter: filters with a lower one come first.
    pub(super) preference: u16,
    handle: u32,
    /// The index of the interface to which every packet is redirected; `None` for a filter that does
    /// anything else. 0 if that interface is gone.
    pub(super) redirects_to: Option<u32>,
}

impl Filter {
    /// Returns whether this crate created the filter, whatever it does now.
    pub(super) fn is_ours(&self) -> bool {
        self.kind == TcFilterU32::KIND && self.handle & NODE_BITS == NODE
    }

    /// Decodes the content of an `RTM_NEWTFILTER` message; `None` if it is malformed, or if it is about a
    /// group of filters.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        // struct tcmsg: family, interface, handle, parent, preference and protocol.
        reader.advance(8)?;
        let handle = reader.u32()?;
        reader.advance(4)?;
        let preference = (reader.u32()? >> 16) as u16;
        let (mut kind, mut redirects_to) = (String::new(), None);
        for (attribute, value) in reader {
            match attribute {
                TCA_KIND => kind = String::from_utf8_lossy(value.text()).into_owned(),
                TCA_OPTIONS => redirects_to = redirection_target(value),
                _ => {}
            }
        }
        let is_group = handle == 0 || (kind == TcFilterU32::KIND && handle & NODE_BITS == 0);
        (!is_group).then_some(Self { kind, preference, handle, redirects_to })
    }
}

/// Decodes the options of a u32 filter. Returns the interface to which it redirects every packet, if it does.
fn redirection_target(options: Reader<'_>) -> Option<u32> {
    let (mut every_packet, mut target) = (false, None);
    for (attribute, mut value) in options {
        match attribute {
            TCA_U32_SEL => {
                // struct tc_u32_sel: flags, a shift, the number of keys, offsets; then the mask of a key.
                let [_, _, keys, ..] = value.array::<16>()?;
                every_packet = keys == 1 && value.u32()? == 0;
            }
            TCA_U32_ACT => {
                let (_, mut action) = value.next()?;
                let (_, kind) = action.clone().find(|(attribute, _)| *attribute == TCA_ACT_KIND)?;
                let (_, mut parameters) = action.find(|(attribute, _)| *attribute == TCA_ACT_OPTIONS)?;
                let (_, mut mirred) = parameters.find(|(attribute, _)| *attribute == TCA_MIRRED_PARMS)?;
                (kind.text() == TcActionMirror::KIND.as_bytes()).then_some(())?;
                // struct tc_mirred: five words that all actions have, what it does, the interface.
                mirred.advance(20)?;
                let does = mirred.u32()?;
                target = mirred.u32().filter(|_| does == TCA_EGRESS_REDIR);
            }
            _ => {}
        }
    }
    target.filter(|_| every_packet)
}

impl Netlink {
    /// Lists the filters that are attached to a qdisc of an interface, in the order of their preference.
    pub(super) async fn filters(&self, index: u32, name: &str, parent: TcHandle) -> Result<Vec<Filter>> {
        let mut query = TcMessage::with_index(index.cast_signed());
        query.header.parent = parent;
        let action = || format!("list the filters of {name}");
        let answers = match self.dump(RouteNetlinkMessage::GetTrafficFilter(query), action).await {
            // The qdisc has been removed in the meantime.
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
            other => other?,
        };
        let decoded = answers
            .iter()
            .filter_map(|m| if let Message::Filter(filter) = m { Filter::decode(filter) } else { None });
        let mut filters: Vec<_> = decoded.collect();
        filters.sort_by_key(|filter| filter.preference);
        Ok(filters)
    }
}

/// Returns the message that deletes the redirection of an interface.
pub(super) fn deletion(from: u32, filter: &Filter, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(from.cast_signed());
    message.header.parent = parent;
    message.header.handle = filter.handle.into();
    message.header.info = u32::from(TcHandle { major: filter.preference, minor: every_protocol() });
    message.attributes = vec![TcAttribute::Kind(filter.kind.clone())];
    message
}

/// Returns `ETH_P_ALL`, every protocol, in network byte order.
fn every_protocol() -> u16 {
    (libc::ETH_P_ALL as u16).to_be()
}

/// Returns the message of
/// `tc filter add dev FROM ingress pref 1 handle ::6e6 protocol all u32 match u32 0 0
/// action mirred egress redirect dev TO`.
pub(super) fn redirection(from: u32, to: u32, parent: TcHandle) -> TcMessage {
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
    message.header.parent = parent;
    message.header.handle = NODE.into();
    message.header.info = u32::from(TcHandle { major: PREFERENCE, minor: every_protocol() });
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(everything)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    message
}
