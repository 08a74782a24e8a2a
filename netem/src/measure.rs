//! Measures a network path between two hosts: the goodput of one TCP stream, round-trip times, and loss.
//!
//! One host runs a [`Server`], the other calls [`measure`]. Probes are UDP packets of 64 bytes of payload,
//! sent at a constant rate and echoed by the server. A round trip therefore includes the scheduling delays of
//! both hosts, some 50 to 100 us on an idle host. A measurement has three phases:
//!
//! 1. probes alone: the idle round-trip time;
//! 2. a TCP stream alone: its goodput, as the receiver counts it. Probes would reduce it: a probe is a frame
//!    of 106 bytes, and 200 of them per second take a sixth of 1 Mbit/s;
//! 3. probes beside the stream: the round-trip time under load, which includes the queue.

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

/// The payload of a probe, in bytes: session, sequence number, and in the echo the count of probes received.
const PROBE_BYTES: usize = 64;
/// How long to wait for echoes after the last probe.
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 128 * 1024;

/// The durations and counts of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct MeasurementSettings {
    /// How long the TCP stream runs alone, including the warm-up. It then runs as long again beside probes;
    /// that part does not count towards the goodput.
    pub duration: Duration,
    /// The start of the stream that does not count, while the stream finds the path's rate, which it
    /// overshoots at first.
    pub warm_up: Duration,
    /// The time between two probes.
    pub interval: Duration,
    /// The number of probes sent without a stream.
    pub idle_probes: u32,
}

impl Default for MeasurementSettings {
    /// Returns 400 idle probes, 3 s of stream of which the first 0.5 s do not count, and 3 s of stream beside
    /// probes. Probes are 5 ms apart.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(3),
            warm_up: Duration::from_millis(500),
            interval: Duration::from_millis(5),
            idle_probes: 400,
        }
    }
}

/// The result of a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// The payload rate of one TCP stream, as the receiver counted it.
    pub goodput: ByteRate,
    /// The round trips of probes without a stream.
    pub idle: RoundTrips,
    /// The round trips of probes beside the stream.
    pub loaded: RoundTrips,
}

/// The counts and round-trip times of a series of probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RoundTrips {
    /// The number of probes that were sent.
    pub sent: u64,
    /// The number of probes that the server received, duplicates included, as its last echo reported it.
    pub arrived: u64,
    /// The number of probes whose echo came back.
    pub echoed: u64,
    /// The shortest round trip. This and the other times are zero if no echo came back.
    pub min: Span,
    /// The median round trip (nearest rank).
    pub p50: Span,
    /// The 90th percentile of the round trips (nearest rank).
    pub p90: Span,
    /// The 99th percentile of the round trips (nearest rank).
    pub p99: Span,
    /// The longest round trip of all.
    pub max: Span,
}

impl RoundTrips {
    /// Returns the fraction of probes whose echo did not come back, between 0 and 1: the loss of both
    /// directions together.
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

/// Returns the payload rate of one TCP stream with timestamps over IPv4 at a profile's rate: a frame of
/// MTU + 14 bytes carries MTU - 52 bytes of payload, the rest being the TCP, IP and Ethernet headers. `None`
/// if the profile has no rate.
pub fn tcp_payload(profile: &Profile, mtu: u32) -> Option<ByteRate> {
    let rate = u128::from(profile.rate?.to_byte_rate().get());
    let (payload, frame) = (u128::from(mtu.saturating_sub(52)), u128::from(mtu) + 14);
    Some(ByteRate::new((rate * payload / frame) as u64))
}

/// The remote end of a measurement, which receives streams and echoes probes.
#[derive(Debug)]
pub struct Server {
    streams: TcpListener,
    probes: UdpSocket,
}

impl Server {
    /// Listens on an address, for TCP and UDP on the same port. Port 0 selects a free port.
    ///
    /// # Errors
    ///
    /// If the address is not local, or if the port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let streams = TcpListener::bind(address)?;
        let probes = UdpSocket::bind(streams.local_addr()?)?;
        Ok(Self { streams, probes })
    }

    /// Returns the address on which the server listens, with the port that was selected.
    ///
    /// # Errors
    ///
    /// Never on Linux.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.streams.local_addr()
    }

    /// Serves any number of clients until a socket fails, each stream on its own thread.
    ///
    /// # Errors
    ///
    /// The error of the socket that failed, or of starting a thread.
    pub fn run(self) -> io::Result<()> {
        let probes = self.probes;
        thread::Builder::new().name("probes".into()).spawn(move || echo(&probes))?;
        for stream in self.streams.incoming() {
            let stream = stream?;
            // A client that disconnects mid-stream does not affect the other clients.
            thread::Builder::new().name("stream".into()).spawn(move || drop(receive(stream)))?;
        }
        Ok(())
    }
}

/// Echoes every probe with the number of probes received in its session.
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
        // If the buffer is full or the client unreachable, the probe counts as lost.
        let _ = socket.send_to(&packet, from);
    }
}

