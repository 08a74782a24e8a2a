//! Exact conversion between text and base units. Uses integer arithmetic only, so that no value is rounded.

use crate::Quantity;

/// A unit of a quantity: its name, and its size in the quantity's base unit.
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) size: u64,
}

/// An error parsing a quantity. The message says how the quantity is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A number without a unit.
    #[error("`{text}` has no unit: {noun} is written like `{example}` (units: {units})")]
    NoUnit {
        /// The text that was parsed, such as `96`.
        text: String,
        /// The expected quantity, with its article: "a data rate".
        noun: &'static str,
        /// A valid text, such as `96MB/s`.
        example: &'static str,
        /// The accepted units, separated by commas.
        units: String,
    },
    /// A number with an unknown unit, or with a unit of another quantity.
    #[error("`{unit}` is not a unit of {noun}{hint}: write it like `{example}` (units: {units})")]
    UnknownUnit {
        /// The unit in the text that was parsed, such as `mb/s`.
        unit: String,
        /// The expected quantity, with its article: "a data rate".
        noun: &'static str,
        /// A suggestion, " (did you mean `MB/s`?)", if only the case is wrong; otherwise empty.
        hint: String,
        /// A valid text, such as `96MB/s`.
        example: &'static str,
        /// The accepted units, separated by commas.
        units: String,
    },
    /// A text that does not start with a decimal number.
    #[error("`{text}` is not {noun}: write it like `{example}`")]
    NotANumber {
        /// The text that was parsed, such as `fast`.
        text: String,
        /// The expected quantity, with its article: "a data rate".
        noun: &'static str,
        /// A valid text, such as `96MB/s`.
        example: &'static str,
    },
    /// A value that is not a whole number of base units or does not fit into 64 bits.
    #[error("`{text}` is {what}")]
    OutOfRange {
        /// The text that was parsed, such as `1.5B`.
        text: String,
        /// The reason: "too large" or "not a whole number of the smallest unit".
        what: &'static str,
    },
}

/// Returns the units to list in an error message: all but those with `KB`, the alternative spelling of `kB`.
fn unit_names<Q: Quantity>() -> String {
    Q::UNITS.iter().map(|u| u.name).filter(|n| !n.starts_with("KB")).collect::<Vec<_>>().join(", ")
}

/// Parses a quantity: a decimal number and a unit, with optional spaces around either. A zero needs no unit.
pub(crate) fn parse<Q: Quantity>(text: &str) -> Result<Q, ParseError> {
    let trimmed = text.trim();
    let number_len = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_len);
    let unit = unit.trim_start();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(ParseError::NotANumber { text: text.into(), noun: Q::NOUN, example: Q::EXAMPLE });
    }
    let is_zero = number.bytes().all(|b| matches!(b, b'0' | b'.'));
    if unit.is_empty() {
        return if is_zero {
            Ok(Q::from_base(0))
        } else {
            Err(ParseError::NoUnit {
                text: text.into(),
                noun: Q::NOUN,
                example: Q::EXAMPLE,
                units: unit_names::<Q>(),
            })
        };
    }
    let Some(known) = Q::UNITS.iter().find(|u| u.name == unit) else {
        let hint = Q::UNITS
            .iter()
            .find(|u| u.name.eq_ignore_ascii_case(unit))
            .map(|u| format!(" (did you mean `{}`?)", u.name))
            .unwrap_or_default();
        return Err(ParseError::UnknownUnit {
            unit: unit.into(),
            noun: Q::NOUN,
            hint,
            example: Q::EXAMPLE,
            units: unit_names::<Q>(),
        });
    };
    let out_of_range = |what| ParseError::OutOfRange { text: text.into(), what };
    let too_large = || out_of_range("too large");
    let fraction = fraction.trim_end_matches('0');
    let too_fine = || out_of_range("not a whole number of the smallest unit");
    // At most 18 decimals: together with 20 digits before the point they fit into 128 bits. The largest units
    // are 10^12 and 2^40 base units, so 12 decimals are enough for every decimal prefix.
    let scale = 10u128.checked_pow(fraction.len() as u32).filter(|_| fraction.len() <= 18);
    let scale = scale.ok_or_else(too_fine)?;
    let whole = whole.trim_start_matches('0');
    if whole.len() > 20 {
        return Err(too_large());
    }
    let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| too_large())?;
    let base = digits.checked_mul(u128::from(known.size)).ok_or_else(too_large)?;
    if base % scale != 0 {
        return Err(too_fine());
    }
    u64::try_from(base / scale).map(Q::from_base).map_err(|_| too_large())
}

/// Returns the shortest text that [`parse`] reads back as the same value. A text without a decimal point is
/// preferred to a shorter text with a decimal point.
pub(crate) fn shortest<Q: Quantity>(quantity: Q) -> String {
    let base = quantity.base();
    if base == 0 {
        return "0".into();
    }
    let texts = Q::UNITS.iter().filter_map(|unit| decimal(base, unit.size).map(|n| n + unit.name));
    // Every quantity has a unit of size 1, which gives at least one text.
    texts.min_by_key(|text| (text.contains('.'), text.len())).unwrap_or_default()
}

/// Returns `base / size` as a decimal number, or `None` if it needs more than three decimals.
fn decimal(base: u64, size: u64) -> Option<String> {
    let thousandths = u128::from(base) * 1000;
    if thousandths % u128::from(size) != 0 {
        return None;
    }
    let thousandths = thousandths / u128::from(size);
    let (whole, fraction) = (thousandths / 1000, thousandths % 1000);
    if fraction == 0 {
        return Some(whole.to_string());
    }
    Some(format!("{whole}.{fraction:03}").trim_end_matches('0').to_string())
}
