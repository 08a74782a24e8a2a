//! The downtime probe: sends ICMP echo requests at a fixed interval and measures the gaps between replies.
//!
//! The guest's kernel answers the requests, so the probe sees the downtime of a client: the time without
//! replies includes the stop at the source, the start at the destination, and the time until the network
//! has learnt the guest's new location. The receiving kernel timestamps the replies, so load on the probe's
//! host does not widen the measured gaps.
//!
//! A gap is the time between two consecutive replies. Without downtime a gap is about one interval, so the
//! interval is the resolution.

use crate::sys;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvmsg,
    sendto, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};
use tokio::{io::unix::AsyncFd, sync::oneshot, task::JoinHandle, time};

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The interval between requests, in nanoseconds.
    pub interval_ns: u64,
    /// The number of requests sent.
    pub sent: u64,
    /// The number of replies received.
    pub received: u64,
    /// The longest gap between two consecutive replies, in nanoseconds; 0 with fewer than two replies.
    pub largest_gap_ns: u64,
    /// The median gap between two consecutive replies, in nanoseconds; 0 with fewer than two replies.
    pub median_gap_ns: u64,
}

/// A running probe.
pub struct Probe {
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<ProbeReport>>,
}

impl Probe {
    /// Starts a probe. Returns when the first reply has arrived; fails if none arrives within `timeout`.
    pub async fn start(target: Ipv4Addr, interval: Duration, timeout: Duration) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (answered, first_reply) = oneshot::channel();
        let task = tokio::spawn(run(Socket::open(target)?, interval, answered, stopped));
        let probe = Self { stop, task };
        match time::timeout(timeout, first_reply).await {
            Ok(Ok(())) => Ok(probe),
            Ok(Err(_)) => {
                probe.stop().await?;
                Err(io::Error::other("the probe ended before a reply arrived"))
            }
            Err(_) => {
                probe.task.abort();
                let text = format!("{target} did not answer a ping within {} s", timeout.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// Stops the probe and returns its report. Requests without a reply so far count as lost.
    pub async fn stop(self) -> io::Result<ProbeReport> {
        let _ = self.stop.send(());
        self.task.await.map_err(io::Error::other)?
    }
}

async fn run(
    socket: Socket,
    interval: Duration,
    answered: oneshot::Sender<()>,
    mut stop: oneshot::Receiver<()>,
) -> io::Result<ProbeReport> {
    let mut ticker = time::interval(interval);
    ticker.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
    let mut answered = Some(answered);
    let mut sent = 0u64;
    // The kernel's receive timestamp of each reply, in nanoseconds.
    let mut replies: VecDeque<u64> = VecDeque::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            _ = ticker.tick() => {
                // Sending may fail while the guest is unreachable: that is what the probe measures.
                if socket.send(sent as u16).is_ok() {
                    sent += 1;
                }
            }
            received = socket.receive() => {
                if let Some(at_ns) = received? {
                    replies.push_back(at_ns);
                    if let Some(answered) = answered.take() {
                        let _ = answered.send(());
                    }
                }
            }
        }
    }
    Ok(report(interval, sent, replies.make_contiguous()))
}

fn report(interval: Duration, sent: u64, replies_ns: &[u64]) -> ProbeReport {
    let mut gaps: Vec<u64> = replies_ns.windows(2).map(|w| w[1].saturating_sub(w[0])).collect();
    gaps.sort_unstable();
    ProbeReport {
        interval_ns: interval.as_nanos() as u64,
        sent,
        received: replies_ns.len() as u64,
        largest_gap_ns: gaps.last().copied().unwrap_or(0),
        median_gap_ns: gaps.get(gaps.len() / 2).copied().unwrap_or(0),
    }
}

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const IPV4_HEADER_MIN: usize = 20;

/// A raw ICMP socket for one target.
struct Socket {
    fd: AsyncFd<OwnedFd>,
    target: SockaddrIn,
    identifier: u16,
}

impl Socket {
    fn open(target: Ipv4Addr) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self {
            fd: sys::readable(fd)?,
            target: SocketAddrV4::new(target, 0).into(),
            identifier: std::process::id() as u16,
        })
    }

    fn send(&self, sequence: u16) -> io::Result<()> {
        let packet = echo_request(self.identifier, sequence);
        sendto(self.fd.as_raw_fd(), &packet, &self.target, MsgFlags::empty())?;
        Ok(())
    }

    /// Waits for a packet. If it is a reply to this probe, returns the kernel's receive timestamp, in
    /// nanoseconds.
    async fn receive(&self) -> io::Result<Option<u64>> {
        let mut guard = self.fd.readable().await?;
        match guard.try_io(|fd| receive(fd.as_raw_fd(), self.identifier)) {
            Ok(result) => result,
            Err(_would_block) => Ok(None),
        }
    }
}

fn receive(fd: i32, identifier: u16) -> io::Result<Option<u64>> {
    let mut packet = [0u8; 256];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(&mut packet)];
    let message = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
    let at_ns = message.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::ScmTimestampns(t) => {
            Some(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        }
        _ => None,
    });
    let len = message.bytes;
    Ok(at_ns.filter(|_| is_reply(&packet[..len], identifier)))
}

/// Builds an ICMP echo request (RFC 792) with eight bytes of payload.
fn echo_request(identifier: u16, sequence: u16) -> [u8; 16] {
    let mut packet = [0u8; 16];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum: u32 = packet.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Returns whether an IPv4 packet is an ICMP echo reply with this identifier.
fn is_reply(packet: &[u8], identifier: u16) -> bool {
    let header_len = packet.first().map_or(0, |b| usize::from(b & 0xf) * 4);
    header_len >= IPV4_HEADER_MIN
        && packet
            .get(header_len..header_len + 6)
            .is_some_and(|icmp| icmp[0] == ECHO_REPLY && u16::from_be_bytes([icmp[4], icmp[5]]) == identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_follows_rfc_792() {
        let packet = echo_request(0x1234, 7);
        assert_eq!(packet[..8], [8, 0, 0xe5, 0xc4, 0x12, 0x34, 0, 7]);
        let sum: u32 = packet.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn only_replies_to_this_probe_count() {
        let mut packet = vec![0x45; 20];
        packet.extend(echo_request(9, 1));
        assert!(!is_reply(&packet, 9), "a request is not a reply");
        packet[20] = ECHO_REPLY;
        assert!(is_reply(&packet, 9));
        assert!(!is_reply(&packet, 8));
        assert!(!is_reply(&packet[..22], 9));
        assert!(!is_reply(&[], 9));
    }

    #[test]
    fn the_largest_gap_is_between_two_replies() {
        let ms = |n: u64| n * 1_000_000;
        let measured = report(Duration::from_millis(10), 30, &[ms(0), ms(10), ms(20), ms(130), ms(140)]);
        assert_eq!((measured.largest_gap_ns, measured.median_gap_ns), (ms(110), ms(10)));
        assert_eq!((measured.sent, measured.received), (30, 5));
        assert_eq!(report(Duration::from_millis(10), 3, &[]).largest_gap_ns, 0);
    }
}
