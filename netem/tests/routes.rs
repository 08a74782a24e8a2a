//! Tests of the search for the interfaces that carry a connection, in temporary namespaces that the real `ip`
//! sets up.
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

mod common;

use common::namespace;
use netem::{Namespace, Netlink, routes::Connection};
use std::{net::SocketAddr, os::fd::AsFd, process::Command};

/// A host with the interfaces `eth0` and `eth1`, which are up and have no address.
struct Host {
    network: Namespace,
    netlink: Netlink,
    /// The namespace of the other ends.
    _others: Namespace,
}

impl Host {
    /// Creates a host, and sets it up with the command of `ip` on each line of `script`. Skips the test if
    /// the kernel lacks a type of interface, or if `ip` is not installed.
    async fn new(script: &str) -> Option<Self> {
        let (network, others) = (namespace()?, namespace()?);
        let netlink = Netlink::open_in(network.as_fd()).unwrap();
        let other = Netlink::open_in(others.as_fd()).unwrap();
        for name in ["eth0", "eth1"] {
            netlink.add_veth(name, name, Some(others.as_fd())).await.unwrap();
            netlink.set_up(name).await.unwrap();
            other.set_up(name).await.unwrap();
        }
        netlink.set_up("lo").await.unwrap();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let ip = || Command::new("ip").args(line.split(' ')).output();
            let output = match network.run(ip) {
                Ok(output) => output,
                Err(error) => {
                    println!("skipped: ip: {error}");
                    return None;
                }
            };
            let stderr = String::from_utf8_lossy(&output.stderr);
            if stderr.contains("Unknown device type") || stderr.contains("/dev/net/tun") {
                println!("skipped: the kernel lacks what `ip {line}` needs");
                return None;
            }
            assert!(output.status.success(), "ip {line}: {stderr}");
        }
        Some(Self { network, netlink, _others: others })
    }

    /// Checks which interfaces carry a connection, and why. All others must not.
    async fn assert_carried(&self, connection: &Connection, expected: &[(&str, &str)]) {
        let mut found = Vec::new();
        for interface in self.netlink.interfaces().await.unwrap() {
            if let Some(reason) = self.netlink.carries(&interface.name, connection).await.unwrap() {
                found.push((interface.name, reason.to_string()));
            }
        }
        let found: Vec<(&str, &str)> = found.iter().map(|(name, reason)| (&**name, &**reason)).collect();
        let routes = || Command::new("ip").args(["route", "show", "table", "all"]).output();
        let routes = self.network.run(routes).unwrap().stdout;
        assert_eq!(found, expected, "{connection:?}\n{}", String::from_utf8_lossy(&routes));
    }
}

fn connection(local: &str, remote: &str) -> Connection {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap();
    Connection { local: end(local), remote: end(remote), zone: None }
}

#[tokio::test]
async fn an_interface_with_the_address_carries_the_connection() {
    let Some(host) = Host::new("address add 10.0.0.2/24 dev eth0").await else { return };
    let by_route = connection("10.0.0.2:22", "10.0.0.1:50000");
    host.assert_carried(&by_route, &[("eth0", "it has the address 10.0.0.2")]).await;
    let without_route = connection("10.0.0.2:22", "203.0.113.7:50000");
    host.assert_carried(&without_route, &[("eth0", "it has the address 10.0.0.2")]).await;
    let foreign = connection("10.5.5.5:22", "203.0.113.7:50000");
    host.assert_carried(&foreign, &[]).await;
}

#[tokio::test]
async fn an_address_elsewhere_leads_to_the_interface_of_the_route() {
    let both = "address add 10.0.0.2/24 dev eth0\naddress add 10.9.9.9/32 dev";
    let Some(host) = Host::new(&format!("{both} lo")).await else { return };
    let session = connection("10.9.9.9:22", "10.0.0.1:50000");
    let route = "the route to 10.0.0.1 leaves through it";
    host.assert_carried(&session, &[("lo", "it has the address 10.9.9.9"), ("eth0", route)]).await;

    let Some(host) = Host::new(&format!("link add dummy7 type dummy\n{both} dummy7")).await else { return };
    host.assert_carried(&session, &[("eth0", route), ("dummy7", "it has the address 10.9.9.9")]).await;
}

#[tokio::test]
async fn ipv6_addresses_lead_to_the_interface_of_the_route() {
    let Some(host) = Host::new(
        "address add fd00::2/64 dev eth0 nodad
         address add fd09::9/128 dev lo
         address add fe80::2/64 dev eth0 nodad
         address add fe80::3/64 dev eth1 nodad",
    )
    .await
    else {
        return;
    };
    let session = connection("[fd09::9]:22", "[fd00::1]:50000");
    let route = "the route to fd00::1 leaves through it";
    host.assert_carried(&session, &[("lo", "it has the address fd09::9"), ("eth0", route)]).await;
    let link_local = connection("[fe80::3]:22", "[fe80::9]:50000");
    let link_local = Connection { zone: Some("eth1".into()), ..link_local };
    host.assert_carried(&link_local, &[("eth1", "it has the address fe80::3")]).await;
}

