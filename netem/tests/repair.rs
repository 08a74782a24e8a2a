//! Tests of what other programs do to a shaped interface: `tc` and `ip` change or remove a part of it, and
//! interfaces are renamed, moved and deleted. What is left is shown as it is, and `netem apply` repairs it.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a test says what failed or why it was skipped"
)]

mod common;

use common::{
    FAR, NEAR, Pair, has_iproute2, namespace, netem, output_in, pair, prints, program, refuses, shell,
};
use netem::{Namespace, Netlink};
use serde_json::Value;
use std::{ffi::OsStr, net::UdpSocket, os::fd::AsFd, os::unix::ffi::OsStrExt, process::Command};

fn shown(namespace: &Namespace, interface: &str) -> Value {
    serde_json::from_str(&prints(namespace, &format!("show {interface} --json"))).unwrap()
}

/// Creates two namespaces; `None` if that is not permitted or iproute2 is not installed.
async fn iproute2_pair() -> Option<Pair> {
    if has_iproute2() { pair().await } else { None }
}

/// Returns the names of the interfaces in a namespace.
async fn names(netlink: &Netlink) -> Vec<String> {
    netlink.interfaces().await.unwrap().into_iter().map(|i| i.name).collect()
}

/// Returns how many bytes the qdiscs of an `ifb` count of what the far end sends.
async fn shaped_bytes(pair: &Pair, ifb: &str) -> u64 {
    let before = pair.near.sent_bytes(ifb).await.unwrap().unwrap();
    let socket = pair.far_namespace.run(|| UdpSocket::bind((FAR, 0))).unwrap();
    for _ in 0..20 {
        // Nothing listens on that port, so sending may fail once that has been reported.
        let _ = socket.send_to(&[0; 1000], (NEAR, 9));
    }
    pair.near.sent_bytes(ifb).await.unwrap().unwrap() - before
}

#[tokio::test]
async fn a_broken_chain_for_received_packets_is_shown_and_repaired() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    let ifb = format!("netem-ifb{}", pair.near.interface("near").await.unwrap().index);
    shell(here, "ip link add other type ifb && ip link set other up");
    for (breaks, says) in [
        ("tc filter del dev near ingress", "no filter redirects what near receives to IFB"),
        ("tc qdisc del dev near ingress", "no filter redirects what near receives to IFB"),
        ("ip link set IFB down", "IFB is down, so it drops what it should shape"),
        ("tc qdisc del dev IFB root", "IFB has no qdisc of netem"),
        ("tc qdisc replace dev IFB root handle 8: pfifo", "IFB has no qdisc of netem"),
        (
            "tc qdisc add dev IFB parent 6e60:1 handle 8: pfifo",
            "IFB: netem did not create the pfifo qdisc (8:)",
        ),
        ("ip link del IFB", "what near receives goes to an interface that is gone instead of IFB"),
        (
            "ip link del renamed 2>/dev/null; ip link set IFB down && ip link set IFB name renamed && \
             ip link set renamed up",
            "what near receives goes to renamed instead of IFB",
        ),
        (
            "tc filter del dev near ingress && tc filter add dev near ingress protocol all u32 match u32 0 0 \
             action mirred egress redirect dev other",
            "what near receives goes to other instead of IFB",
        ),
        (
            "tc filter replace dev near ingress pref 1 handle 800::6e6 protocol all u32 match u32 0 0 \
             action mirred egress redirect dev other",
            "what near receives goes to other instead of IFB",
        ),
    ] {
        prints(here, "apply near --ingress --rate 100mbit");
        shell(here, &breaks.replace("IFB", &ifb));
        let says = says.replace("IFB", &ifb);

        let text = prints(here, "show near");
        assert!(text.contains("  receives: broken: ") && text.contains(&says), "{breaks}: {text}");
        let json = shown(here, "near");
        assert_eq!(json["receives"], Value::Null, "{breaks}");
        assert_eq!(json["broken"][0]["direction"], "receives", "{breaks}");
        let refused = refuses(here, "change near --ingress --rate 50mbit");
        assert!(refused.contains("what near receives is not shaped as applied"), "{breaks}: {refused}");
        assert!(refused.contains(&says), "{breaks}: {refused}");

        let repaired = prints(here, "apply near --ingress --rate 100mbit");
        assert!(repaired.contains("  repaired: ") && repaired.contains(&says), "{breaks}: {repaired}");
        assert!(!repaired.contains("changed in place"), "{breaks}: {repaired}");
        assert_eq!(shown(here, "near")["receives"], serde_json::json!({ "rate": "100mbit" }), "{breaks}");
        assert!(shaped_bytes(&pair, &ifb).await >= 20_000, "{breaks}: traffic does not pass {ifb}");

        // The command in the message removes it too.
        shell(here, &breaks.replace("IFB", &ifb));
        let clear = refused.trim_end().rsplit_once("or remove it: netem ").unwrap().1;
        prints(here, clear);
        assert_eq!(shown(here, "near")["broken"], serde_json::json!([]), "{breaks}");
        assert!(!names(&pair.near).await.contains(&ifb), "{breaks}");
        assert!(!shell(here, "tc qdisc show dev near").contains("ingress"), "{breaks}");
    }
}

