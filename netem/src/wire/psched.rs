//! The packet scheduler's clock and its representation of rates.

use super::Writer;
use std::{fs, io};
use units::{BitRate, Span};

/// The value of `tc_ratespec.linklayer` for Ethernet: frame sizes are used as they are.
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// The number of entries in the tables of transmission times, which kernels before 3.8 used.
const RATE_TABLE_SLOTS: u32 = 256;
/// The step between two entries of these tables, as a power of two: 8 bytes, as in iproute2 with its default
/// `mtu`.
const RATE_TABLE_CELL_LOG: u8 = 3;

/// The clock of the packet scheduler, whose tick is the unit of its times.
///
/// A tick is 64 ns on every kernel since 2.6.31 (`PSCHED_SHIFT`). The kernel reports it in
/// `/proc/net/psched`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    tick_nanos: u64,
}

impl Default for Clock {
    /// Returns a clock with ticks of 64 ns.
    fn default() -> Self {
        Self { tick_nanos: 64 }
    }
}

impl Clock {
    /// Reads the clock of the running kernel.
    ///
    /// # Errors
    ///
    /// If `/proc/net/psched` cannot be read or parsed. It exists if the kernel has traffic control and
    /// `/proc` is mounted.
    pub fn from_running_kernel() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/net/psched")?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("unexpected /proc/net/psched: {text:?}"))
        })
    }

    /// Parses `/proc/net/psched`: four hexadecimal numbers, of which the second is nanoseconds per tick.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let tick_nanos = u64::from_str_radix(text.split_ascii_whitespace().nth(1)?, 16).ok()?;
        (tick_nanos > 0).then_some(Self { tick_nanos })
    }

    /// Converts a time to ticks. Rounds down first to a microsecond, then to a tick, as iproute2 does.
    /// Saturates at 2^32 - 1 ticks, about 274 s.
    pub fn ticks(self, time: Span) -> u32 {
        let micros = time.as_nanos() / 1_000;
        u32::try_from(micros.saturating_mul(1_000) / self.tick_nanos).unwrap_or(u32::MAX)
    }

    /// Converts a number of ticks to a time.
    pub fn span(self, ticks: u32) -> Span {
        Span::from_nanos(u64::from(ticks).saturating_mul(self.tick_nanos))
    }

    /// Returns the time that `bytes` take at a rate, in ticks. Computed in floating point, as in iproute2,
    /// because its rounding affects the last tick.
    pub fn transmission_ticks(self, bytes_per_second: u64, bytes: u64) -> u32 {
        let micros = 1e6 * (bytes as f64 / bytes_per_second.max(1) as f64);
        self.ticks(Span::from_nanos((micros as u64).saturating_mul(1_000)))
    }

    /// Returns the number of bytes that a rate sends in a number of ticks, to the nearest byte.
    pub fn transmitted_bytes(self, bytes_per_second: u64, ticks: u32) -> u64 {
        let nanos = u128::from(self.span(ticks).as_nanos());
        ((u128::from(bytes_per_second) * nanos + 500_000_000) / 1_000_000_000) as u64
    }

    /// Returns the transmission times of all packet sizes at a rate, in ticks. No kernel since 3.8 uses this
    /// table for Ethernet, but iproute2 still sends it, and older kernels reject a message without it.
    pub(super) fn rate_table(self, bytes_per_second: u64) -> Vec<u32> {
        (1..=RATE_TABLE_SLOTS)
            .map(|slot| self.transmission_ticks(bytes_per_second, u64::from(slot) << RATE_TABLE_CELL_LOG))
            .collect()
    }
}

/// Writes a `struct tc_ratespec`. A rate that does not fit is also sent in a 64-bit attribute
/// ([`needs_64_bits`]).
pub(super) fn ratespec(w: &mut Writer, bytes_per_second: u64) {
    let cell_align = (-1i16).to_ne_bytes();
    w.bytes(&[RATE_TABLE_CELL_LOG, TC_LINKLAYER_ETHERNET, 0, 0, cell_align[0], cell_align[1], 0, 0]);
    w.words(&[u32::try_from(bytes_per_second).unwrap_or(u32::MAX)]);
}

/// Returns whether a rate in bytes per second exceeds 32 bits, which it does above about 34 Gbit/s.
pub(super) fn needs_64_bits(bytes_per_second: u64) -> bool {
    bytes_per_second > u64::from(u32::MAX)
}

/// Converts a rate in bytes per second to a link rate in bits per second.
pub(super) fn bit_rate(bytes_per_second: u64) -> BitRate {
    BitRate::new(bytes_per_second.saturating_mul(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_read_as_the_kernel_writes_it() {
        let clock = Clock::parse("000003e8 00000040 000f4240 3b9aca00\n").unwrap();
        assert_eq!(clock, Clock::default());
        assert_eq!(clock.ticks(Span::from_millis(50)), 781_250);
        assert_eq!(clock.span(781_250), Span::from_millis(50));
        assert_eq!(clock.ticks(Span::from_secs(1_000_000)), u32::MAX);
        for nonsense in ["", "3e8", "0 0 0 0", "x y"] {
            assert_eq!(Clock::parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_clock_of_this_kernel_is_readable() {
        match Clock::from_running_kernel() {
            Ok(clock) => assert!(clock.ticks(Span::from_secs(1)) > 0),
            Err(error) => println!("skipped: {error}"),
        }
    }
}
