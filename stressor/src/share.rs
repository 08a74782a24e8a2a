//! Percentages in settings, as in `compressible:25%` and `hot-cold:90%/10%`.

use std::{fmt, str::FromStr};

/// An error parsing the text of a setting. The message names the accepted forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub(crate) String);

/// A percentage from 0.1% to 99.9%, in steps of 0.1%. Written `50%`, `12.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Percentage {
    permille: u16,
}

impl Percentage {
    /// Creates a percentage from tenths of a percent. Returns `None` for values outside 1 to 999.
    pub const fn from_permille(permille: u16) -> Option<Self> {
        if permille == 0 || permille > 999 { None } else { Some(Self { permille }) }
    }

    /// Returns this percentage of `whole`, rounded down. If `whole` is 2 or more, the result is at least 1
    /// and at most `whole - 1`; otherwise it is 0.
    pub const fn of(self, whole: u64) -> u64 {
        let share = (whole as u128 * self.permille as u128 / 1000) as u64;
        match (share, whole) {
            (_, 0 | 1) => 0,
            (0, _) => 1,
            _ => share,
        }
    }
}

impl FromStr for Percentage {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let parsed = || {
            let number = text.strip_suffix('%')?;
            let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
            if tenths.len() != 1 || whole.is_empty() || whole.len() > 2 {
                return None;
            }
            // `u16::from_str` would accept a sign.
            let all_digits = whole.bytes().chain(tenths.bytes()).all(|b| b.is_ascii_digit());
            let (whole, tenths): (u16, u16) = (whole.parse().ok()?, tenths.parse().ok()?);
            Self::from_permille(whole * 10 + tenths).filter(|_| all_digits)
        };
        parsed().ok_or_else(|| {
            TextError(format!(
                "`{text}` is not a percentage: write it like `50%` or `12.5%`, from 0.1% to 99.9%"
            ))
        })
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.permille / 10, self.permille % 10) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, tenths) => write!(f, "{whole}.{tenths}%"),
        }
    }
}
