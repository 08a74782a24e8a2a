//! Tests of the backend `userspace` between two namespaces, with real TCP and UDP traffic.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a test says what failed or why it was skipped"
)]

mod common;

use common::{FAR, NEAR, namespace};
use netem::{
    Error, LinkProfile, Namespace, Netlink, Profile,
    userspace::{Emulator, Tun, describe, supported},
};
use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

struct EmulatedLink {
    near: Namespace,
    far: Namespace,
    emulator: Emulator,
}

async fn emulate(profile: &str) -> Option<EmulatedLink> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        println!("skipped: /dev/net/tun: {error}");
        return None;
    }
    let (near, far) = (namespace()?, namespace()?);
    let mut tuns = Vec::new();
    for (namespace, address) in [(&near, NEAR), (&far, FAR)] {
        tuns.push(Tun::open_in(namespace.as_fd(), "link").unwrap());
        let netlink = Netlink::open_in(namespace.as_fd()).unwrap();
        netlink.add_address("link", address, 24).await.unwrap();
        netlink.set_up("link").await.unwrap();
        netlink.set_up("lo").await.unwrap();
    }
    let profile: Profile = serde_json::from_str(profile).unwrap();
    let far_tun = tuns.pop().unwrap();
    let near_tun = tuns.pop().unwrap();
    let emulator = Emulator::start(near_tun, far_tun, &LinkProfile::symmetric(profile), 42).unwrap();
    Some(EmulatedLink { near, far, emulator })
}

