//! Frame and header sizes of Ethernet and TCP as the kernel's shapers count them: without preamble, frame
//! check sequence and inter-frame gap.

use serde::Serialize;

/// The size of an Ethernet header, in bytes: two addresses and the type field.
pub const HEADER_BYTES: u64 = 14;

/// The MTU of Ethernet: the size of the largest IP packet, in bytes.
pub const MTU: u32 = 1500;

/// The size of a full-size frame at an MTU of 1500 bytes, in bytes.
pub const FRAME_BYTES: u64 = MTU as u64 + HEADER_BYTES;

/// The TCP payload of a full-size frame over IPv4, in bytes: 1500 less 20 for the IPv4 header and 32 for the
/// TCP header with timestamps (RFC 7323).
pub const TCP_PAYLOAD_BYTES: u64 = MTU as u64 - 20 - 32;

/// A full-size segment of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TcpSegment {
    /// The payload of the segment, in bytes.
    pub payload_bytes: u64,
    /// The frame that carries the payload, in bytes.
    pub frame_bytes: u64,
}

impl TcpSegment {
    /// Creates the segment of a connection over IPv4, or over IPv6, whose TCP headers have timestamps or no
    /// options. There are no IP options or extension headers.
    pub const fn new(payload_bytes: u64, ipv6: bool, timestamps: bool) -> Self {
        let ip = if ipv6 { 40 } else { 20 };
        let tcp = if timestamps { 32 } else { 20 };
        Self { payload_bytes, frame_bytes: payload_bytes + tcp + ip + HEADER_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_follow_the_protocol_and_the_options() {
        assert_eq!(TCP_PAYLOAD_BYTES, 1448);
        for (payload, ipv6, timestamps) in
            [(1448, false, true), (1460, false, false), (1428, true, true), (1440, true, false)]
        {
            assert_eq!(TcpSegment::new(payload, ipv6, timestamps).frame_bytes, FRAME_BYTES);
        }
    }
}
