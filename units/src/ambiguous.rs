//! Units that mean different things to different programs, and units of a related quantity.
//!
//! - `512M` is 512 * 10^6 bytes to Kubernetes and 512 * 2^20 bytes to QEMU and Docker.
//! - `15Kb` is 15 * 2^10 bytes where tc prints a size, and kilobits elsewhere.
//! - `100mbps` is 100 megabytes per second to tc, and megabits per second to most others. `100Mb/s` is the
//!   symbol of megabits per second, and often written for megabytes.
//!
//! A guess could be wrong by 5 % or by a factor of 8, so such units are refused, with a text for each
//! meaning.

use crate::{
    BitRate, ByteRate, Bytes, Kind, Quantity,
    parse::{Decimal, multiply, shortest, size_of},
};

/// The part of a unit that follows its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stem {
    /// Nothing but the prefix: `M`, `M/s`.
    Bare,
    /// A `b` or `B`: `Mb`.
    B { per_second: bool, upper: bool },
    /// `Mbps`, which tc understands as bytes.
    Bps,
    /// The word "byte" or "bytes": iperf's `MBytes` are 2^20 bytes.
    Word { per_second: bool },
}

/// A unit taken apart.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// The power of 1000 or 1024 that the prefix stands for; 0 without a prefix.
    power: u32,
    /// Whether the prefix has an `i`, which makes it a power of 1024.
    binary: bool,
    stem: Stem,
}

impl Parts {
    fn of(unit: &str) -> Option<Self> {
        let lower = unit.to_ascii_lowercase();
        let (power, rest) = match lower.chars().next()? {
            'k' => (1, &lower[1..]),
            'm' => (2, &lower[1..]),
            'g' => (3, &lower[1..]),
            't' => (4, &lower[1..]),
            _ => (0, lower.as_str()),
        };
        let (binary, rest) = match rest.strip_prefix('i').filter(|_| power > 0) {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let upper = unit.contains('B') && !unit.ends_with("PS");
        let stem = match rest {
            "" | "/s" | "/sec" | "ps" if power > 0 => Stem::Bare,
            "b" => Stem::B { per_second: false, upper },
            "b/s" | "b/sec" => Stem::B { per_second: true, upper },
            "bps" if upper => Stem::B { per_second: true, upper },
            "bps" => Stem::Bps,
            "byte" | "bytes" => Stem::Word { per_second: false },
            "byte/s" | "bytes/s" | "byte/sec" | "bytes/sec" => Stem::Word { per_second: true },
            _ => return None,
        };
        Some(Self { power, binary, stem })
    }

    fn factor(self, binary: bool) -> u64 {
        if binary { 1024u64.pow(self.power) } else { 1000u64.pow(self.power) }
    }
}

/// Returns the meanings of a number with an ambiguous unit, each with a text that has only this meaning.
/// Returns nothing for any other unit, and if a meaning cannot be written as a quantity of this type.
pub(crate) fn meanings<Q: Quantity>(number: Decimal<'_>, unit: &str) -> Option<Vec<String>> {
    if Q::KIND == Kind::Nanoseconds {
        let minutes = Q::from_base(multiply(number, crate::MINUTE).ok().filter(|_| unit == "M")?);
        return Some(vec![format!("`{}` for minutes (`M` is a month to systemd)", shortest(minutes))]);
    }
    let parts = Parts::of(unit)?;
    let [first, second] = match (Q::KIND, parts.stem) {
        (Kind::Bytes, Stem::Bare | Stem::B { per_second: false, .. } | Stem::Word { per_second: false })
        | (Kind::BytesPerSecond, Stem::Bare | Stem::Word { per_second: true })
            if !parts.binary =>
        {
            powers(parts)
        }
        (Kind::BytesPerSecond, Stem::B { upper: false, .. } | Stem::Bps)
        | (Kind::BitsPerSecond, Stem::Bare | Stem::B { upper: false, .. } | Stem::Bps) => {
            bytes_or_bits(parts)
        }
        _ => return None,
    };
    let text = |meaning: Meaning| {
        let bits = u64::from(Q::KIND == Kind::BitsPerSecond) * 7 + 1;
        let base = match meaning.of {
            // A bit is an eighth of a byte, which the size of a unit cannot express.
            Of::Bits if bits == 1 => multiply(number, meaning.factor).ok().filter(|n| n % 8 == 0)? / 8,
            Of::Bits => multiply(number, meaning.factor).ok()?,
            Of::Bytes => multiply(number, meaning.factor.checked_mul(bits)?).ok()?,
        };
        Some(format!("`{}` for {}", shortest(Q::from_base(base)), meaning.words))
    };
    Some(vec![text(first)?, text(second)?])
}

/// What a unit counts in one of its meanings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Bytes,
    Bits,
}

/// One meaning of a unit.
#[derive(Debug, Clone, Copy)]
struct Meaning {
    of: Of,
    factor: u64,
    words: &'static str,
}

/// The meanings of a unit whose prefix may stand for powers of 1000 or of 1024.
fn powers(parts: Parts) -> [Meaning; 2] {
    const WORDS: [[&str; 2]; 4] = [
        ["10^3 bytes", "2^10 bytes"],
        ["10^6 bytes", "2^20 bytes"],
        ["10^9 bytes", "2^30 bytes"],
        ["10^12 bytes", "2^40 bytes"],
    ];
    let words = WORDS[parts.power.saturating_sub(1) as usize];
    [false, true].map(|binary| Meaning {
        of: Of::Bytes,
        factor: parts.factor(binary),
        words: words[usize::from(binary)],
    })
}

/// The meanings of a unit that may count bytes or bits.
fn bytes_or_bits(parts: Parts) -> [Meaning; 2] {
    let factor = parts.factor(parts.binary);
    let bytes = if parts.stem == Stem::Bps { "bytes per second (as in tc)" } else { "bytes per second" };
    [
        Meaning { of: Of::Bytes, factor, words: bytes },
        Meaning { of: Of::Bits, factor, words: "bits per second" },
    ]
}

/// Returns the text of this quantity that is most likely meant by a number with a unit of a related quantity.
pub(crate) fn related<Q: Quantity>(number: Decimal<'_>, unit: &str) -> Option<String> {
    let bytes = || multiply(number, size_of::<Bytes>(unit).or_else(|| size_of::<ByteRate>(unit))?).ok();
    let base = match Q::KIND {
        Kind::Bytes => bytes()?,
        Kind::BytesPerSecond => match size_of::<BitRate>(unit) {
            Some(size) => multiply(number, size).ok().filter(|bits| bits % 8 == 0)? / 8,
            None => bytes()?,
        },
        Kind::BitsPerSecond => bytes()?.checked_mul(8)?,
        Kind::Nanoseconds => return None,
    };
    Some(shortest(Q::from_base(base)))
}
