//! [`Percentage`]: a figure in relation to that of another cell.

use std::{fmt, str::FromStr};

/// The number of parts into which one per cent is divided.
const PARTS: u64 = 1_000_000;

/// The largest percentage that is accepted. A larger one is considered a mistake.
const MAX_PERCENT: u64 = 1_000_000;

/// A percentage from 0% to 1,000,000%, exact to a millionth of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage(u64);

impl Percentage {
    /// Returns the percentage nearest to a fraction: 100% for 1.
    pub(super) fn from_fraction(fraction: f64) -> Self {
        Self((fraction * 100.0 * PARTS as f64).round() as u64)
    }
}

/// The error of parsing a text that is not a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PercentageError {
    /// The text is not a decimal number, with up to six decimals, and `%`.
    #[error("`{0}` is not a percentage: write it like `80%`")]
    Malformed(String),
    /// The percentage is too large.
    #[error("`{0}` is more than {MAX_PERCENT}%")]
    TooLarge(String),
}

impl FromStr for Percentage {
    type Err = PercentageError;

    fn from_str(text: &str) -> Result<Self, PercentageError> {
        let text = text.trim();
        let number = text.strip_suffix('%').map(str::trim_end);
        let value = number.filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        let exact = value.and_then(|number| number.split_once('.').map_or(Some(0), |(_, d)| Some(d.len())));
        match value.and_then(|number| number.parse::<f64>().ok()).filter(|_| exact <= Some(6)) {
            None => Err(PercentageError::Malformed(text.into())),
            Some(percent) if percent > MAX_PERCENT as f64 => Err(PercentageError::TooLarge(text.into())),
            Some(percent) => Ok(Self::from_fraction(percent / 100.0)),
        }
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 as f64 / PARTS as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_print_as_written() {
        for text in ["0%", "0.000001%", "70%", "89.5%", "100%", "99.99%", "250%", "1000000%"] {
            assert_eq!(text.parse::<Percentage>().unwrap().to_string(), text);
        }
        assert_eq!(" 80 % ".parse::<Percentage>().unwrap().to_string(), "80%");
        for text in ["", "80", "%", "-5%", "1e3%", "inf%", "5s%", "80%%", "1.2.3%", "0.0000001%"] {
            assert!(matches!(text.parse::<Percentage>(), Err(PercentageError::Malformed(_))), "{text}");
        }
        assert_eq!(
            "1000000.1%".parse::<Percentage>().unwrap_err().to_string(),
            "`1000000.1%` is more than 1000000%"
        );
    }
}
