//! The remote end of a measurement.
//!
//! The server answers only clients that have opened a session over TCP. It drops a packet without the token
//! of a session, from an address other than that of the session's client, or in the direction of an echo.
//! Sessions, and the threads that serve them, are bounded in number and in time.

use super::{
    CHUNK_BYTES, MAX_DURATION, MAX_SESSIONS, MAX_SILENCE,
    protocol::{Direction, Greeting, PROBE_BYTES, Probe, Token, number},
    sockets::{self, ProbeSocket},
};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How long the server waits after a failed system call, for example without a free file descriptor.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// The remote end of a measurement, which receives streams and echoes probes.
#[derive(Debug)]
pub struct Server {
    streams: TcpListener,
    probes: ProbeSocket,
    max_silence: Duration,
}

impl Server {
    /// Listens on an address, for TCP and UDP on the same port. Port 0 selects a free port. On a system that
    /// has just started, this first waits until the kernel has random numbers for the tokens of sessions.
    ///
    /// # Errors
    ///
    /// If the address is not local, or if the port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        getrandom::fill(&mut Token::default())?;
        let mut taken_for_probes = Vec::new();
        loop {
            let streams = sockets::listener(address)?;
            match ProbeSocket::bind(streams.local_addr()?) {
                // While this listener is kept, the next one selects another port.
                Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {
                    taken_for_probes.push(streams);
                }
                probes => return Ok(Self { streams, probes: probes?, max_silence: MAX_SILENCE }),
            }
        }
    }

    /// Returns the address on which the server listens, with the port that was selected.
    ///
    /// # Errors
    ///
    /// Never on Linux.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.streams.local_addr()
    }

    /// Serves clients, at most [`MAX_SESSIONS`] at a time, each session on its own thread.
    ///
    /// # Errors
    ///
    /// If the first thread cannot be started.
    pub fn run(self) -> io::Result<()> {
        let Self { streams, probes, max_silence } = self;
        let sessions = Sessions::default();
        let known = sessions.clone();
        thread::Builder::new().name("probes".into()).spawn(move || echo(&probes, &known))?;
        for stream in streams.incoming() {
            // A client that is already gone, or too few descriptors or threads, do not end the server.
            if stream.and_then(|stream| open(stream, &sessions, max_silence)).is_err() {
                thread::sleep(PAUSE_AFTER_ERROR);
            }
        }
        Ok(())
    }
}

/// The open sessions.
#[derive(Debug, Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<Token, Session>>>);

#[derive(Debug)]
struct Session {
    client: IpAddr,
    /// How many probes have arrived.
    arrived: u64,
}

/// The entry of a session, which is removed on drop.
struct Entry {
    token: Token,
    sessions: Sessions,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Token, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for a client. Returns `None` if the maximum number of sessions is open.
    fn open(&self, client: IpAddr) -> io::Result<Option<Entry>> {
        let mut token = Token::default();
        getrandom::fill(&mut token)?;
        let mut sessions = self.lock();
        if sessions.len() >= MAX_SESSIONS {
            return Ok(None);
        }
        sessions.insert(token, Session { client, arrived: 0 });
        Ok(Some(Entry { token, sessions: self.clone() }))
    }

    /// Returns the answer to a packet, or `None` for a packet that does not belong to a session.
    fn answer(&self, packet: &[u8], from: IpAddr) -> Option<Probe> {
        let probe = Probe::from_bytes(packet).filter(|probe| probe.direction == Direction::Request)?;
        let mut sessions = self.lock();
        let session = sessions.get_mut(&probe.token).filter(|session| session.client == from)?;
        session.arrived += 1;
        Some(Probe { direction: Direction::Echo, arrived: session.arrived, ..probe })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.token);
    }
}

