//! Tests of the effects of `sch_netem`: settings are read back from the kernel, and effects are measured.
//!
//! `cargo xtask test` runs these tests in a guest with the distribution's kernel, which has `sch_netem` as a
//! module. Because the guest may be slow, times are only compared with lower bounds. Random results must be
//! within bounds that a correct implementation exceeds less than once in a million times.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a test says what failed or why it was skipped"
)]

mod common;

use common::{FAR, NEAR, Pair, bounds, pair, program, refuses};
use netem::{Distribution, Feature, Profile, kernel::supported};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use units::Span;

/// Creates two namespaces; `None` if that is not permitted or if this kernel has no `sch_netem`.
async fn netem_pair() -> Option<Pair> {
    let pair = pair().await?;
    if !supported().await.unwrap().contains(&Feature::Netem) {
        println!("skipped: this kernel has no sch_netem");
        return None;
    }
    Some(pair)
}

/// Sends datagrams to a port of the far end on which nothing listens.
fn send(pair: &Pair, count: u64, payload: &[u8]) {
    let socket = pair.near_namespace.run(|| UdpSocket::bind((NEAR, 0))).unwrap();
    for _ in 0..count {
        // Sending fails once the far end has reported that.
        while socket.send_to(payload, (FAR, 9)).is_err() {}
    }
}

