//! Quantities whose unit is part of the value: [`Bytes`], [`ByteRate`], [`BitRate`] and [`Span`].
//!
//! All three programs read quantities written by people (in matrix files and on command lines) and write
//! quantities into results. A quantity is a number followed by a unit: `96MB/s`, `1GiB`, `940mbit`, `300ms`.
//! A bare number is an error, except `0`, which needs no unit. Decimal prefixes are powers of 1000 (`MB` is
//! 10^6 bytes), binary prefixes are powers of 1024 (`MiB` is 2^20 bytes); `mbit` is 10^6 bit/s.
//!
//! Spellings used by other programs are read too: `1 Gbit/s`, `500Kbit` (tc), `512Mi` (Kubernetes), `1m30s`,
//! `250msec`. Those that mean different things to different programs are refused with their meanings: `512M`,
//! `100mbps`.
//!
//! Parsing is exact: text that is not a whole number of the base unit (bytes, bytes per second, bits per
//! second, nanoseconds) is refused, never rounded. Printing gives the shortest text that parses back to the
//! same value, without a decimal point where possible.
//!
//! Figures that programs calculate with are plain numbers in JSON ([`numbers`]), with the unit in their name.
//!
//! The module [`random`] has the reproducible random numbers that all three programs use.

#![warn(missing_docs)]

use std::{fmt, str::FromStr, time::Duration};

mod ambiguous;
pub mod numbers;
mod parse;
pub mod random;
#[cfg(feature = "schema")]
mod schema;
mod serde_text;
mod show;
mod spelling;
mod version;

pub use parse::ParseError;
use parse::Unit;
pub use show::counted;
#[doc(hidden)]
pub use version::git_version;

/// An amount of memory or data, from 0 to `u64::MAX` bytes. Written `4096B`, `96MB`, `1GiB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// A data rate in bytes per second, such as a dirty rate. Written `96MB/s`, `1GiB/s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(u64);

/// The rate of a link, in bits per second. Written `940mbit`, `10gbit`, as for `tc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(u64);

/// A duration in nanoseconds, at most about 584 years. Written `300ms`, `1.5s`, `2min`, `1m30s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// The properties of a quantity that parsing, printing and the JSON Schema need.
trait Quantity: Sized {
    /// The quantity's name in error messages, with its article: "a size", "a data rate".
    const NOUN: &'static str;
    /// A valid text, quoted in error messages.
    const EXAMPLE: &'static str;
    /// The kind of thing that is counted.
    const KIND: Kind;
    /// The units with which quantities are printed. If two give equally short texts, printing uses the one
    /// listed first.
    const UNITS: &'static [Unit];
    /// Further units, which are only read.
    const ONLY_READ: &'static [Unit];

    /// Creates a quantity from a number of base units.
    fn from_base(base: u64) -> Self;
    /// Returns the quantity as a number of base units.
    fn base(self) -> u64;
}

/// What a quantity counts, which determines how its parser interprets units of other quantities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bytes,
    BytesPerSecond,
    BitsPerSecond,
    Nanoseconds,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const KILO: u64 = 1_000;
const MEGA: u64 = 1_000_000;
const GIGA: u64 = 1_000_000_000;
const TERA: u64 = 1_000_000_000_000;
const MINUTE: u64 = 60 * GIGA;

