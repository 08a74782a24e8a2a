//! The network of the host on which a remote node runs. The node has a network namespace of its own and takes
//! over some of the host's interfaces, but none that carry its SSH session ([`netem::routes`]).

use super::parent::Unusable;
use crate::sys;
use netem::{Namespace, Netlink, routes::Connection};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
};
use std::{
    error::Error,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};
use tokio::time;

/// How long to wait for an interface that is in use: a node that has lost its orchestrator keeps its
/// interfaces for up to ten seconds, unless its host is busy.
const IN_USE_LIMIT: Duration = Duration::from_secs(12);

/// The words before the interface's name in the message about an interface that stays in use.
pub(crate) const IN_USE: &str = "another run may be using";

/// The interval between attempts to take over an interface that is in use.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The host's network namespace, with the SSH session that carries the protocol.
#[derive(Debug)]
pub struct HostNetwork {
    network: Namespace,
    /// The session as a connection of the host; `None` if no network carries it.
    session: Option<Connection>,
}

/// Opens the network namespace of the calling process as a descriptor that child processes inherit, for
/// [`HostNetwork::open`].
pub fn inheritable_network() -> io::Result<File> {
    let network = File::open("/proc/self/ns/net")?;
    fcntl(&network, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(network)
}

/// Parses the value of `SSH_CONNECTION`, which has four fields: the client's address and port, the host's
/// address and port.
fn session(connection: &str) -> Option<Connection> {
    let mut fields = connection.split_whitespace();
    let mut zone = None;
    let mut end = || {
        let (address, port) = (fields.next()?, fields.next()?);
        let (address, interface) = address.split_once('%').map_or((address, None), |(a, i)| (a, Some(i)));
        zone = interface.map(Into::into).or(zone.take());
        let address: IpAddr = address.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
    };
    let (remote, local) = (end()?, end()?);
    Some(Connection { local, remote, zone })
}

impl HostNetwork {
    /// Opens the namespace that [`inheritable_network`] opened in the parent process under this descriptor
    /// number. Call it once. `connection` is the value of `SSH_CONNECTION`.
    pub fn open(descriptor: i32, connection: &str) -> io::Result<Self> {
        // Nothing that this process starts inherits it.
        let network = File::from(sys::inherited(descriptor)?);
        Ok(Self { network: network.into(), session: session(connection) })
    }

    /// Takes over the host's interface `parent`: creates a macvlan interface `name` on it in this process's
    /// network namespace.
    ///
    /// If another node uses the interface, keeps trying for 12 s. Fails immediately if the interface carries
    /// the SSH session, or if it cannot carry a macvlan: see [`Unusable`].
    pub(super) async fn attach(&self, parent: &str, name: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        let netlink = Netlink::open_in(self.network.as_fd())?;
        if let Some(session) = &self.session
            && let Some(reason) = netlink.carries(parent, session).await?
        {
            return Err(format!(
                "{parent} carries the SSH session: {reason}; in the inventory, name an interface that \
                 nothing else uses"
            )
            .into());
        }
        let here = File::open("/proc/self/ns/net")?;
        let deadline = Instant::now() + IN_USE_LIMIT;
        loop {
            let index = netlink.interface(parent).await?.index;
            let role = netlink.roles().await?.into_iter().find(|role| role.index == index);
            if let Some(unusable) = role.as_ref().and_then(Unusable::check) {
                return Err(unusable.to_string().into());
            }
            let refused = match netlink.add_macvlan(name, parent, Some(here.as_fd())).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match refused.errno().map(Errno::from_raw) {
                // The kernel's answer if the interface already has a macvlan, in whatever namespace.
                Some(Errno::EINVAL) if Instant::now() < deadline => time::sleep(RETRY_INTERVAL).await,
                Some(Errno::EINVAL) => {
                    return Err(format!(
                        "{refused}: {parent} already carries a macvlan in another network namespace; \
                         {IN_USE} {parent}, or a container or a virtual machine"
                    )
                    .into());
                }
                Some(Errno::EBUSY) => {
                    return Err(format!(
                        "{refused}: something on that host receives the frames of {parent} already, such as \
                         an ipvlan of a container; name an interface that nothing else uses"
                    )
                    .into());
                }
                _ => return Err(refused.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_a_connection_of_the_host() {
        let ends = |text: &str| {
            let Connection { local, remote, zone } = session(text)?;
            Some((local.to_string(), remote.to_string(), zone))
        };
        let both = |local: &str, remote: &str, zone: Option<&str>| {
            Some((local.to_owned(), remote.to_owned(), zone.map(Into::into)))
        };
        assert_eq!(ends("192.0.2.9 50000 192.0.2.1 22"), both("192.0.2.1:22", "192.0.2.9:50000", None));
        assert_eq!(
            ends("fe80::9%eth0 50000 fe80::1%eth0 22"),
            both("[fe80::1]:22", "[fe80::9]:50000", Some("eth0"))
        );
        assert_eq!(
            ends("::ffff:192.0.2.9 50000 ::ffff:192.0.2.1 22"),
            both("192.0.2.1:22", "192.0.2.9:50000", None)
        );
        for without_network in ["", "UNKNOWN 65535 UNKNOWN 65535", "192.0.2.9 50000"] {
            assert_eq!(ends(without_network), None);
        }
    }
}
