//! The parts of the kernel that shaping needs, by name. [`supported`](crate::kernel::supported) finds out
//! which there are.

use serde::Serialize;
use std::fmt;

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
