//! Tests of `netem measure` over loopback: whom a server answers, and what a client says about a server that
//! does not measure.

mod common;

use common::program;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Output, Stdio},
    thread,
};

const REQUEST: u8 = 1;
const ECHO: u8 = 2;
const MAX_SESSIONS: usize = netem::measure::MAX_SESSIONS;

/// A running `netem measure --serve`, which is killed on drop.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a server on a free port of an address.
    fn start(address: &str) -> Self {
        let mut command = program();
        command.args(["measure", "--serve", "--listen", address, "--port", "0"]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("Listening on ").and_then(|rest| rest.split(';').next());
        let address = address.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        Self { child, address }
    }

    fn measure(&self) -> Output {
        measure(self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Measures the path to a server for a moment.
fn measure(server: SocketAddr) -> Output {
    let (address, port) = (server.ip().to_string(), server.port().to_string());
    program().args(["measure", &address, "--port", &port, "--time", "100ms"]).output().unwrap()
}

/// Returns the message of a measurement that failed.
#[track_caller]
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_measured(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// A session with a server, and a socket for its probes.
struct Session {
    stream: TcpStream,
    probes: UdpSocket,
    token: [u8; 16],
}

impl Session {
    fn open(server: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(server).unwrap();
        let mut greeting = [0; 25];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting[..9], *b"netem-m\x02\x01");
        let probes = socket("127.0.0.1", server);
        Self { stream, probes, token: greeting[9..].try_into().unwrap() }
    }

    fn packet(&self, direction: u8) -> [u8; 64] {
        let mut packet = [0; 64];
        packet[0] = direction;
        packet[1..17].copy_from_slice(&self.token);
        packet
    }

    /// Sends a probe and waits for its echo, which is returned.
    fn probe(&self) -> [u8; 64] {
        self.probes.send(&self.packet(REQUEST)).unwrap();
        let mut echo = [0; 64];
        assert_eq!(self.probes.recv(&mut echo).unwrap(), 64);
        echo
    }
}

/// Creates a socket with a local address that sends to a server.
fn socket(local: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.connect(server).unwrap();
    socket
}

/// Checks that nothing has arrived at a socket.
#[track_caller]
fn assert_silent(socket: &UdpSocket, what: &str) {
    socket.set_nonblocking(true).unwrap();
    let received = socket.recv(&mut [0; 64]);
    assert_eq!(received.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{what} was answered");
}

#[test]
fn packets_without_a_session_are_not_answered() {
    let server = Server::start("127.0.0.1");
    let session = Session::open(server.address);
    let mut wrong = session.packet(REQUEST);
    wrong[16] ^= 1;
    let stranger = |packet: &[u8], local: &str| {
        let socket = socket(local, server.address);
        socket.send(packet).unwrap();
        socket
    };
    let silent = [
        ("a packet of zeros", stranger(&[0; 64], "127.0.0.1")),
        ("a packet of text", stranger(&[b'A'; 64], "127.0.0.1")),
        ("an empty packet", stranger(&[], "127.0.0.1")),
        ("a packet with a guessed token", stranger(&wrong, "127.0.0.1")),
        ("a packet that is too long", stranger(&[&session.packet(REQUEST)[..], &[0]].concat(), "127.0.0.1")),
        ("a spoofed packet of another address", stranger(&session.packet(REQUEST), "127.0.0.2")),
    ];
    // The server reads packets in order: what it has not answered by now, it has dropped.
    assert_eq!(session.probe()[25..33], 1u64.to_be_bytes(), "only the session's own probe counts");
    for (what, socket) in &silent {
        assert_silent(socket, what);
    }
    // The session ends with its connection, which the server notices in its own time.
    session.stream.shutdown(Shutdown::Both).unwrap();
    let other = Session::open(server.address);
    loop {
        session.probes.send(&session.packet(REQUEST)).unwrap();
        other.probe();
        session.probes.set_nonblocking(true).unwrap();
        if session.probes.recv(&mut [0; 64]).is_err() {
            break;
        }
    }
}

#[test]
fn a_server_does_not_answer_a_server() {
    let servers = [Server::start("127.0.0.1"), Server::start("127.0.0.1")];
    let sessions = servers.each_ref().map(|server| Session::open(server.address));
    let echo = sessions[0].probe();
    assert_eq!(echo[0], ECHO);
    // What a server sends gets no answer from it or from another server, even with the token of a session.
    let mut reflected = echo;
    reflected[1..17].copy_from_slice(&sessions[1].token);
    for (server, session, packet) in [
        (&servers[0], &sessions[0], echo),
        (&servers[1], &sessions[1], echo),
        (&servers[1], &sessions[1], reflected),
    ] {
        let reflector = socket("127.0.0.1", server.address);
        reflector.send(&packet).unwrap();
        session.probe();
        assert_silent(&reflector, "an echo");
    }
}

#[test]
fn sessions_are_bounded_and_the_server_goes_on() {
    let server = Server::start("127.0.0.1");
    let mut sessions: Vec<_> = (0..MAX_SESSIONS).map(|_| Session::open(server.address)).collect();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap().count();
    let before = threads();
    for _ in 0..3 {
        let stderr = error(&server.measure());
        assert!(stderr.contains("the server has 16 sessions, the most it serves at a time"), "{stderr}");
    }
    assert_eq!(threads(), before, "a refused client has no thread");
    sessions[3].probe();
    sessions.pop();
    // The server notices the end of that session in its own time.
    let mut output = server.measure();
    while !output.status.success() {
        assert!(error(&output).contains("try again later"), "{output:?}");
        output = server.measure();
    }
}

#[test]
fn a_server_listens_where_it_is_told() {
    let server = Server::start("127.0.0.2");
    assert_eq!(server.address.ip().to_string(), "127.0.0.2");
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let stderr = error(&measure(elsewhere));
    assert!(stderr.contains("is `netem measure --serve` running there?"), "{stderr}");
    assert_measured(&server.measure());

    let not_local = program().args(["measure", "--serve", "--listen", "192.0.2.1"]).output().unwrap();
    let stderr = error(&not_local);
    assert!(stderr.starts_with("error: cannot listen on 192.0.2.1:5202: "), "{stderr}");
}

#[test]
fn a_server_that_is_not_of_this_version_is_named() {
    let older = "accepts connections but does not answer; if it is a netem of an older version, run";
    for (greeting, says) in [
        (&b"netem-m\x09"[..], "speaks version 9 of the protocol, and this netem version 2"),
        (b"SSH-2.0-OpenSSH_9.2", "the server is not `netem measure --serve`"),
        (b"netem", "the server closed the connection"),
        // Version 1 waits for the client.
        (b"", older),
    ] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let fake = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting).unwrap();
            if greeting.is_empty() {
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let stderr = error(&measure(address));
        assert!(stderr.contains(says), "{stderr}");
        fake.join().unwrap();
    }
}
