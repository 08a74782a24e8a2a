//! Measures a path from its two ends: what a TCP stream carries, how long a round trip takes, what is lost.
//!
//! One end runs a [`Server`], the other calls [`measure`]. Probes are UDP packets of 64 bytes of payload,
//! sent at a steady pace and echoed; a round trip so includes both hosts' scheduling, some 50 to 100 us on an
//! idle machine. They are sent first alone, and at last beside a TCP stream, so that the queue shows. In
//! between the stream is alone, and its goodput is counted by the receiver: a probe is a frame of 106 bytes,
//! and 200 of them in a second would take a sixth of 1 Mbit/s.

use crate::profile::Profile;
use serde::Serialize;
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};
use units::{ByteRate, Span};

/// Bytes of payload in a probe: session, number, and in the echo how many have come.
const PROBE_BYTES: usize = 64;
/// How long after the last probe its echo may still come.
const PATIENCE: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 128 * 1024;

/// How long and how often to measure.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long the TCP stream runs alone, warm-up included. It then goes on for as long beside probes, and
    /// is not counted.
    pub duration: Duration,
    /// How much of the beginning of the stream is not counted: until the stream has found the path's rate,
    /// which it overshoots at first.
    pub warm_up: Duration,
    /// How often a probe is sent.
    pub interval: Duration,
    /// How many probes are sent without a stream.
    pub idle_probes: u32,
}

impl Default for Settings {
    /// Three seconds of stream, the first half of one left out, as long again beside probes 5 ms apart, and
    /// 400 such probes before.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(3),
            warm_up: Duration::from_millis(500),
            interval: Duration::from_millis(5),
            idle_probes: 400,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// Payload that arrived per time, over one TCP stream.
    pub goodput: ByteRate,
    /// Round trips without a stream.
    pub idle: RoundTrips,
    /// Round trips beside the stream.
    pub loaded: RoundTrips,
}

/// Probes and their echoes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RoundTrips {
    /// Probes sent.
    pub sent: u64,
    /// Probes that arrived, duplicates included, as far as an echo told.
    pub arrived: u64,
    /// Probes whose echo came back.
    pub echoed: u64,
    /// The shortest round trip; zero, as the others, when none came back.
    pub min: Span,
    /// The median.
    pub p50: Span,
    /// Nine out of ten were shorter.
    pub p90: Span,
    /// 99 out of 100 were shorter.
    pub p99: Span,
    /// The longest.
    pub max: Span,
}

impl RoundTrips {
    /// The part of the probes that did not come back, there and back together, between 0 and 1.
    pub fn loss(&self) -> f64 {
        1.0 - self.echoed as f64 / (self.sent.max(1)) as f64
    }

    fn new(sent: u64, arrived: u64, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |part: f64| {
            let index = (times.len() as f64 * part).ceil() as usize;
            times.get(index.saturating_sub(1)).copied().map_or(Span::ZERO, Span::from)
        };
        Self {
            sent,
            arrived,
            echoed: times.len() as u64,
            min: rank(0.0),
            p50: rank(0.5),
            p90: rank(0.9),
            p99: rank(0.99),
            max: rank(1.0),
        }
    }
}

/// The payload one TCP stream with timestamps carries at a profile's rate over IPv4: of each frame of MTU +
/// 14 bytes, all but 52 bytes of TCP and IP headers and 14 of Ethernet's. `None` without a rate.
pub fn tcp_payload(profile: &Profile, mtu: u32) -> Option<ByteRate> {
    let rate = u128::from(profile.rate?.to_byte_rate().get());
    let (payload, frame) = (u128::from(mtu.saturating_sub(52)), u128::from(mtu) + 14);
    Some(ByteRate::new((rate * payload / frame) as u64))
}

/// The far end of a measurement.
#[derive(Debug)]
pub struct Server {
    streams: TcpListener,
    probes: UdpSocket,
}

impl Server {
    /// Listens on an address, by TCP and UDP on the same port; port 0 takes any that is free.
    ///
    /// # Errors
    ///
    /// When the address is not this host's, or the port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let streams = TcpListener::bind(address)?;
        let probes = UdpSocket::bind(streams.local_addr()?)?;
        Ok(Self { streams, probes })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// Never on Linux.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.streams.local_addr()
    }

    /// Serves until a socket fails: any number of clients, each stream on a thread of its own.
    ///
    /// # Errors
    ///
    /// Why it could not go on.
    pub fn run(self) -> io::Result<()> {
        let probes = self.probes;
        thread::Builder::new().name("probes".into()).spawn(move || echo(&probes))?;
        for stream in self.streams.incoming() {
            let stream = stream?;
            // A client that goes away in mid-stream is its own problem.
            thread::Builder::new().name("stream".into()).spawn(move || drop(receive(stream)))?;
        }
        Ok(())
    }
}

