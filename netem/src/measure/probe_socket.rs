//! The socket of a server for probes. Answers come from the address that was asked: a client takes none from
//! another address of this host.

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo},
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

/// A UDP socket that knows to which of its addresses a packet was sent.
#[derive(Debug)]
pub(super) struct ProbeSocket(UdpSocket);

/// Where a packet came from, and to which address of this host.
#[derive(Debug)]
pub(super) struct Origin {
    /// The sender's address.
    pub(super) ip: IpAddr,
    sender: SockaddrStorage,
    receiver: Option<Receiver>,
}

/// An address of this host, as the kernel passes it.
#[derive(Debug)]
enum Receiver {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl ProbeSocket {
    /// Creates a socket with this local address.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
            // Also for packets over IPv4, whose addresses are mapped then.
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self(socket))
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

    /// Sends an answer to where a packet came from.
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
