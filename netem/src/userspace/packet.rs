//! The format of packets on a TUN device: a virtio-net header, then an IP packet, which may represent many
//! TCP segments.

use crate::ethernet;

/// The size of `struct virtio_net_hdr`: flags, type of segmentation, and four 16-bit numbers.
pub(super) const HEADER_BYTES: usize = 10;
/// The size of the largest packet: the header and an IP packet of 64 KiB.
pub(super) const LARGEST_BYTES: usize = HEADER_BYTES + 65_536;

const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;

/// Returns the number of bytes that a packet takes on Ethernet, without preamble, frame check sequence and
/// inter-frame gap, and the number of frames.
///
/// Each segment of an unsegmented packet repeats the headers, as the kernel's shapers count it too.
pub(super) fn wire_size(packet: &[u8]) -> (u64, u64) {
    let ip_bytes = packet.len().saturating_sub(HEADER_BYTES) as u64;
    let segments = segmentation(packet).map_or((1, 0), |(headers, payload_bytes)| {
        (ip_bytes.saturating_sub(headers).div_ceil(payload_bytes).max(1), headers)
    });
    let (count, headers) = segments;
    (ip_bytes + (count - 1) * headers + count * ethernet::HEADER_BYTES, count)
}

/// Returns the sizes in bytes of the headers and of the payload of each segment, if the packet is an
/// unsegmented TCP packet.
fn segmentation(packet: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| Some(u16::from_ne_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    if *packet.get(1)? == VIRTIO_NET_HDR_GSO_NONE {
        return None;
    }
    let payload_bytes = number(4).filter(|bytes| *bytes > 0)?;
    let transport = usize::from(number(6)?);
    // The length of a TCP header, in words, is in the upper half of its 13th byte.
    let words = packet.get(HEADER_BYTES + transport + 12)? >> 4;
    Some((transport as u64 + u64::from(words) * 4, payload_bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ethernet::{FRAME_BYTES, TCP_PAYLOAD_BYTES};

    const TCP: usize = TCP_PAYLOAD_BYTES as usize;

    fn tcp(payload: usize, gso: Option<u16>) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES + 20 + 32 + payload];
        if let Some(bytes) = gso {
            packet[1] = 1;
            packet[4..6].copy_from_slice(&bytes.to_ne_bytes());
        }
        packet[6..8].copy_from_slice(&20u16.to_ne_bytes());
        packet[HEADER_BYTES + 20 + 12] = 8 << 4;
        packet
    }

    #[test]
    fn every_segment_counts_with_headers() {
        assert_eq!(wire_size(&tcp(TCP, None)), (FRAME_BYTES, 1));
        assert_eq!(wire_size(&tcp(TCP, Some(TCP as u16))), (FRAME_BYTES, 1));
        assert_eq!(wire_size(&tcp(10 * TCP, Some(TCP as u16))), (10 * FRAME_BYTES, 10));
        assert_eq!(wire_size(&tcp(10 * TCP + 1, Some(TCP as u16))), (10 * FRAME_BYTES + 67, 11));
    }

    #[test]
    fn headers_of_ipv6_count_with_their_own_size() {
        const PAYLOAD: u16 = 1428;
        let mut packet = vec![0; HEADER_BYTES + 40 + 32 + 10 * usize::from(PAYLOAD)];
        packet[1] = 4;
        packet[4..6].copy_from_slice(&PAYLOAD.to_ne_bytes());
        packet[6..8].copy_from_slice(&40u16.to_ne_bytes());
        packet[HEADER_BYTES + 40 + 12] = 8 << 4;
        assert_eq!(wire_size(&packet), (10 * FRAME_BYTES, 10));
    }

    #[test]
    fn a_malformed_packet_counts_as_one_frame() {
        assert_eq!(wire_size(&[]), (14, 1));
        assert_eq!(wire_size(&[1; 10]), (14, 1));
        let mut malformed = tcp(100, Some(0));
        assert_eq!(wire_size(&malformed).1, 1);
        malformed[4..6].copy_from_slice(&1u16.to_ne_bytes());
        malformed[6..8].copy_from_slice(&60_000u16.to_ne_bytes());
        assert_eq!(wire_size(&malformed).1, 1);
    }
}
