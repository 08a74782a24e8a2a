//! [`Interface`]: a network interface as the kernel reports it, and the names under which it is found.
//!
//! The messages of the kernel are decoded here and not by netlink-packet-route, which drops the message of an
//! interface whose name or alias (`ip link set eth0 alias ...`) is not UTF-8.

use crate::wire::Reader;
use std::fmt::Write;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_STATS64: u16 = 23;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
/// The number of counters at the start of `struct rtnl_link_stats64` that are decoded.
const COUNTERS: usize = 8;

/// The properties of an interface that this crate needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The name (`IFLA_IFNAME`), such as `eth0`, in the form of [`printable`].
    pub name: String,
    /// The other names (`ip link property add`), in the form of [`printable`].
    pub altnames: Vec<String>,
    /// The interface index, unique within its network namespace.
    pub index: u32,
    /// The type of a virtual interface (`IFLA_INFO_KIND`), such as `ifb`; `None` for others.
    pub kind: Option<String>,
    /// Whether it is set up (`IFF_UP`), with a carrier or without.
    pub is_up: bool,
    /// The MTU (`IFLA_MTU`): the size of the largest IP packet, in bytes.
    pub mtu: u32,
    /// The largest number of segments that TCP may pass down in one packet (`IFLA_GSO_MAX_SEGS`); `None` if
    /// the kernel does not report it.
    pub gso_max_segments: Option<u32>,
    /// The index of the interface to which this one is linked (`IFLA_LINK`), such as its peer or the
    /// interface below it.
    pub(crate) linked_to: Option<u32>,
    /// Whether that index belongs to another network namespace (`IFLA_LINK_NETNSID`).
    pub(crate) linked_elsewhere: bool,
    /// The index of the bridge, bond or VRF of which it is a port (`IFLA_MASTER`).
    pub(crate) controller: Option<u32>,
    /// The type of its link layer (`ARPHRD_*`), such as 1 for Ethernet.
    pub(crate) link_layer: u16,
    /// Its flags (`IFF_*`), such as `IFF_LOOPBACK`.
    pub(crate) flags: u32,
    /// The first counters of `IFLA_STATS64`: packets, bytes, errors and drops, received before sent;
    /// `None` if the kernel does not report them.
    pub(crate) counters: Option<[u64; COUNTERS]>,
}

impl Interface {
    /// Decodes the content of an `RTM_NEWLINK` message; `None` if it is malformed.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        // struct ifinfomsg: family and type, index, flags, mask of changed flags.
        reader.advance(2)?;
        let (link_layer, index, flags) = (reader.u16()?, reader.u32()?, reader.u32()?);
        reader.advance(4)?;
        let mut interface = Self { index, link_layer, flags, ..Self::default() };
        interface.is_up = interface.has(libc::IFF_UP);
        for (attribute, mut value) in reader {
            match attribute {
                IFLA_IFNAME => interface.name = printable(value.text()),
                IFLA_MTU => interface.mtu = value.u32()?,
                IFLA_LINK => interface.linked_to = value.u32(),
                IFLA_LINK_NETNSID => interface.linked_elsewhere = true,
                IFLA_MASTER => interface.controller = value.u32(),
                IFLA_GSO_MAX_SEGS => interface.gso_max_segments = value.u32(),
                IFLA_LINKINFO => {
                    let kind = value.find(|(attribute, _)| *attribute == IFLA_INFO_KIND);
                    interface.kind = kind.map(|(_, value)| printable(value.text()));
                }
                IFLA_STATS64 => {
                    let mut counters = [0; COUNTERS];
                    for counter in &mut counters {
                        *counter = value.u64()?;
                    }
                    interface.counters = Some(counters);
                }
                IFLA_PROP_LIST => {
                    let names = value.filter(|(attribute, _)| *attribute == IFLA_ALT_IFNAME);
                    interface.altnames.extend(names.map(|(_, name)| printable(name.text())));
                }
                _ => {}
            }
        }
        Some(interface)
    }

    /// Returns the index of the interface to which this one is linked, if that one is in the same namespace.
    pub(crate) fn lower(&self) -> Option<u32> {
        self.linked_to.filter(|_| !self.linked_elsewhere)
    }

    /// Returns whether it has this flag (`IFF_*`).
    pub(crate) fn has(&self, flag: libc::c_int) -> bool {
        self.flags & flag.cast_unsigned() != 0
    }
}

