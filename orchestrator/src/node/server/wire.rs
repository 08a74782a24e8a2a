//! The bytes that a node has sent through each of its interfaces, as they are on the wire.
//!
//! A qdisc counts the headers of every segment of a packet that TCP passes down unsegmented; the interface
//! counts those of the first segment only. So an interface has sent what its qdiscs have counted. The count
//! of a qdisc is lost when a qdisc of another kind replaces it, so the counts are summed up here.

use crate::node::protocol::Traffic;
use netem::{Applied, Netlink, Profile, ethernet};
use std::{collections::HashMap, sync::Mutex};

/// How often the counters of an interface with traffic are read in the attempt to find them in agreement.
const READINGS: usize = 5;

/// What the qdiscs of an interface and the interface itself had counted at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// Bytes sent by the qdiscs since their root was created; absent without qdiscs of `netem`.
    qdisc_bytes: Option<u64>,
    /// What the interface has sent since its creation.
    interface: Sent,
}

/// What an interface counts: unsegmented packets, each with one header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    bytes: u64,
    packets: u64,
}

impl Sent {
    async fn read(netlink: &Netlink, interface: &str) -> netem::Result<Self> {
        let counters = netlink.counters(interface).await?;
        Ok(Self { bytes: counters.tx_bytes, packets: counters.tx_packets })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            packets: self.packets.saturating_sub(earlier.packets),
        }
    }

    /// Returns the bytes on the wire, with the headers of all segments, if the sent data is a TCP stream.
    fn on_the_wire(self) -> u64 {
        const HEADERS: u64 = ethernet::FRAME_BYTES - ethernet::TCP_PAYLOAD_BYTES;
        let payload = self.bytes.saturating_sub(self.packets * HEADERS);
        let segments = payload.div_ceil(ethernet::TCP_PAYLOAD_BYTES).max(self.packets);
        self.bytes + (segments - self.packets) * HEADERS
    }
}

impl Count {
    /// Reads both counters. The kernel cannot read both together, so this repeats until the interface has
    /// sent nothing while the qdiscs were read, and otherwise uses the reading during which it sent least.
    async fn read(netlink: &Netlink, interface: &str) -> netem::Result<Self> {
        let mut closest: Option<(u64, Self)> = None;
        for _ in 0..READINGS {
            let first = Sent::read(netlink, interface).await?;
            let count = Self { qdisc_bytes: netlink.sent_bytes(interface).await?, interface: first };
            let meanwhile = Sent::read(netlink, interface).await?.since(first).bytes;
            if closest.is_none_or(|(least, _)| meanwhile < least) {
                closest = Some((meanwhile, count));
            }
            if meanwhile == 0 {
                break;
            }
        }
        Ok(closest.expect("there is at least one reading").1)
    }

    /// Returns the bytes sent until the qdiscs were replaced, given the count afterwards. What the old qdiscs
    /// sent after this count follows from the interface's counter.
    fn until_replaced(self, after: Self) -> u64 {
        let meanwhile = after.interface.since(self.interface).on_the_wire();
        self.qdisc_bytes.unwrap_or(0) + meanwhile.saturating_sub(after.qdisc_bytes.unwrap_or(0))
    }
}

/// The bytes that replaced qdiscs have sent, by the name of their interface.
#[derive(Debug, Default)]
pub(super) struct WireCounts(Mutex<HashMap<String, u64>>);

impl WireCounts {
    /// Shapes what an interface sends, and keeps the count of its qdiscs. Without a profile, attaches a queue
    /// that counts without shaping.
    pub(super) async fn shape(
        &self,
        netlink: &Netlink,
        interface: &str,
        profile: &Profile,
    ) -> netem::Result<Applied> {
        let before = Count::read(netlink, interface).await?;
        let applied = if profile.is_empty() {
            netlink.count(interface).await?
        } else {
            netlink.apply(interface, profile).await?
        };
        if !applied.in_place {
            let sent = before.until_replaced(Count::read(netlink, interface).await?);
            *self.0.lock().unwrap().entry(interface.into()).or_default() += sent;
        }
        Ok(applied)
    }

