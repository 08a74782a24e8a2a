//! Addresses of servers as people write them: `192.0.2.2`, `host.example:5202`, `fe80::2%eth0`,
//! `[2001:db8::2]:5202`.

use crate::{
    error::{Error, Result},
    netlink::no_interface,
};
use nix::net::if_::{if_indextoname, if_nameindex, if_nametoindex};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs},
    str::FromStr,
};

/// The default port of a server.
pub const DEFAULT_PORT: u16 = 5202;

/// The address of a server, with or without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: Host,
    /// The port that was given with the address.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// An address valid on a single link, and the name or the number of the interface to that link.
    LinkLocal(Ipv6Addr, String),
    Name(String),
}

/// The reason why a text is not an address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write a host name or an address, like `192.0.2.2`, `fe80::2%eth0` or `[2001:db8::2]:5202`")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest
                .split_once(']')
                .ok_or_else(|| EndpointError("the bracket `[` is not closed".to_owned()))?;
            let host = Host::address(inside)?
                .filter(|host| !matches!(host, Host::V4(_)))
                .ok_or_else(|| EndpointError(format!("`{inside}` is not an IPv6 address")))?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(self::port(port)?),
                None if after.is_empty() => None,
                None => return Err(EndpointError(format!("`{after}` after the brackets is not a port"))),
            };
            return Ok(Self { host: host.canonical(), port });
        }
        if let Some(host) = Host::address(text)? {
            return Ok(Self { host: host.canonical(), port: None });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) if !port.contains(':') => (name, Some(self::port(port)?)),
            Some(_) => return Err(EndpointError(format!("`{text}` is not an IPv6 address"))),
            None => (text, None),
        };
        let host = match Host::address(name)? {
            Some(address) => address,
            None => Host::name(name)?,
        };
        Ok(Self { host, port })
    }
}

/// Parses a port.
fn port(text: &str) -> Result<u16, EndpointError> {
    text.parse().map_err(|_| EndpointError(format!("`{text}` is not a port from 0 to 65535")))
}