#[tokio::test]
async fn rules_of_policy_routing_apply_to_the_connections_own_packets() {
    let Some(host) = Host::new(
        "address add 10.0.0.2/24 dev eth0
         address add 10.1.0.2/24 dev eth1
         address add 10.9.9.8/32 dev lo
         address add 10.9.9.9/32 dev lo
         route add default via 10.0.0.1
         route add default via 10.1.0.1 table 100
         rule add from 10.9.9.9 lookup 100
         rule add ipproto tcp sport 2222 lookup 100",
    )
    .await
    else {
        return;
    };
    let route = "the route to 203.0.113.7 leaves through it";
    for (local, interface) in [("10.9.9.8:22", "eth0"), ("10.9.9.9:22", "eth1"), ("10.9.9.8:2222", "eth1")] {
        let address = format!("it has the address {}", local.split_once(':').unwrap().0);
        let session = connection(local, "203.0.113.7:50000");
        host.assert_carried(&session, &[("lo", &address), (interface, route)]).await;
    }
}

#[tokio::test]
async fn all_next_hops_of_a_route_carry_the_connection() {
    let Some(host) = Host::new(
        "address add 10.0.0.2/24 dev eth0
         address add 10.1.0.2/24 dev eth1
         address add 10.9.9.9/32 dev lo
         route add default nexthop via 10.0.0.1 nexthop via 10.1.0.1",
    )
    .await
    else {
        return;
    };
    let route = "the route to 203.0.113.7 leaves through it";
    let expected = [("lo", "it has the address 10.9.9.9"), ("eth0", route), ("eth1", route)];
    host.assert_carried(&connection("10.9.9.9:22", "203.0.113.7:50000"), &expected).await;
}

#[tokio::test]
async fn what_is_below_the_interface_of_the_route_carries_the_connection() {
    for (upper, script) in [
        ("br0", "link add br0 type bridge\nlink set eth0 master br0"),
        ("mv0", "link add link eth0 name mv0 type macvlan"),
        ("eth0.5", "link add link eth0 name eth0.5 type vlan id 5"),
        ("bond7", "link add bond7 type bond\nlink set eth0 down\nlink set eth0 master bond7"),
    ] {
        let script = format!("{script}\nlink set {upper} up\naddress add 10.0.0.2/24 dev {upper}");
        let Some(host) = Host::new(&script).await else { continue };
        let session = connection("10.0.0.2:22", "10.0.0.1:50000");
        let below = format!("the packets of {upper} pass through it");
        host.assert_carried(&session, &[("eth0", &below), (upper, "it has the address 10.0.0.2")]).await;
        // Interfaces beside or above it do not.
        let Some(host) = Host::new(&format!("{script}\naddress add 10.1.0.2/24 dev eth1")).await else {
            continue;
        };
        let session = connection("10.1.0.2:22", "10.1.0.1:50000");
        host.assert_carried(&session, &[("eth1", "it has the address 10.1.0.2")]).await;
    }
}

#[tokio::test]
async fn a_connection_in_a_vrf_leaves_by_the_routes_of_the_vrf() {
    let Some(host) = Host::new(
        "link add vrf7 type vrf table 7
         link set vrf7 up
         link set eth1 master vrf7
         address add 10.9.9.9/32 dev vrf7
         address add 10.0.0.2/24 dev eth0
         address add 10.1.0.2/24 dev eth1
         route add default via 10.0.0.1
         route add default via 10.1.0.1 vrf vrf7",
    )
    .await
    else {
        return;
    };
    let session = connection("10.9.9.9:22", "203.0.113.7:50000");
    let netlink = &host.netlink;
    assert!(netlink.carries("eth1", &session).await.unwrap().is_some());
    assert!(netlink.carries("vrf7", &session).await.unwrap().is_some());
}

#[tokio::test]
async fn a_tunnel_has_packets_that_leave_by_the_default_route() {
    let Some(host) = Host::new(
        "tuntap add tun7 mode tun
         link set tun7 up
         address add 10.9.9.9/24 dev tun7
         address add 10.0.0.2/24 dev eth0
         route add default via 10.0.0.1",
    )
    .await
    else {
        return;
    };
    let expected =
        [("eth0", "it has the default route, and tun7 is a tunnel"), ("tun7", "it has the address 10.9.9.9")];
    host.assert_carried(&connection("10.9.9.9:22", "10.9.9.1:50000"), &expected).await;
}
