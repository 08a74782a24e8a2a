//! A process's Ethernet: the frames of an interface, as datagrams of a socket that the process inherits.
//!
//! QEMU can use such a socket as a guest's network. No TAP device is needed, so no access to `/dev/net/tun`,
//! and nothing is left behind on the interface. The traffic is that of the downtime probe, some hundred
//! frames a second, so that copying each costs next to nothing; a frame that finds a full socket is dropped,
//! as Ethernet does.

use crate::sys;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};
use tokio::io::unix::AsyncFd;

/// The largest frame that is passed on, in bytes: well above Ethernet's usual 1514.
const FRAME_MAX: usize = 65_536;

/// The node's side: an interface and the other end of the process's socket.
pub(super) struct Frames {
    interface: AsyncFd<OwnedFd>,
    process: AsyncFd<OwnedFd>,
}

impl Frames {
    /// Opens an interface; the second of the pair is for the process, which inherits it.
    pub(super) fn open(interface: &str) -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let interface = sys::readable(sys::packet_socket(interface)?)?;
        Ok((Self { interface, process: sys::readable(ours)? }, theirs))
    }

    /// Passes frames on, both ways, until a socket fails.
    pub(super) async fn relay(self) -> io::Result<()> {
        let mut buffer = vec![0; FRAME_MAX];
        loop {
            let (from, to) = tokio::select! {
                ready = self.interface.readable() => (ready?, &self.process),
                ready = self.process.readable() => (ready?, &self.interface),
            };
            let mut from = from;
            let received = from.try_io(|fd| Ok(recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?));
            if let Ok(len) = received {
                // A full queue, or an end that is going away: the frame is lost.
                let _ = send(to.as_raw_fd(), &buffer[..len?], MsgFlags::empty());
            }
        }
    }
}
