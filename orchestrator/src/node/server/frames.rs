//! The guest's network card: relays Ethernet frames between an interface and a datagram socket that a process
//! inherits.
//!
//! QEMU can use a datagram socket as a network backend. This needs no TAP device, hence no access to
//! `/dev/net/tun`, and leaves nothing behind on the interface. The only traffic is that of the downtime
//! probe, some hundred frames per second, so copying each frame costs little. A frame that finds a full
//! socket is dropped, as on Ethernet.

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

/// The largest frame that is relayed, in bytes; well above Ethernet's usual 1514.
const FRAME_MAX: usize = 65_536;

/// The relay between a packet socket on an interface and the node's end of the process's socket.
pub(super) struct FrameRelay {
    interface: AsyncFd<OwnedFd>,
    process: AsyncFd<OwnedFd>,
}

impl FrameRelay {
    /// Opens an interface. Returns the relay and the socket for the process to inherit.
    pub(super) fn open(interface: &str) -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let interface = sys::readable(sys::packet_socket(interface)?)?;
        Ok((Self { interface, process: sys::readable(ours)? }, theirs))
    }

    /// Relays frames in both directions until a socket fails.
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
                // The queue is full or the receiver is shutting down: the frame is dropped.
                let _ = send(to.as_raw_fd(), &buffer[..len?], MsgFlags::empty());
            }
        }
    }
}
