//! How much data TCP holds on its way over a link.

use netem::Profile;
use units::BitRate;

/// How many round trips' worth of data TCP's buffers may hold at both ends of a link with a delay: one round
/// trip under way and one in the queue of the link, and twice that, for Linux gives half of a buffer to data.
pub const ROUND_TRIPS: u32 = 4;

/// How far TCP's buffers may grow for [`ROUND_TRIPS`] of a link, in bytes; 0 without a delay, and then as
/// far as the kernel has it.
pub fn bytes(link: &Profile) -> u64 {
    const NO_RATE: BitRate = BitRate::new(10_000_000_000);
    // The kernel keeps the limit as such a number.
    const MOST: u128 = i32::MAX as u128;
    let bytes_per_second = link.rate.unwrap_or(NO_RATE).to_byte_rate().get();
    let nanos = u128::from(link.delay.as_nanos()) * 2 * u128::from(ROUND_TRIPS);
    (u128::from(bytes_per_second) * nanos / 1_000_000_000).min(MOST) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_as_large_as_the_link_is_long() {
        let held = |link: &str| bytes(&serde_json::from_str(link).unwrap());
        assert_eq!(held(r#"{ "rate": "1gbit" }"#), 0);
        assert_eq!(held(r#"{ "rate": "1gbit", "delay": "5ms" }"#), 5_000_000);
        assert_eq!(held(r#"{ "delay": "5ms" }"#), 50_000_000);
        assert_eq!(held(r#"{ "delay": "240s" }"#), i32::MAX as u64);
    }
}