/// Receives a stream to its end, then answers with the number of bytes counted and the time they took in
/// nanoseconds. The stream starts with two times in nanoseconds: when counting starts, and when it ends.
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

/// Reads the time at an offset of a message: nanoseconds as a 64-bit big-endian number.
fn nanoseconds(message: &[u8; 16], at: usize) -> Duration {
    Duration::from_nanos(u64::from_be_bytes(std::array::from_fn(|i| message[at + i])))
}

/// A count of the bytes that arrive from `begin` to `end`. The first arrival only starts the clock: its bytes
/// were already in transit, so they do not count. The time ends with the last arrival.
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

    /// Returns the time from the first to the last arrival.
    fn time(&self) -> Duration {
        self.first.map_or(Duration::ZERO, |first| self.last.saturating_sub(first))
    }
}

/// Measures the path to a [`Server`]. Blocks for twice [`MeasurementSettings::duration`] and a few seconds.
///
/// # Errors
///
/// If the server does not answer, or if a socket fails.
pub fn measure(server: SocketAddr, settings: &MeasurementSettings) -> io::Result<Measurement> {
    // Connecting first fails early if no server is running.
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    let idle = probe(server, settings.idle_probes, settings.interval)?;
    let loaded_probes = settings.duration.as_nanos() / settings.interval.as_nanos().max(1);
    let loaded_probes = u32::try_from(loaded_probes).unwrap_or(u32::MAX);
    let MeasurementSettings { interval, duration, warm_up, .. } = *settings;

    let start = Instant::now();
    for time in [warm_up, duration] {
        stream.write_all(&(time.as_nanos() as u64).to_be_bytes())?;
    }
    let probing = thread::spawn(move || {
        thread::sleep(duration.saturating_sub(start.elapsed()));
        probe(server, loaded_probes, interval)
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
    let loaded = probing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Measurement { goodput: ByteRate::new(goodput as u64), idle, loaded })
}

/// Sends `count` probes, one per `interval`, and collects their echoes.
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
            // A probe that this host drops counts as lost.
            let _ = sender.send(&packet);
        }
        sent
    });

    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut echoes: Vec<Option<Duration>> = vec![None; count as usize];
    let (mut arrived, mut sent) = (0, None);
    let mut sending = Some(sending);
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end) && echoes.iter().any(Option::is_none) {
        if let Some(finished) = sending.take_if(|s| s.is_finished()) {
            sent = Some(finished.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            end = Some(Instant::now() + ECHO_TIMEOUT);
        }
        let mut packet = [0; PROBE_BYTES];
        let Ok(PROBE_BYTES) = socket.recv(&mut packet) else { continue };
        let now = start.elapsed();
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| packet[at + i]));
        arrived = arrived.max(number(16));
        if let Some(slot) = usize::try_from(number(8)).ok().and_then(|n| echoes.get_mut(n)) {
            slot.get_or_insert(now);
        }
    }
    let sent = match (sent, sending) {
        (Some(sent), _) => sent,
        (None, Some(sending)) => sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        (None, None) => Vec::new(),
    };
    let times = sent.iter().zip(&echoes).filter_map(|(sent, echo)| echo.map(|at| at.saturating_sub(*sent)));
    Ok(RoundTrips::new(sent.len() as u64, arrived, times.collect()))
}

/// Returns an identifier that distinguishes these probes from others that come from the same port.
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
    fn the_counter_measures_the_same_rate_for_any_chunk_size() {
        let ms = Duration::from_millis;
        // 1000 bytes per millisecond, in chunks that do not divide the time evenly.
        for chunk_ms in [1, 7, 30] {
            let mut counter = Counter::new(ms(100), ms(400));
            for at in (chunk_ms..1000).step_by(chunk_ms as usize) {
                counter.add(ms(at), 1000 * chunk_ms);
            }
            assert_eq!(counter.bytes, 1000 * counter.time().as_millis() as u64, "chunks of {chunk_ms} ms");
            assert!(counter.time() >= ms(300 - 2 * chunk_ms) && counter.time() <= ms(300));
        }
        let mut nothing = Counter::new(ms(100), ms(400));
        nothing.add(ms(50), 1000);
        nothing.add(ms(500), 1000);
        assert_eq!((nothing.bytes, nothing.time()), (0, Duration::ZERO));
    }

    #[test]
    fn tcp_payload_is_the_rate_less_headers() {
        let profile = Profile { rate: Some("928mbit".parse().unwrap()), ..Profile::default() };
        assert_eq!(tcp_payload(&profile, 1500), Some(ByteRate::new(110_943_196)));
        assert_eq!(tcp_payload(&Profile::default(), 1500), None);
    }

    #[test]
    fn a_measurement_over_loopback_loses_nothing() {
        let server = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = server.address().unwrap();
        thread::spawn(|| server.run());
        let settings = MeasurementSettings {
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
