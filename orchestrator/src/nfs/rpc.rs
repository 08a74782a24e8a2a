//! Remote procedure calls: version 2 of the RPC protocol (RFC 5531), over TCP.

use super::xdr::{Garbage, Input, Output};
use std::io::{self, BufRead, Write};

/// The length of the marker in front of each fragment of a message, in bytes.
pub(super) const MARKER_BYTES: usize = 4;

/// The bit of a marker that says that the fragment is the last one of its message.
const LAST: u32 = 1 << 31;

/// The longest credential or verifier, in bytes.
const CREDENTIAL_BYTES: usize = 400;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const ACCEPTED: u32 = 0;
const DENIED: u32 = 1;

/// A call, read from a message.
pub(super) struct Call<'a> {
    pub(super) xid: u32,
    rpc_version: u32,
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
    pub(super) arguments: Input<'a>,
}

impl<'a> Call<'a> {
    /// Reads the header of a call. Every caller has all rights: credentials are skipped.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Garbage> {
        let mut input = Input::new(message);
        let (xid, kind, rpc_version) = (input.u32()?, input.u32()?, input.u32()?);
        if kind != CALL {
            return Err(Garbage);
        }
        let (program, version, procedure) = (input.u32()?, input.u32()?, input.u32()?);
        for _credential_then_verifier in 0..2 {
            let _flavor = input.u32()?;
            input.opaque(CREDENTIAL_BYTES)?;
        }
        Ok(Self { xid, rpc_version, program, version, procedure, arguments: input })
    }

    pub(super) fn has_known_rpc_version(&self) -> bool {
        self.rpc_version == 2
    }
}

/// The reason why a call was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NoSuchProgram,
    /// The program only supports this version.
    OtherVersion(u32),
    NoSuchProcedure,
    GarbageArguments,
}

impl From<Garbage> for Refusal {
    fn from(_: Garbage) -> Self {
        Self::GarbageArguments
    }
}

/// Starts the answer to a call that was carried out. The results follow it.
pub(super) fn accept(xid: u32, reply: &mut Vec<u8>) -> Output<'_> {
    let mut out = Output(reply);
    // A verifier without content, and success.
    out.u32(xid).u32(REPLY).u32(ACCEPTED).u32(0).u32(0).u32(0);
    out
}

/// Writes the answer to a call that was not carried out.
pub(super) fn refuse(xid: u32, refusal: Refusal, reply: &mut Vec<u8>) {
    let mut out = Output(reply);
    out.u32(xid).u32(REPLY).u32(ACCEPTED).u32(0).u32(0);
    match refusal {
        Refusal::NoSuchProgram => out.u32(1),
        Refusal::OtherVersion(version) => out.u32(2).u32(version).u32(version),
        Refusal::NoSuchProcedure => out.u32(3),
        Refusal::GarbageArguments => out.u32(4),
    };
}

/// Writes the answer to a call of another version of the RPC protocol.
pub(super) fn deny_rpc_version(xid: u32, reply: &mut Vec<u8>) {
    Output(reply).u32(xid).u32(REPLY).u32(DENIED).u32(0).u32(2).u32(2);
}

/// Reads a message of at most `most` bytes into `message`, which keeps its capacity. Returns whether there
/// was a message; if not, the stream has ended.
///
/// # Errors
/// If the stream ends within a message, or if a message is longer.
pub(super) fn read_message(from: &mut impl BufRead, message: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    message.clear();
    if from.fill_buf()?.is_empty() {
        return Ok(false);
    }
    loop {
        let mut marker = [0; MARKER_BYTES];
        from.read_exact(&mut marker)?;
        let marker = u32::from_be_bytes(marker);
        let len = (marker & !LAST) as usize;
        if len > most - message.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
        let start = message.len();
        message.resize(start + len, 0);
        from.read_exact(&mut message[start..])?;
        if marker & LAST != 0 {
            return Ok(true);
        }
    }
}

/// Writes a message, which must have room for the marker at its beginning.
pub(super) fn write_message(to: &mut impl Write, message: &mut [u8]) -> io::Result<()> {
    let marker = LAST | (message.len() - MARKER_BYTES) as u32;
    message[..MARKER_BYTES].copy_from_slice(&marker.to_be_bytes());
    to.write_all(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the messages of a stream, each of at most 10 bytes.
    fn messages(mut stream: &[u8]) -> (Vec<Vec<u8>>, io::Result<bool>) {
        let (mut all, mut message) = (Vec::new(), Vec::new());
        loop {
            match read_message(&mut stream, &mut message, 10) {
                Ok(true) => all.push(message.clone()),
                end => return (all, end),
            }
        }
    }

    #[test]
    fn fragments_are_joined() {
        let stream = [&[0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0], &[0x80, 0, 0, 1], b"c", &[0x80, 0, 0, 0]];
        let (all, end) = messages(&stream.concat());
        assert_eq!(all, [&b"abc"[..], b""]);
        assert!(!end.unwrap());
        let mut written = b"\0\0\0\0abc".to_vec();
        let mut stream = Vec::new();
        write_message(&mut stream, &mut written).unwrap();
        assert_eq!(messages(&stream).0, [b"abc"]);
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        for stream in
            [&[0xff, 0xff, 0xff, 0xff][..], &[0x80, 0, 0, 11], &[0, 0, 0, 4, 1, 2, 3, 4, 0x80, 0, 0, 7]]
        {
            let mut message = Vec::new();
            let error = read_message(&mut &*stream, &mut message, 10).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(message.capacity() <= 64, "{}", message.capacity());
        }
        for stream in [&[0x80, 0][..], &[0x80, 0, 0, 5, 1, 2]] {
            let error = messages(stream).1.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
