//! Exact conversion between text and base units. Uses integer arithmetic only, so that no value is rounded.

use crate::{Kind, Quantity, ambiguous, spelling};

/// A unit of a quantity.
#[derive(Debug)]
pub(crate) struct Unit {
    /// The printed name; it is also the template of [`spelling`] that is read.
    pub(crate) name: &'static str,
    /// The unit's size in the quantity's base unit.
    pub(crate) size: u64,
    /// Templates of further spellings.
    pub(crate) also: &'static [&'static str],
}

impl Unit {
    /// Returns the templates of all spellings.
    pub(crate) fn spellings(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.also.iter().copied())
    }
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
        /// The unit in the text that was parsed, such as `mbit`.
        unit: String,
        /// The expected quantity, with its article: "a data rate".
        noun: &'static str,
        /// A suggestion, " (did you mean `12MB/s`?)", if the unit is one of a related quantity; otherwise
        /// empty.
        hint: String,
        /// A valid text, such as `96MB/s`.
        example: &'static str,
        /// The accepted units, separated by commas.
        units: String,
    },
    /// A unit that different programs understand differently.
    #[error("`{text}` is ambiguous: write {}", meanings.join(", or "))]
    Ambiguous {
        /// The text that was parsed, such as `100mbps`.
        text: String,
        /// The meanings, each with a text that has only this meaning: "`100mbit` for bits per second".
        meanings: Vec<String>,
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

/// A decimal number without a sign, as its digits before and after the decimal point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal<'a> {
    whole: &'a str,
    fraction: &'a str,
}

/// Returns the units to list in an error message.
fn unit_names<Q: Quantity>() -> String {
    Q::UNITS.iter().map(|u| u.name).collect::<Vec<_>>().join(", ")
}

/// Returns the size of the unit with this spelling.
pub(crate) fn size_of<Q: Quantity>(unit: &str) -> Option<u64> {
    let mut known = Q::UNITS.iter().chain(Q::ONLY_READ);
    known.find(|u| u.spellings().any(|template| spelling::allows(template, unit))).map(|u| u.size)
}

/// Parses a quantity: a decimal number and a unit, with optional spaces around either. A zero needs no unit.
/// A time may have several such parts, which add up: `1m30s`.
pub(crate) fn parse<Q: Quantity>(text: &str) -> Result<Q, ParseError> {
    let mut rest = text.trim();
    let mut sum = 0u64;
    loop {
        let number_len = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_len);
        let after = after.trim_start();
        let unit_len = match Q::KIND {
            Kind::Nanoseconds => after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()),
            _ => after.len(),
        };
        let (unit, next) = after.split_at(unit_len);
        let not_a_number =
            || ParseError::NotANumber { text: text.into(), noun: Q::NOUN, example: Q::EXAMPLE };
        let decimal = decimal_number(number).ok_or_else(not_a_number)?;
        let unit = unit.trim_end();
        if unit.is_empty() {
            let is_zero = number.bytes().all(|b| matches!(b, b'0' | b'.'));
            return if is_zero && rest == text.trim() {
                Ok(Q::from_base(0))
            } else {
                Err(ParseError::NoUnit {
                    text: rest.into(),
                    noun: Q::NOUN,
                    example: Q::EXAMPLE,
                    units: unit_names::<Q>(),
                })
            };
        }
        let Some(size) = size_of::<Q>(unit) else { return Err(unknown_unit::<Q>(text, decimal, unit)) };
        let out_of_range = |what| ParseError::OutOfRange { text: text.into(), what };
        let part = multiply(decimal, size).map_err(out_of_range)?;
        sum = sum.checked_add(part).ok_or_else(|| out_of_range(TOO_LARGE))?;
        if next.is_empty() {
            return Ok(Q::from_base(sum));
        }
        rest = next;
    }
}

/// Returns the digits of a decimal number, or `None` if the text is not one.
fn decimal_number(number: &str) -> Option<Decimal<'_>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let malformed =
        whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty());
    (!malformed).then_some(Decimal { whole, fraction })
}

const TOO_LARGE: &str = "too large";

/// Returns the product of a number and the size of a unit. If it is not a whole number of 64 bits, the error
/// is the reason.
pub(crate) fn multiply(number: Decimal<'_>, size: u64) -> Result<u64, &'static str> {
    const TOO_FINE: &str = "not a whole number of the smallest unit";
    let fraction = number.fraction.trim_end_matches('0');
    // At most 18 decimals: together with 20 digits before the point they fit into 128 bits. The largest units
    // are 10^12 and 2^40 base units, so 12 decimals are enough for every decimal prefix.
    let scale = 10u128.checked_pow(fraction.len() as u32).filter(|_| fraction.len() <= 18);
    let scale = scale.ok_or(TOO_FINE)?;
    let whole = number.whole.trim_start_matches('0');
    if whole.len() > 20 {
        return Err(TOO_LARGE);
    }
    let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| TOO_LARGE)?;
    let base = digits.checked_mul(u128::from(size)).ok_or(TOO_LARGE)?;
    if base % scale != 0 {
        return Err(TOO_FINE);
    }
    u64::try_from(base / scale).map_err(|_| TOO_LARGE)
}

/// Returns the error for a number with a unit that the quantity does not have.
fn unknown_unit<Q: Quantity>(text: &str, number: Decimal<'_>, unit: &str) -> ParseError {
    if let Some(meanings) = ambiguous::meanings::<Q>(number, unit) {
        return ParseError::Ambiguous { text: text.trim().into(), meanings };
    }
    let related = ambiguous::related::<Q>(number, unit);
    ParseError::UnknownUnit {
        unit: unit.into(),
        noun: Q::NOUN,
        hint: related.map(|text| format!(" (did you mean `{text}`?)")).unwrap_or_default(),
        example: Q::EXAMPLE,
        units: unit_names::<Q>(),
    }
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