#[tokio::test]
async fn a_changed_tree_of_qdiscs_is_shown_and_repaired() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    for (shaper, breaks, says) in [
        ("htb", "tc qdisc del dev near parent 6e60:1 handle 6e61:", "class 6e60:1 has lost its queue"),
        (
            "htb",
            "tc qdisc del dev near parent 6e60:1 handle 6e61: && tc class del dev near classid 6e60:1",
            "htb 6e60: has lost its class",
        ),
        (
            "htb",
            "tc class change dev near classid 6e60:1 htb rate 10mbit ceil 1gbit",
            "netem did not create htb 6e60:1 at 6e60: like this",
        ),
        (
            "htb",
            "tc class add dev near parent 6e60: classid 6e60:2 htb rate 1gbit && \
             tc filter add dev near parent 6e60: pref 5 protocol ip u32 match u32 0 0 classid 6e60:2",
            "netem did not create the u32 filter (pref 5) of its htb",
        ),
        (
            "htb",
            "tc qdisc replace dev near parent 6e60:1 handle 9: pfifo",
            "netem did not create the pfifo qdisc (9:) at 6e60:1",
        ),
        (
            "tbf",
            "tc qdisc add dev near parent 6e60:1 handle 9: pfifo limit 7",
            "netem did not create the pfifo qdisc (9:) at 6e60:1",
        ),
        (
            "tbf",
            "tc qdisc change dev near root handle 6e60: tbf rate 10mbit burst 20kb limit 90kb peakrate 1gbit \
             minburst 1540",
            "netem did not create tbf 6e60: at root like this",
        ),
        (
            "tbf",
            "tc qdisc del dev near root && tc qdisc add dev near root handle 6e60: pfifo",
            "netem did not create pfifo 6e60: at root like this",
        ),
    ] {
        prints(here, &format!("apply near --rate 10mbit --shaper {shaper}"));
        let before = shown(here, "near")["sends"].clone();
        shell(here, breaks);
        let text = prints(here, "show near");
        assert!(text.contains("  sends:    broken: ") && text.contains(says), "{breaks}: {text}");
        assert_eq!(shown(here, "near")["sends"], Value::Null, "{breaks}");
        let refused = refuses(here, "change near --rate 20mbit");
        assert!(refused.contains(says), "{breaks}: {refused}");
        let repaired = prints(here, &format!("apply near --rate 10mbit --shaper {shaper}"));
        assert!(repaired.contains(says), "{breaks}: {repaired}");
        assert_eq!(shown(here, "near")["sends"], before, "{breaks}");
        prints(here, "clear near");
        assert!(shell(here, "tc qdisc show dev near").starts_with("qdisc noqueue 0: root"), "{breaks}");
    }
}

/// Each message about what somebody else has configured has the command that removes it.
#[tokio::test]
async fn the_printed_commands_remove_what_netem_did_not_create() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    for name in ["near", "near;reboot", "it's", "n$(x)", "-near"] {
        shell(here, "ip link set dev near down");
        if name != "near" {
            output_in(here, "ip", &format!("link set dev near name {name}"));
        }
        let tc = |args: &str| output_in(here, "tc", args);
        let apply = |direction: &str| format!("apply {direction} --rate 5mbit -- {name}");
        let clear = format!("clear -- {name}");
        for (adds, direction) in [
            ("root handle 7: pfifo", ""),
            ("root handle 7: htb", ""),
            ("ingress", "--ingress"),
            ("clsact", "--ingress"),
        ] {
            tc(&format!("qdisc add dev {name} {adds}"));
            let stderr = refuses(here, &apply(direction));
            shell(here, stderr.trim_end().rsplit_once("remove it first: ").unwrap().1);
            prints(here, &apply(direction));
            prints(here, &clear);
        }
        // A filter before the redirection belongs to somebody, and so does one that existed when the
        // redirection broke.
        let ingress = apply("--ingress");
        prints(here, &ingress);
        tc(&format!("filter del dev {name} ingress"));
        let adds = "ingress pref 7 protocol ip u32 match u32 0 0 action mirred egress mirror dev lo";
        tc(&format!("filter add dev {name} {adds}"));
        let stderr = refuses(here, &ingress);
        assert!(stderr.contains("has another filter (u32, pref 7) for what it receives"), "{stderr}");
        shell(here, stderr.trim_end().rsplit_once("remove it first: ").unwrap().1);
        prints(here, &ingress);
        tc(&format!("filter del dev {name} ingress"));
        let text = prints(here, &format!("show -- {name}"));
        let command = text.split_once("or remove it: netem ").unwrap().1.lines().next().unwrap();
        shell(here, &format!("{} {command}", program().get_program().display()));
        prints(here, &ingress);
        prints(here, &clear);
        if name != "near" {
            output_in(here, "ip", &format!("link set dev {name} name near"));
        }
    }
}

