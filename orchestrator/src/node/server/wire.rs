//! The bytes that a node has sent through each of its interfaces, as they are on the wire.
//!
//! A qdisc counts the headers of every segment of a packet that TCP passes down unsegmented; the interface
//! counts those of the first segment only. So what an interface has sent is what its qdiscs have counted. A
//! qdisc that is replaced by one of another kind takes its count with it, so the counts are summed up here.

use crate::node::protocol::Traffic;
use netem::{Applied, Netlink, Profile};
use std::{collections::HashMap, sync::Mutex};

/// What the qdiscs of an interface and the interface itself have counted at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// Bytes sent by the qdiscs since their root was created; absent without qdiscs of `netem`.
    qdisc_bytes: Option<u64>,
    /// Bytes sent by the interface since it was created.
    interface_bytes: u64,
}

impl Count {
    async fn read(netlink: &Netlink, interface: &str) -> netem::Result<Self> {
        Ok(Self {
            qdisc_bytes: netlink.sent_bytes(interface).await?,
            interface_bytes: netlink.counters(interface).await?.tx_bytes,
        })
    }

    /// Returns the bytes sent until the qdiscs were replaced, given the count afterwards. What the old ones
    /// sent after this count is known from the interface.
    fn until_replaced(self, after: Self) -> u64 {
        let meanwhile = after.interface_bytes.saturating_sub(self.interface_bytes);
        self.qdisc_bytes.unwrap_or(0) + meanwhile.saturating_sub(after.qdisc_bytes.unwrap_or(0))
    }
}

/// The bytes that replaced qdiscs have sent, by the name of their interface.
#[derive(Debug, Default)]
pub(super) struct WireCounts(Mutex<HashMap<String, u64>>);

impl WireCounts {
    /// Shapes what an interface sends, and keeps what its qdiscs have counted. Without a profile, a queue
    /// that shapes nothing counts.
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
        let count = |qdisc_bytes, interface_bytes| Count { qdisc_bytes, interface_bytes };
        assert_eq!(count(Some(100), 90).until_replaced(count(Some(0), 90)), 100);
        assert_eq!(count(Some(100), 90).until_replaced(count(Some(10), 120)), 120);
        assert_eq!(count(None, 90).until_replaced(count(Some(0), 95)), 5);
    }

    /// A stream over a link whose shaping changes in every way: the sum is what the wire has seen, no matter
    /// which qdiscs have counted it.
    #[tokio::test]
    async fn the_count_goes_on_when_the_shaping_changes() {
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
        let on_the_wire = total * netem::ethernet::FRAME_BYTES / netem::ethernet::TCP_PAYLOAD_BYTES;
        assert!(sent.abs_diff(on_the_wire) < on_the_wire / 100, "{sent} instead of {on_the_wire}");
    }
}
