//! Frame and header sizes of Ethernet and TCP as the kernel's shapers count them: without preamble, frame
//! check sequence and inter-frame gap.

/// The size of an Ethernet header, in bytes: two addresses and the type field.
pub const HEADER_BYTES: u64 = 14;

/// The size of a full-size frame at an MTU of 1500 bytes, in bytes.
pub const FRAME_BYTES: u64 = 1500 + HEADER_BYTES;

/// The TCP payload of a full-size frame, in bytes: 1500 less 20 for the IPv4 header and 32 for the TCP header
/// with timestamps (RFC 7323).
pub const TCP_PAYLOAD_BYTES: u64 = 1448;