/// A filter that somebody has added after the redirection does no harm, and stays.
#[tokio::test]
async fn clear_leaves_the_filters_of_others() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    prints(here, "apply near --ingress --rate 5mbit");
    shell(
        here,
        "tc filter add dev near ingress pref 7 protocol ip u32 match u32 0 0 \
         action mirred egress mirror dev lo",
    );
    assert_eq!(shown(here, "near")["receives"], serde_json::json!({ "rate": "5mbit" }));
    assert!(prints(here, "change near --ingress --rate 6mbit").contains("changed in place"));
    prints(here, "clear near");
    let filters = shell(here, "tc filter show dev near ingress");
    assert!(filters.contains("pref 7") && !filters.contains("Redirect"), "{filters}");
}

/// Below a certain rate, `netem` limits the segments of a packet. Others may do so too.
#[tokio::test]
async fn the_limits_of_segments_that_were_there_before_come_back() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    let limits = || {
        let text = shell(here, "ip -d link show near");
        let words: Vec<&str> = text.split_whitespace().collect();
        let value = |key| words.iter().position(|word| *word == key).map(|at| words[at + 1].to_owned());
        let other_names = text.matches("altname").count();
        [value("gso_max_size").unwrap(), value("gso_max_segs").unwrap(), other_names.to_string()]
    };
    let untouched = limits();
    let segments = || limits()[1].clone();
    for (gso_max_segs, low) in [("65535", "2"), ("100", "2"), ("1", "1")] {
        shell(here, &format!("ip link set near gso_max_segs {gso_max_segs}"));
        let before = limits();
        // The first rate needs no limit.
        for rate in ["1gbit", "1mbit", "2mbit", "1gbit", "1mbit"] {
            prints(here, &format!("apply near --rate {rate}"));
            assert_eq!(segments(), if rate == "1gbit" { gso_max_segs } else { low }, "{rate}");
        }
        prints(here, "clear near");
        assert_eq!(limits(), before);
        // Somebody removes the qdisc, or sets another limit.
        prints(here, "apply near --rate 1mbit");
        shell(here, "tc qdisc del dev near root");
        prints(here, "clear near");
        assert_eq!(limits(), before);
        prints(here, "apply near --rate 1mbit");
        shell(here, "ip link set near gso_max_segs 50");
        prints(here, "change near --rate 1gbit");
        assert_eq!(segments(), "50");
        prints(here, "clear near");
        assert_eq!(segments(), "50");
        let (folder, trace) = (tempfile::TempDir::new().unwrap(), "0s 1mbit\n2ms end\n");
        std::fs::write(folder.path().join("trace"), trace).unwrap();
        prints(here, &format!("play near {}", folder.path().join("trace").display()));
        assert_eq!(segments(), "50");
    }
    shell(here, "ip link set near gso_max_segs 65535");
    assert_eq!(limits(), untouched);
}

#[tokio::test]
async fn an_ifb_of_an_interface_that_is_gone_does_no_harm() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    let index = pair.near.interface("near").await.unwrap().index;
    let ifb = format!("netem-ifb{index}");
    prints(here, "apply near --ingress --rate 5mbit");
    // Another interface gets the index of the deleted one.
    shell(here, &format!("ip link del near && ip link add near index {index} type veth peer name peer"));
    assert!(names(&pair.near).await.contains(&ifb));
    assert_eq!(shown(here, "near")["receives"], Value::Null);
    refuses(here, "change near --ingress --rate 6mbit");
    prints(here, "apply near --ingress --rate 6mbit");
    assert_eq!(shown(here, "near")["receives"], serde_json::json!({ "rate": "6mbit" }));
    let filters = shell(here, "tc filter show dev near ingress");
    assert!(filters.contains(&format!("Redirect to device {ifb}")), "{filters}");

    // An interface of another index: the old ifb is removed.
    shell(here, "ip link del near && ip link add near type veth peer name peer");
    prints(here, "apply near --ingress --rate 7mbit");
    assert!(!names(&pair.near).await.contains(&ifb));
    prints(here, "clear near");
    assert_eq!(names(&pair.near).await.len(), 3, "lo, near and its peer");
}

