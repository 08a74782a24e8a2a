//! The measuring end.

use super::{
    CHUNK_BYTES, MAX_DURATION, MAX_IDLE_TIME, MAX_SESSIONS, MAX_SILENCE, Measurement, MeasurementSettings,
    RoundTrips,
    protocol::{Direction, GREETING_BYTES, Greeting, PREFIX_BYTES, PROBE_BYTES, Probe, Token, number},
};
use crate::{ethernet::TcpSegment, sys};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use units::ByteRate;

/// How long to wait for the connection, and then for the server's greeting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for echoes after the last probe.
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);

/// Measures the path to a [`Server`](super::Server), as [`Session::measure`] does.
///
/// # Errors
///
/// Those of [`Session::open`] and [`Session::measure`].
pub fn measure(server: SocketAddr, settings: &MeasurementSettings) -> io::Result<Measurement> {
    check(settings)?;
    Session::open(&[server], |_, _| {})?.measure(settings)
}

/// A connection to a server, for one measurement.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    server: SocketAddr,
    token: Token,
}

impl Session {
    /// Connects to the first of these addresses that accepts a connection, and opens a session there. Calls
    /// `next` with each address that does not, and the reason, before trying the next one.
    ///
    /// # Errors
    ///
    /// The error of the last address if none accepts a connection. Fails also if the server does not answer,
    /// has a different version, or has no room.
    pub fn open(servers: &[SocketAddr], mut next: impl FnMut(SocketAddr, &io::Error)) -> io::Result<Self> {
        let mut left = servers.iter();
        loop {
            let Some(&server) = left.next() else {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no address to connect to"));
            };
            match TcpStream::connect_timeout(&server, ANSWER_TIMEOUT) {
                Ok(stream) => {
                    let (stream, token) = greet(stream)?;
                    return Ok(Self { stream, server, token });
                }
                Err(error) if left.len() == 0 => return Err(error),
                Err(error) => next(server, &error),
            }
        }
    }

    /// Returns the address that accepted the connection.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Measures the path to the server. Blocks for twice [`MeasurementSettings::duration`] and a few seconds,
    /// or until the server has been silent for [`MAX_SILENCE`].
    ///
    /// # Errors
    ///
    /// If the settings are out of range, if the server falls silent, or if a socket fails or a thread cannot
    /// be started.
    pub fn measure(self, settings: &MeasurementSettings) -> io::Result<Measurement> {
        check(settings)?;
        let MeasurementSettings { interval, duration, warm_up, idle_probes } = *settings;
        let Self { mut stream, server, token } = self;
        let prober = Prober { local: stream.local_addr()?, server, token, interval };
        let idle = prober.probe(idle_probes)?;
        let loaded_probes = u32::try_from(duration.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);

        let start = Instant::now();
        let times = [warm_up, duration].map(|time| (time.as_nanos() as u64).to_be_bytes());
        stream.write_all(times.as_flattened()).map_err(explain_silence)?;
        let probing = spawn(move || {
            thread::sleep(duration.saturating_sub(start.elapsed()));
            prober.probe(loaded_probes)
        })?;
        send_until(&mut stream, start + 2 * duration)?;
        // The session, and with it the echoes, ends with the stream.
        let loaded = join(probing)?;
        let (payload_bytes, timestamps) = sys::tcp_segment(stream.as_fd())?;
        let segment = TcpSegment::new(payload_bytes.into(), is_ipv6(server), timestamps);
        stream.shutdown(Shutdown::Write)?;
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).map_err(explain_silence)?;
        let (bytes, nanos) = (number(&answer, 0), number(&answer, 8));
        let goodput = u128::from(bytes) * 1_000_000_000 / u128::from(nanos.max(1));
        Ok(Measurement { goodput: ByteRate::new(goodput as u64), segment, idle, loaded })
    }
}

/// Sends as much data as the path takes until a given time.
fn send_until(stream: &mut TcpStream, end: Instant) -> io::Result<()> {
    let chunk = vec![0; CHUNK_BYTES];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_write_timeout(Some(left.min(MAX_SILENCE)))?;
        match stream.write(&chunk) {
            // A slow path may not have accepted a whole chunk by then.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && left < MAX_SILENCE => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => drop(sent.map_err(explain_silence)?),
        }
    }
    stream.set_write_timeout(Some(MAX_SILENCE))
}

/// Returns whether packets to an address have IPv6 headers.
fn is_ipv6(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_ipv6()
}

