//! Whether an interface of a host can carry a node's macvlan, and if not, why and what to do.
//!
//! Only what cannot work, or cannot work until somebody changes the host, is refused here. An interface that
//! another node uses is not refused: that node may end. Neither is one without a carrier, which a cable
//! restores.

use netem::{LinkRole, LinkUser};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The kinds of controllers that receive the frames of their ports themselves. The kernel does not allow a
/// second receiver. A VRF, for example, leaves the frames to the port.
const TAKES_FRAMES: [&str; 5] = ["bridge", "bond", "team", "openvswitch", "hsr"];

/// The reason why an interface cannot carry a macvlan, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// What the interface is or lacks, as a sentence that begins with its name.
    pub reason: String,
    /// What to do, in the imperative.
    pub remedy: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

impl Unusable {
    /// Returns why an interface cannot carry a macvlan in passthrough mode; `None` if nothing prevents it.
    pub fn check(interface: &LinkRole) -> Option<Self> {
        const ANOTHER: &str = "name an Ethernet interface that nothing else uses";
        let LinkRole { name, kind, loopback, ethernet, up, controller, users, .. } = interface;
        let unusable = |reason: String, remedy: String| Some(Self { reason, remedy });
        if *loopback {
            return unusable(
                format!("{name} is the loopback interface, which leads nowhere"),
                ANOTHER.into(),
            );
        }
        let kind = kind.as_deref().unwrap_or_default();
        if ["macvlan", "macvtap", "ipvlan", "ipvtap"].contains(&kind) {
            let reason = format!("{name} is itself a {kind}, and cannot carry a macvlan");
            return unusable(reason, format!("name the interface that {name} is on, or another one"));
        }
        if !ethernet {
            let kind = if kind.is_empty() { "not an Ethernet interface" } else { &format!("of kind {kind}") };
            let reason = format!("{name} is {kind}: it carries no Ethernet frames, so no macvlan");
            return unusable(reason, ANOTHER.into());
        }
        if let Some(LinkUser { name: by, kind }) = controller
            && TAKES_FRAMES.contains(&kind.as_str())
        {
            let reason = format!("{name} is a port of the {kind} {by}, which receives its frames");
            // A bond is an interface to the network of its ports; a bridge does not have a network of its
            // own.
            let also = if ["bond", "team"].contains(&kind.as_str()) { by } else { "another interface" };
            return unusable(
                reason,
                format!("name {also}, or take {name} out of {by} (`ip link set {name} nomaster`)"),
            );
        }
        if let Some(LinkUser { name: by, kind }) = users.first() {
            let reason = format!("{name} already carries the {kind} {by}");
            return unusable(reason, format!("remove that (`ip link del {by}`), or name another interface"));
        }
        if !up {
            return unusable(format!("{name} is down"), format!("set it up (`ip link set {name} up`)"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet() -> LinkRole {
        LinkRole {
            name: "eth1".into(),
            index: 7,
            kind: None,
            loopback: false,
            ethernet: true,
            up: true,
            carrier: true,
            controller: None,
            users: Vec::new(),
        }
    }

    #[track_caller]
    fn assert_refused(interface: &LinkRole, words: &[&str]) {
        let text = Unusable::check(interface).expect("it is refused").to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} is not all in: {text}");
    }

    #[test]
    fn what_an_interface_is_decides_whether_it_carries_a_macvlan() {
        let user = |name: &str, kind: &str| LinkUser { name: name.into(), kind: kind.into() };
        assert_eq!(Unusable::check(&ethernet()), None);
        assert_eq!(Unusable::check(&LinkRole { carrier: false, ..ethernet() }), None, "a cable comes back");
        for kind in ["bond", "vlan", "veth", "bridge", "tun"] {
            assert_eq!(Unusable::check(&LinkRole { kind: Some(kind.into()), ..ethernet() }), None, "{kind}");
        }
        assert_refused(&LinkRole { loopback: true, ethernet: false, ..ethernet() }, &["loopback"]);
        let wireguard = LinkRole { kind: Some("wireguard".into()), ethernet: false, ..ethernet() };
        assert_refused(&wireguard, &["of kind wireguard", "no Ethernet frames"]);
        assert_refused(&LinkRole { ethernet: false, ..ethernet() }, &["not an Ethernet interface"]);
        for kind in ["macvlan", "ipvlan"] {
            assert_refused(
                &LinkRole { kind: Some(kind.into()), ..ethernet() },
                &[&format!("itself a {kind}")],
            );
        }
        let in_bridge = LinkRole { controller: Some(user("br0", "bridge")), ..ethernet() };
        assert_refused(&in_bridge, &["port of the bridge br0", "`ip link set eth1 nomaster`"]);
        let in_bond = LinkRole { controller: Some(user("bond0", "bond")), ..ethernet() };
        assert_refused(&in_bond, &["port of the bond bond0", "name bond0"]);
        let in_vrf = LinkRole { controller: Some(user("vrf7", "vrf")), ..ethernet() };
        assert_eq!(Unusable::check(&in_vrf), None, "a VRF leaves the frames to its ports");
        let carries = LinkRole { users: vec![user("mv0", "macvlan")], ..ethernet() };
        assert_refused(&carries, &["already carries the macvlan mv0", "`ip link del mv0`"]);
        assert_refused(&LinkRole { up: false, ..ethernet() }, &["eth1 is down", "`ip link set eth1 up`"]);
    }
}
