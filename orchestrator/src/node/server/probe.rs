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
//! Without requests there are no replies either: if the probe itself stood still in a gap, the guest may have
//! been gone for as much less. The lower bound (`surely_gone_ns`) leaves that time out.
//!
//! Gaps are measured by the monotonic clock, so a step of the wall clock, by which the kernel timestamps
//! packets, does not change any gap.
//!
//! The round trip of each request is recorded too, in windows of time: for each window, the longest round
//! trip and the number of requests without a reply. So a peak is preserved, however long the attempt is. A
//! probe can also report them while it runs (`progress`).

use crate::{node::protocol::ProbeProgress, sys};
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
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time,
};

pub(super) mod progress;

use progress::Reporter;

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
    /// The longest time for which the guest cannot have answered, in nanoseconds: the longest gap, the open
    /// one included, of each of which the interval is left out, or the longest time without a request if that
    /// is longer. Absent without a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surely_gone_ns: Option<u64>,
    /// The round trips over time.
    #[serde(default, skip_serializing_if = "Latencies::is_empty")]
    pub latencies: Latencies,
}

/// The round trips of a probe over time, in windows of the same width. Requests still awaiting replies when
/// the probe was stopped do not count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// How long before the end of the probe the first window began, in nanoseconds.
    pub began_before_end_ns: u64,
    /// The width of a window in nanoseconds.
    pub window_ns: u64,
    /// The windows, in order and without a break.
    pub windows: Vec<Window>,
}

impl Latencies {
    /// Returns whether no request counts.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

/// What happened to the requests that were made in a window of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The number of requests, including those that could not be sent.
    pub requests: u64,
    /// The number of requests without a reply.
    pub unanswered: u64,
    /// The longest round trip in nanoseconds. Absent if no request was answered.
    pub longest_ns: Option<u64>,
}

/// A running probe.
pub struct Probe {
    stop: oneshot::Sender<Duration>,
    task: JoinHandle<io::Result<ProbeReport>>,
}

impl Probe {
    /// Starts a probe. Returns when the first reply has arrived; fails if none arrives within `timeout`. The
    /// queue `reports` receives what the probe sees while it runs. The probe never waits for room in the
    /// queue.
    pub async fn start(
        target: Ipv4Addr,
        interval: Duration,
        timeout: Duration,
        reports: Option<mpsc::Sender<ProbeProgress>>,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (answered, first_reply) = oneshot::channel();
        let reporter = reports.map(|queue| Reporter::new(queue, window_ns(interval)));
        let task = tokio::spawn(run(Socket::open(target)?, interval, reporter, answered, stopped));
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
    mut reporter: Option<Reporter>,
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
            // After a time in which this process did not run, replies that have already arrived are not lost.
            biased;
            patience = &mut stop, if deadline.is_none() => {
                // An error means that the starter of the probe is gone.
                deadline = Some(time::Instant::now() + patience.unwrap_or_default());
            }
            () = time::sleep_until(deadline.unwrap_or_else(time::Instant::now)), if deadline.is_some() => {
                break true;
            }
            received = socket.receive() => {
                if let Some(reply) = received? {
                    replies.push(requests.received(reply, Now::read()?));
                    if let Some(reporter) = &mut reporter {
                        reporter.answered(&mut requests, reply.sequence);
                    }
                    if let Some(answered) = answered.take() {
                        let _ = answered.send(());
                    }
                    if deadline.is_some() {
                        break false;
                    }
                }
            }
            _ = ticker.tick() => {
                // Before the request is sent: its reply may arrive before the clock is read again.
                let now_ns = Now::read()?.monotonic_ns;
                // Sending may fail while the guest is unreachable: that is what the probe measures.
                let is_sent = socket.send(requests.next_sequence()).is_ok();
                requests.made(now_ns, is_sent);
                if let Some(reporter) = &mut reporter {
                    reporter.report(&requests, now_ns);
                }
            }
        }
    };
    let end = ProbeEnd { at_ns: Now::read()?.monotonic_ns, is_open: open };
    Ok(report(interval, &requests, &replies, end))
}

/// The requests that were made, in order.
#[derive(Default)]
struct Requests {
    made: Vec<Request>,
    /// How many of these requests were sent.
    sent: u64,
}

/// A request, whose sequence number is its index among all requests.
struct Request {
    /// When it was made, in nanoseconds of the monotonic clock.
    made_ns: u64,
    /// The time until its reply arrived, in nanoseconds.
    round_trip_ns: Option<u64>,
}

impl Requests {
    /// Returns the sequence number of the next request.
    fn next_sequence(&self) -> u16 {
        self.made.len() as u16
    }

    /// Returns when the first request was made, in nanoseconds of the monotonic clock.
    fn began_ns(&self) -> Option<u64> {
        self.made.first().map(|request| request.made_ns)
    }

