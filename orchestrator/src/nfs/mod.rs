//! An NFS server for one disk image: the shared storage of the local lab.
//!
//! QEMU opens the image as `nfs://ADDRESS/testbed/disk` with a client of its own, libnfs. That client asks
//! the port mapper, at port 111, where the mount protocol and NFS are served, and this cannot be changed, so
//! [`Server`] answers all three at port 111 of the controller. Each client has a thread, which handles one
//! call after another: calls from a client that does not read the answers stay in the socket. A client that
//! sends anything other than calls is disconnected.
//!
//! The server is a process of its own, `testbed nfs`, with the file as its standard input. It does not keep
//! any data in memory, so it can be killed and restarted: clients reconnect, and repeat the calls that were
//! not answered. All calls can be repeated.
//!
//! # Why not another server
//!
//! - **nfs-ganesha** opens files by their handles, for which it must be root of the host, and needs rpcbind.
//!   Labs also run for ordinary users.
//! - The crate **nfsserve** (0.11) has no `COMMIT` and declares all data that it has written stable, although
//!   the data is only in memory.
//! - The crate **`nfs3_server`** (0.11) leaves both to its user. But like nfsserve, it allocates the length
//!   that four received bytes claim, up to 2 GiB, before any data follows; it ends when a connection breaks
//!   at the wrong moment; and it answers the 257th call in flight with an error, which the guest sees as a
//!   disk error.

use file::Disk;
use rpc::{Call, MARKER_BYTES, Refusal};
use std::{fs::File, io, net::Ipv4Addr};
use xdr::Output;
pub use {server::Server, xdr::Garbage};

mod file;
mod handle;
mod ports;
mod rpc;
mod server;
mod xdr;

/// The port at which everything is served: the port mapper's.
pub const PORT: u16 = 111;

/// The line that `testbed nfs` prints when clients can connect.
pub const LISTENING: &str = "listening";

/// The path of the exported folder.
const EXPORT: &str = "/testbed";

/// The name of the file in it.
const FILE: &str = "disk";

/// The largest number of bytes that one call reads or writes.
const MAX_TRANSFER_BYTES: u32 = 1 << 20;

/// The longest call: the largest number of bytes that it writes, and what precedes them.
const MAX_CALL_BYTES: usize = MAX_TRANSFER_BYTES as usize + (4 << 10);

/// Returns the URL at which QEMU finds the disk that a server at this address serves.
pub fn url(address: Ipv4Addr) -> String {
    format!("nfs://{address}{}", path())
}

/// Returns the path of the disk on a server.
pub fn path() -> String {
    format!("{EXPORT}/{FILE}")
}

/// A disk image, as the only file of an exported folder.
#[derive(Debug)]
pub struct Export {
    disk: Disk,
}

impl Export {
    /// Exports a file, which is open for reading and writing.
    ///
    /// # Errors
    /// If the file cannot be examined.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self { disk: Disk::new(file)? })
    }

    /// Carries out a call and replaces the content of `reply` with the answer, which leaves room at its
    /// beginning for the marker of a message.
    ///
    /// # Errors
    /// [`Garbage`] if the message is not a call.
    pub fn answer(&self, message: &[u8], reply: &mut Vec<u8>) -> Result<(), Garbage> {
        reply.clear();
        reply.resize(MARKER_BYTES, 0);
        let mut call = Call::parse(message)?;
        if !call.has_known_rpc_version() {
            rpc::deny_rpc_version(call.xid, reply);
            return Ok(());
        }
        let xid = call.xid;
        let mut out = rpc::accept(xid, reply);
        if let Err(refusal) = self.carry_out(&mut call, &mut out) {
            reply.truncate(MARKER_BYTES);
            rpc::refuse(xid, refusal, reply);
        }
        Ok(())
    }

    fn carry_out(&self, call: &mut Call<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let version = match call.program {
            ports::PORTMAP => ports::PORTMAP_VERSION,
            ports::MOUNT => ports::MOUNT_VERSION,
            file::PROGRAM => file::VERSION,
            _ => return Err(Refusal::NoSuchProgram),
        };
        if call.version != version {
            return Err(Refusal::OtherVersion(version));
        }
        match call.program {
            ports::PORTMAP => ports::portmap(call, out),
            ports::MOUNT => ports::mount(call, &self.disk.root(), out),
            _ => self.disk.call(call, out),
        }
    }
}
