//! Quantities whose unit is part of the value: [`Bytes`], [`ByteRate`], [`BitRate`] and [`Span`].
//!
//! All three programs read quantities that people write (in matrix files and on command lines) and write
//! quantities into results. A quantity is a number followed by a unit: `96MB/s`, `1GiB`, `940mbit`, `300ms`.
//! A bare number is an error, except `0`, which needs no unit. Decimal prefixes are powers of 1000 (`MB` is
//! 10^6 bytes), binary prefixes are powers of 1024 (`MiB` is 2^20 bytes); `mbit` is 10^6 bit/s.
//!
//! Parsing is exact: text that is not a whole number of the base unit (bytes, bytes per second, bits per
//! second, nanoseconds) is refused, never rounded. Printing gives the shortest text that parses back to the
//! same value, without a decimal point where possible.
//!
//! The module [`random`] has the reproducible random numbers that all three programs use.

#![warn(missing_docs)]

use std::{fmt, str::FromStr, time::Duration};

mod parse;
pub mod random;
#[cfg(feature = "schema")]
mod schema;
mod serde_text;
mod show;

pub use parse::ParseError;
use parse::Unit;
pub use show::counted;

/// An amount of memory or data, from 0 to `u64::MAX` bytes. Written `4096B`, `96MB`, `1GiB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// A data rate in bytes per second, such as a dirty rate. Written `96MB/s`, `1GiB/s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(u64);

/// The rate of a link, in bits per second. Written `940mbit`, `10gbit`, as in `tc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(u64);

/// A duration in nanoseconds, at most about 584 years. Written `300ms`, `1.5s`, `2min`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// The properties of a quantity that parsing, printing and the JSON Schema need.
trait Quantity: Sized {
    /// The quantity's name in error messages, with its article: "a size", "a data rate".
    const NOUN: &'static str;
    /// A valid text, quoted in error messages.
    const EXAMPLE: &'static str;
    /// All accepted units. If two units give equally short texts, printing uses the one listed first.
    const UNITS: &'static [Unit];

    /// Creates a quantity from a number of base units.
    fn from_base(base: u64) -> Self;
    /// Returns the quantity as a number of base units.
    fn base(self) -> u64;
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const KILO: u64 = 1_000;
const MEGA: u64 = 1_000_000;
const GIGA: u64 = 1_000_000_000;
const TERA: u64 = 1_000_000_000_000;

macro_rules! quantity {
    ($type:ident, $noun:literal, $example:literal, [$($name:literal = $size:expr),+ $(,)?]) => {
        impl Quantity for $type {
            const NOUN: &'static str = $noun;
            const EXAMPLE: &'static str = $example;
            const UNITS: &'static [Unit] = &[$(Unit { name: $name, size: $size }),+];

            fn from_base(base: u64) -> Self {
                Self(base)
            }

            fn base(self) -> u64 {
                self.0
            }
        }

        impl $type {
            /// The zero value, which is printed as `0`, without a unit.
            pub const ZERO: Self = Self(0);

            /// Returns whether the value is zero.
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }
        }

        impl FromStr for $type {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                parse::parse(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&parse::shortest(*self))
            }
        }
    };
}

quantity!(
    Bytes,
    "a size",
    "96MB",
    [
        "B" = 1,
        "kB" = KILO,
        "KB" = KILO,
        "MB" = MEGA,
        "GB" = GIGA,
        "TB" = TERA,
        "KiB" = KIB,
        "MiB" = MIB,
        "GiB" = GIB,
        "TiB" = TIB,
    ]
);
quantity!(
    ByteRate,
    "a data rate",
    "96MB/s",
    [
        "B/s" = 1,
        "kB/s" = KILO,
        "KB/s" = KILO,
        "MB/s" = MEGA,
        "GB/s" = GIGA,
        "TB/s" = TERA,
        "KiB/s" = KIB,
        "MiB/s" = MIB,
        "GiB/s" = GIB,
        "TiB/s" = TIB,
    ]
);
quantity!(
    BitRate,
    "a link rate",
    "940mbit",
    ["bit" = 1, "kbit" = KILO, "mbit" = MEGA, "gbit" = GIGA, "tbit" = TERA,]
);
quantity!(
    Span,
    "a time",
    "300ms",
    ["ns" = 1, "us" = KILO, "ms" = MEGA, "s" = GIGA, "min" = 60 * GIGA, "h" = 3600 * GIGA,]
);

impl Bytes {
    /// Creates a size from a number of bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the size in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the size in megabytes (10^6 bytes), for display and for models.
    pub fn as_mb(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl ByteRate {
    /// Creates a rate from a number of bytes per second.
    pub const fn new(bytes_per_second: u64) -> Self {
        Self(bytes_per_second)
    }

    /// Returns the rate in bytes per second.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the rate in megabytes (10^6 bytes) per second, for display and for models.
    pub fn as_mb_per_s(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Returns the amount of data at this rate over `span`, rounded down to whole bytes. Saturates at
    /// `u64::MAX` bytes.
    pub fn over(self, span: Span) -> Bytes {
        let bytes = u128::from(self.0) * u128::from(span.0) / u128::from(GIGA);
        Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

impl BitRate {
    /// Creates a rate from a number of bits per second.
    pub const fn new(bits_per_second: u64) -> Self {
        Self(bits_per_second)
    }

    /// Returns the rate in bits per second.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Converts the rate to bytes per second, rounded down.
    pub const fn to_byte_rate(self) -> ByteRate {
        ByteRate(self.0 / 8)
    }
}

impl Span {
    /// Creates a span from a number of nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Creates a span from a number of milliseconds. Saturates at the longest span, about 584 years.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(MEGA))
    }

    /// Creates a span from a number of seconds. Saturates at the longest span, about 584 years.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(GIGA))
    }

    /// Returns the span in nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the span in whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / MEGA
    }

    /// Returns the span in milliseconds, for display and for models.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Returns the span in seconds, for display and for models.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Self::from_nanos(span.0)
    }
}

impl From<Duration> for Span {
    /// Converts a [`Duration`]. Saturates at the longest span, about 584 years.
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests;