/// Sends every probe back, with how many of its session have come.
fn echo(socket: &UdpSocket) -> io::Result<()> {
    let mut sessions: HashMap<[u8; 8], u64> = HashMap::new();
    let mut packet = [0; PROBE_BYTES];
    loop {
        let (bytes, from) = socket.recv_from(&mut packet)?;
        if bytes != PROBE_BYTES {
            continue;
        }
        let Some(session) = packet.first_chunk::<8>() else { continue };
        let count = sessions.entry(*session).or_default();
        *count += 1;
        packet[16..24].copy_from_slice(&count.to_be_bytes());
        // A full buffer or an unreachable client is a lost probe.
        let _ = socket.send_to(&packet, from);
    }
}

/// Takes a stream to its end, and answers how many bytes came in how many nanoseconds. The stream begins with
/// two times in nanoseconds: when to begin to count, and when to end.
fn receive(mut stream: TcpStream) -> io::Result<()> {
    let mut times = [0; 16];
    stream.read_exact(&mut times)?;
    let beginning = Instant::now();
    let mut counter = Counter::new(nanoseconds(&times, 0), nanoseconds(&times, 8));
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let bytes = stream.read(&mut buffer)?;
        if bytes == 0 {
            break;
        }
        counter.add(beginning.elapsed(), bytes as u64);
    }
    stream.write_all(&counter.bytes.to_be_bytes())?;
    let nanos = u64::try_from(counter.time().as_nanos()).unwrap_or(u64::MAX);
    stream.write_all(&nanos.to_be_bytes())
}

/// The time at an offset of a message.
fn nanoseconds(message: &[u8; 16], at: usize) -> Duration {
    Duration::from_nanos(u64::from_be_bytes(std::array::from_fn(|i| message[at + i])))
}

/// Counts what arrives between two arrivals: the first after a time, which itself is not counted, since it
/// was on its way before, and the last before another.
#[derive(Debug)]
struct Counter {
    begin: Duration,
    end: Duration,
    first: Option<Duration>,
    last: Duration,
    bytes: u64,
}

impl Counter {
    fn new(begin: Duration, end: Duration) -> Self {
        Self { begin, end, first: None, last: Duration::ZERO, bytes: 0 }
    }

    fn add(&mut self, at: Duration, bytes: u64) {
        if at < self.begin || at > self.end {
            return;
        }
        if self.first.is_none() {
            self.first = Some(at);
        } else {
            self.bytes += bytes;
        }
        self.last = at;
    }

    /// How long the counted bytes took.
    fn time(&self) -> Duration {
        self.first.map_or(Duration::ZERO, |first| self.last.saturating_sub(first))
    }
}

/// Measures the path to a [`Server`]. Blocks for twice the settings' duration and a few seconds.
///
/// # Errors
///
/// When the server does not answer, or a socket fails.
pub fn measure(server: SocketAddr, settings: &Settings) -> io::Result<Measurement> {
    // Connecting first shows that somebody is there.
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    let idle = probe(server, settings.idle_probes, settings.interval)?;
    let during = settings.duration.as_nanos() / settings.interval.as_nanos().max(1);
    let during = u32::try_from(during).unwrap_or(u32::MAX);
    let Settings { interval, duration, warm_up, .. } = *settings;

    let start = Instant::now();
    for time in [warm_up, duration] {
        stream.write_all(&(time.as_nanos() as u64).to_be_bytes())?;
    }
    let beside = thread::spawn(move || {
        thread::sleep(duration.saturating_sub(start.elapsed()));
        probe(server, during, interval)
    });
    let chunk = vec![0; CHUNK_BYTES];
    while start.elapsed() < 2 * duration {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer)?;
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| answer[at + i]));
    let goodput = u128::from(number(0)) * 1_000_000_000 / u128::from(number(8).max(1));
    let loaded = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Measurement { goodput: ByteRate::new(goodput as u64), idle, loaded })
}