    /// Notes the next request, and whether it could be sent.
    fn made(&mut self, made_ns: u64, is_sent: bool) {
        self.made.push(Request { made_ns, round_trip_ns: None });
        self.sent += u64::from(is_sent);
    }

    /// Returns the last request with a sequence number.
    fn last_of(&mut self, sequence: u16) -> Option<&mut Request> {
        let since = self.next_sequence().wrapping_sub(sequence).wrapping_sub(1);
        let at = self.made.len().checked_sub(usize::from(since) + 1)?;
        Some(&mut self.made[at])
    }

    /// Notes a reply. Returns when it arrived, by the monotonic clock. Its age follows from the wall clock,
    /// by which the kernel timestamps packets. If that clock has been stepped since then, the age is wrong;
    /// it is limited by the fact that a reply arrives after its request was made and before it is read.
    fn received(&mut self, reply: Reply, now: Now) -> u64 {
        let age = now.real_ns.saturating_sub(reply.stamp_ns);
        let request = self.last_of(reply.sequence);
        let made_ns = request.as_ref().map_or(0, |request| request.made_ns).min(now.monotonic_ns);
        let arrived_ns = now.monotonic_ns.saturating_sub(age).clamp(made_ns, now.monotonic_ns);
        if let Some(request) = request {
            request.round_trip_ns.get_or_insert(arrived_ns - made_ns);
        }
        arrived_ns
    }

    /// Returns the longest time between two requests, of which the later was made between these moments.
    fn longest_pause_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        let made_until = |ns| self.made.partition_point(|request| request.made_ns <= ns);
        let made =
            self.made.get(made_until(from_ns).saturating_sub(1)..made_until(to_ns)).unwrap_or_default();
        made.windows(2).map(|pair| pair[1].made_ns - pair[0].made_ns).max().unwrap_or(0)
    }

    /// Returns for how long the guest cannot have answered in a gap between these moments, of a probe that
    /// requests at this interval.
    fn surely_gone_ns(&self, interval: Duration, from_ns: u64, to_ns: u64) -> u64 {
        let without_request = self.longest_pause_ns(from_ns, to_ns).max(interval.as_nanos() as u64);
        to_ns.saturating_sub(from_ns).saturating_sub(without_request)
    }

    /// Returns the round trips over time of a probe that sent requests at this interval and has ended.
    fn latencies(&self, interval: Duration, end: ProbeEnd) -> Latencies {
        // A guest that never answers again has not answered any of the last requests.
        let counted = match self.made.iter().rposition(|request| request.round_trip_ns.is_some()) {
            _ if end.is_open => &self.made[..],
            Some(last) => &self.made[..=last],
            None => &[],
        };
        let ([first, ..], Some(last)) = (counted, counted.last()) else { return Latencies::default() };
        let span_ns = last.made_ns - first.made_ns;
        let mut window_ns = window_ns(interval);
        while span_ns / window_ns >= MOST_WINDOWS {
            window_ns *= 2;
        }
        let mut windows = vec![Window::default(); (span_ns / window_ns) as usize + 1];
        for request in counted {
            let window = &mut windows[((request.made_ns - first.made_ns) / window_ns) as usize];
            window.requests += 1;
            window.unanswered += u64::from(request.round_trip_ns.is_none());
            window.longest_ns = window.longest_ns.max(request.round_trip_ns);
        }
        Latencies { began_before_end_ns: end.at_ns.saturating_sub(first.made_ns), window_ns, windows }
    }
}