impl Host {
    /// Parses an address with or without a zone. Returns `None` for anything else.
    fn address(text: &str) -> Result<Option<Self>, EndpointError> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let error = |problem: &str| Err(EndpointError(format!("`{text}` {problem}")));
        match (address.parse(), zone) {
            (Ok(IpAddr::V6(v6)), None) if v6.is_unicast_link_local() => {
                error(&format!("is on every link: add the interface, as in `{v6}%eth0`"))
            }
            (Ok(IpAddr::V6(v6)), Some(zone)) if v6.is_unicast_link_local() && !zone.is_empty() => {
                Ok(Some(Self::LinkLocal(v6, zone.to_owned())))
            }
            (Ok(IpAddr::V6(v6)), Some(_)) if v6.is_unicast_link_local() => {
                error("lacks the interface after `%`")
            }
            (Ok(_), Some(_)) => error("has an interface, which only addresses from fe80:: on can have"),
            (Ok(IpAddr::V4(v4)), None) => Ok(Some(Self::V4(v4))),
            (Ok(IpAddr::V6(v6)), None) => Ok(Some(Self::V6(v6))),
            (Err(_), Some(_)) => error("is not an IPv6 address with an interface"),
            (Err(_), None) => Ok(None),
        }
    }

    fn name(text: &str) -> Result<Self, EndpointError> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > 253 || text.starts_with('-') || !text.chars().all(is_part) {
            return Err(EndpointError(format!("`{text}` is neither a host name nor an address")));
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// Replaces an IPv6 address that stands for an IPv4 address (`::ffff:192.0.2.2`) with the latter.
    fn canonical(self) -> Self {
        match self {
            Self::V6(v6) => v6.to_ipv4_mapped().map_or(self, Self::V4),
            other => other,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = self.port.is_some() && matches!(self.host, Host::V6(_) | Host::LinkLocal(..));
        let host = match &self.host {
            Host::V4(v4) => v4.to_string(),
            Host::V6(v6) => v6.to_string(),
            Host::LinkLocal(v6, zone) => format!("{v6}%{zone}"),
            Host::Name(name) => name.clone(),
        };
        match self.port {
            Some(port) if bracketed => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(&host),
        }
    }
}

impl Endpoint {
    /// Returns the addresses that this endpoint stands for, in the order of the system's resolver, with this
    /// port.
    ///
    /// # Errors
    ///
    /// If a name does not resolve, or if no interface has the name in a zone.
    pub fn resolve(&self, port: u16) -> Result<Vec<SocketAddr>> {
        match &self.host {
            Host::V4(v4) => Ok(vec![(*v4, port).into()]),
            Host::V6(v6) => Ok(vec![(*v6, port).into()]),
            Host::LinkLocal(v6, zone) => Ok(vec![SocketAddrV6::new(*v6, port, 0, scope(zone)?).into()]),
            Host::Name(name) => {
                let problem = |why: &dyn fmt::Display| {
                    let why = why.to_string();
                    let why = why.trim_start_matches("failed to lookup address information: ");
                    Error::Unsuitable {
                        interface: name.clone(),
                        problem: format!("the name does not resolve ({why}); correct it, or give an address"),
                    }
                };
                let mut addresses = Vec::new();
                for address in (name.as_str(), port).to_socket_addrs().map_err(|error| problem(&error))? {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                if addresses.is_empty() { Err(problem(&"the resolver returns none")) } else { Ok(addresses) }
            }
        }
    }
}

/// Returns the number of the interface with this name or number.
fn scope(zone: &str) -> Result<u32> {
    // `ip` shows one end of a veth pair as `near@far`.
    let name = zone.split_once('@').map_or(zone, |(name, _)| name);
    if let Ok(index) = if_nametoindex(name) {
        return Ok(index);
    }
    if let Some(index) = zone.parse().ok().filter(|&index| interface_name(index).is_some()) {
        return Ok(index);
    }
    let names: Vec<String> = if_nameindex()
        .map(|all| all.iter().map(|one| one.name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    Err(no_interface(name, names.iter().map(String::as_str)))
}

/// Returns the name of the interface with this number. Returns `None` if no interface has it.
fn interface_name(index: u32) -> Option<String> {
    // `nix` returns an empty name for an interface that does not exist.
    let name = if_indextoname(index).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

/// Returns an address in its usual notation, with the name of the interface instead of its number.
pub fn written(address: SocketAddr) -> String {
    let SocketAddr::V6(v6) = address else { return address.to_string() };
    match interface_name(v6.scope_id()) {
        Some(name) => format!("[{}%{name}]:{}", v6.ip(), v6.port()),
        None => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(text in "[a-z0-9.:%@\\[\\]-]{0,24}") {
            if let Ok(read) = endpoint(&text) {
                prop_assert_eq!(endpoint(&read.to_string()), Ok(read));
            }
        }
    }

    fn endpoint(text: &str) -> Result<Endpoint, String> {
        text.parse().map_err(|error: EndpointError| error.to_string())
    }

    #[test]
    fn addresses_and_names_are_read_as_people_write_them() {
        let v6 = |text: &str| Host::V6(text.parse().unwrap());
        let local = |zone: &str| Host::LinkLocal("fe80::2".parse().unwrap(), zone.into());
        let v4 = Host::V4([192, 0, 2, 2].into());
        for (text, host, port) in [
            ("192.0.2.2", v4.clone(), None),
            ("192.0.2.2:80", v4.clone(), Some(80)),
            ("2001:db8::2", v6("2001:db8::2"), None),
            ("[2001:db8::2]", v6("2001:db8::2"), None),
            ("[2001:DB8:0::2]:80", v6("2001:db8::2"), Some(80)),
            ("::1", v6("::1"), None),
            ("::ffff:192.0.2.2", v4.clone(), None),
            ("[::ffff:192.0.2.2]:80", v4, Some(80)),
            ("fe80::2%eth0", local("eth0"), None),
            ("FE80::2%3", local("3"), None),
            ("[fe80::2%eth0.7]:80", local("eth0.7"), Some(80)),
            ("localhost", Host::Name("localhost".into()), None),
            ("node-2.lab.example.:80", Host::Name("node-2.lab.example.".into()), Some(80)),
        ] {
            let read = endpoint(text).unwrap();
            assert_eq!(read, Endpoint { host, port }, "{text}");
            assert_eq!(endpoint(&read.to_string()).as_ref(), Ok(&read), "{text}");
        }
    }

    #[test]
    fn what_is_neither_says_why() {
        for (text, says) in [
            ("", "`` is neither a host name nor an address"),
            ("fe80::2", "`fe80::2` is on every link: add the interface, as in `fe80::2%eth0`"),
            ("[fe80::2]:80", "add the interface, as in `fe80::2%eth0`"),
            ("fe80::2%", "lacks the interface after `%`"),
            ("2001:db8::2%eth0", "which only addresses from fe80:: on can have"),
            ("192.0.2.2%eth0", "which only addresses from fe80:: on can have"),
            ("node%eth0", "is not an IPv6 address with an interface"),
            ("192.0.2.2/24", "`192.0.2.2/24` is neither a host name nor an address"),
            ("2001:db8::2/64", "`2001:db8::2/64` is not an IPv6 address"),
            ("2001:db8::g", "is not an IPv6 address"),
            ("[::1", "the bracket `[` is not closed"),
            ("[::1]80", "`80` after the brackets is not a port"),
            ("[192.0.2.2]:80", "`192.0.2.2` is not an IPv6 address"),
            ("[localhost]:80", "`localhost` is not an IPv6 address"),
            ("localhost:", "`` is not a port from 0 to 65535"),
            ("localhost:65536", "`65536` is not a port from 0 to 65535"),
            ("http://localhost", "is not a port"),
            ("user@localhost", "is neither a host name nor an address"),
            ("a b", "is neither a host name nor an address"),
        ] {
            let error = endpoint(text).unwrap_err();
            assert!(
                error.contains(says) && error.contains("write a host name or an address, like"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_zone_is_the_name_or_the_number_of_an_interface() {
        let lo = if_nametoindex("lo").unwrap();
        let resolved = |text: &str| endpoint(text).unwrap().resolve(80);
        for text in ["fe80::2%lo", &format!("fe80::2%{lo}"), "fe80::2%lo@if7"] {
            let [SocketAddr::V6(v6)] = resolved(text).unwrap()[..] else { panic!("{text}") };
            assert_eq!((v6.scope_id(), v6.port()), (lo, 80));
            assert_eq!(written(v6.into()), "[fe80::2%lo]:80");
        }
        let error = resolved("fe80::2%lp").unwrap_err();
        assert!(
            error.to_string().contains("no interface `lp` in this network namespace; did you mean `lo`?")
        );
        assert!(error.is_usage());
        assert!(resolved("fe80::2%4000000000").is_err());
    }
}
