//! A packet as a TUN device gives it: a virtio-net header, then an IP packet that may stand for many
//! segments.

use crate::ethernet;

/// `struct virtio_net_hdr`: flags, kind of segmentation, and four numbers of 16 bits.
pub(super) const HEADER_BYTES: usize = 10;
/// The largest there is: an IP packet of 64 KiB behind its header.
pub(super) const LARGEST_BYTES: usize = HEADER_BYTES + 65_536;

const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;

/// How many bytes a packet takes on an Ethernet, without preamble, check sequence and gap, and how many
/// frames.
///
/// A packet that is to be segmented has its headers repeated for each segment, as the kernel counts it, too.
pub(super) fn on_the_wire(packet: &[u8]) -> (u64, u64) {
    let ip_bytes = packet.len().saturating_sub(HEADER_BYTES) as u64;
    let segments = segmentation(packet).map_or((1, 0), |(headers, payload_bytes)| {
        (ip_bytes.saturating_sub(headers).div_ceil(payload_bytes).max(1), headers)
    });
    let (count, headers) = segments;
    (ip_bytes + (count - 1) * headers + count * ethernet::HEADER_BYTES, count)
}

/// The bytes of headers and of each segment's payload, of a TCP packet that is to be segmented.
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
    fn every_segment_has_its_headers() {
        assert_eq!(on_the_wire(&tcp(TCP, None)), (FRAME_BYTES, 1));
        assert_eq!(on_the_wire(&tcp(TCP, Some(TCP as u16))), (FRAME_BYTES, 1));
        assert_eq!(on_the_wire(&tcp(10 * TCP, Some(TCP as u16))), (10 * FRAME_BYTES, 10));
        assert_eq!(on_the_wire(&tcp(10 * TCP + 1, Some(TCP as u16))), (10 * FRAME_BYTES + 67, 11));
    }

    #[test]
    fn nonsense_counts_as_one_packet() {
        assert_eq!(on_the_wire(&[]), (14, 1));
        assert_eq!(on_the_wire(&[1; 10]), (14, 1));
        let mut lying = tcp(100, Some(0));
        assert_eq!(on_the_wire(&lying).1, 1);
        lying[4..6].copy_from_slice(&1u16.to_ne_bytes());
        lying[6..8].copy_from_slice(&60_000u16.to_ne_bytes());
        assert_eq!(on_the_wire(&lying).1, 1);
    }
}