/// Checks that the server will wait as long as the measurement takes.
fn check(settings: &MeasurementSettings) -> io::Result<()> {
    let MeasurementSettings { interval, duration, idle_probes, .. } = *settings;
    let problem = if duration > MAX_DURATION {
        format!("a duration of {duration:?} is more than {MAX_DURATION:?}")
    } else if interval < MeasurementSettings::MIN_INTERVAL {
        format!("an interval of {interval:?} is less than {:?}", MeasurementSettings::MIN_INTERVAL)
    } else if interval.checked_mul(idle_probes).is_none_or(|time| time > MAX_IDLE_TIME) {
        format!("{idle_probes} probes, {interval:?} apart, take more than {MAX_IDLE_TIME:?}")
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// Reads the greeting of a server.
fn greet(mut stream: TcpStream) -> io::Result<(TcpStream, Token)> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(
            io::ErrorKind::TimedOut,
            "the server accepts connections but does not answer; if it is a netem of an older version, run \
             the same netem on both hosts",
        ),
        _ => explain_silence(error),
    };
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).map_err(explain)?;
    Greeting::check_prefix(prefix).map_err(io::Error::other)?;
    let mut rest = [0; GREETING_BYTES - PREFIX_BYTES];
    stream.read_exact(&mut rest).map_err(explain)?;
    let Greeting::Session(token) = Greeting::from_rest(rest) else {
        let problem =
            format!("the server has {MAX_SESSIONS} sessions, the most it serves at a time; try again later");
        return Err(io::Error::other(problem));
    };
    stream.set_read_timeout(Some(MAX_SILENCE))?;
    stream.set_write_timeout(Some(MAX_SILENCE))?;
    Ok((stream, token))
}

/// Replaces the kernel's message for a server that has stopped responding.
fn explain_silence(error: io::Error) -> io::Error {
    match error.kind() {
        // A timeout of a blocking socket.
        io::ErrorKind::WouldBlock => {
            let problem = format!("the server has been silent for {MAX_SILENCE:?}");
            io::Error::new(io::ErrorKind::TimedOut, problem)
        }
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the server closed the connection"),
        _ => error,
    }
}

/// Sends probes and collects their echoes.
#[derive(Debug, Clone, Copy)]
struct Prober {
    /// The client's address of the session.
    local: SocketAddr,
    server: SocketAddr,
    token: Token,
    interval: Duration,
}

impl Prober {
    /// Sends `count` probes, one per interval, and collects their echoes.
    fn probe(self, count: u32) -> io::Result<RoundTrips> {
        let mut local = self.local;
        local.set_port(0);
        let socket = UdpSocket::bind(local)?;
        socket.connect(self.server)?;
        let start = Instant::now();
        let sender = socket.try_clone()?;
        let sending = spawn(move || self.send(&sender, count, start))?;

        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut echoes: Vec<Option<Duration>> = vec![None; count as usize];
        let mut missing = echoes.len();
        let (mut arrived, mut end) = (0, None);
        while end.is_none_or(|end| Instant::now() < end) && missing > 0 {
            if end.is_none() && sending.is_finished() {
                end = Some(Instant::now() + ECHO_TIMEOUT);
            }
            let mut packet = [0; PROBE_BYTES + 1];
            let Ok(bytes) = socket.recv(&mut packet) else { continue };
            let now = start.elapsed();
            let Some(echo) = self.echo(&packet[..bytes]) else { continue };
            arrived = arrived.max(echo.arrived);
            let slot = usize::try_from(echo.number).ok().and_then(|number| echoes.get_mut(number));
            if let Some(slot @ None) = slot {
                *slot = Some(now);
                missing -= 1;
            }
        }
        let sent = join(sending);
        let times =
            sent.iter().zip(&echoes).filter_map(|(sent, echo)| echo.map(|at| at.saturating_sub(*sent)));
        Ok(RoundTrips::new(sent.len() as u64, arrived, times.collect()))
    }

    /// Sends `count` probes. Returns when each was sent, counted from `start`.
    fn send(self, socket: &UdpSocket, count: u32, start: Instant) -> Vec<Duration> {
        let send = |number| {
            thread::sleep((self.interval * number).saturating_sub(start.elapsed()));
            let (direction, number) = (Direction::Request, u64::from(number));
            let probe = Probe { direction, token: self.token, number, arrived: 0 };
            let at = start.elapsed();
            // A probe that this host drops counts as lost.
            let _ = socket.send(&probe.to_bytes());
            at
        };
        (0..count).map(send).collect()
    }

    /// Reads a packet. Returns `None` if it is not an echo of this session.
    fn echo(&self, packet: &[u8]) -> Option<Probe> {
        Probe::from_bytes(packet).filter(|p| p.direction == Direction::Echo && p.token == self.token)
    }
}

/// Starts a thread.
fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    let explain = |error: io::Error| {
        let problem = format!("cannot start a thread: {error}; check the limits (`ulimit -u`, pids.max)");
        io::Error::new(error.kind(), problem)
    };
    thread::Builder::new().name("probes".into()).spawn(work).map_err(explain)
}

/// Waits for a thread. A panic of the thread propagates.
fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
