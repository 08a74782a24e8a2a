//! Tests of `netem measure`, over loopback and over links between namespaces: whom a server answers, what a
//! client says about a server that does not measure, and which addresses it accepts.
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

mod common;

use common::{FAR, Pair, namespace, output_in, pair, program};
use netem::{Namespace, Netlink};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Child, Command, Output, Stdio},
    thread,
};

const REQUEST: u8 = 1;
const ECHO: u8 = 2;
const MAX_SESSIONS: usize = netem::measure::MAX_SESSIONS;

/// A running `netem measure --serve`, which is killed on drop.
struct ServerProcess {
    child: Child,
    /// The address on which it listens, as it prints it.
    listens: String,
}

impl ServerProcess {
    /// Starts a server with these options.
    fn start(args: &[&str]) -> Self {
        let mut command = program();
        command.args(["measure", "--serve"]).args(args).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let listens = line.strip_prefix("Listening on ").and_then(|rest| rest.split(';').next());
        let listens = listens.unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, listens }
    }

    /// Starts a server with these options in a namespace.
    fn start_in(namespace: &Namespace, args: &str) -> Self {
        let args: Vec<&str> = args.split_whitespace().collect();
        namespace.run(|| Ok(Self::start(&args))).unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A server on loopback.
struct Server {
    process: ServerProcess,
    address: SocketAddr,
}

impl Server {
    /// Starts a server on a free port of an address.
    fn start(address: &str) -> Self {
        let process = ServerProcess::start(&["--listen", address, "--port", "0"]);
        let address = process.listens.parse().unwrap();
        Self { process, address }
    }

    fn measure(&self) -> Output {
        measure(self.address)
    }
}

/// Measures the path to a server for a short time.
fn measure(server: SocketAddr) -> Output {
    let (address, port) = (server.ip().to_string(), server.port().to_string());
    program().args(["measure", &address, "--port", &port, "--time", "500ms"]).output().unwrap()
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
fn sessions_are_bounded_and_the_server_continues() {
    let server = Server::start("127.0.0.1");
    let mut sessions: Vec<_> = (0..MAX_SESSIONS).map(|_| Session::open(server.address)).collect();
    let threads = || fs::read_dir(format!("/proc/{}/task", server.process.child.id())).unwrap().count();
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
    // An address on which no other test listens.
    let elsewhere = SocketAddr::from(([127, 0, 0, 3], server.address.port()));
    let stderr = error(&measure(elsewhere));
    assert!(stderr.contains("is `netem measure --serve` running there?"), "{stderr}");
    assert_measured(&server.measure());

    let not_local = program().args(["measure", "--serve", "--listen", "192.0.2.1"]).output().unwrap();
    let stderr = error(&not_local);
    assert!(stderr.starts_with("error: cannot listen on 192.0.2.1:5202: "), "{stderr}");
}

#[tokio::test]
async fn a_free_port_is_free_for_probes_too() {
    let Some(namespace) = namespace() else { return };
    let netlink = Netlink::open_in(namespace.as_fd()).unwrap();
    netlink.set_up("lo").await.unwrap();
    namespace.run(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099")).unwrap();
    let bind = |port| namespace.run(|| UdpSocket::bind(("127.0.0.1", port))).unwrap();
    let _taken: Vec<_> = (40000..40100).filter(|port| *port != 40055).map(bind).collect();
    let server = ServerProcess::start_in(&namespace, "--listen 127.0.0.1 --port 0");
    assert_eq!(server.listens, "127.0.0.1:40055");
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

/// Measures the path to a server for a short time, with these further arguments.
fn measure_with(args: &str) -> Output {
    program().args(["measure", "--time", "500ms"]).args(args.split_whitespace()).output().unwrap()
}

/// Measures as above in a namespace, which must succeed. Returns the output as JSON.
#[track_caller]
fn measured_in(namespace: &Namespace, args: &str) -> Value {
    let args = format!("{args} --json");
    let output = namespace.run(|| Ok(measure_with(&args))).unwrap();
    assert_measured(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks that probes came back.
#[track_caller]
fn assert_echoes(report: &Value) {
    let idle = &report["measured"]["idle"];
    assert!(idle["echoed"].as_u64() > Some(0), "{report}");
    for name in ["min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms"] {
        assert!(idle[name].as_f64() > Some(0.0), "{name}: {report}");
    }
    assert!(report["measured"]["goodput_bytes_per_s"].as_u64() > Some(0), "{report}");
}

#[test]
fn names_and_addresses_are_taken_as_people_write_them() {
    let server = Server::start("127.0.0.1");
    let port = server.address.port();
    for args in [
        format!("localhost:{port}"),
        format!("localhost --port {port}"),
        format!("127.0.0.1:{port} --port {port}"),
        format!("::ffff:127.0.0.1 --port {port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        let output = measure_with(&args);
        assert_measured(&output);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.starts_with(&format!("server    127.0.0.1:{port}\ngoodput ")), "{args}: {stdout}");
    }
    for (args, says) in [
        ("no-such-host.invalid", "no-such-host.invalid: the name does not resolve ("),
        ("--serve --listen no-such-host.invalid", "no-such-host.invalid: the name does not resolve ("),
        ("fe80::2%no-such-link", "no interface `no-such-link` in this network namespace"),
        ("--serve --listen fe80::2%no-such-link", "no interface `no-such-link` in this network namespace"),
        ("fe80::2", "`fe80::2` is on every link: add the interface, as in `fe80::2%eth0`"),
        ("--serve --listen fe80::2", "`fe80::2` is on every link: add the interface"),
        ("2001:db8::2%lo", "has an interface, which only addresses from fe80:: on can have"),
        ("192.0.2.2/24", "is neither a host name nor an address"),
        ("[::1", "the bracket `[` is not closed"),
        ("192.0.2.2:70000", "`70000` is not a port from 0 to 65535"),
        ("192.0.2.2:0", "192.0.2.2:0: --port: no server listens on port 0"),
        ("[::1]:80 --port 81", "[::1]:80: --port: 81 is another port"),
    ] {
        let output = measure_with(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(says), "{args}: {stderr}");
        assert!(output.stdout.is_empty(), "{args}");
    }
}

#[test]
fn the_addresses_of_a_name_are_tried_in_order() {
    let Some(namespace) = namespace() else { return };
    output_in(&namespace, "ip", "link set lo up");
    let hosts = tempfile::NamedTempFile::new().unwrap();
    fs::write(&hosts, "127.0.0.2 two.test\n127.0.0.3 two.test\n").unwrap();
    let measure = || {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""])
            .arg(hosts.path());
        command.arg(program().get_program()).args(["measure", "two.test", "--time", "500ms"]);
        namespace.run(|| command.output()).unwrap()
    };
    // If no server is running, the error contains the last address, and notes before it contain the others.
    let output = measure();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if ["unshare: ", "mount: ", "the name does not resolve"].iter().any(|words| stderr.contains(words)) {
        println!("skipped: no names of its own: {stderr}");
        return;
    }
    let (note, failed) = error(&output).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let [first, last] = if note.contains("127.0.0.2") { [2, 3] } else { [3, 2] };
    assert!(note.starts_with(&format!("note: cannot connect to 127.0.0.{first}:5202: ")), "{note}");
    let says = format!("error: cannot measure the path to 127.0.0.{last}:5202 (is `netem");
    assert!(failed.starts_with(&says), "{failed}");

    let _server = ServerProcess::start_in(&namespace, &format!("--listen 127.0.0.{last}"));
    let output = measure();
    assert_measured(&output);
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert_eq!(stderr.lines().next(), Some(&*note));
    assert!(stdout.starts_with(&format!("server    127.0.0.{last}:5202\n")), "{stdout}");
}

/// The addresses of IPv6 on a link between two namespaces.
struct V6Link {
    pair: Pair,
    /// The link-local address of the far end.
    far_local: String,
}

impl V6Link {
    /// Makes a link with `2001:db8::1` at the near and `2001:db8::2` at the far end. Prints why a test is
    /// skipped if that is not possible.
    async fn new() -> Option<Self> {
        let pair = pair().await?;
        let ends = [("near", &pair.near_namespace, 1), ("far", &pair.far_namespace, 2)];
        if ends[0].1.run(|| Ok(!std::path::Path::new("/proc/net/if_inet6").exists())).unwrap() {
            println!("skipped: this kernel has no IPv6");
            return None;
        }
        for (name, namespace, number) in ends {
            let add =
                |address: &str| output_in(namespace, "ip", &format!("addr add {address} dev {name} nodad"));
            add(&format!("2001:db8::{number}/64"))?;
            // The address that the kernel chose can only be used once it is known that no one else has it.
            add(&format!("fe80::5:{number}/64"))?;
        }
        Some(Self { pair, far_local: "fe80::5:2%far".to_owned() })
    }
}

#[tokio::test]
async fn a_path_over_ipv6_is_measured_with_its_own_headers() {
    let Some(link) = V6Link::new().await else { return };
    let (near, far) = (&link.pair.near_namespace, &link.pair.far_namespace);
    let _server = ServerProcess::start_in(far, "");
    let profile = serde_json::from_str(r#"{"rate":"100mbit"}"#).unwrap();
    link.pair.near.apply("near", &profile).await.unwrap();
    // Of a frame of 1514 bytes, Ethernet takes 14, IPv6 40 or IPv4 20, TCP 20, and timestamps 12.
    for (address, timestamps, payload, used) in [
        ("2001:db8::2", 1, 1428_u64, "[2001:db8::2]:5202".to_owned()),
        ("2001:db8::2", 0, 1440, "[2001:db8::2]:5202".to_owned()),
        (&FAR.to_string(), 1, 1448, format!("{FAR}:5202")),
        (&FAR.to_string(), 0, 1460, format!("{FAR}:5202")),
        (&format!("::ffff:{FAR}"), 1, 1448, format!("{FAR}:5202")),
    ] {
        near.run(|| fs::write("/proc/sys/net/ipv4/tcp_timestamps", timestamps.to_string())).unwrap();
        let report = measured_in(near, &format!("{address} --interface near"));
        assert_eq!(report["server"], used);
        let segment = serde_json::json!({ "payload_bytes": payload, "frame_bytes": 1514 });
        assert_eq!(report["measured"]["segment"], segment, "{address}");
        let payload_rate = 100_000_000 / 8 * payload / 1514;
        assert_eq!(report["asked"]["tcp_payload_bytes_per_s"], payload_rate, "{address}");
        assert_echoes(&report);
    }
}

#[tokio::test]
async fn link_local_addresses_have_a_zone_at_both_ends() {
    let Some(link) = V6Link::new().await else { return };
    let (near, far) = (&link.pair.near_namespace, &link.pair.far_namespace);
    let at_far = link.far_local.clone();
    // Seen from the near end, the far end is on the link of `near`.
    let there = at_far.replace("%far", "%near");
    for (listen, listens, args) in [
        (String::new(), "[::]:5202".to_owned(), there.clone()),
        (format!("--listen {at_far}"), format!("[{at_far}]:5202"), format!("{there}@if9")),
        (format!("--listen [{at_far}]:7001"), format!("[{at_far}]:7001"), format!("[{there}]:7001")),
    ] {
        let server = ServerProcess::start_in(far, &listen);
        assert_eq!(server.listens, listens);
        let report = measured_in(near, &args);
        let port = &listens[listens.len() - 4..];
        assert_eq!(report["server"], format!("[{there}]:{port}"));
        assert_echoes(&report);
    }
}

/// A server that listens on every address answers from the address that a client has addressed.
#[tokio::test]
async fn every_address_of_a_server_can_be_measured() {
    let Some(link) = V6Link::new().await else { return };
    let (near, far) = (&link.pair.near_namespace, &link.pair.far_namespace);
    for address in ["10.77.0.3/24", "2001:db8::3/64", "10.79.0.1/32", "2001:db8:9::1/128"] {
        if output_in(far, "ip", &format!("addr add {address} dev far")).is_none() {
            return;
        }
    }
    output_in(near, "ip", &format!("route add 10.79.0.1 via {FAR}"));
    output_in(near, "ip", "route add 2001:db8:9::1 via 2001:db8::2");
    let _server = ServerProcess::start_in(far, "");
    for address in ["10.77.0.3", "10.79.0.1", "2001:db8::3", "2001:db8:9::1"] {
        assert_echoes(&measured_in(near, address));
    }
    // As on a host without IPv6.
    let _server = ServerProcess::start_in(far, "--listen 0.0.0.0 --port 7001");
    assert_echoes(&measured_in(near, "10.77.0.3:7001"));
}

/// `net.ipv6.bindv6only` would leave IPv4 out of what a server on every address serves.
#[test]
fn a_server_on_every_address_serves_ipv4_too() {
    let Some(namespace) = namespace() else { return };
    output_in(&namespace, "ip", "link set lo up");
    let setting = "/proc/sys/net/ipv6/bindv6only";
    if let Err(error) = namespace.run(|| fs::write(setting, "1")) {
        println!("skipped: {setting}: {error}");
        return;
    }
    let server = ServerProcess::start_in(&namespace, "");
    assert_eq!(server.listens, "[::]:5202");
    for address in ["127.0.0.1", "::1"] {
        assert_echoes(&measured_in(&namespace, address));
    }
}

/// Starts a server for one client that answers only over TCP. It reads the whole stream, or none of it.
fn fake_server(reads: bool) -> (SocketAddr, thread::JoinHandle<TcpStream>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"netem-m\x02\x01").unwrap();
        stream.write_all(&[7; 16]).unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        if reads {
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        }
        let answer = [10_000_000_u64, 1_000_000_000].map(u64::to_be_bytes);
        stream.write_all(answer.as_flattened()).unwrap();
        stream
    };
    (address, thread::spawn(serve))
}

#[test]
fn a_path_that_blocks_udp_is_pointed_out() {
    let (address, server) = fake_server(true);
    let output = measure(address);
    assert_measured(&output);
    server.join().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("note: no probe came back, although TCP passes;"), "{stderr}");
}

#[test]
fn a_path_that_takes_no_more_does_not_delay_the_end_of_the_stream() {
    let (address, server) = fake_server(false);
    assert_measured(&measure(address));
    server.join().unwrap();
}

#[tokio::test]
async fn a_very_slow_path_is_measured() {
    let Some(pair) = pair().await else { return };
    let _server = ServerProcess::start_in(&pair.far_namespace, "");
    let profile = serde_json::from_str(r#"{"rate":"12kbit"}"#).unwrap();
    pair.near.apply("near", &profile).await.unwrap();
    let output = pair.near_namespace.run(|| Ok(measure_with(&FAR.to_string()))).unwrap();
    assert_measured(&output);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("note: the path is so slow that the probes, 21.2 kB/s, fill it;"), "{stderr}");
}

#[test]
fn a_client_without_room_for_threads_says_so() {
    let Some(namespace) = namespace() else { return };
    output_in(&namespace, "ip", "link set lo up");
    let server = ServerProcess::start_in(&namespace, "--listen 127.0.0.1");
    // The limit applies only to ordinary users, and this one has no other processes.
    let run = || {
        let mut command = Command::new("prlimit");
        command.args(["--nproc=1", "setpriv", "--reuid=54323", "--clear-groups"]);
        command.arg(program().get_program()).args(["measure", "127.0.0.1", "--time", "500ms"]).output()
    };
    let output = match namespace.run(run) {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: prlimit: {error}");
            return;
        }
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("setpriv: ") || stderr.contains("Permission denied") {
        println!("skipped: not as root, or not where everybody may run programs: {stderr}");
        return;
    }
    assert!(error(&output).contains("cannot start a thread: "), "{stderr}");
    drop(server);
}
