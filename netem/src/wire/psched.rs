//! The packet scheduler's clock, and rates as it wants them.

use super::Writer;
use std::{fs, io};
use units::{BitRate, Span};

/// `struct tc_ratespec` says so of frames that are counted as they are.
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// The size of the tables of transmission times that kernels before 3.8 looked packets up in.
const RATE_TABLE_SLOTS: u32 = 256;
/// iproute2 sizes these tables for packets of this many bytes (its default `mtu`), in steps of 8.
const RATE_TABLE_CELL_LOG: u8 = 3;

/// The unit of the packet scheduler's times.
///
/// It is 64 ns on every kernel since 2.6.31 (`PSCHED_SHIFT`), but it is the kernel that says so, in
/// `/proc/net/psched`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    tick_nanos: u64,
}

impl Default for Clock {
    /// One tick is 64 ns.
    fn default() -> Self {
        Self { tick_nanos: 64 }
    }
}

impl Clock {
    /// What the running kernel says.
    ///
    /// # Errors
    ///
    /// When `/proc/net/psched` cannot be read or is not in its usual form; it is there wherever the kernel
    /// has traffic control and `/proc` is mounted.
    pub fn of_kernel() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/net/psched")?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("unexpected /proc/net/psched: {text:?}"))
        })
    }

    /// Four hexadecimal numbers: nanoseconds per microsecond, nanoseconds per tick, ...
    fn parse(text: &str) -> Option<Self> {
        let tick_nanos = u64::from_str_radix(text.split_ascii_whitespace().nth(1)?, 16).ok()?;
        (tick_nanos > 0).then_some(Self { tick_nanos })
    }

    /// A time in ticks, rounded down as iproute2 does: to a microsecond, then to a tick. Saturates at 2^32 -
    /// 1 ticks, about 274 s.
    pub fn ticks(self, time: Span) -> u32 {
        let micros = time.as_nanos() / 1_000;
        u32::try_from(micros.saturating_mul(1_000) / self.tick_nanos).unwrap_or(u32::MAX)
    }

    /// A number of ticks as a time.
    pub fn span(self, ticks: u32) -> Span {
        Span::from_nanos(u64::from(ticks).saturating_mul(self.tick_nanos))
    }

    /// How long `bytes` take at a rate, in ticks; computed in floating point, because iproute2 does and its
    /// rounding shows in the last tick.
    pub fn transmission_ticks(self, bytes_per_second: u64, bytes: u64) -> u32 {
        let micros = 1e6 * (bytes as f64 / bytes_per_second.max(1) as f64);
        self.ticks(Span::from_nanos((micros as u64).saturating_mul(1_000)))
    }

    /// How many bytes pass at a rate in a number of ticks, to the nearest byte.
    pub fn transmitted_bytes(self, bytes_per_second: u64, ticks: u32) -> u64 {
        let nanos = u128::from(self.span(ticks).as_nanos());
        ((u128::from(bytes_per_second) * nanos + 500_000_000) / 1_000_000_000) as u64
    }

    /// The time every packet size takes at a rate. No kernel since 3.8 looks at it for Ethernet, but iproute2
    /// sends it still, and so do we: a kernel that wants it rejects what comes without.
    pub(super) fn rate_table(self, bytes_per_second: u64) -> Vec<u32> {
        (1..=RATE_TABLE_SLOTS)
            .map(|slot| self.transmission_ticks(bytes_per_second, u64::from(slot) << RATE_TABLE_CELL_LOG))
            .collect()
    }
}

/// `struct tc_ratespec`. Rates that do not fit are sent in a 64-bit attribute besides ([`needs_64_bits`]).
pub(super) fn ratespec(w: &mut Writer, bytes_per_second: u64) {
    let cell_align = (-1i16).to_ne_bytes();
    w.bytes(&[RATE_TABLE_CELL_LOG, TC_LINKLAYER_ETHERNET, 0, 0, cell_align[0], cell_align[1], 0, 0]);
    w.words(&[u32::try_from(bytes_per_second).unwrap_or(u32::MAX)]);
}

/// Whether a rate in bytes per second exceeds 32 bits: above about 34 Gbit/s.
pub(super) fn needs_64_bits(bytes_per_second: u64) -> bool {
    bytes_per_second > u64::from(u32::MAX)
}

/// A rate in bytes per second as a link rate.
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
        match Clock::of_kernel() {
            Ok(clock) => assert!(clock.ticks(Span::from_secs(1)) > 0),
            Err(error) => println!("skipped: {error}"),
        }
    }
}
