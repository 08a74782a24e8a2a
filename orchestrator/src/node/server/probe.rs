//! The downtime probe: sends ICMP echo requests at a fixed interval and measures the gaps between replies.
//!
//! The guest's kernel answers the requests, so the probe sees the downtime of a client: the time without
//! replies includes the stop at the source, the start at the destination, and the time until the network
//! has learnt the guest's new location. The receiving kernel timestamps the replies, so load on the probe's
//! host does not widen the measured gaps.
//!
//! A gap is the time between two consecutive replies. Without downtime a gap is about one interval, so the
//! interval is the resolution. When the probe is stopped, it waits for one more reply, up to a limit. If
//! none comes, the last gap is still open: how long the guest was gone is known only as a lower bound.
//!
//! Gaps are measured by the monotonic clock, so a step of the wall clock, by which the kernel timestamps
//! packets, changes none.

use crate::sys;
use nix::{
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvmsg,
        sendto, setsockopt, socket, sockopt,
    },
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
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
    /// The longest gap between two consecutive replies, in nanoseconds. Absent with fewer than two replies.
    pub largest_gap_ns: Option<u64>,
    /// The median gap between two consecutive replies, in nanoseconds. Absent with fewer than two replies.
    pub median_gap_ns: Option<u64>,
    /// The time from the last reply until the probe ended without another one, in nanoseconds. Absent if the
    /// guest answered until the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_gap_ns: Option<u64>,
}

/// A running probe.
pub struct Probe {
    stop: oneshot::Sender<Duration>,
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
                probe.stop(Duration::ZERO).await?;
                Err(io::Error::other("the probe ended before a reply arrived"))
            }
            Err(_) => {
                probe.task.abort();
                let text = format!("{target} did not answer a ping within {} s", timeout.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// Stops the probe when the next reply arrives, or after `patience` without one, and returns its report.
    pub async fn stop(self, patience: Duration) -> io::Result<ProbeReport> {
        let _ = self.stop.send(patience);
        self.task.await.map_err(io::Error::other)?
    }
}

async fn run(
    socket: Socket,
    interval: Duration,
    answered: oneshot::Sender<()>,
    mut stop: oneshot::Receiver<Duration>,
) -> io::Result<ProbeReport> {
    let mut ticker = time::interval(interval);
    ticker.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
    let mut answered = Some(answered);
    let mut requests = Requests::default();
    // When each reply arrived, in nanoseconds of the monotonic clock.
    let mut replies: Vec<u64> = Vec::new();
    // Set once the probe has been asked to stop.
    let mut deadline: Option<time::Instant> = None;
    let open = loop {
        tokio::select! {
            patience = &mut stop, if deadline.is_none() => {
                // An error means that whoever started the probe is gone.
                deadline = Some(time::Instant::now() + patience.unwrap_or_default());
            }
            () = time::sleep_until(deadline.unwrap_or_else(time::Instant::now)), if deadline.is_some() => {
                break true;
            }
            _ = ticker.tick() => {
                // Before the request is sent: its reply may arrive before the clock is read again.
                let sent_ns = Now::read()?.monotonic_ns;
                // Sending may fail while the guest is unreachable: that is what the probe measures.
                if socket.send(requests.next_sequence()).is_ok() {
                    requests.sent(sent_ns);
                }
            }
            received = socket.receive() => {
                if let Some(reply) = received? {
                    replies.push(requests.received_at(reply, Now::read()?));
                    if let Some(answered) = answered.take() {
                        let _ = answered.send(());
                    }
                    if deadline.is_some() {
                        break false;
                    }
                }
            }
        }
    };
    let end_ns = open.then_some(Now::read()?.monotonic_ns);
    Ok(report(interval, requests.count, &replies, end_ns))
}

/// The requests that were sent, to find out when the one of a reply was.
struct Requests {
    count: u64,
    /// When the request with each sequence number was sent, in nanoseconds of the monotonic clock.
    sent_ns: Vec<u64>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { count: 0, sent_ns: vec![0; 1 << u16::BITS] }
    }
}

impl Requests {
    /// Returns the sequence number of the next request.
    fn next_sequence(&self) -> u16 {
        self.count as u16
    }

    /// Notes that the next request was sent.
    fn sent(&mut self, at_ns: u64) {
        let sequence = usize::from(self.next_sequence());
        self.sent_ns[sequence] = at_ns;
        self.count += 1;
    }

    /// Returns when a reply arrived, by the monotonic clock. Its age follows from the wall clock, by which
    /// the kernel timestamps packets. If that clock has been stepped since, the age is wrong, but a reply
    /// arrives after its request was sent and before it is read.
    fn received_at(&self, reply: Reply, now: Now) -> u64 {
        let age = now.real_ns.saturating_sub(reply.stamp_ns);
        let sent_ns = self.sent_ns[usize::from(reply.sequence)].min(now.monotonic_ns);
        now.monotonic_ns.saturating_sub(age).clamp(sent_ns, now.monotonic_ns)
    }
}

/// The two clocks at one moment, in nanoseconds.
#[derive(Clone, Copy)]
struct Now {
    monotonic_ns: u64,
    real_ns: u64,
}

impl Now {
    fn read() -> io::Result<Self> {
        let read = |clock| -> io::Result<u64> { Ok(Duration::from(clock_gettime(clock)?).as_nanos() as u64) };
        Ok(Self { monotonic_ns: read(ClockId::CLOCK_MONOTONIC)?, real_ns: read(ClockId::CLOCK_REALTIME)? })
    }
}

