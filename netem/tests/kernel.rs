//! Tests of the backend `kernel` against the running kernel, in temporary namespaces, compared with the
//! output of the real `tc`. Tests that need `sch_netem` are in `sch_netem.rs`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a test says what failed or why it was skipped"
)]

mod common;

use common::{FAR, namespace, output_in, pair, retransmitted_segments};
use netem::{
    Error, Feature, Netlink, Profile, Shaper,
    ethernet::{FRAME_BYTES, TCP_PAYLOAD_BYTES},
    kernel::{QdiscSettings, supported},
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
};
use units::{BitRate, Bytes, Span};

fn rate(text: &str) -> Profile {
    Profile { rate: Some(text.parse().unwrap()), ..Profile::default() }
}

#[tokio::test]
async fn an_applied_profile_is_read_back_and_shown_by_tc() {
    let Some(pair) = pair().await else { return };
    let netlink = &pair.near;
    for (profile, tc_says) in [
        (rate("928mbit"), "tbf 6e60: root refcnt 2 rate 928Mbit"),
        (rate("40gbit"), "tbf 6e60: root refcnt 2 rate 40Gbit"),
        (rate("1mbit"), "tbf 6e60: root refcnt 2 rate 1Mbit"),
        (Profile { queue: Some(Bytes::new(300_000)), ..rate("940mbit") }, "rate 940Mbit"),
        (Profile { shaper: Shaper::Htb, ..rate("940mbit") }, "htb 6e60: root"),
        (Profile { shaper: Shaper::Htb, queue: Some(Bytes::new(70_000)), ..rate("50gbit") }, "limit 70000b"),
    ] {
        netlink.clear("near").await.unwrap();
        let applied = netlink.apply("near", &profile).await.unwrap();
        assert!(!applied.in_place);
        assert_eq!(netlink.profile("near").await.unwrap().as_ref(), Some(&profile));
        if let Some(text) = output_in(&pair.near_namespace, "tc", "qdisc show dev near") {
            let text = text.replace("refcnt 3", "refcnt 2");
            assert!(text.contains(tc_says), "{profile:?}\n{text}");
        }
    }
}

#[tokio::test]
async fn clear_restores_the_default_qdisc_and_returns_whether_anything_was_applied() {
    let Some(pair) = pair().await else { return };
    let before = pair.near.show("near").await.unwrap();
    assert!(!pair.near.clear("near").await.unwrap());
    pair.near.apply("near", &rate("10mbit")).await.unwrap();
    pair.near.apply_ingress("near", &rate("20mbit")).await.unwrap();
    assert_eq!(pair.near.ingress_profile("near").await.unwrap(), Some(rate("20mbit")));
    assert!(pair.near.clear("near").await.unwrap());
    let after = pair.near.show("near").await.unwrap();
    let kinds = |qdiscs: &[netem::kernel::Qdisc]| qdiscs.iter().map(|q| q.kind.clone()).collect::<Vec<_>>();
    assert_eq!(kinds(&after), kinds(&before));
    let names: Vec<_> = pair.near.interfaces().await.unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["lo", "near"]);
}

#[tokio::test]
async fn a_change_of_rate_is_in_place_and_a_change_of_shaper_is_not() {
    let Some(pair) = pair().await else { return };
    pair.near.apply("near", &rate("10mbit")).await.unwrap();
    for shaper in [Shaper::Tbf, Shaper::Htb] {
        let replaced = pair.near.apply("near", &Profile { shaper, ..rate("20mbit") }).await.unwrap();
        assert_eq!(replaced.in_place, shaper == Shaper::Tbf);
        let changed = Profile { shaper, queue: Some(Bytes::new(99_000)), ..rate("30mbit") };
        assert!(pair.near.apply("near", &changed).await.unwrap().in_place);
        assert_eq!(pair.near.profile("near").await.unwrap(), Some(changed));
    }
}

