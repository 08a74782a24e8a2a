//! The sockets of a server. Those for every address also take IPv4, whatever `net.ipv6.bindv6only` says, and
//! answers to probes come from the address to which the probe was sent: a client does not accept them from
//! another address of this host.

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrStorage, bind, listen, recvmsg, sendmsg, setsockopt, socket,
    sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only, ReuseAddr},
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

/// The number of connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens for TCP connections on an address.
pub(super) fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address, SockType::Stream)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// Creates a socket with this local address.
fn bound(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &false)?;
    }
    if kind == SockType::Stream {
        // A server can be started again while connections to the last one are still closing.
        setsockopt(&socket, ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// A UDP socket that knows to which local address a packet was sent.
#[derive(Debug)]
pub(super) struct ProbeSocket(UdpSocket);

/// The sender of a packet, and the address of this host to which it was sent.
#[derive(Debug)]
pub(super) struct Origin {
    /// The sender's address.
    pub(super) ip: IpAddr,
    sender: SockaddrStorage,
    receiver: Option<Receiver>,
}

/// An address of this host, as the kernel reports it.
#[derive(Debug)]
enum Receiver {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl ProbeSocket {
    /// Creates a socket with this local address.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = bound(address, SockType::Datagram)?;
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
            // This also works for packets over IPv4, whose addresses are then mapped.
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self(socket.into()))
    }

    /// Receives a packet. Returns the number of its bytes, or `buffer.len()` if it has more.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Origin)> {
        let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.0.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
        let sender = message.address.ok_or(io::ErrorKind::InvalidData)?;
        let receiver = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Receiver::V4(info)),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Receiver::V6(info)),
            _ => None,
        });
        let v4 = sender.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let ip = v4.or(sender.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())));
        Ok((message.bytes, Origin { ip: ip.ok_or(io::ErrorKind::InvalidData)?, sender, receiver }))
    }

    /// Sends an answer to the sender of a packet.
    pub(super) fn answer(&self, bytes: &[u8], origin: &Origin) -> io::Result<()> {
        let control = match &origin.receiver {
            Some(Receiver::V4(info)) => &[ControlMessage::Ipv4PacketInfo(info)][..],
            Some(Receiver::V6(info)) => &[ControlMessage::Ipv6PacketInfo(info)][..],
            None => &[],
        };
        let parts = [IoSlice::new(bytes)];
        sendmsg(self.0.as_raw_fd(), &parts, control, MsgFlags::empty(), Some(&origin.sender))?;
        Ok(())
    }
}
