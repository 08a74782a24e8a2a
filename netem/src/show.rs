//! The shaping state of an interface, as `netem show` prints it.

use crate::{error::Error, kernel::Qdisc, links::Counters, netlink::Netlink, profile::Profile};
use serde::Serialize;
use std::fmt;
use units::{Bytes, counted};

/// The profiles, qdiscs and counters of an interface: the output of `netem show`, as text (`Display`) or JSON
/// (`Serialize`).
#[derive(Debug, Serialize)]
pub struct InterfaceState {
    interface: String,
    sends: Option<Profile>,
    receives: Option<Profile>,
    qdiscs: Vec<Qdisc>,
    counters: Counters,
}

impl InterfaceState {
    /// Reads the state of an interface from the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`], or if the kernel does not answer.
    pub async fn read(netlink: &Netlink, interface: &str) -> Result<Self, Error> {
        Ok(Self {
            interface: interface.to_owned(),
            sends: netlink.profile(interface).await?,
            receives: netlink.ingress_profile(interface).await?,
            qdiscs: netlink.show(interface).await?,
            counters: netlink.counters(interface).await?,
        })
    }
}

impl fmt::Display for InterfaceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = |p: &Option<Profile>| p.as_ref().map_or_else(|| "nothing applied".to_owned(), inline);
        writeln!(f, "{}", self.interface)?;
        writeln!(f, "  sends:    {}", profile(&self.sends))?;
        writeln!(f, "  receives: {}", profile(&self.receives))?;
        for qdisc in &self.qdiscs {
            let s = &qdisc.statistics;
            writeln!(
                f,
                "  {qdisc}\n    sent {} in {}, dropped {}, overlimits {}, backlog {} in {}",
                Bytes::new(s.sent_bytes),
                counted(s.sent_packets, "packet"),
                s.drops,
                s.overlimits,
                Bytes::new(s.backlog_bytes),
                counted(s.backlog_packets, "packet")
            )?;
        }
        let c = &self.counters;
        writeln!(
            f,
            "  counters: sent {} in {}, received {} in {}",
            Bytes::new(c.tx_bytes),
            counted(c.tx_packets, "packet"),
            Bytes::new(c.rx_bytes),
            counted(c.rx_packets, "packet")
        )
    }
}

/// Formats a profile on one line: JSON without quotation marks, `{rate:940mbit, delay:20ms}`.
pub(crate) fn inline(profile: &Profile) -> String {
    serde_json::to_string(profile).expect("plain data").replace('"', "").replace(',', ", ")
}