#[tokio::test]
async fn every_segment_is_counted_with_its_headers_also_without_a_profile() {
    const PAYLOAD_BYTES: u64 = 64_000_000;
    let Some(pair) = pair().await else { return };
    let netlink = &pair.near;
    assert_eq!(netlink.sent_bytes("near").await.unwrap(), None);
    assert!(!netlink.count("near").await.unwrap().in_place);
    assert!(netlink.count("near").await.unwrap().in_place, "a queue that counts goes on counting");
    assert_eq!(netlink.profile("near").await.unwrap(), None, "it shapes nothing");

    let listener = pair.far_namespace.run(|| TcpListener::bind((FAR, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let mut stream = pair.near_namespace.run(|| TcpStream::connect((FAR, port))).unwrap();
    let chunk = vec![1; 1_000_000];
    for _ in 0..PAYLOAD_BYTES / 1_000_000 {
        stream.write_all(&chunk).unwrap();
    }
    drop(stream);
    assert_eq!(receiver.join().unwrap(), PAYLOAD_BYTES);

    let on_the_wire = PAYLOAD_BYTES * FRAME_BYTES / TCP_PAYLOAD_BYTES;
    let sent = netlink.sent_bytes("near").await.unwrap().unwrap();
    // A receiver without time drops packets, and TCP retransmits them.
    let again = retransmitted_segments(&pair.near_namespace) * FRAME_BYTES;
    let expected = on_the_wire * 199 / 200..=(on_the_wire + again) * 201 / 200;
    assert!(expected.contains(&sent), "{sent} is not in {expected:?}");
    let statistics = netlink.show("near").await.unwrap()[0].statistics;
    assert_eq!((statistics.drops, statistics.backlog_packets), (0, 0));

    // A profile replaces the queue, and a queue replaces the profile.
    assert!(!netlink.apply("near", &rate("1gbit")).await.unwrap().in_place);
    assert_eq!(netlink.profile("near").await.unwrap(), Some(rate("1gbit")));
    assert_eq!(netlink.count("near").await.unwrap().tree, [""; 0]);
    assert!(netlink.clear("near").await.unwrap());
    assert_eq!(netlink.sent_bytes("near").await.unwrap(), None);
}

#[tokio::test]
async fn a_qdisc_created_by_tc_is_not_replaced() {
    let Some(pair) = pair().await else { return };
    let add = "qdisc add dev near root handle 7: tbf rate 1mbit burst 3000 limit 9000";
    if output_in(&pair.near_namespace, "tc", add).is_none() {
        return;
    }
    let refused = pair.near.apply("near", &rate("2mbit")).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "near already has a tbf qdisc (7:) that netem did not create; \
         remove it first: tc qdisc del dev near root"
    );
    assert!(!pair.near.clear("near").await.unwrap());
    let there = pair.near.show("near").await.unwrap();
    assert_eq!(there[0].handle.to_string(), "7:");
    assert!(matches!(&there[0].settings, QdiscSettings::Tbf(tbf) if tbf.rate == BitRate::new(1_000_000)));
    assert_eq!(pair.near.profile("near").await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_qdisc_is_reported_with_its_module_and_changes_nothing() {
    let Some(pair) = pair().await else { return };
    let features = supported().await.unwrap();
    if features.contains(&Feature::Netem) {
        println!("skipped: this kernel has sch_netem");
        return;
    }
    pair.near.apply("near", &rate("10mbit")).await.unwrap();
    let delayed = Profile { delay: Span::from_millis(5), ..rate("10mbit") };
    let error = pair.near.apply("near", &delayed).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::MissingFeature { feature: Feature::Netem, .. }), "{text}");
    assert!(text.contains("sch_netem") && text.contains("CONFIG_NET_SCH_NETEM"), "{text}");
    assert_eq!(pair.near.profile("near").await.unwrap(), Some(rate("10mbit")));
}

#[tokio::test]
async fn invalid_profiles_and_names_are_rejected_before_anything_is_changed() {
    let Some(pair) = pair().await else { return };
    let jitter = Profile { jitter: Span::from_millis(1), ..Profile::default() };
    assert!(matches!(pair.near.apply("near", &jitter).await, Err(Error::Profile(e)) if e.key == "jitter"));
    let burst = Profile { burst: Some(Bytes::new(1000)), ..rate("1mbit") };
    assert!(matches!(pair.near.apply("near", &burst).await, Err(Error::Unsuitable { .. })));
    let error = pair.near.apply("naer", &rate("1mbit")).await.unwrap_err();
    assert_eq!(error.to_string(), "no interface `naer` in this network namespace; did you mean `near`?");
    assert_eq!(pair.near.profile("near").await.unwrap(), None);
}

#[tokio::test]
async fn errors_include_the_kernels_error_text() {
    let Some(namespace) = namespace() else { return };
    let netlink = Netlink::open_in(namespace.as_fd()).unwrap();
    let error = netlink.set_mtu("lo", 10).await.and(netlink.add_veth("lo", "x", None).await).unwrap_err();
    assert!(matches!(&error, Error::Kernel { .. }), "{error}");
    netlink.add_veth("a", "b", None).await.unwrap();
    let error = netlink.set_mtu("a", 100_000).await.unwrap_err();
    assert!(matches!(&error, Error::Kernel { message: Some(text), .. } if text.contains("mtu")), "{error}");
}

#[tokio::test]
async fn links_are_created_configured_and_deleted() {
    let Some(namespace) = namespace() else { return };
    let netlink = Netlink::open_in(namespace.as_fd()).unwrap();
    netlink.add_bridge("br0").await.unwrap();
    netlink.add_veth("a", "b", None).await.unwrap();
    netlink.enslave("a", "br0").await.unwrap();
    netlink.set_mtu("b", 9000).await.unwrap();
    netlink.set_up("b").await.unwrap();
    netlink.set_down("b").await.unwrap();
    assert_eq!(netlink.interface("b").await.unwrap().mtu, 9000);
    if let Some(text) = output_in(&namespace, "ip", "link show") {
        assert!(text.contains("master br0"), "{text}");
    }
    netlink.delete("a").await.unwrap();
    netlink.delete("br0").await.unwrap();
    assert_eq!(netlink.interfaces().await.unwrap().len(), 1);
}

/// All bytes arrive, the qdisc and the interface count them, and no packet is dropped.
#[tokio::test]
async fn a_tcp_stream_is_complete_although_the_rate_changes() {
    const PAYLOAD_BYTES: usize = 8_000_000;
    let Some(pair) = pair().await else { return };
    pair.near.apply("near", &rate("500mbit")).await.unwrap();
    pair.far.apply("far", &rate("500mbit")).await.unwrap();
    let listener = pair.far_namespace.run(|| TcpListener::bind((FAR, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept()?.0.read_to_end(&mut received)
    });
    let mut stream = pair.near_namespace.run(|| TcpStream::connect(address)).unwrap();
    let sender = thread::spawn(move || stream.write_all(&vec![7; PAYLOAD_BYTES]));
    for bits in ["200mbit", "900mbit", "300mbit", "1gbit"] {
        assert!(pair.near.apply("near", &rate(bits)).await.unwrap().in_place);
    }
    sender.join().unwrap().unwrap();
    assert_eq!(receiver.join().unwrap().unwrap(), PAYLOAD_BYTES);

    let statistics = pair.near.show("near").await.unwrap()[0].statistics;
    assert!(statistics.sent_bytes > PAYLOAD_BYTES as u64, "{statistics:?}");
    assert_eq!(statistics.drops, 0, "{statistics:?}");
    let (near, far) = (pair.near.counters("near").await.unwrap(), pair.far.counters("far").await.unwrap());
    assert!(near.tx_bytes > PAYLOAD_BYTES as u64 && far.rx_bytes > PAYLOAD_BYTES as u64, "{near:?} {far:?}");
}

#[tokio::test]
async fn detecting_features_leaves_nothing_behind() {
    let Some(namespace) = namespace() else { return };
    let netlink = Netlink::open_in(namespace.as_fd()).unwrap();
    let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = here();
    let found = supported().await.unwrap();
    assert_eq!(here(), before);
    assert!(found.contains(&Feature::Veth), "{found:?}");
    assert_eq!(netlink.interfaces().await.unwrap().len(), 1);
}