/// Computes the report from when replies arrived and, if the guest did not answer until the end, when the
/// probe ended.
fn report(
    interval: Duration,
    sent: u64,
    replies_ns: &[u64],
    unanswered_until_ns: Option<u64>,
) -> ProbeReport {
    let mut gaps: Vec<u64> = replies_ns.windows(2).map(|w| w[1].saturating_sub(w[0])).collect();
    gaps.sort_unstable();
    let last_reply = replies_ns.last();
    ProbeReport {
        interval_ns: interval.as_nanos() as u64,
        sent,
        received: replies_ns.len() as u64,
        largest_gap_ns: gaps.last().copied(),
        median_gap_ns: gaps.get(gaps.len() / 2).copied(),
        open_gap_ns: unanswered_until_ns.zip(last_reply).map(|(end, last)| end.saturating_sub(*last)),
    }
}

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const IPV4_HEADER_MIN: usize = 20;

/// The number of probes that this process has started.
static PROBES: AtomicU32 = AtomicU32::new(0);

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
            // Different for each probe: an older one may still wait for its last reply.
            identifier: (std::process::id() + PROBES.fetch_add(1, Ordering::Relaxed)) as u16,
        })
    }

    fn send(&self, sequence: u16) -> io::Result<()> {
        let packet = echo_request(self.identifier, sequence);
        sendto(self.fd.as_raw_fd(), &packet, &self.target, MsgFlags::empty())?;
        Ok(())
    }

    /// Waits for a packet. Returns it if it is a reply to this probe.
    async fn receive(&self) -> io::Result<Option<Reply>> {
        let mut guard = self.fd.readable().await?;
        match guard.try_io(|fd| receive(fd.as_raw_fd(), self.identifier)) {
            Ok(result) => result,
            Err(_would_block) => Ok(None),
        }
    }
}

/// A reply to this probe.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reply {
    /// The sequence number of its request.
    sequence: u16,
    /// When the kernel received it, in nanoseconds of the wall clock.
    stamp_ns: u64,
}

fn receive(fd: i32, identifier: u16) -> io::Result<Option<Reply>> {
    let mut packet = [0u8; 256];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(&mut packet)];
    let message = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
    let stamp_ns = message.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::ScmTimestampns(t) => {
            Some(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        }
        _ => None,
    });
    let len = message.bytes;
    let sequence = reply_sequence(&packet[..len], identifier);
    Ok(sequence.zip(stamp_ns).map(|(sequence, stamp_ns)| Reply { sequence, stamp_ns }))
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

/// Returns the sequence number of an IPv4 packet if it is an ICMP echo reply with this identifier.
fn reply_sequence(packet: &[u8], identifier: u16) -> Option<u16> {
    let header_len = packet.first().map_or(0, |b| usize::from(b & 0xf) * 4);
    let icmp = packet.get(header_len..header_len + 8).filter(|_| header_len >= IPV4_HEADER_MIN)?;
    let is_ours = icmp[0] == ECHO_REPLY && u16::from_be_bytes([icmp[4], icmp[5]]) == identifier;
    is_ours.then(|| u16::from_be_bytes([icmp[6], icmp[7]]))
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
        assert_eq!(reply_sequence(&packet, 9), None, "a request is not a reply");
        packet[20] = ECHO_REPLY;
        assert_eq!(reply_sequence(&packet, 9), Some(1));
        assert_eq!(reply_sequence(&packet, 8), None);
        assert_eq!(reply_sequence(&packet[..22], 9), None);
        assert_eq!(reply_sequence(&[], 9), None);
    }

    const fn ms(n: u64) -> u64 {
        n * 1_000_000
    }

    #[test]
    fn the_largest_gap_is_between_two_replies() {
        let replies = [ms(0), ms(10), ms(20), ms(130), ms(140)];
        let measured = report(Duration::from_millis(10), 30, &replies, None);
        assert_eq!((measured.largest_gap_ns, measured.median_gap_ns), (Some(ms(110)), Some(ms(10))));
        assert_eq!((measured.sent, measured.received, measured.open_gap_ns), (30, 5, None));
    }

    #[test]
    fn a_gap_without_an_end_is_open() {
        let measured = report(Duration::from_millis(10), 500, &[ms(0), ms(10)], Some(ms(5010)));
        assert_eq!((measured.largest_gap_ns, measured.open_gap_ns), (Some(ms(10)), Some(ms(5000))));
    }

    #[test]
    fn too_few_replies_are_no_gap() {
        let measured = report(Duration::from_millis(10), 3, &[ms(7)], None);
        assert_eq!((measured.largest_gap_ns, measured.median_gap_ns), (None, None));
        assert_eq!(report(Duration::from_millis(10), 3, &[], Some(ms(9))).open_gap_ns, None);
    }

    #[test]
    fn a_step_of_the_wall_clock_changes_no_gap() {
        const HOUR: u64 = 3_600_000_000_000;
        let mut requests = Requests::default();
        for n in 0..4 {
            requests.sent(ms(100 + 10 * n));
        }
        // Each reply arrives 1 ms after its request and is read 1 ms later.
        let read = |sequence: u16, stamped_by: u64, read_by: u64| {
            let arrived = ms(101 + 10 * u64::from(sequence));
            let reply = Reply { sequence, stamp_ns: stamped_by + arrived };
            let now = Now { monotonic_ns: arrived + ms(1), real_ns: read_by + arrived + ms(1) };
            requests.received_at(reply, now)
        };
        assert_eq!(read(0, HOUR, HOUR), ms(101));
        // Stepped before the reply arrives: forward, back.
        assert_eq!(read(1, 2 * HOUR, 2 * HOUR), ms(111));
        assert_eq!(read(2, 0, 0), ms(121));
        // Stepped between the stamp and the reading: not before the request, not after the reading.
        assert_eq!(read(3, 0, HOUR), ms(130));
        assert_eq!(read(3, HOUR, 0), ms(132));
    }
}