macro_rules! quantity {
    (
        $type:ident, $noun:literal, $example:literal, $kind:ident,
        [$($unit:expr),+ $(,)?], [$($only_read:expr),*]
    ) => {
        impl Quantity for $type {
            const NOUN: &'static str = $noun;
            const EXAMPLE: &'static str = $example;
            const KIND: Kind = Kind::$kind;
            const UNITS: &'static [Unit] = &[$($unit),+];
            const ONLY_READ: &'static [Unit] = &[$($only_read),*];

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

/// Returns a unit with its spellings, as `spelling` defines them.
const fn unit(name: &'static str, size: u64, also: &'static [&'static str]) -> Unit {
    Unit { name, size, also }
}

/// The unit of a data rate, of which `$upper` is the prefix. In lower case it is read as well, unlike `Mb/s`,
/// which is the symbol of a bit rate.
macro_rules! byte_rate {
    ($name:literal, $size:expr, $lower:literal, $upper:literal) => {
        unit(
            $name,
            $size,
            &[
                concat!($lower, "B/s"),
                concat!($lower, "B/sec"),
                concat!("=", $lower, "b/s"),
                concat!("=", $lower, "b/sec"),
                concat!("=", $upper, "Bps"),
            ],
        )
    };
}

/// The unit of a bit rate.
macro_rules! bit_rate {
    ($name:literal, $size:expr) => {
        unit(
            $name,
            $size,
            &[
                concat!($name, "s"),
                concat!($name, "/s"),
                concat!($name, "s/s"),
                concat!($name, "/sec"),
                concat!($name, "s/sec"),
            ],
        )
    };
}

quantity!(
    Bytes,
    "a size",
    "96MB",
    Bytes,
    [
        unit("B", 1, &["b", "byte", "bytes"]),
        unit("kB", KILO, &["=kb"]),
        unit("MB", MEGA, &["mB", "=mb"]),
        unit("GB", GIGA, &["gB", "=gb"]),
        unit("TB", TERA, &["tB", "=tb"]),
        unit("KiB", KIB, &["kib", "ki"]),
        unit("MiB", MIB, &["mib", "mi"]),
        unit("GiB", GIB, &["gib", "gi"]),
        unit("TiB", TIB, &["tib", "ti"]),
    ],
    []
);
quantity!(
    ByteRate,
    "a data rate",
    "96MB/s",
    BytesPerSecond,
    [
        unit("B/s", 1, &["B/sec", "byte/s", "bytes/s", "byte/sec", "bytes/sec", "=Bps"]),
        // Not `kb/s`: unlike `mb/s`, it is the symbol of a bit rate.
        unit("kB/s", KILO, &["kB/sec", "=kBps", "=KBps"]),
        byte_rate!("MB/s", MEGA, "m", "M"),
        byte_rate!("GB/s", GIGA, "g", "G"),
        byte_rate!("TB/s", TERA, "t", "T"),
        byte_rate!("KiB/s", KIB, "ki", "Ki"),
        byte_rate!("MiB/s", MIB, "mi", "Mi"),
        byte_rate!("GiB/s", GIB, "gi", "Gi"),
        byte_rate!("TiB/s", TIB, "ti", "Ti"),
    ],
    []
);
quantity!(
    BitRate,
    "a link rate",
    "940mbit",
    BitsPerSecond,
    [
        bit_rate!("bit", 1),
        bit_rate!("kbit", KILO),
        bit_rate!("mbit", MEGA),
        bit_rate!("gbit", GIGA),
        bit_rate!("tbit", TERA),
    ],
    [bit_rate!("kibit", KIB), bit_rate!("mibit", MIB), bit_rate!("gibit", GIB), bit_rate!("tibit", TIB)]
);
quantity!(
    Span,
    "a time",
    "300ms",
    Nanoseconds,
    [
        unit("ns", 1, &["nsec", "nsecs", "nanosecond", "nanoseconds"]),
        // The micro sign and the Greek letter.
        unit("us", KILO, &["usec", "usecs", "\u{b5}s", "\u{3bc}s", "microsecond", "microseconds"]),
        unit("ms", MEGA, &["msec", "msecs", "millisecond", "milliseconds"]),
        unit("s", GIGA, &["sec", "secs", "second", "seconds"]),
        // Not `M`, which is a month to systemd.
        unit("min", MINUTE, &["=m", "mins", "minute", "minutes"]),
        unit("h", 60 * MINUTE, &["hr", "hrs", "hour", "hours"]),
    ],
    [unit("d", 24 * 60 * MINUTE, &["day", "days"])]
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
