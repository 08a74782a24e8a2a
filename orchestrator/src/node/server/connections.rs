//! The data that TCP connections have sent, as the kernel counts it.
//!
//! A link's counters cannot distinguish the connections on it. The kernel counts for each connection the data
//! that its peer has acknowledged, without headers and retransmissions (`tcpi_bytes_acked`), and
//! `NETLINK_SOCK_DIAG` reports it, as `ss --info` shows it.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, IPPROTO_TCP},
    inet::{
        ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
        nlas::{Nla, TcpInfo},
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use std::io;

/// Returns the TCP connections from this network namespace to this port: the near port of each, and the bytes
/// that its peer has acknowledged. Connections for which the kernel no longer knows that number, since they
/// were closed, are left out.
///
/// # Errors
/// The kernel does not answer, or does not answer with a list of connections.
pub(super) fn sent_bytes(port: u16) -> io::Result<Vec<(u16, u64)>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family: AF_INET,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::all(),
        socket_id: SocketId::new_v4(),
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut sent = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| invalid(error.to_string()))?;
            match answer.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found))
                    if found.header.socket_id.destination_port == port =>
                {
                    let near = found.header.socket_id.source_port;
                    sent.extend(acknowledged(&found).map(|bytes| (near, bytes)));
                }
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(sent),
                _ => {}
            }
            let length = (answer.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
            rest = &rest[length..];
        }
    }
}

/// Returns how much data the peer of a connection has acknowledged.
fn acknowledged(connection: &InetResponse) -> Option<u64> {
    connection.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(TcpInfo { bytes_acked, .. }) => Some(*bytes_acked),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn what_a_peer_has_acknowledged_is_counted_by_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(sent_bytes(port).unwrap(), [], "a socket that listens is no connection to the port");
        let mut streams: Vec<TcpStream> = Vec::new();
        let mut received = Vec::new();
        for bytes in [100_000, 50_000] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            stream.write_all(&vec![1; bytes]).unwrap();
            let mut buffer = vec![0; bytes];
            peer.read_exact(&mut buffer).unwrap();
            received.push((stream.local_addr().unwrap().port(), bytes as u64));
            streams.extend([stream, peer]);
        }
        // The last acknowledgement may still be in transit. The request for a connection counts as one byte.
        received.sort_unstable();
        let is_counted = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let mut counted = sent_bytes(port).unwrap();
            counted.sort_unstable();
            counted.len() == received.len()
                && counted.iter().zip(&received).all(|(counted, received)| {
                    counted.0 == received.0 && (received.1..=received.1 + 1).contains(&counted.1)
                })
        });
        assert!(is_counted, "{:?} instead of {received:?}", sent_bytes(port));
        // Connections closed from the near end first linger for a minute.
        let is_gone = |streams: Vec<TcpStream>| {
            let (near, far): (Vec<_>, Vec<_>) =
                streams.into_iter().partition(|stream| stream.peer_addr().unwrap().port() == port);
            drop(near);
            drop(far);
            (0..1000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                sent_bytes(port).unwrap().is_empty()
            })
        };
        assert!(is_gone(streams), "{:?}", sent_bytes(port));
    }
}