/// The end of a probe.
#[derive(Clone, Copy)]
struct ProbeEnd {
    /// When the probe ended, in nanoseconds of the monotonic clock.
    at_ns: u64,
    /// Whether the guest did not answer while the probe waited for a last reply.
    is_open: bool,
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

/// Computes the report from the requests and the arrival times of replies.
fn report(interval: Duration, requests: &Requests, replies_ns: &[u64], end: ProbeEnd) -> ProbeReport {
    let mut lengths: Vec<u64> = replies_ns.windows(2).map(|w| w[1].saturating_sub(w[0])).collect();
    lengths.sort_unstable();
    let open = replies_ns.last().filter(|_| end.is_open).map(|last| (*last, end.at_ns));
    let closed = replies_ns.windows(2).map(|w| (w[0], w[1]));
    // The probe may have stood still at its end as well.
    let next_ns = requests.made.last().map_or(0, |last| last.made_ns + interval.as_nanos() as u64);
    let gaps = closed.chain(open.map(|(from, to)| (from, to.min(next_ns))));
    let surely_gone = gaps.map(|(from, to)| requests.surely_gone_ns(interval, from, to));
    ProbeReport {
        interval_ns: interval.as_nanos() as u64,
        sent: requests.sent,
        received: replies_ns.len() as u64,
        largest_gap_ns: lengths.last().copied(),
        median_gap_ns: lengths.get(lengths.len() / 2).copied(),
        open_gap_ns: open.map(|(from, to)| to.saturating_sub(from)),
        surely_gone_ns: surely_gone.max(),
        latencies: requests.latencies(interval, end),
    }
}

/// The width of a window of round trips, unless that would make more than [`MOST_WINDOWS`].
const WINDOW: Duration = Duration::from_millis(50);
/// The largest number of windows: more than three minutes with the usual width.
const MOST_WINDOWS: u64 = 4_096;

/// Returns the width of a window of a probe that sends requests at this interval, in nanoseconds. Each window
/// has at least one request.
fn window_ns(interval: Duration) -> u64 {
    WINDOW.max(interval * 2).as_nanos() as u64
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
            // Different for each probe: an older probe may still wait for its last reply.
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

    /// Returns the report of a probe at an interval of 10 ms whose replies arrived at these times.
    fn reported(replies_ns: &[u64], end: ProbeEnd) -> ProbeReport {
        let mut requests = Requests::default();
        (0..30).for_each(|n| requests.made(ms(10 * n), true));
        report(Duration::from_millis(10), &requests, replies_ns, end)
    }

    const fn closed(at_ms: u64) -> ProbeEnd {
        ProbeEnd { at_ns: ms(at_ms), is_open: false }
    }

    const fn open(at_ms: u64) -> ProbeEnd {
        ProbeEnd { at_ns: ms(at_ms), is_open: true }
    }

    #[test]
    fn the_largest_gap_is_between_two_replies() {
        let measured = reported(&[ms(0), ms(10), ms(20), ms(130), ms(140)], closed(141));
        assert_eq!((measured.largest_gap_ns, measured.median_gap_ns), (Some(ms(110)), Some(ms(10))));
        assert_eq!((measured.sent, measured.received, measured.open_gap_ns), (30, 5, None));
    }

    #[test]
    fn a_gap_without_an_end_is_open() {
        let measured = reported(&[ms(0), ms(10)], open(5010));
        assert_eq!((measured.largest_gap_ns, measured.open_gap_ns), (Some(ms(10)), Some(ms(5000))));
    }

    #[test]
    fn a_gap_is_longer_than_the_downtime_by_an_interval() {
        let measured = reported(&[ms(0), ms(10), ms(20), ms(130), ms(140)], closed(141));
        assert_eq!(measured.surely_gone_ns, Some(ms(100)));
        let evenly: Vec<u64> = (0..30).map(|n| ms(10 * n + 1)).collect();
        assert_eq!(reported(&evenly, closed(292)).surely_gone_ns, Some(0));
    }

    #[test]
    fn the_guest_may_have_answered_while_the_probe_stood_still() {
        let gone = |made_ms: &[u64], replies_ms: &[u64], end| {
            let mut requests = Requests::default();
            for at in made_ms {
                requests.made(ms(*at), true);
            }
            let replies: Vec<u64> = replies_ms.iter().copied().map(ms).collect();
            let measured = report(Duration::from_millis(10), &requests, &replies, end);
            (measured.largest_gap_ns.map(|ns| ns / ms(1)), measured.surely_gone_ns.map(|ns| ns / ms(1)))
        };
        // It stood still for 2 s. Each request that it made was answered.
        let still = gone(&[0, 10, 20, 2_020, 2_030], &[1, 11, 21, 2_021, 2_031], closed(2_031));
        assert_eq!(still, (Some(2_000), Some(0)));
        // A shorter gap, in which it made requests, says more about the guest.
        let made = [0, 10, 2_010, 2_020, 2_030, 2_040, 2_050, 2_060];
        assert_eq!(gone(&made, &[1, 11, 2_011, 2_061], closed(2_061)), (Some(2_000), Some(40)));
        // It stood still while the guest was gone.
        let made = [0, 10, 20, 30, 530, 540, 550];
        assert_eq!(gone(&made, &[1, 11, 551], closed(551)), (Some(540), Some(40)));
        // It stood still before a gap, or after one.
        let made = [0, 1_000, 1_010, 1_020, 1_030, 2_030];
        assert_eq!(gone(&made, &[1, 1_001, 1_031, 2_031], closed(2_031)), (Some(1_000), Some(20)));
        // A gap that is still open.
        assert_eq!(gone(&[0, 10, 20, 30, 40], &[1, 11], open(41)).1, Some(20));
        assert_eq!(gone(&[0, 10, 20, 1_020, 1_030], &[1, 11], open(1_031)).1, Some(20));
        assert_eq!(gone(&[0, 10, 20, 30], &[1, 11], open(5_030)).1, Some(19));
        // Its clock never runs backwards, but replies may be read in another order.
        assert_eq!(gone(&[0, 10, 20], &[21, 11], closed(22)), (Some(0), Some(0)));
    }

    #[test]
    fn too_few_replies_are_no_gap() {
        let measured = reported(&[ms(7)], closed(8));
        assert_eq!((measured.largest_gap_ns, measured.median_gap_ns), (None, None));
        assert_eq!(measured.surely_gone_ns, None);
        assert_eq!(reported(&[], open(9)).open_gap_ns, None);
    }

    /// Returns the round trips of a probe that sends a request every 10 ms, and whose requests took these
    /// times in milliseconds; `None` stands for no reply. It ends 1 s after its last request.
    fn latencies(round_trips_ms: &[Option<u64>], is_open: bool) -> Latencies {
        let mut requests = Requests::default();
        for (n, round_trip) in round_trips_ms.iter().enumerate() {
            requests.made(ms(500 + 10 * n as u64), true);
            requests.made[n].round_trip_ns = round_trip.map(ms);
        }
        let at_ns = ms(500 + 10 * (round_trips_ms.len() as u64 - 1) + 1_000);
        requests.latencies(Duration::from_millis(10), ProbeEnd { at_ns, is_open })
    }

    #[test]
    fn a_window_has_its_longest_round_trip_and_what_was_lost() {
        let mut round_trips = vec![Some(1); 20];
        round_trips[3] = Some(7);
        round_trips[5..14].fill(None);
        let found = latencies(&round_trips, false);
        assert_eq!((found.began_before_end_ns, found.window_ns), (ms(1_190), ms(50)));
        let window = |unanswered, longest_ms: Option<u64>| Window {
            requests: 5,
            unanswered,
            longest_ns: longest_ms.map(ms),
        };
        let expected = [window(0, Some(7)), window(5, None), window(4, Some(1)), window(0, Some(1))];
        assert_eq!(found.windows, expected, "a window without a reply has no round trip, not one of 0");
    }

    #[test]
    fn requests_under_way_at_the_end_are_lost_only_if_the_guest_is() {
        let mut round_trips = vec![Some(1); 10];
        round_trips[7..].fill(None);
        let counted = |found: &Latencies| {
            let sum = |of: fn(&Window) -> u64| found.windows.iter().map(of).sum::<u64>();
            (sum(|window| window.requests), sum(|window| window.unanswered))
        };
        assert_eq!(counted(&latencies(&round_trips, false)), (7, 0));
        assert_eq!(counted(&latencies(&round_trips, true)), (10, 3));
        assert!(latencies(&[None; 5], false).is_empty());
    }

    #[test]
    fn a_long_probe_has_wider_windows_and_keeps_its_peak() {
        // Ten minutes.
        let mut round_trips = vec![Some(1); 60_000];
        round_trips[31_111] = Some(900);
        let found = latencies(&round_trips, false);
        assert_eq!(found.window_ns, ms(200));
        assert!(found.windows.len() as u64 <= MOST_WINDOWS);
        assert_eq!(found.windows.iter().map(|window| window.requests).sum::<u64>(), 60_000);
        assert_eq!(found.windows[31_111 / 20].longest_ns, Some(ms(900)));
    }

    #[test]
    fn a_reply_belongs_to_the_last_request_of_its_number() {
        let mut requests = Requests::default();
        (0..70_000).for_each(|n| requests.made(ms(n), true));
        let reply = |sequence| Reply { sequence, stamp_ns: ms(70_000) };
        let now = Now { monotonic_ns: ms(70_000), real_ns: ms(70_000) };
        requests.received(reply(0), now);
        requests.received(reply(9_999), now);
        assert_eq!(requests.made[65_536].round_trip_ns, Some(ms(70_000 - 65_536)));
        assert_eq!(requests.made[9_999].round_trip_ns, Some(ms(70_000 - 9_999)));
        assert!(requests.made[0].round_trip_ns.is_none());
    }

    #[test]
    fn a_step_of_the_wall_clock_changes_no_gap() {
        const HOUR: u64 = 3_600_000_000_000;
        let mut requests = Requests::default();
        for n in 0..4 {
            requests.made(ms(100 + 10 * n), true);
        }
        // Each reply arrives 1 ms after its request and is read 1 ms later.
        let mut read = |sequence: u16, stamped_by: u64, read_by: u64| {
            let arrived = ms(101 + 10 * u64::from(sequence));
            let reply = Reply { sequence, stamp_ns: stamped_by + arrived };
            let now = Now { monotonic_ns: arrived + ms(1), real_ns: read_by + arrived + ms(1) };
            requests.received(reply, now)
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
