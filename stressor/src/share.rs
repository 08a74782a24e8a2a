//! Shares of a whole.

use std::{fmt, str::FromStr};

/// Why a text is not a setting's value, in words that name the accepted forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub(crate) String);

/// A share of a whole, in tenths of a percent: more than none of it and less than all. Written `50%`,
/// `12.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    permille: u16,
}

impl Share {
    /// This many tenths of a percent; `None` unless from 1 to 999.
    pub const fn from_permille(permille: u16) -> Option<Self> {
        if permille == 0 || permille > 999 { None } else { Some(Self { permille }) }
    }

    /// This share of `whole`, rounded down, but at least one and at least one less than `whole`, where that
    /// is possible.
    pub const fn of(self, whole: u64) -> u64 {
        let share = (whole as u128 * self.permille as u128 / 1000) as u64;
        match (share, whole) {
            (_, 0 | 1) => 0,
            (0, _) => 1,
            _ => share,
        }
    }
}

impl FromStr for Share {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let parsed = || {
            let number = text.strip_suffix('%')?;
            let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
            if tenths.len() != 1 || whole.is_empty() || whole.len() > 2 {
                return None;
            }
            // `u16::from_str` would take a sign.
            let all_digits = whole.bytes().chain(tenths.bytes()).all(|b| b.is_ascii_digit());
            let (whole, tenths): (u16, u16) = (whole.parse().ok()?, tenths.parse().ok()?);
            Self::from_permille(whole * 10 + tenths).filter(|_| all_digits)
        };
        parsed().ok_or_else(|| {
            TextError(format!("`{text}` is not a share: write it like `50%` or `12.5%`, from 0.1% to 99.9%"))
        })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.permille / 10, self.permille % 10) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, tenths) => write!(f, "{whole}.{tenths}%"),
        }
    }
}
