//! System calls that have no safe wrapper. The crate's `unsafe` is here and in `setup::sys`, nowhere else.
#![allow(unsafe_code)]

use nix::{
    errno::Errno,
    fcntl::AtFlags,
    net::if_::if_nametoindex,
    sys::{
        prctl,
        signal::{SigSet, Signal},
        socket::{AddressFamily, SockFlag, SockType, socket},
    },
    unistd::{execveat, getpid, getppid, setsid},
};
use rustix::process::ioctl_tiocsctty;
use std::{
    env,
    ffi::{CString, OsStr, OsString},
    fs, io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    process::Command,
    ptr,
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

/// Makes this process survive the signals of Ctrl-C, Ctrl-\ and Ctrl-Z. Programs that it starts get the
/// default actions.
pub(crate) fn survive_terminal_signals() -> io::Result<()> {
    let signals = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];
    Ok(signals.into_iter().try_for_each(frontend::survive)?)
}

/// Makes the kernel kill the program when the thread that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is a plain system call, which a child may make between fork and exec.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}

/// Makes the program start in a new session and with this signal mask. `terminal`, one of its standard
/// streams, is its controlling terminal; without it, the session has none. The program is killed when the
/// thread that starts it ends.
pub(crate) fn start_session(command: &mut Command, terminal: Option<RawFd>, blocked: SigSet) {
    let start = move || {
        setsid()?;
        if let Some(fd) = terminal {
            // SAFETY: the descriptor is a standard stream, which is open until the program starts.
            ioctl_tiocsctty(unsafe { BorrowedFd::borrow_raw(fd) })?;
        }
        blocked.thread_set_mask()?;
        Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
    };
    // SAFETY: the closure only makes system calls, which a child may make between fork and exec.
    unsafe { command.pre_exec(start) };
}

/// Makes the program start in a session of its own, without a controlling terminal, so that it cannot prompt
/// the user. It gets `signal` when the thread that starts it ends.
pub(crate) fn start_unattended(command: &mut Command, signal: Signal) {
    let parent = getpid();
    let start = move || {
        setsid()?;
        prctl::set_pdeathsig(signal)?;
        // The parent may already have ended.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: the closure only makes system calls, which a child may make between fork and exec.
    unsafe { command.pre_exec(start) };
}

/// Makes the program start with a session keyring of its own, without the keys of this process.
pub(crate) fn leave_keyring(command: &mut Command) {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let leave = || {
        let unnamed = ptr::null::<libc::c_char>();
        // SAFETY: the call takes no name. It fails if the kernel has no keyrings, and then nothing is
        // inherited.
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, unnamed) };
        Ok(())
    };
    // SAFETY: the closure only makes a system call, which a child may make between fork and exec.
    unsafe { command.pre_exec(leave) };
}

/// Keeps programs that this process starts from inheriting any descriptor but the standard streams.
pub(crate) fn inherit_no_descriptors() -> io::Result<()> {
    let entries = fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // SAFETY: fcntl accepts any number and returns an error for one that is not open.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Makes the command run this opened program, with the command's arguments and this process's environment,
/// regardless of where the command's path leads when it starts. This process must have a single thread.
pub(crate) fn run_opened(command: &mut Command, program: OwnedFd) -> io::Result<()> {
    let mut words = vec![OsString::from("testbed")];
    words.extend(command.get_args().map(ToOwned::to_owned));
    let variables = env::vars_os().map(|(name, value)| [name, value].join(OsStr::new("=")));
    let c_string = |text: OsString| CString::new(text.into_vec());
    let words = words.into_iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    let variables = variables.map(c_string).collect::<Result<Vec<_>, _>>()?;
    let start = move || match execveat(&program, c"", &words, &variables, AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(errno) => Err(errno.into()),
    };
    // SAFETY: the closure allocates memory and makes a system call. The process has a single thread, so no
    // other one can have held the allocator's lock at the fork.
    unsafe { command.pre_exec(start) };
    Ok(())
}

/// Returns the user who owns a user namespace, as this process's user namespace numbers users.
pub(crate) fn user_namespace_owner(namespace: BorrowedFd) -> io::Result<u32> {
    let mut owner: libc::uid_t = 0;
    // SAFETY: the request writes a user ID to the pointer, which is valid until the call returns.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut owner) };
    Errno::result(result)?;
    Ok(owner)
}