    /// Returns what an interface has sent since it was shaped for the first time, and what it has received.
    pub(super) async fn traffic(&self, netlink: &Netlink, interface: &str) -> netem::Result<Traffic> {
        let by_qdiscs = netlink.sent_bytes(interface).await?;
        let by_interface = netlink.counters(interface).await?;
        let earlier = self.0.lock().unwrap().get(interface).copied().unwrap_or(0);
        Ok(Traffic {
            sent_bytes: by_qdiscs.map_or(by_interface.tx_bytes, |sent| earlier + sent),
            received_bytes: by_interface.rx_bytes,
            late: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netem::Namespace;
    use std::{io::Write, net, os::fd::AsFd, thread};

    #[test]
    fn what_was_sent_while_qdiscs_were_replaced_is_counted() {
        let count = |qdisc_bytes, bytes, packets| Count { qdisc_bytes, interface: Sent { bytes, packets } };
        assert_eq!(count(Some(100), 90, 1).until_replaced(count(Some(0), 90, 1)), 100);
        assert_eq!(count(Some(100), 90, 1).until_replaced(count(Some(10), 120, 2)), 120);
        assert_eq!(count(None, 90, 1).until_replaced(count(Some(0), 95, 2)), 5);
        // An unsegmented packet of the size of three frames, one of which the new qdisc has counted.
        let meanwhile = 3 * 1448 + 66;
        assert_eq!(count(Some(7), 0, 0).until_replaced(count(Some(1514), meanwhile, 1)), 7 + 2 * 1514);
    }

    /// Returns the number of segments that TCP has retransmitted in the namespace of the calling thread.
    fn retransmitted() -> u64 {
        let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let [names, values] = [0, 1].map(|line| {
            snmp.lines().filter(|l| l.starts_with("Tcp: ")).nth(line).unwrap().split_whitespace()
        });
        let (_, value) = names.zip(values).find(|(name, _)| *name == "RetransSegs").unwrap();
        value.parse().unwrap()
    }

    /// A stream over a link whose shaping changes in every way: the sum is what the wire has seen, no matter
    /// which qdiscs have counted it.
    #[tokio::test]
    async fn the_count_continues_when_the_shaping_changes() {
        const PART_BYTES: u64 = 8_000_000;
        let namespaces = [Namespace::new(), Namespace::new()];
        let [Ok(near), Ok(far)] = namespaces else {
            println!("skipped: {:?}", namespaces.map(Result::err));
            return;
        };
        let netlink = Netlink::open_in(near.as_fd()).unwrap();
        let others = Netlink::open_in(far.as_fd()).unwrap();
        netlink.add_veth("near", "far", Some(far.as_fd())).await.unwrap();
        for (netlink, name, number) in [(&netlink, "near", 1), (&others, "far", 2)] {
            netlink.add_address(name, net::Ipv4Addr::new(10, 77, 0, number), 24).await.unwrap();
            netlink.set_up(name).await.unwrap();
        }
        let listener = far.run(|| net::TcpListener::bind("10.77.0.2:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = thread::spawn(move || {
            std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap()
        });

        let counts = WireCounts::default();
        let profile = |text: &str| serde_json::from_str::<Profile>(text).unwrap();
        counts.shape(&netlink, "near", &profile("{}")).await.unwrap();
        let before = counts.traffic(&netlink, "near").await.unwrap().sent_bytes;
        let mut stream = near.run(|| net::TcpStream::connect(("10.77.0.2", port))).unwrap();
        let payload = vec![1; PART_BYTES as usize];
        stream.write_all(&payload).unwrap();
        let links = [
            r#"{ "rate": "2gbit" }"#,
            r#"{ "rate": "1gbit" }"#,
            r#"{ "rate": "2gbit", "shaper": "htb" }"#,
            "{}",
            "{}",
        ];
        for link in links {
            counts.shape(&netlink, "near", &profile(link)).await.unwrap();
            stream.write_all(&payload).unwrap();
        }
        drop(stream);
        let total = PART_BYTES * (1 + links.len() as u64);
        assert_eq!(receiver.join().unwrap(), total);
        let sent = counts.traffic(&netlink, "near").await.unwrap().sent_bytes - before;
        let once = total * ethernet::FRAME_BYTES / ethernet::TCP_PAYLOAD_BYTES;
        // Data that a replaced qdisc has dropped is sent again, and so is data that the receiver had no time
        // for.
        let again = near.run(|| Ok(retransmitted())).unwrap() * ethernet::FRAME_BYTES;
        let expected = once * 99 / 100..=(once + again) * 101 / 100;
        assert!(expected.contains(&sent), "{sent} is not in {expected:?}");
    }
}
