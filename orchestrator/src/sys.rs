//! System calls that have no safe wrapper. The crate's `unsafe` is here and in `setup::sys`, nowhere else.
#![allow(unsafe_code)]

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        prctl,
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        socket::{AddressFamily, SockFlag, SockType, socket},
    },
};
use std::{
    io, mem,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Registers a non-blocking descriptor with tokio, so that a task can wait until it is readable.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, and nothing replaces this one inside its
    // `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Opens a packet socket on an interface of the caller's network namespace. Each read returns an Ethernet
/// frame that the interface received; each write sends one. The interface is in promiscuous mode until the
/// socket is closed.
pub(crate) fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let index = if_nametoindex(interface)?.cast_signed();
    // Protocol zero: nothing is received until the socket is bound to this interface.
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

/// Takes ownership of a descriptor that this process inherited from its parent. Call it once per descriptor.
///
/// # Errors
/// If no descriptor of this number is open.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl accepts any number and returns an error for one that is not open.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and only the caller uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Makes this process survive the signals of Ctrl-C, Ctrl-\ and Ctrl-Z. Programs that it starts get the
/// default actions.
pub(crate) fn survive_terminal_signals() -> io::Result<()> {
    // A handler that does nothing, because programs would inherit SIG_IGN.
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP] {
        // SAFETY: the handler does nothing, which is safe in a signal handler.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Makes the kernel kill the program when the thread that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is a plain system call, which a child may make between fork and exec.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}
