//! The host that a remote node is on: the network beside the node's own.

use netem::{Namespace, Netlink};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    ifaddrs::getifaddrs,
};
use std::{
    error::Error,
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};
use tokio::time;

/// How long an interface may be taken: a node that has lost its orchestrator holds it for up to ten seconds.
const TAKEN_LIMIT: Duration = Duration::from_secs(12);

/// How often it is tried meanwhile.
const TAKEN_INTERVAL: Duration = Duration::from_millis(200);

/// The host's network, and what in it must not be touched.
#[derive(Debug)]
pub struct Host {
    network: Namespace,
    /// The host's address in the SSH session that the node is served through.
    session: Option<IpAddr>,
}

/// The network namespace of the calling process, for [`Host::open`] in a process that it starts.
pub fn inheritable_network() -> io::Result<File> {
    let network = File::open("/proc/self/ns/net")?;
    fcntl(&network, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(network)
}

/// The host's address in the value of `SSH_CONNECTION`: client's address and port, host's address and port.
fn session_address(connection: &str) -> Option<IpAddr> {
    let address = connection.split_whitespace().nth(2)?;
    let without_zone = address.split('%').next()?;
    without_zone.parse().ok()
}

impl Host {
    /// The network that [`inheritable_network`] opened in the parent, as the descriptor of this number.
    pub fn open(descriptor: i32, connection: &str) -> io::Result<Self> {
        let network = File::open(format!("/proc/self/fd/{descriptor}"))?;
        Ok(Self { network: network.into(), session: session_address(connection) })
    }

    /// Takes over the wire of one of the host's interfaces, as an interface of the node's.
    pub(super) async fn attach(&self, parent: &str, name: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.carries_session(parent)? {
            return Err(format!(
                "{parent} carries the SSH session; name another interface in the inventory, one that is used for \
                 nothing else"
            )
            .into());
        }
        let here = File::open("/proc/self/ns/net")?;
        let netlink = Netlink::open_in(self.network.as_fd())?;
        let deadline = Instant::now() + TAKEN_LIMIT;
        loop {
            let taken = match netlink.add_macvlan(name, parent, Some(here.as_fd())).await {
                // The kernel's word for an interface that is taken over already.
                Err(error) if error.errno() == Some(Errno::EINVAL as i32) => error,
                other => return Ok(other?),
            };
            if Instant::now() > deadline {
                return Err(format!("{taken}; another run may be using {parent}").into());
            }
            time::sleep(TAKEN_INTERVAL).await;
        }
    }

    fn carries_session(&self, interface: &str) -> io::Result<bool> {
        let Some(session) = self.session else { return Ok(false) };
        let addresses = self.network.run(|| Ok(getifaddrs()?.collect::<Vec<_>>()))?;
        Ok(addresses.iter().filter(|a| a.interface_name == interface).any(|a| {
            let Some(address) = &a.address else { return false };
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
            v4.or(v6) == Some(session)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_end_of_the_session_is_found() {
        let address = |text: &str| session_address(text).map(|a| a.to_string());
        assert_eq!(address("192.0.2.9 50000 192.0.2.1 22").as_deref(), Some("192.0.2.1"));
        assert_eq!(address("fe80::9%eth0 50000 fe80::1%eth0 22").as_deref(), Some("fe80::1"));
        assert_eq!(address(""), None);
    }
}