#[tokio::test]
async fn an_interface_that_moved_to_another_namespace_is_shaped_there() {
    let Some(pair) = iproute2_pair().await else { return };
    let Some(other) = namespace() else { return };
    let there = Netlink::open_in(other.as_fd()).unwrap();
    let here = &pair.near_namespace;
    prints(here, "apply near --ingress --rate 5mbit");
    prints(here, "apply near --rate 1mbit");
    let sleeper = other.run(|| Command::new("sleep").arg("60").spawn()).unwrap();
    let moved = format!("ip link set near netns {}", sleeper.id());
    let mut sleeper = sleeper;
    shell(here, &moved);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();

    let json = shown(&other, "near");
    assert_eq!([&json["sends"], &json["receives"]], [&Value::Null; 2], "{json}");
    refuses(&other, "change near --ingress --rate 6mbit");
    prints(&other, "apply near --ingress --rate 6mbit");
    prints(&other, "apply near --rate 2mbit");
    assert_eq!(shown(&other, "near")["receives"], serde_json::json!({ "rate": "6mbit" }));
    prints(&other, "clear near");
    assert_eq!(names(&there).await, ["lo", "near"]);
    let link = there.interface("near").await.unwrap();
    assert_eq!(link.gso_max_segments, Some(65_535), "the limit of its first namespace");
    assert_eq!(link.altnames, [""; 0]);
    // What it has left behind is removed with the next use.
    prints(here, "apply lo --ingress --rate 5mbit");
    prints(here, "clear lo");
    assert_eq!(names(&pair.near).await, ["lo"]);
}

#[tokio::test]
async fn an_interface_is_found_under_each_of_its_names() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    shell(
        here,
        "ip link add va type veth peer name vb && ip link property add dev va altname a-long-other-name",
    );
    shell(here, "ip link add va.7 type veth peer name vc");
    let printed = shell(here, "ip -o link show near").split_whitespace().nth(1).unwrap().to_owned();
    assert!(printed.starts_with("near@if") && printed.ends_with(':'), "{printed}");
    for (name, real) in [
        ("a-long-other-name", "va"),
        ("va@vb", "va"),
        ("va@vb:", "va"),
        ("va.7@vc", "va.7"),
        (printed.as_str(), "near"),
    ] {
        assert!(
            prints(here, &format!("apply {name} --rate 5mbit")).starts_with(&format!("{real}: ")),
            "{name}"
        );
        prints(here, &format!("change {name} --rate 6mbit"));
        assert_eq!(shown(here, name)["sends"], serde_json::json!({ "rate": "6mbit" }), "{name}");
        assert_eq!(shown(here, name)["interface"], real);
        prints(here, &format!("clear {name}"));
    }
    let refused = refuses(here, "apply va@va --rate 5mbit");
    assert!(refused.contains("no interface `va@va`") && refused.contains("did you mean `va`?"), "{refused}");
}

#[tokio::test]
async fn an_interface_whose_name_or_alias_is_not_text_is_shaped() {
    let Some(pair) = iproute2_pair().await else { return };
    let here = &pair.near_namespace;
    shell(here, r"ip link set near alias $'caf\xe9 \xff'");
    prints(here, "apply near --ingress --rate 5mbit");
    assert_eq!(shown(here, "near")["receives"], serde_json::json!({ "rate": "5mbit" }));
    prints(here, "clear near");

    shell(here, r"ip link set near down; ip link set near name $'v\xff\x01'");
    let name = OsStr::from_bytes(b"v\xff\x01");
    let applied = here.run(|| program().arg("apply").arg(name).args(["--rate", "5mbit"]).output()).unwrap();
    let stdout = String::from_utf8_lossy(&applied.stdout).into_owned();
    assert!(stdout.starts_with(r"v\xff\x01: backend kernel"), "{applied:?}");
    // As it is printed.
    assert_eq!(shown(here, r"v\xff\x01")["sends"], serde_json::json!({ "rate": "5mbit" }));
    shell(here, r"tc qdisc replace dev $'v\xff\x01' root handle 7: pfifo");
    let refused = netem(here, r"apply v\xff\x01 --rate 6mbit");
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    shell(here, stderr.trim_end().rsplit_once("remove it first: ").unwrap().1);
    prints(here, r"apply v\xff\x01 --ingress --rate 6mbit");
    prints(here, r"clear v\xff\x01");
}
