//! What Ethernet and TCP add to data, as the kernel's shapers count it: without preamble, check sequence and
//! gap.

/// The header of a frame, in bytes.
pub const HEADER_BYTES: u64 = 14;

/// A full frame at an MTU of 1500 bytes.
pub const FRAME_BYTES: u64 = 1500 + HEADER_BYTES;

/// What TCP carries in a full frame, after the headers of IPv4 and TCP with timestamps (RFC 7323).
pub const TCP_PAYLOAD_BYTES: u64 = 1448;
