//! [`Netlink`]: a connection to the kernel in one network namespace.
//!
//! All requests of this crate go through this module, so that every error has the attempted operation and the
//! kernel's own error text (its extended acknowledgement).

use crate::{
    error::{Error, Result},
    feature::Feature,
    interface::{self, Interface},
    netns,
    wire::psched::Clock,
};
use futures::{Stream, StreamExt};
use rtnetlink::{
    packet_core::{
        DecodeError, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable,
        NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
    },
    packet_route::{RouteNetlinkMessage, link::LinkMessage},
    proto::ConnectionHandle,
    sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{io, os::fd::BorrowedFd};

/// The types of the messages in which the kernel lists interfaces and filters.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWTFILTER: u16 = 44;

/// A message of rtnetlink.
///
/// Interfaces and filters are kept as the bytes that the kernel sent: netlink-packet-route drops a message
/// that it does not understand completely, and what it drops would be considered absent.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// A request, or an answer that netlink-packet-route decodes.
    Route(RouteNetlinkMessage),
    /// An interface in the answer of the kernel.
    Link(Vec<u8>),
    /// A filter in the answer of the kernel.
    Filter(Vec<u8>),
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::Link(_) => RTM_NEWLINK,
            Self::Filter(_) => RTM_NEWTFILTER,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => NetlinkSerializable::buffer_len(message),
            Self::Link(bytes) | Self::Filter(bytes) => bytes.len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::Link(bytes) | Self::Filter(bytes) => buffer.copy_from_slice(bytes),
        }
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match header.message_type {
            RTM_NEWLINK => Ok(Self::Link(payload.to_owned())),
            RTM_NEWTFILTER => Ok(Self::Filter(payload.to_owned())),
            _ => RouteNetlinkMessage::deserialize(header, payload).map(Self::Route),
        }
    }
}

/// A connection to the kernel's routing and traffic control in one network namespace.
///
/// Cheap to clone. The connection lives as long as the tokio runtime in which it was opened.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: ConnectionHandle<Message>,
    pub(crate) clock: Clock,
}

impl Netlink {
    /// Connects in the network namespace of the calling thread. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If no netlink socket can be opened, or if the kernel has no packet scheduler.
    pub fn open() -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        Self::connect(&runtime).map_err(Error::system("open a netlink socket"))
    }

    /// Connects in the network namespace that `namespace` refers to, for example an open `/proc/PID/ns/net`.
    /// Must be called within a tokio runtime. The calling thread stays in its own namespace.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered, and those of [`Netlink::open`].
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        // A socket belongs to the namespace of the thread that opens it.
        netns::run_in(namespace, || Self::connect(&runtime))
            .map_err(Error::system("open a netlink socket in another network namespace"))
    }

    fn connect(runtime: &tokio::runtime::Handle) -> io::Result<Self> {
        let _registers_here = runtime.enter();
        let (mut connection, handle, _) = rtnetlink::proto::new_connection::<Message>(NETLINK_ROUTE)?;
        let socket = connection.socket_mut().socket_mut();
        // Answers carry error texts, and do not repeat the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        runtime.spawn(connection);
        Ok(Self { handle, clock: Clock::from_running_kernel()? })
    }

    /// Finds an interface by its name, by an alternative name (`ip link property add`), or by its name as
    /// `ip` prints it, like `eth0@if7`.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`], with the most similar name.
    pub async fn interface(&self, name: &str) -> Result<Interface> {
        named(name, &self.interfaces().await?).cloned()
    }

    /// Lists the interfaces of the namespace.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        let answers = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), || "list the interfaces".into())
            .await?;
        let decoded = answers
            .iter()
            .filter_map(|m| if let Message::Link(link) = m { Interface::decode(link) } else { None });
        Ok(decoded.collect())
    }

    /// Sends a dump request (`NLM_F_DUMP`) and returns all objects that the kernel lists.
    pub(crate) async fn dump(
        &self,
        message: RouteNetlinkMessage,
        action: impl Fn() -> String,
    ) -> Result<Vec<Message>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP, &action).await
    }

    /// Sends a request for one object and returns the kernel's answer.
    pub(crate) async fn ask(
        &self,
        message: RouteNetlinkMessage,
        action: impl Fn() -> String,
    ) -> Result<Vec<Message>> {
        self.exchange(message, NLM_F_REQUEST, &action).await
    }

    /// Requests a change, with additional `NLM_F_*` flags, and waits for the kernel's acknowledgement.
    pub(crate) async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: impl Fn() -> String,
    ) -> Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, &action).await.map(drop)
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: &dyn Fn() -> String,
    ) -> Result<Vec<Message>> {
        let payload = NetlinkPayload::InnerMessage(Message::Route(message));
        let mut request = NetlinkMessage::new(NetlinkHeader::default(), payload);
        request.header.flags = flags;
        let kernel = SocketAddr::new(0, 0);
        let answers = self.handle.request(request, kernel).map_err(|e| Error::Protocol {
            action: action(),
            problem: format!("the netlink connection is closed: {e}"),
        })?;
        collect(answers, action).await
    }
}

