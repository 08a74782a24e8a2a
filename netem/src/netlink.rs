//! [`Netlink`]: a connection to the kernel, in one network namespace.
//!
//! Every request of this crate goes through here, so that every refusal comes back with the kernel's own
//! words (its extended acknowledgement) and with what was being attempted.

use crate::{
    error::{Error, Result},
    feature::Feature,
    wire::psched::Clock,
};
use futures::{Stream, StreamExt};
use rtnetlink::{
    Handle,
    packet_core::{
        ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    },
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
    },
    sys::AsyncSocket,
};
use std::{io, os::fd::BorrowedFd, thread};

/// A connection to the kernel's routing and traffic control, bound to a network namespace.
///
/// Cheap to clone. It lives as long as the tokio runtime in which it was opened.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    pub(crate) clock: Clock,
}

/// What an interface is called, where it is, and what its frames may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in its namespace.
    pub index: u32,
    /// Its MTU in bytes: the largest IP packet.
    pub mtu: u32,
    /// How many segments TCP may hand down in one packet; `None` where the kernel does not say.
    pub gso_max_segments: Option<u32>,
    /// How many segments the device itself could take; `None` where the kernel does not say.
    pub tso_max_segments: Option<u32>,
}

impl Netlink {
    /// Connects in the network namespace of the calling thread. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the kernel gives no netlink socket, or has no packet scheduler.
    pub fn open() -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        Self::connect(&runtime).map_err(Error::system("open a netlink socket"))
    }

    /// Connects in the network namespace that `namespace` refers to, an open `/proc/PID/ns/net` for example.
    /// Must be called within a tokio runtime; the calling thread stays in its own namespace.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or as [`Netlink::open`].
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        // A socket stays in the namespace of the thread that made it, so a thread of its own makes it.
        thread::scope(|scope| {
            let connect = || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Self::connect(&runtime)
            };
            scope.spawn(connect).join().expect("connecting does not panic")
        })
        .map_err(Error::system("open a netlink socket in another network namespace"))
    }

    fn connect(runtime: &tokio::runtime::Handle) -> io::Result<Self> {
        let _registers_here = runtime.enter();
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        let socket = connection.socket_mut().socket_mut();
        // Error texts, and without the request they refer to.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        runtime.spawn(connection);
        Ok(Self { handle, clock: Clock::of_kernel()? })
    }

    /// The interface of this name.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`], with the name most like it.
    pub async fn interface(&self, name: &str) -> Result<Interface> {
        let mut all = self.interfaces().await?;
        match all.iter().position(|i| i.name == name) {
            Some(found) => Ok(all.swap_remove(found)),
            None => Err(no_interface(name, all.iter().map(|i| i.name.as_str()))),
        }
    }

    /// Every interface of the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        Ok(self.links().await?.iter().map(Interface::from).collect())
    }

    /// Every interface of the namespace, as the kernel sends it.
    pub(crate) async fn links(&self) -> Result<Vec<LinkMessage>> {
        let answers = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), || "list the interfaces".into())
            .await?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewLink(link) = m { Some(link) } else { None })
            .collect())
    }

    /// Asks for everything of one sort.
    pub(crate) async fn dump(
        &self,
        message: RouteNetlinkMessage,
        doing: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP, &doing).await
    }

    /// Asks for a change, with more of the `NLM_F_` flags, and waits until the kernel has done it.
    pub(crate) async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: impl Fn() -> String,
    ) -> Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, &doing).await.map(drop)
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: &dyn Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut handle = self.handle.clone();
        let answers = handle
            .request(request)
            .map_err(|e| Error::Protocol { doing: doing(), problem: format!("netlink is closed: {e}") })?;
        collect(answers, doing).await
    }
}

async fn collect(
    answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
    doing: &dyn Fn() -> String,
) -> Result<Vec<RouteNetlinkMessage>> {
    let mut answers = std::pin::pin!(answers);
    let mut messages = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => messages.push(message),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(refusal(&error, doing())),
            _ => {}
        }
    }
    Ok(messages)
}

fn refusal(error: &ErrorMessage, doing: String) -> Error {
    let source = io::Error::from_raw_os_error(-error.raw_code());
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::NotPermitted { doing },
        _ => Error::Kernel { doing, source, said: extended_ack(&error.header) },
    }
}

/// `NLMSGERR_ATTR_MSG` from what follows the error number: the header of the request, the request itself
/// unless that is left out (`NETLINK_CAP_ACK`), and attributes.
fn extended_ack(after_code: &[u8]) -> Option<String> {
    const NLMSGHDR_BYTES: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let attributes = NlasIterator::new(after_code.get(NLMSGHDR_BYTES..)?);
    let text = attributes.flatten().find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(text.value()).trim_end_matches('\0').trim_end_matches('.').to_owned())
}

impl Error {
    /// Turns a refusal into [`Error::MissingFeature`] where that is what it means.
    pub(crate) fn or_missing(self, feature: Feature) -> Self {
        match self {
            Self::Kernel { doing, source, said } => {
                let unknown = match source.raw_os_error() {
                    // "Specified qdisc kind is unknown", since 6.7; "Specified qdisc not found" before.
                    Some(libc::ENOENT) => true,
                    // "Unknown device type".
                    Some(libc::EOPNOTSUPP) => said.as_ref().is_none_or(|s| s.contains("nknown")),
                    _ => false,
                };
                if unknown {
                    Self::MissingFeature { doing, feature }
                } else {
                    Self::Kernel { doing, source, said }
                }
            }
            other => other,
        }
    }

    /// The error number of the kernel's refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl From<&LinkMessage> for Interface {
    fn from(message: &LinkMessage) -> Self {
        let mut interface = Self {
            name: String::new(),
            index: message.header.index,
            mtu: 0,
            gso_max_segments: None,
            tso_max_segments: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::GsoMaxSegs(segments) => interface.gso_max_segments = Some(*segments),
                LinkAttribute::TsoMaxSegs(segments) => interface.tso_max_segments = Some(*segments),
                _ => {}
            }
        }
        interface
    }
}

/// With the name most like it, by how many letters have to change.
fn no_interface<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Error {
    let nearest = others
        .map(|other| (strsim::damerau_levenshtein(name, other), other))
        .min()
        .filter(|(distance, other)| *distance <= other.len().max(name.len()) / 2)
        .map(|(_, other)| other.to_owned());
    Error::NoInterface { name: name.to_owned(), nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_unless_none_is_near() {
        let text = |name| no_interface(name, ["lo", "eth0", "eth1"].into_iter()).to_string();
        assert_eq!(text("eht0"), "there is no interface `eht0` here; did you mean `eth0`?");
        assert_eq!(text("wlan17"), "there is no interface `wlan17` here");
    }

    #[test]
    fn the_kernels_words_are_found_after_the_header() {
        let mut answer = vec![0; 16];
        let words = b"Exclusivity flag on, cannot modify.\0";
        answer.extend((words.len() as u16 + 4).to_ne_bytes());
        answer.extend(1u16.to_ne_bytes());
        answer.extend(words);
        assert_eq!(extended_ack(&answer).as_deref(), Some("Exclusivity flag on, cannot modify"));
        assert_eq!(extended_ack(&answer[..16]), None);
        assert_eq!(extended_ack(&[]), None);
    }
}
