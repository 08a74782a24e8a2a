//! Exact conversion between text and base units, by integer arithmetic alone.

use crate::Quantity;

/// One accepted unit and its size in the quantity's base unit.
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) size: u64,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A number without a unit.
    #[error("`{text}` has no unit: {noun} is written like `{example}` (units: {units})")]
    NoUnit {
        /// The text as given.
        text: String,
        /// What was wanted.
        noun: &'static str,
        /// A correct example.
        example: &'static str,
        /// All accepted units.
        units: String,
    },
    /// A number with a unit that the quantity does not have.
    #[error("`{unit}` is not a unit of {noun}{hint}: write it like `{example}` (units: {units})")]
    UnknownUnit {
        /// The unit as given.
        unit: String,
        /// What was wanted.
        noun: &'static str,
        /// The accepted spelling, where only case differs, in words.
        hint: String,
        /// A correct example.
        example: &'static str,
        /// All accepted units.
        units: String,
    },
    /// Something that does not start with a number.
    #[error("`{text}` is not {noun}: write it like `{example}`")]
    NotANumber {
        /// The text as given.
        text: String,
        /// What was wanted.
        noun: &'static str,
        /// A correct example.
        example: &'static str,
    },
    /// A fraction of the base unit, or more than 64 bits of it.
    #[error("`{text}` is {what}")]
    OutOfRange {
        /// The text as given.
        text: String,
        /// Which bound it breaks, in words.
        what: &'static str,
    },
}

fn unit_names<Q: Quantity>() -> String {
    Q::UNITS.iter().map(|u| u.name).filter(|n| !n.starts_with("KB")).collect::<Vec<_>>().join(", ")
}

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
    // At most 12 decimals matter: the largest unit is 10^12 or 2^40 of its base.
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

/// The shortest text that [`parse`] reads back as the same value, one without a decimal point if there is
/// one.
pub(crate) fn shortest<Q: Quantity>(quantity: Q) -> String {
    let base = quantity.base();
    if base == 0 {
        return "0".into();
    }
    let texts = Q::UNITS.iter().filter_map(|unit| decimal(base, unit.size).map(|n| n + unit.name));
    // The unit of size one always divides, so there is at least one text.
    texts.min_by_key(|text| (text.contains('.'), text.len())).unwrap_or_default()
}

/// `base / size` as a decimal number with at most three decimals, if that is exact.
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
