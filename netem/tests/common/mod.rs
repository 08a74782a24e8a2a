//! Temporary network namespaces, and the real `tc` and `ip` for comparison.
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]
#![allow(dead_code, reason = "each test binary uses only a part of this module")]

use netem::{Error, Namespace, Netlink};
use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd,
    process::{Command, Output},
};

/// The environment variable with the path of the program `netem`, for tests that run on a different system
/// from the one on which they were built.
const PROGRAM: &str = "NETEM_PROGRAM";

/// Returns a command for the program `netem`, without arguments.
pub(crate) fn program() -> Command {
    Command::new(std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_netem").into()))
}

/// The address of the near end of a link, in a /24 network.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The address of the far end of a link, in the same network.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Two namespaces connected by a veth pair, `near` in one and `far` in the other, both up. Each end has
/// resolved the other's address: if a link loses the request, the kernel repeats it only after a second.
pub(crate) struct Pair {
    pub(crate) near_namespace: Namespace,
    pub(crate) far_namespace: Namespace,
    pub(crate) near: Netlink,
    pub(crate) far: Netlink,
}

/// Creates a namespace. Returns `None` and prints why if that is not permitted; the test is then skipped.
pub(crate) fn namespace() -> Option<Namespace> {
    match Namespace::new() {
        Ok(namespace) => Some(namespace),
        Err(Error::NotPermitted { action }) => {
            println!(
                "skipped: not permitted to {action}; run as root, or under `unshare --user --map-root-user`"
            );
            None
        }
        Err(other) => panic!("{other}"),
    }
}

pub(crate) async fn pair() -> Option<Pair> {
    let (near_namespace, far_namespace) = (namespace()?, namespace()?);
    let near = Netlink::open_in(near_namespace.as_fd()).unwrap();
    let far = Netlink::open_in(far_namespace.as_fd()).unwrap();
    near.add_veth("near", "far", Some(far_namespace.as_fd())).await.unwrap();
    for (netlink, name, address) in [(&near, "near", NEAR), (&far, "far", FAR)] {
        netlink.set_up("lo").await.unwrap();
        netlink.add_address(name, address, 24).await.unwrap();
        netlink.set_up(name).await.unwrap();
    }
    let [here, there] = [(&near_namespace, NEAR), (&far_namespace, FAR)]
        .map(|(namespace, address)| namespace.run(|| UdpSocket::bind((address, 0))).unwrap());
    for (from, to) in [(&here, &there), (&there, &here)] {
        from.send_to(b"there", to.local_addr().unwrap()).unwrap();
        to.recv(&mut [0; 8]).unwrap();
    }
    Some(Pair { near_namespace, far_namespace, near, far })
}

/// Runs a command in a namespace and returns its output; `None` if the program is not installed.
pub(crate) fn output_in(namespace: &Namespace, program: &str, args: &str) -> Option<String> {
    let run = || Command::new(program).args(args.split_ascii_whitespace()).output();
    match namespace.run(run) {
        Ok(output) => {
            assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}

/// Runs a command line with a shell in a namespace, like a user who copies it; it must succeed. Returns its
/// output.
#[track_caller]
pub(crate) fn shell(namespace: &Namespace, line: &str) -> String {
    let output = namespace.run(|| Command::new("bash").args(["-c", line]).output()).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns whether `tc`, `ip` and `bash` are installed. Prints why the test is skipped if they are not.
pub(crate) fn has_iproute2() -> bool {
    let missing = ["tc", "ip", "bash"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(program) = missing {
        println!("skipped: {program} is not installed");
    }
    missing.is_none()
}

/// Runs the program `netem` in a namespace.
pub(crate) fn netem(namespace: &Namespace, args: &str) -> Output {
    namespace.run(|| program().args(args.split_ascii_whitespace()).output()).unwrap()
}

/// Runs `netem`, which must succeed, and returns its standard output.
#[track_caller]
pub(crate) fn prints(namespace: &Namespace, args: &str) -> String {
    let output = netem(namespace, args);
    assert!(output.status.success(), "netem {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `netem`, which must refuse this as bad input, and returns its message.
#[track_caller]
pub(crate) fn refuses(namespace: &Namespace, args: &str) -> String {
    let output = netem(namespace, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "netem {args}: {stderr}");
    stderr
}

/// Returns the number of segments that TCP has retransmitted in a namespace.
pub(crate) fn retransmitted_segments(namespace: &Namespace) -> u64 {
    let snmp = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let line = |number| snmp.lines().filter(|line| line.starts_with("Tcp: ")).nth(number).unwrap();
    let mut counters = line(0).split_whitespace().zip(line(1).split_whitespace());
    counters.find(|(name, _)| *name == "RetransSegs").unwrap().1.parse().unwrap()
}

/// Returns the bounds of a binomial distribution: quantiles at five standard deviations of a normal
/// distribution, which a count exceeds less than once in a million times. With a correlation, the deviation
/// grows like that of a Markov chain.
///
/// The distribution is skewed if few events are expected: the first two terms of the Cornish-Fisher expansion
/// take that into account.
pub(crate) fn bounds(tries: u64, probability: f64, correlation: f64) -> (u64, u64) {
    const DEVIATIONS: f64 = 5.0;
    let mean = tries as f64 * probability;
    let grown = (1.0 + correlation) / (1.0 - correlation);
    let variance = mean * (1.0 - probability) * grown;
    if variance <= 0.0 {
        return (mean as u64, mean as u64);
    }
    let bound = DEVIATIONS * variance.sqrt();
    let skew = (DEVIATIONS.powi(2) - 1.0) / 6.0 * (1.0 - 2.0 * probability) * grown;
    ((mean - bound + skew.min(0.0)).max(0.0).ceil() as u64, (mean + bound + skew.max(0.0)).floor() as u64)
}
