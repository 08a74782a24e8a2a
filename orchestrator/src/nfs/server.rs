//! The server: it accepts connections and answers the calls that arrive on them.

use super::{Export, MAX_CALL_BYTES, PORT, rpc};
use nix::{
    sys::{
        prctl,
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
        },
    },
    unistd::{Gid, Uid, setgid, setgroups, setuid},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufReader},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// The maximum number of connections at a time. Each QEMU has one, and a second one while it opens or closes
/// a disk. A connection holds a call and an answer, so all connections together hold at most 64 MiB.
const MAX_CONNECTIONS: usize = 32;

/// How long to wait for other connections to end after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(20);

/// A server that is already listening.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    export: Arc<Export>,
}

impl Server {
    /// Listens on an address, for connections through one interface only: Linux would deliver packets for any
    /// address of the host, whatever interface they arrive on.
    ///
    /// # Errors
    /// If the file cannot be examined, or if the address or the interface does not exist or is in use.
    pub fn listen(address: Ipv4Addr, interface: &str, file: File) -> io::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // The connections of an earlier server may still be closing.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(interface))?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, PORT)))?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(Self { listener: socket.into(), export: Arc::new(Export::new(file)?) })
    }

    /// Gives up the rights of root, and serves until the process is killed.
    pub fn serve(self) -> ! {
        become_nobody();
        let connections = Arc::new(AtomicUsize::new(0));
        loop {
            let Ok((stream, _)) = self.listener.accept() else {
                thread::sleep(PAUSE);
                continue;
            };
            let Some(place) = Place::take(&connections) else { continue };
            let export = Arc::clone(&self.export);
            // If there are too many threads, the connection is closed.
            let _ = thread::Builder::new().spawn(move || {
                let _place = place;
                // The client notices by itself that its connection has ended.
                let _ = converse(&stream, &export);
            });
        }
    }
}

/// Becomes the user `nobody`, who owns nothing: everything needed is already open. A server of an ordinary
/// user is root only in its user namespace, which has no other users; it keeps that user's rights.
fn become_nobody() {
    const NOBODY: u32 = 65_534;
    let _ = prctl::set_no_new_privs();
    if setgroups(&[]).is_ok() && setgid(Gid::from_raw(NOBODY)).is_ok() {
        let _ = setuid(Uid::from_raw(NOBODY));
    }
}

/// One of [`MAX_CONNECTIONS`] places, released when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::SeqCst) < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers the calls of a connection until it ends, or until something arrives that is not a call.
fn converse(stream: &TcpStream, export: &Export) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = (BufReader::new(stream), stream);
    let (mut message, mut reply) = (Vec::new(), Vec::new());
    while rpc::read_message(&mut from, &mut message, MAX_CALL_BYTES)? {
        if export.answer(&message, &mut reply).is_err() {
            break;
        }
        rpc::write_message(&mut to, &mut reply)?;
    }
    Ok(())
}