/// Sends probes at a steady pace and collects their echoes.
fn probe(server: SocketAddr, count: u32, interval: Duration) -> io::Result<RoundTrips> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    let session = session_id(&socket)?;
    let start = Instant::now();
    let sender = socket.try_clone()?;
    let sending = thread::spawn(move || {
        let mut sent = Vec::with_capacity(count as usize);
        for number in 0..count {
            thread::sleep((interval * number).saturating_sub(start.elapsed()));
            let mut packet = [0; PROBE_BYTES];
            packet[..8].copy_from_slice(&session);
            packet[8..16].copy_from_slice(&u64::from(number).to_be_bytes());
            sent.push(start.elapsed());
            // What the host itself drops is lost, like any other.
            let _ = sender.send(&packet);
        }
        sent
    });

    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut back: Vec<Option<Duration>> = vec![None; count as usize];
    let (mut arrived, mut sent) = (0, None);
    let mut sending = Some(sending);
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end) && back.iter().any(Option::is_none) {
        if let Some(finished) = sending.take_if(|s| s.is_finished()) {
            sent = Some(finished.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            end = Some(Instant::now() + PATIENCE);
        }
        let mut packet = [0; PROBE_BYTES];
        let Ok(PROBE_BYTES) = socket.recv(&mut packet) else { continue };
        let now = start.elapsed();
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| packet[at + i]));
        arrived = arrived.max(number(16));
        if let Some(slot) = usize::try_from(number(8)).ok().and_then(|n| back.get_mut(n)) {
            slot.get_or_insert(now);
        }
    }
    let sent = match (sent, sending) {
        (Some(sent), _) => sent,
        (None, Some(sending)) => sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        (None, None) => Vec::new(),
    };
    let times = sent.iter().zip(&back).filter_map(|(sent, back)| back.map(|b| b.saturating_sub(*sent)));
    Ok(RoundTrips::new(sent.len() as u64, arrived, times.collect()))
}

/// Distinguishes this run's probes from those of another from the same port.
fn session_id(socket: &UdpSocket) -> io::Result<[u8; 8]> {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let port = u64::from(socket.local_addr()?.port());
    Ok((nanos as u64 ^ port.rotate_right(16)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let trips = RoundTrips::new(200, 150, times);
        let millis = [trips.min, trips.p50, trips.p90, trips.p99, trips.max].map(Span::as_millis);
        assert_eq!(millis, [1, 50, 90, 99, 100]);
        assert!((trips.loss() - 0.5).abs() < 1e-9);
        assert_eq!(RoundTrips::new(3, 0, Vec::new()).max, Span::ZERO);
    }

    #[test]
    fn what_arrives_in_between_is_counted_whatever_the_grain() {
        let ms = Duration::from_millis;
        // 1000 bytes a millisecond, in pieces that do not divide the time.
        for piece_ms in [1, 7, 30] {
            let mut counter = Counter::new(ms(100), ms(400));
            for at in (piece_ms..1000).step_by(piece_ms as usize) {
                counter.add(ms(at), 1000 * piece_ms);
            }
            assert_eq!(counter.bytes, 1000 * counter.time().as_millis() as u64, "pieces of {piece_ms} ms");
            assert!(counter.time() >= ms(300 - 2 * piece_ms) && counter.time() <= ms(300));
        }
        let mut nothing = Counter::new(ms(100), ms(400));
        nothing.add(ms(50), 1000);
        nothing.add(ms(500), 1000);
        assert_eq!((nothing.bytes, nothing.time()), (0, Duration::ZERO));
    }

    #[test]
    fn the_payload_of_a_frame() {
        let profile = Profile { rate: Some("928mbit".parse().unwrap()), ..Profile::default() };
        assert_eq!(tcp_payload(&profile, 1500), Some(ByteRate::new(110_943_196)));
        assert_eq!(tcp_payload(&Profile::default(), 1500), None);
    }

    #[test]
    fn over_loopback_everything_comes_back() {
        let server = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = server.address().unwrap();
        thread::spawn(|| server.run());
        let settings = Settings {
            duration: Duration::from_millis(100),
            warm_up: Duration::ZERO,
            interval: Duration::from_millis(1),
            idle_probes: 20,
        };
        let measured = measure(address, &settings).unwrap();
        assert_eq!((measured.idle.sent, measured.idle.arrived, measured.idle.echoed), (20, 20, 20));
        assert!(measured.idle.min > Span::ZERO && measured.idle.min <= measured.idle.max);
        assert!(!measured.goodput.is_zero());
    }
}