fn profile(text: &str) -> Profile {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn every_setting_is_read_back() {
    let Some(pair) = netem_pair().await else { return };
    for text in [
        r#"{"delay":"20ms"}"#,
        r#"{"rate":"940mbit","delay":"20ms"}"#,
        r#"{"rate":"940mbit","shaper":"htb","delay":"20ms","loss":"1%"}"#,
        r#"{"rate":"940mbit","shaper":"netem","delay":"20ms","jitter":"2ms"}"#,
        r#"{"delay":"20ms","jitter":"2ms","distribution":"uniform"}"#,
        r#"{"loss":"10%","loss_correlation":"25%"}"#,
        r#"{"slots":{"min_delay":"2ms","max_delay":"2ms"}}"#,
        r#"{"delay":"20ms","reorder":"1%","reorder_gap":5,"duplicate":"1%","corrupt":"0.1%"}"#,
        r#"{"loss_bursts":{"enter":"1%","leave":"10%","loss_bad":"70%","loss_good":"0.1%"}}"#,
        r#"{"loss":"0.3%","limit":500}"#,
        r#"{"slots":{"min_delay":"1ms","max_delay":"2ms","packets":10,"bytes":"15kB"}}"#,
    ] {
        let profile = profile(text);
        pair.near.apply("near", &profile).await.unwrap();
        assert_eq!(pair.near.profile("near").await.unwrap(), Some(profile.clone()), "{text}");
        let again = pair.near.apply("near", &profile).await.unwrap();
        assert!(again.in_place, "{text}");
        assert_eq!(pair.near.profile("near").await.unwrap(), Some(profile), "{text}, changed");
    }
    // The kernel accepts a distribution but does not report it.
    let jitter = Profile { delay: Span::from_millis(5), jitter: Span::from_millis(1), ..Profile::default() };
    for distribution in [Distribution::Normal, Distribution::Pareto, Distribution::ParetoNormal] {
        pair.near.apply("near", &Profile { distribution, ..jitter.clone() }).await.unwrap();
        let uniform = Profile { distribution: Distribution::Uniform, ..jitter.clone() };
        assert_eq!(pair.near.profile("near").await.unwrap(), Some(uniform));
    }
    assert!(pair.near.clear("near").await.unwrap());
}

#[tokio::test]
async fn delay_applies_in_each_direction() {
    const TRIPS: usize = 10;
    let Some(pair) = netem_pair().await else { return };
    let echo = pair.far_namespace.run(|| UdpSocket::bind((FAR, 0))).unwrap();
    let to = echo.local_addr().unwrap();
    thread::spawn(move || {
        let mut packet = [0; 8];
        while let Ok((bytes, from)) = echo.recv_from(&mut packet) {
            drop(echo.send_to(&packet[..bytes], from));
        }
    });
    let socket = pair.near_namespace.run(|| UdpSocket::bind((NEAR, 0))).unwrap();
    let shortest_trip = || {
        let trips = (0..TRIPS).map(|_| {
            let start = Instant::now();
            socket.send_to(b"there", to).unwrap();
            socket.recv(&mut [0; 8]).unwrap();
            start.elapsed()
        });
        trips.min().unwrap()
    };
    for delay_ms in [20, 50] {
        let delay = Profile { delay: Span::from_millis(delay_ms), ..Profile::default() };
        pair.near.apply("near", &delay).await.unwrap();
        pair.far.apply("far", &delay).await.unwrap();
        let shortest = shortest_trip();
        assert!(shortest >= Duration::from_millis(2 * delay_ms), "{shortest:?} with {delay_ms} ms each way");
    }
}

/// A pair's ends know each other's addresses, so that no lost request holds back what is sent.
#[tokio::test]
async fn every_datagram_reaches_a_link_that_loses_all() {
    const SENT: u64 = 100;
    let Some(pair) = netem_pair().await else { return };
    pair.near.apply("near", &profile(r#"{"loss":"100%"}"#)).await.unwrap();
    send(&pair, SENT, b"there");
    let dropped = pair.near.show("near").await.unwrap()[0].statistics.drops;
    assert!(dropped >= SENT, "{dropped} of {SENT}");
}

#[tokio::test]
async fn loss_has_the_requested_probability() {
    const SENT: u64 = 3000;
    let Some(pair) = netem_pair().await else { return };
    for percent in [1, 10, 50] {
        pair.near
            .apply("near", &profile(&format!(r#"{{"loss":"{percent}%","limit":10000}}"#)))
            .await
            .unwrap();
        let before = pair.near.show("near").await.unwrap()[0].statistics;
        let received_before = pair.far.counters("far").await.unwrap().rx_packets;
        send(&pair, SENT, b"there");
        let after = pair.near.show("near").await.unwrap()[0].statistics;
        let received = pair.far.counters("far").await.unwrap().rx_packets - received_before;
        let dropped = after.drops - before.drops;
        let (least, most) = bounds(SENT, f64::from(percent) / 100.0, 0.0);
        assert!((least..=most).contains(&dropped), "{dropped} of {SENT} at {percent} %");
        // The kernel sends a few more packets.
        let expected = SENT - dropped;
        assert!((expected - 10..expected + 10).contains(&received), "{received} came, {dropped} did not");
    }
}

/// The default limit of the delay line is in packets, and must allow for small ones: a limit counted in
/// packets of 1500 bytes would drop most of these.
#[tokio::test]
async fn the_delay_line_holds_small_packets() {
    const SENT: u64 = 5000;
    /// With the headers of UDP, IP and Ethernet, a frame of 106 bytes.
    const PAYLOAD: [u8; 64] = [7; 64];
    let Some(pair) = netem_pair().await else { return };
    pair.near.apply("near", &profile(r#"{"rate":"10mbit","delay":"400ms"}"#)).await.unwrap();
    send(&pair, SENT, &PAYLOAD);
    for qdisc in pair.near.show("near").await.unwrap() {
        assert_eq!(qdisc.statistics.drops, 0, "{qdisc}");
    }
}

#[tokio::test]
async fn a_change_keeps_the_distribution_and_what_it_was_not_told() {
    let Some(pair) = netem_pair().await else { return };
    let change = |options: &str| netem(&pair, &format!("change near {options}"));
    let link = "--rate 10mbit --delay 25us --jitter 3us --distribution pareto --loss 1% --limit 500";
    netem(&pair, &format!("apply near {link}"));
    for rate in ["20mbit", "30mbit", "40mbit"] {
        assert_eq!(change(&format!("--rate {rate}"))["in_place"], true);
    }
    let in_force = || netem(&pair, "show near")["sends"].clone();
    // The kernel does not report the distribution, so it reads as uniform.
    let mut expected = serde_json::json!({
        "rate": "40mbit", "delay": "25us", "jitter": "3us", "distribution": "uniform", "loss": "1%",
        "limit": 500
    });
    assert_eq!(in_force(), expected);
    assert_eq!(change("--loss 0% --unset limit")["after"], in_force());
    for key in ["loss", "limit"] {
        expected.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(in_force(), expected);
    // A new tree would lose it.
    let stderr = refuses(&pair.near_namespace, "change near --shaper htb");
    assert!(stderr.contains("set it again with --distribution"), "{stderr}");
    change("--shaper htb --distribution pareto");
    change("--jitter 0 --loss-bursts 1%,10%");
    change("--loss 2%");
    assert_eq!(change("--unset rate")["after"], serde_json::json!({ "delay": "25us", "loss": "2%" }));
    assert_eq!(in_force(), serde_json::json!({ "delay": "25us", "loss": "2%" }));
    // The kernel does report that jitter keeps the order.
    change("--rate 10mbit --jitter 5us");
    change("--shaper htb");
    let expected = serde_json::json!({
        "rate": "10mbit", "shaper": "htb", "delay": "25us", "jitter": "5us", "loss": "2%"
    });
    assert_eq!(in_force(), expected);
}

/// netem's own shaper has no token bucket, so even the start of a transfer does not exceed the rate.
#[tokio::test]
async fn the_rate_is_never_exceeded() {
    const PAYLOAD_BYTES: usize = 1_000_000;
    let Some(pair) = netem_pair().await else { return };
    for bits_per_second in [8_000_000_u32, 40_000_000] {
        let shaped = profile(&format!(r#"{{"rate":"{bits_per_second}bit","shaper":"netem"}}"#));
        pair.near.apply("near", &shaped).await.unwrap();
        let listener = pair.far_namespace.run(|| TcpListener::bind((FAR, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let start = Instant::now();
        let receiver = thread::spawn(move || {
            let mut received = Vec::new();
            listener.accept()?.0.read_to_end(&mut received)
        });
        let mut stream = pair.near_namespace.run(|| TcpStream::connect(address)).unwrap();
        stream.write_all(&vec![7; PAYLOAD_BYTES]).unwrap();
        drop(stream);
        assert_eq!(receiver.join().unwrap().unwrap(), PAYLOAD_BYTES);
        let least = PAYLOAD_BYTES as f64 * 8.0 / f64::from(bits_per_second);
        let took = start.elapsed().as_secs_f64();
        assert!(took >= least, "{took} s for what takes {least} s at {bits_per_second} bit/s");
    }
}

/// A server process that is killed when this value is dropped.
struct ServerProcess(Child);

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `netem` with --json, which must succeed, and returns its output.
#[track_caller]
fn netem(pair: &Pair, args: &str) -> Value {
    let run = || program().args(args.split_ascii_whitespace()).arg("--json").output();
    let output = pair.near_namespace.run(run).unwrap();
    assert!(output.status.success(), "netem {args}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_program_applies_shows_changes_measures_and_clears() {
    let Some(pair) = netem_pair().await else { return };
    let serve = || {
        let mut command: Command = program();
        command.args(["measure", "--serve"]).stderr(Stdio::piped()).spawn()
    };
    let mut server = ServerProcess(pair.far_namespace.run(serve).unwrap());
    // The server prints its first line when it listens.
    server.0.stderr.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let measure = || netem(&pair, &format!("measure {FAR} --time 2s --interface near"));

    netem(&pair, "apply near --rate 20mbit --delay 25ms");
    let shown = netem(&pair, "show near");
    assert_eq!(shown["sends"], serde_json::json!({ "rate": "20mbit", "delay": "25ms" }));
    let measured = measure();
    let text = measured.to_string();
    for trips in ["idle", "loaded"] {
        let least_ms = measured["measured"][trips]["min_ms"].as_f64().unwrap();
        assert!(least_ms >= 25.0, "{trips}: {text}");
    }
    // The first sixth of the stream does not count. Data that arrived in that sixth but was read later,
    // because an earlier packet was lost or the receiver did not run, counts as part of the rest: at most a
    // fifth of the rest, and the content of the bucket.
    let most = measured["asked"]["tcp_payload_bytes_per_s"].as_u64().unwrap() * 6 / 5 + 20_000;
    let goodput = measured["measured"]["goodput_bytes_per_s"].as_u64().unwrap();
    assert!(goodput > 0 && goodput <= most, "{text}");

    // The connection of the measurement must not fail: if its packets are lost three times, no time is left.
    let changed = netem(&pair, "change near --rate 20mbit --delay 50ms --loss 3%");
    assert_eq!(changed["in_place"], true);
    let measured = measure();
    let idle = &measured["measured"]["idle"];
    assert!(idle["min_ms"].as_f64().unwrap() >= 50.0, "{measured}");
    let (sent, echoed) = (idle["sent"].as_u64().unwrap(), idle["echoed"].as_u64().unwrap());
    let (least, most) = bounds(sent, 0.03, 0.0);
    assert!((least..=most).contains(&(sent - echoed)), "{measured}");

    assert_eq!(netem(&pair, "clear near")["cleared"], true);
    assert_eq!(netem(&pair, "show near")["sends"], Value::Null);
}