impl EmulatedLink {
    /// Sends bytes without a short period, so that every mistake shows, and compares them with what arrives.
    fn transfer(&self, bytes: usize) {
        let content: Vec<u8> = (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        let listener = self.far.run(|| TcpListener::bind((FAR, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let reading = thread::spawn(move || -> io::Result<Vec<u8>> {
            let mut received = Vec::new();
            listener.accept()?.0.read_to_end(&mut received)?;
            Ok(received)
        });
        let mut stream = self.near.run(|| TcpStream::connect(address)).unwrap();
        stream.write_all(&content).unwrap();
        drop(stream);
        let received = reading.join().unwrap().unwrap();
        assert!(received == content, "{} bytes of {bytes} arrived, or others", received.len());
    }

    /// Sends numbered datagrams in one direction and returns the numbers in the order of arrival. The
    /// datagrams in transit never exceed the queue of the device (500 packets) and the buffer of the socket.
    fn datagrams(&self, count: u32) -> Vec<u32> {
        let receiver = self.far.run(|| UdpSocket::bind((FAR, 0))).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let to: SocketAddr = receiver.local_addr().unwrap();
        let sender = self.near.run(|| UdpSocket::bind((NEAR, 0))).unwrap();
        let before = self.emulator.statistics()[0].received_packets;
        let mut numbers = Vec::new();
        let mut receive_all = || {
            let mut packet = [0; 4];
            while receiver.recv(&mut packet).is_ok() {
                numbers.push(u32::from_be_bytes(packet));
            }
        };
        for number in 0..count {
            sender.send_to(&number.to_be_bytes(), to).unwrap();
            if (number + 1) % 50 == 0 {
                self.settle(before + u64::from(number) + 1);
                receive_all();
            }
        }
        // On a busy host, the last ones may still wait between the device and the socket.
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        receive_all();
        numbers
    }

    /// Waits until the emulator has received at least this many packets (the kernel adds a few) and no packet
    /// is in transit.
    fn settle(&self, received: u64) {
        let start = Instant::now();
        loop {
            let [s, _] = self.emulator.statistics();
            let gone = s.delivered_packets + s.refused + s.lost + s.dropped;
            if s.received_packets >= received && gone == s.received_packets + s.duplicated {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "packets are stuck: {s:?}");
            thread::sleep(Duration::from_micros(200));
        }
    }
}

#[tokio::test]
async fn a_stream_is_complete_after_rate_and_delay() {
    let Some(link) = emulate(r#"{"rate":"1gbit","delay":"5ms"}"#).await else { return };
    link.transfer(5_000_000);
    link.settle(5_000_000 / 1448);
    let [forward, backward] = link.emulator.statistics();
    assert!(forward.delivered_bytes > 5_000_000, "{forward:?}");
    assert!(forward.delivered_packets >= 5_000_000 / 1448, "frames are counted, not packets: {forward:?}");
    assert!(backward.delivered_packets > 0, "{backward:?}");
    assert!(link.emulator.is_alive());
}

#[tokio::test]
async fn a_stream_is_complete_after_loss_duplication_reordering_and_corruption() {
    let profile = concat!(
        r#"{"rate":"500mbit","delay":"1ms","jitter":"100us","#,
        r#""loss":"1%","duplicate":"1%","reorder":"1%","corrupt":"1%"}"#
    );
    let Some(link) = emulate(profile).await else { return };
    link.transfer(2_000_000);
    link.settle(0);
    let [forward, _] = link.emulator.statistics();
    for (what, count) in [
        ("lost", forward.lost),
        ("duplicated", forward.duplicated),
        ("reordered", forward.reordered),
        ("corrupted", forward.corrupted),
    ] {
        assert!(count > 0, "nothing was {what}: {forward:?}");
    }
}

#[tokio::test]
async fn no_round_trip_is_shorter_than_twice_the_delay_and_its_compensation() {
    // A packet that wakes the emulator arrived earlier, by the wake-up time, which is estimated and counts
    // for at most 200 us in each direction.
    const LEAST: Duration = Duration::from_micros(2 * (20_000 - 200));
    let Some(link) = emulate(r#"{"delay":"20ms"}"#).await else { return };
    let echo = link.far.run(|| UdpSocket::bind((FAR, 0))).unwrap();
    let to = echo.local_addr().unwrap();
    thread::spawn(move || {
        let mut packet = [0; 8];
        while let Ok((bytes, from)) = echo.recv_from(&mut packet) {
            echo.send_to(&packet[..bytes], from).unwrap();
        }
    });
    let socket = link.near.run(|| UdpSocket::bind((NEAR, 0))).unwrap();
    for _ in 0..5 {
        let start = Instant::now();
        socket.send_to(b"there", to).unwrap();
        socket.recv(&mut [0; 8]).unwrap();
        let took = start.elapsed();
        assert!(took >= LEAST, "{took:?}");
    }
}

#[tokio::test]
async fn reordered_packets_overtake_others() {
    let Some(link) = emulate(r#"{"delay":"5ms","reorder":"5%"}"#).await else { return };
    let numbers = link.datagrams(1000);
    assert_eq!(numbers.len(), 1000);
    assert!(!numbers.is_sorted());
}

#[tokio::test]
async fn losses_and_duplicates_are_within_binomial_bounds() {
    const SENT: u32 = 4000;
    let Some(link) = emulate(r#"{"loss":"10%"}"#).await else { return };
    // Five standard deviations of a binomial distribution with n = 4000, p = 0.1: 95.
    let lost = SENT - link.datagrams(SENT).len() as u32;
    assert!(lost.abs_diff(SENT / 10) < 95, "{lost} of {SENT}");
    link.emulator
        .change(&LinkProfile::symmetric(serde_json::from_str(r#"{"duplicate":"10%"}"#).unwrap()))
        .unwrap();
    let doubled = link.datagrams(SENT).len() as u32 - SENT;
    assert!(doubled.abs_diff(SENT / 10) < 95, "{doubled} of {SENT}");
}

#[tokio::test]
async fn take_lateness_returns_the_lateness_since_the_last_call() {
    let Some(link) = emulate(r#"{"delay":"2ms"}"#).await else { return };
    link.datagrams(100);
    let [forward, backward] = link.emulator.statistics();
    let first = link.emulator.take_lateness();
    assert!(first.deliveries >= 100 && first.worst >= first.mean(), "{first:?}");
    assert!(first.deliveries >= forward.late.deliveries + backward.late.deliveries, "{first:?}");
    link.datagrams(50);
    let second = link.emulator.take_lateness();
    assert!((50..100).contains(&second.deliveries), "{second:?}");
    let [forward, backward] = link.emulator.statistics();
    assert!(forward.late.deliveries + backward.late.deliveries >= 150);
}

#[test]
fn supported_tests_whether_a_tun_device_can_be_created() {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) if namespace().is_some() => supported().unwrap(),
        Ok(_) => {}
        Err(error) => assert!(supported().unwrap_err().to_string().contains("TUN"), "{error}"),
    }
}

#[test]
fn a_description_has_the_derived_sizes() {
    let text = |json| describe(&serde_json::from_str(json).unwrap());
    assert_eq!(
        text(r#"{"rate":"800mbit","delay":"40ms"}"#),
        r#"{"rate":"800mbit","delay":"40ms"}, queue 8MB, at most 66666 packets in transit"#
    );
    assert_eq!(text(r#"{"delay":"1ms"}"#), r#"{"delay":"1ms"}, at most 1666 packets in transit"#);
    assert_eq!(text("{}"), "{}");
}

#[tokio::test]
async fn dropping_the_emulator_removes_the_devices() {
    let Some(link) = emulate(r#"{"rate":"10mbit"}"#).await else { return };
    let netlink = Netlink::open_in(link.near.as_fd()).unwrap();
    assert_eq!(netlink.interfaces().await.unwrap().len(), 2);
    drop(link.emulator);
    assert_eq!(netlink.interfaces().await.unwrap().len(), 1);
}

#[tokio::test]
async fn unsupported_profiles_and_names_are_rejected_and_change_nothing() {
    let Some(link) = emulate(r#"{"rate":"100mbit"}"#).await else { return };
    let slots = serde_json::from_str(r#"{"slots":{"min_delay":"1ms","max_delay":"2ms"}}"#).unwrap();
    let error = link.emulator.change(&LinkProfile::symmetric(slots)).unwrap_err();
    assert!(matches!(&error, Error::Profile(e) if e.key == "slots"), "{error}");
    assert!(link.emulator.is_alive());
    let namespace = &link.near;
    for name in ["", "a-name-that-is-too-long", "a/b"] {
        assert!(Tun::open_in(namespace.as_fd(), name).is_err(), "{name:?}");
    }
}
