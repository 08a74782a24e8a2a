//! The kernel features that traffic shaping needs. [`supported`](crate::kernel::supported) determines which
//! of them the running kernel has.

use serde::Serialize;
use std::fmt;

/// A kernel feature that traffic shaping or a lab's links need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// `sch_tbf`, a token bucket: the default shaper.
    Tbf,
    /// `sch_htb`, a hierarchy of token buckets: the alternative shaper.
    Htb,
    /// `sch_netem`: delay, jitter, loss and every other effect except a rate, which it can also enforce.
    Netem,
    /// `sch_ingress`, the qdisc to which filters for received packets are attached.
    Ingress,
    /// `ifb`, the intermediate interface on which received packets are shaped as if they were sent.
    Ifb,
    /// The filter `cls_u32` and the action `act_mirred`, which redirect received packets to an `ifb`.
    Redirect,
    /// `veth`: pairs of virtual Ethernet interfaces, which are connected to each other.
    Veth,
    /// `bridge`: a virtual Ethernet switch.
    Bridge,
    /// `macvlan`: interfaces that send and receive through another interface.
    Macvlan,
}

impl Feature {
    /// Every feature, in the order in which [`supported`](crate::kernel::supported) tests them: `Redirect`
    /// needs the qdisc of `Ingress`.
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

    /// Returns the name of the kernel module, as `modprobe` expects it.
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

    /// Returns the command that loads what the feature needs.
    pub(crate) fn load_command(self) -> String {
        match self {
            Self::Redirect => format!("modprobe -a cls_u32 {}", self.module()),
            _ => format!("modprobe {}", self.module()),
        }
    }

    /// Returns the options of the kernel configuration that build the feature.
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
