//! Numbers as people read them in messages: an amount of data in a suitable unit, and a count with its noun.

use crate::Bytes;
use std::fmt;

impl Bytes {
    /// Returns the size rounded for a message, in the largest decimal unit that leaves at least 1: `104.9
    /// MB`, `100.1 TB`.
    pub fn rounded(self) -> impl fmt::Display {
        in_unit(self, 1000.0, ["B", "kB", "MB", "GB", "TB", "PB", "EB"])
    }

    /// Returns the size rounded for a message, in the largest binary unit that leaves at least 1: `2.5
    /// GiB`. Memory and disks are sized in these units.
    pub fn rounded_binary(self) -> impl fmt::Display {
        in_unit(self, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
    }
}

/// Formats a size in the largest of the units that leaves at least 1, with at most one decimal place.
fn in_unit(size: Bytes, step: f64, units: [&'static str; 7]) -> String {
    let mut value = size.get() as f64;
    let mut units = units.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        // A value that is rounded up to the next unit is shown in that unit.
        if value < step - 0.05 {
            break;
        }
        value /= step;
        unit = larger;
    }
    let text = format!("{value:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// Returns the number with a noun, in the plural unless the number is 1: `1 cell`, `2 cells`. The plural ends
/// in `s`.
pub fn counted<N: fmt::Display + PartialEq + From<u8> + Copy>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_rounded_in_a_suitable_unit() {
        let decimal = |bytes| Bytes::new(bytes).rounded().to_string();
        assert_eq!(decimal(0), "0 B");
        assert_eq!(decimal(999), "999 B");
        assert_eq!(decimal(1_000), "1 kB");
        assert_eq!(decimal(104_900_000), "104.9 MB");
        assert_eq!(decimal(27_000_000), "27 MB");
        assert_eq!(decimal(999_940_000), "999.9 MB");
        assert_eq!(decimal(999_999_999), "1 GB");
        assert_eq!(decimal(100_097_656_250_000), "100.1 TB");
        assert_eq!(decimal(u64::MAX), "18.4 EB");
        let binary = |bytes| Bytes::new(bytes).rounded_binary().to_string();
        assert_eq!(binary(64 << 20), "64 MiB");
        assert_eq!(binary(2560 << 20), "2.5 GiB");
        assert_eq!(binary((1 << 30) - 1), "1 GiB");
        assert_eq!(binary(u64::MAX), "16 EiB");
    }

    #[test]
    fn a_noun_is_in_the_plural_unless_there_is_one() {
        assert_eq!(counted(0_u64, "cell"), "0 cells");
        assert_eq!(counted(1_u32, "cell"), "1 cell");
        assert_eq!(counted(2_usize, "huge page"), "2 huge pages");
    }
}