/// Returns the interface with a name, as `ip` accepts or prints it: its name or an alternative name, or its
/// name with the interface to which it is linked, like `eth0@if7` or `eth0@eth1`, and a colon.
pub(crate) fn find<'a>(name: &str, all: &'a [Interface]) -> Option<&'a Interface> {
    let exact = |name: &str| {
        let by_name = all.iter().find(|i| i.name == name);
        by_name.or_else(|| all.iter().find(|i| i.altnames.iter().any(|other| other == name)))
    };
    let linked = |name: &str| {
        let (name, other) = name.rsplit_once('@')?;
        let found = exact(name)?;
        let number = other.strip_prefix("if").and_then(|number| number.parse().ok());
        let index = exact(other).map(|other| other.index).or(number);
        let nothing = other == "NONE" && found.linked_to == Some(0);
        (nothing || index.is_some() && index == found.linked_to).then_some(found)
    };
    let name = if exact(name).is_some() { name } else { name.strip_suffix(':').unwrap_or(name) };
    exact(name).or_else(|| linked(name))
}

/// Returns the bytes of a name as text, with control characters and bytes that are not UTF-8 as `\xff`. An
/// interface can be found by this form of its name too.
pub fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_ascii_control() {
                write!(text, "\\x{:02x}", character as u32).expect("writing to a string");
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Writer;

    /// Returns the message of an interface with these attributes.
    fn message(index: u32, build: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.words(&[0, index, 1, 0]);
        build(&mut writer);
        writer.finish()
    }

    fn named(index: u32, name: &[u8], linked_to: u32) -> Interface {
        let message = message(index, |w| {
            w.attribute(IFLA_IFNAME, &[name, b"\0"].concat());
            w.attribute_words(IFLA_LINK, &[linked_to]);
            w.nested(IFLA_PROP_LIST, |w| {
                w.attribute(IFLA_ALT_IFNAME, &[b"long-", name, b"\0"].concat());
            });
        });
        Interface::decode(&message).unwrap()
    }

    #[test]
    fn an_interface_is_found_as_ip_prints_it() {
        let all = [named(2, b"va", 3), named(3, b"vb", 2), named(4, b"x@y", 7), named(5, b"d", 0)];
        for (name, index) in [
            ("va", Some(2)),
            ("long-vb", Some(3)),
            ("va@vb", Some(2)),
            ("va@vb:", Some(2)),
            ("va@if3", Some(2)),
            ("d:", Some(5)),
            ("d@NONE", Some(5)),
            ("x@y", Some(4)),
            ("x@y@if7", Some(4)),
            ("va@vc", None),
            ("va@if4", None),
            ("va@NONE", None),
            ("d@if6", None),
            ("vc@vb", None),
            ("", None),
        ] {
            assert_eq!(find(name, &all).map(|i| i.index), index, "{name}");
        }
    }

    #[test]
    fn names_that_are_not_text_are_readable_and_found() {
        let all = [named(2, b"v\xff\x1b", 0)];
        assert_eq!(all[0].name, "v\\xff\\x1b");
        assert_eq!(all[0].altnames, ["long-v\\xff\\x1b"]);
        assert_eq!(find(&printable(b"v\xff\x1b"), &all).unwrap().index, 2);
        assert_eq!(find("v\u{fffd}", &all), None);
        assert_eq!(printable("grün".as_bytes()), "grün");
    }

    #[test]
    fn truncated_messages_are_none() {
        let whole = message(2, |w| {
            w.attribute(IFLA_IFNAME, b"va\0");
        });
        assert!(Interface::decode(&whole).is_some());
        assert_eq!(Interface::decode(&whole[..15]), None);
        let empty = message(2, |w| {
            w.attribute(IFLA_MTU, &[]);
        });
        assert_eq!(Interface::decode(&empty), None);
    }
}