/// Opens a session for a new connection and serves it on its own thread, or refuses it.
fn open(mut stream: TcpStream, sessions: &Sessions, max_silence: Duration) -> io::Result<()> {
    let Some(entry) = sessions.open(stream.peer_addr()?.ip())? else {
        return stream.write_all(&Greeting::Full.to_bytes());
    };
    let serve = move || {
        // The times must have arrived after one silence, even if they arrive byte by byte.
        let deadline = Instant::now() + max_silence;
        let mut stream = BoundedStream { stream, max_silence, deadline };
        // A client that disconnects or falls silent does not affect the others.
        let _ = receive(&mut stream, entry.token);
        // A client that sees its connection end may rely on the room that its session took.
        drop(entry);
        drop(stream);
    };
    thread::Builder::new().name("session".into()).spawn(serve).map(drop)
}

/// Echoes the probes of all sessions, and drops every other packet.
fn echo(socket: &ProbeSocket, sessions: &Sessions) {
    // One byte more than a probe, to recognize longer packets.
    let mut packet = [0; PROBE_BYTES + 1];
    loop {
        let Ok((bytes, origin)) = socket.receive(&mut packet) else {
            thread::sleep(PAUSE_AFTER_ERROR);
            continue;
        };
        if let Some(answer) = sessions.answer(&packet[..bytes], origin.ip) {
            // If the buffer is full or the client unreachable, the probe counts as lost.
            let _ = socket.answer(&answer.to_bytes(), &origin);
        }
    }
}

/// A client's stream. Reading from it fails after a silence or at a deadline.
struct BoundedStream {
    stream: TcpStream,
    max_silence: Duration,
    deadline: Instant,
}

impl Read for BoundedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left.min(self.max_silence)))?;
        self.stream.read(buffer)
    }
}

/// Greets a client and receives its stream to the end. Once the time of counting is over, or at the end of
/// the stream, answers with the number of bytes counted and the time they took in nanoseconds. The stream
/// starts with two times in nanoseconds: when counting starts, and when it ends.
fn receive(stream: &mut BoundedStream, token: Token) -> io::Result<()> {
    stream.stream.write_all(&Greeting::Session(token).to_bytes())?;
    let mut times = [0; 16];
    stream.read_exact(&mut times)?;
    let beginning = Instant::now();
    let [begin, end] = [0, 8].map(|at| Duration::from_nanos(number(&times, at)));
    if end > MAX_DURATION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // The stream continues alongside probes for as long as it was counted.
    stream.deadline = beginning + 2 * end + stream.max_silence;
    let mut counter = Counter::new(begin, end);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut answered = false;
    loop {
        let bytes = stream.read(&mut buffer)?;
        counter.add(beginning.elapsed(), bytes as u64);
        if !answered && (bytes == 0 || beginning.elapsed() > end) {
            let nanos = u64::try_from(counter.time().as_nanos()).unwrap_or(u64::MAX);
            let answer = [counter.bytes, nanos].map(u64::to_be_bytes);
            stream.stream.write_all(answer.as_flattened())?;
            answered = true;
        }
        if bytes == 0 {
            return Ok(());
        }
    }
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
        if bytes == 0 || at < self.begin || at > self.end {
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

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Reads to the end of a connection, which the server must close. Returns what was read.
    fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A server that closes a connection with unread data resets it.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    }

    #[test]
    fn idle_and_slow_clients_lose_their_session() {
        let mut server = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
        server.max_silence = Duration::from_millis(100);
        let address = server.address().unwrap();
        thread::spawn(|| server.run());
        let mut idle: Vec<_> = (0..MAX_SESSIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for stream in &mut idle {
            assert_eq!(read_to_close(stream).get(8), Some(&1), "each had a session, which ended");
        }
        // Byte by byte, a client is never silent, but never gets to its stream either.
        let slow = TcpStream::connect(address).unwrap();
        let mut reader = slow.try_clone().unwrap();
        let closed = thread::spawn(move || read_to_close(&mut reader));
        while !closed.is_finished() {
            let _ = (&slow).write(&[0]);
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(closed.join().unwrap().get(8), Some(&1));
        // Streams announced as longer than a measurement may be are refused.
        let mut endless = TcpStream::connect(address).unwrap();
        endless.write_all(&[0xff; 16]).unwrap();
        assert_eq!(read_to_close(&mut endless).len(), super::super::protocol::GREETING_BYTES);
    }
}
