//! The network of the host that a remote node runs on. The node has a network namespace of its own and takes
//! over some of the host's interfaces.

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

/// How long to wait for an interface that is in use: a node that has lost its orchestrator holds its
/// interfaces for up to ten seconds, unless its host is busy.
const IN_USE_LIMIT: Duration = Duration::from_secs(12);

/// The interval between attempts to take over an interface that is in use.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The host's network namespace, with the address that the SSH session uses.
#[derive(Debug)]
pub struct HostNetwork {
    network: Namespace,
    /// The host's address in the SSH session that carries the protocol. The interface with this address must
    /// not be taken over.
    session: Option<IpAddr>,
}

/// Opens the network namespace of the calling process as a descriptor that child processes inherit, for
/// [`HostNetwork::open`].
pub fn inheritable_network() -> io::Result<File> {
    let network = File::open("/proc/self/ns/net")?;
    fcntl(&network, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(network)
}

/// Returns the host's address from the value of `SSH_CONNECTION`, which has four fields: the client's address
/// and port, the host's address and port.
fn session_address(connection: &str) -> Option<IpAddr> {
    let address = connection.split_whitespace().nth(2)?;
    let without_zone = address.split('%').next()?;
    without_zone.parse().ok()
}

impl HostNetwork {
    /// Opens the namespace that [`inheritable_network`] opened in the parent process under this descriptor
    /// number. `connection` is the value of `SSH_CONNECTION`.
    pub fn open(descriptor: i32, connection: &str) -> io::Result<Self> {
        let network = File::open(format!("/proc/self/fd/{descriptor}"))?;
        Ok(Self { network: network.into(), session: session_address(connection) })
    }

    /// Takes over the host's interface `parent`: creates a macvlan interface `name` on it in this process's
    /// network namespace.
    ///
    /// If the interface is in use, keeps trying for 12 s. Fails if it carries the SSH session.
    pub(super) async fn attach(&self, parent: &str, name: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.carries_session(parent)? {
            return Err(format!(
                "{parent} carries the SSH session; in the inventory, name an interface that nothing else uses"
            )
            .into());
        }
        let here = File::open("/proc/self/ns/net")?;
        let netlink = Netlink::open_in(self.network.as_fd())?;
        let deadline = Instant::now() + IN_USE_LIMIT;
        loop {
            let in_use = match netlink.add_macvlan(name, parent, Some(here.as_fd())).await {
                // The kernel reports EINVAL if the interface already has a passthrough macvlan.
                Err(error) if error.errno() == Some(Errno::EINVAL as i32) => error,
                other => return Ok(other?),
            };
            if Instant::now() > deadline {
                return Err(format!("{in_use}; another run may be using {parent}").into());
            }
            time::sleep(RETRY_INTERVAL).await;
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
    fn the_session_address_is_the_hosts() {
        let address = |text: &str| session_address(text).map(|a| a.to_string());
        assert_eq!(address("192.0.2.9 50000 192.0.2.1 22").as_deref(), Some("192.0.2.1"));
        assert_eq!(address("fe80::9%eth0 50000 fe80::1%eth0 22").as_deref(), Some("fe80::1"));
        assert_eq!(address(""), None);
    }
}
