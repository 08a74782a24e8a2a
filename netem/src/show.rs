//! The shaping state of an interface, as `netem show` prints it.

use crate::{
    error::{Error, clear_command},
    kernel::{Direction, Qdisc},
    links::Counters,
    netlink::Netlink,
    profile::Profile,
};
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
    broken: Vec<Broken>,
    qdiscs: Vec<Qdisc>,
    counters: Counters,
}

/// A direction that is no longer shaped as applied, because somebody else has removed or changed a part.
#[derive(Debug, Serialize)]
struct Broken {
    /// The key of the direction: `sends` or `receives`.
    direction: &'static str,
    problems: Vec<String>,
}

impl InterfaceState {
    /// Reads the state of an interface from the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`], or if the kernel does not answer.
    pub async fn read(netlink: &Netlink, interface: &str) -> Result<Self, Error> {
        let link = netlink.interface(interface).await?;
        let mut broken = Vec::new();
        let mut profiles = [None, None];
        for (profile, direction) in profiles.iter_mut().zip([Direction::Egress, Direction::Ingress]) {
            let shaping = netlink.shaping(&link, direction).await?;
            if shaping.problems.is_empty() {
                *profile = shaping.profile;
            } else {
                broken.push(Broken { direction: direction.key(), problems: shaping.problems });
            }
        }
        let [sends, receives] = profiles;
        let qdiscs = netlink.qdiscs_of(&link).await?;
        let counters = Counters::of(&link)?;
        Ok(Self { interface: link.name, sends, receives, broken, qdiscs, counters })
    }
}

impl fmt::Display for InterfaceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = |key: &str, profile: &Option<Profile>| match (
            profile,
            self.broken.iter().find(|broken| broken.direction == key),
        ) {
            (_, Some(Broken { problems, .. })) => format!("broken: {}", problems.join("; ")),
            (Some(profile), None) => inline(profile),
            (None, None) => "nothing applied".to_owned(),
        };
        writeln!(f, "{}", self.interface)?;
        writeln!(f, "  sends:    {}", profile("sends", &self.sends))?;
        writeln!(f, "  receives: {}", profile("receives", &self.receives))?;
        if !self.broken.is_empty() {
            let clear = clear_command(&self.interface);
            writeln!(f, "  apply a profile again to repair it, or remove it: {clear}")?;
        }
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
