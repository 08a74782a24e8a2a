//! The system calls that no safe wrapper covers. All of the crate's `unsafe` is here.
#![allow(unsafe_code)]

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A non-blocking descriptor whose readability can be awaited.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, and nothing replaces this one inside its `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A packet socket on an interface of the caller's network namespace: each datagram read from it is an
/// Ethernet frame that came in there, each one written to it goes out there. The interface takes in frames
/// for every address, and goes back to its own when the socket is closed.
pub(crate) fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let index = if_nametoindex(interface)?.cast_signed();
    // Protocol zero: nothing is received until the socket is bound to its one interface.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: sockaddr_ll is plain data, for which all zeroes is a value; the pointer and the length passed
    // are those of that one struct, which lives until the call returns.
    let bound = unsafe {
        let mut address: libc::sockaddr_ll = mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = index;
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
    };
    Errno::result(bound)?;
    // SAFETY: as above, for a packet_mreq.
    let joined = unsafe {
        let mut membership: libc::packet_mreq = mem::zeroed();
        membership.mr_ifindex = index;
        membership.mr_type = libc::PACKET_MR_PROMISC as u16;
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of_val(&membership) as u32,
        )
    };
    Errno::result(joined)?;
    Ok(fd)
}
