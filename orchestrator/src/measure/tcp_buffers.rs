//! The size that TCP's buffers need so that a single stream can fill a link with a delay.

use netem::Profile;
use units::BitRate;

/// The size of TCP's buffers at both ends of a link with a delay, in round trips' worth of data. One round
/// trip is on the wire and one is in the queue of the link; this is doubled because Linux uses only half of a
/// buffer for data.
pub const ROUND_TRIPS: u32 = 4;

/// The size up to which the kernel itself grows a send buffer, in bytes: the third number of
/// `net.ipv4.tcp_wmem`.
pub const KERNEL_LIMIT: u64 = 4 << 20;

/// Returns the size to which TCP's buffers may grow on a link, [`ROUND_TRIPS`] of its data, in bytes. A link
/// without a rate counts as one of 10 Gbit/s. Returns 0 for a link without a delay, where the kernel's own
/// limits stay in force.
pub fn bytes(link: &Profile) -> u64 {
    const NO_RATE: BitRate = BitRate::new(10_000_000_000);
    // The kernel stores the limit as an `int`.
    const MAX: u128 = i32::MAX as u128;
    let bytes_per_second = link.rate.unwrap_or(NO_RATE).to_byte_rate().get();
    let nanos = u128::from(link.delay.as_nanos()) * 2 * u128::from(ROUND_TRIPS);
    (u128::from(bytes_per_second) * nanos / 1_000_000_000).min(MAX) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_proportional_to_rate_and_delay() {
        let held = |link: &str| bytes(&serde_json::from_str(link).unwrap());
        assert_eq!(held(r#"{ "rate": "1gbit" }"#), 0);
        assert_eq!(held(r#"{ "rate": "1gbit", "delay": "5ms" }"#), 5_000_000);
        assert_eq!(held(r#"{ "delay": "5ms" }"#), 50_000_000);
        assert_eq!(held(r#"{ "delay": "240s" }"#), i32::MAX as u64);
    }
}
