//! The protocols that lead a client to the disk: the port mapper (RFC 1833, version 2) and the mount protocol
//! (RFC 1813, appendix I, version 3).

use super::{
    EXPORT, PORT, file,
    handle::Handle,
    rpc::{Call, Refusal},
    xdr::Output,
};

pub(super) const PORTMAP: u32 = 100_000;
pub(super) const PORTMAP_VERSION: u32 = 2;
pub(super) const MOUNT: u32 = 100_005;
pub(super) const MOUNT_VERSION: u32 = 3;

/// The number of TCP among the protocols of IP.
const TCP: u32 = 6;

/// The longest path in a call, in bytes.
const PATH_BYTES: usize = 1024;

const OK: u32 = 0;
const NO_ENTRY: u32 = 2;

/// The credentials that a client may use: those of Unix, or none.
const FLAVORS: [u32; 2] = [1, 0];

/// Carries out a call to the port mapper, and appends its results.
pub(super) fn portmap(call: &mut Call<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
    let programs = [(PORTMAP, PORTMAP_VERSION), (MOUNT, MOUNT_VERSION), (file::PROGRAM, file::VERSION)];
    let input = &mut call.arguments;
    match call.procedure {
        // NULL
        0 => {}
        // GETPORT: zero stands for a program that does not exist.
        3 => {
            let (asked, protocol, _port) = ((input.u32()?, input.u32()?), input.u32()?, input.u32()?);
            let is_here = protocol == TCP && programs.contains(&asked);
            out.u32(if is_here { PORT.into() } else { 0 });
        }
        // DUMP
        4 => {
            for (program, version) in programs {
                out.bool(true).u32(program).u32(version).u32(TCP).u32(PORT.into());
            }
            out.bool(false);
        }
        _ => return Err(Refusal::NoSuchProcedure),
    }
    Ok(())
}

/// Carries out a call of the mount protocol, and appends its results.
pub(super) fn mount(call: &mut Call<'_>, root: &Handle, out: &mut Output<'_>) -> Result<(), Refusal> {
    let input = &mut call.arguments;
    match call.procedure {
        // NULL, UMNTALL
        0 | 4 => {}
        // MNT
        1 => {
            if input.opaque(PATH_BYTES)? == EXPORT.as_bytes() {
                out.u32(OK).opaque(&root.bytes()).u32(FLAVORS.len() as u32);
                for flavor in FLAVORS {
                    out.u32(flavor);
                }
            } else {
                out.u32(NO_ENTRY);
            }
        }
        // DUMP: the server does not record who has mounted what.
        2 => {
            out.bool(false);
        }
        // UMNT
        3 => {
            input.opaque(PATH_BYTES)?;
        }
        // EXPORT: one path, for all clients.
        5 => {
            out.bool(true).opaque(EXPORT.as_bytes()).bool(false).bool(false);
        }
        _ => return Err(Refusal::NoSuchProcedure),
    }
    Ok(())
}