async fn collect(
    answers: impl Stream<Item = NetlinkMessage<Message>>,
    action: &dyn Fn() -> String,
) -> Result<Vec<Message>> {
    let mut answers = std::pin::pin!(answers);
    let mut messages = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => messages.push(message),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(refusal(&error, action())),
            _ => {}
        }
    }
    Ok(messages)
}

pub(crate) fn refusal(error: &ErrorMessage, action: String) -> Error {
    let source = io::Error::from_raw_os_error(error.raw_code().saturating_neg());
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::NotPermitted { action },
        _ => Error::Kernel { action, source, message: extended_ack(&error.header) },
    }
}

/// Extracts the kernel's error text (`NLMSGERR_ATTR_MSG`) from the bytes that follow the error number: the
/// header of the request, and attributes. The request itself is omitted (`NETLINK_CAP_ACK`).
fn extended_ack(after_code: &[u8]) -> Option<String> {
    const NLMSGHDR_BYTES: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let attributes = NlasIterator::new(after_code.get(NLMSGHDR_BYTES..)?);
    let text = attributes.flatten().find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(text.value()).trim_end_matches('\0').trim_end_matches('.').to_owned())
}

impl Error {
    /// Converts the error into [`Error::MissingFeature`] if its error number means that `feature` is missing.
    pub(crate) fn or_missing(self, feature: Feature) -> Self {
        match self {
            Self::Kernel { action, source, message } => {
                let unknown = match source.raw_os_error() {
                    // "Specified qdisc kind is unknown", since 6.7; "Specified qdisc not found" before.
                    Some(libc::ENOENT) => true,
                    // "Unknown device type".
                    Some(libc::EOPNOTSUPP) => message.as_ref().is_none_or(|s| s.contains("nknown")),
                    _ => false,
                };
                if unknown {
                    Self::MissingFeature { action, feature }
                } else {
                    Self::Kernel { action, source, message }
                }
            }
            other => other,
        }
    }

    /// Returns the error number with which the kernel refused a request; `None` for other errors.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Returns the interface with a name, as [`Netlink::interface`] finds it.
pub(crate) fn named<'a>(name: &str, all: &'a [Interface]) -> Result<&'a Interface> {
    interface::find(name, all).ok_or_else(|| no_interface(name, all.iter().map(|i| i.name.as_str())))
}

/// Returns [`Error::NoInterface`] with the most similar name by edit distance, if that is at most half of the
/// longer name's length.
pub(crate) fn no_interface<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Error {
    // `ip` prints `eth0@if7`.
    let spoken = name.split('@').next().unwrap_or(name);
    let nearest = others
        .map(|other| (strsim::damerau_levenshtein(spoken, other), other))
        .min()
        .filter(|(distance, other)| *distance <= other.len().max(spoken.len()) / 2)
        .map(|(_, other)| other.to_owned());
    Error::NoInterface { name: name.to_owned(), nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_similar_name_is_suggested_if_there_is_one() {
        let text = |name| no_interface(name, ["lo", "eth0", "eth1"].into_iter()).to_string();
        assert_eq!(text("eht0"), "no interface `eht0` in this network namespace; did you mean `eth0`?");
        assert_eq!(text("wlan17"), "no interface `wlan17` in this network namespace");
    }

    #[test]
    fn every_error_number_gives_a_message() {
        for code in [i32::MIN, -1, 1, i32::MAX] {
            let mut error = ErrorMessage::default();
            error.code = std::num::NonZeroI32::new(code);
            assert!(!refusal(&error, "do something".into()).to_string().is_empty());
        }
    }

    #[test]
    fn the_kernels_error_text_is_found_after_the_header() {
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
