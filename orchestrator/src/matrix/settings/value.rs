//! The types that settings can have, and the common [`Value`] to which they are reduced for conditions,
//! tables and hashes.

use super::{
    Accel, Bandwidth, CacheMode, ImageFormat, MirrorSync, StorageKind, TimelineEntry, TraceFile, Transport,
    Wave, WorkingSet, ZeroPageDetection,
};
use crate::{
    matrix::typed::{self, ReadErrorKind},
    mode::Mode,
};
use netem::{Distribution, GilbertElliott, Percent, Shaper, Slots, trace::TraceRate};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Number, Value as Json};
use std::{cmp::Ordering, fmt};
use stressor::workload::{CatchUp, Content, Order, PageSize, Phase, Rate, Write};
use units::{BitRate, ByteRate, Bytes, Span};

/// The value of a setting of any type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    /// An optional setting that is absent.
    None,
    Flag(bool),
    /// A number without a unit.
    Number(Number),
    Bytes(Bytes),
    ByteRate(ByteRate),
    BitRate(BitRate),
    /// The dirty rate `unlimited`, which is larger than every [`ByteRate`](Self::ByteRate).
    Unlimited,
    Span(Span),
    Percent(Percent),
    Content(Content),
    Order(Order),
    Wave(Wave),
    /// One of a fixed set of words, or free text.
    Text(String),
    /// A list or a mapping, which conditions cannot compare.
    Structured(Json),
}

/// The comparisons that conditions can make with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparability {
    /// All comparisons, since values have an order.
    Ordered,
    /// Only `==` and `!=`.
    EqualityOnly,
    /// Only `== none` and `!= none`: whether the setting is absent.
    AbsenceOnly,
    /// No comparisons at all.
    Never,
}

impl Value {
    /// Compares two values. Returns nothing if they have incomparable types, or if they
    /// differ and have no order.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        let bits_of_bytes = |rate: &ByteRate| u128::from(rate.get()) * 8;
        let bits = |rate: &BitRate| u128::from(rate.get());
        match (self, other) {
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::ByteRate(a), Self::ByteRate(b)) => Some(a.cmp(b)),
            (Self::BitRate(a), Self::BitRate(b)) => Some(a.cmp(b)),
            (Self::ByteRate(a), Self::BitRate(b)) => Some(bits_of_bytes(a).cmp(&bits(b))),
            (Self::BitRate(a), Self::ByteRate(b)) => Some(bits(a).cmp(&bits_of_bytes(b))),
            (Self::Unlimited, Self::ByteRate(_)) => Some(Ordering::Greater),
            (Self::ByteRate(_), Self::Unlimited) => Some(Ordering::Less),
            (Self::Span(a), Self::Span(b)) => Some(a.cmp(b)),
            (Self::Percent(a), Self::Percent(b)) => Some(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => match (a.as_u64(), b.as_u64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
            },
            (a, b) => (a == b).then_some(Ordering::Equal),
        }
    }

    /// Converts the value to JSON, with quantities as text: `"96MB"`.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::None => Json::Null,
            Self::Flag(flag) => (*flag).into(),
            Self::Number(number) => number.clone().into(),
            Self::Structured(json) => json.clone(),
            Self::Wave(wave) => serde_json::to_value(wave).unwrap_or_default(),
            other => other.to_string().into(),
        }
    }
}

impl fmt::Display for Value {
    /// Writes the value in one line, as in tables and cell IDs. Quantities are in their shortest form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Flag(flag) => flag.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::ByteRate(rate) => rate.fmt(f),
            Self::BitRate(rate) => rate.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
            Self::Span(span) => span.fmt(f),
            Self::Percent(percent) if percent.is_zero() => f.write_str("0"),
            Self::Percent(percent) => percent.fmt(f),
            Self::Content(content) => content.fmt(f),
            Self::Order(order) => order.fmt(f),
            Self::Wave(wave) => wave.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Structured(json) => json.fmt(f),
        }
    }
}

/// A type that settings can have.
pub(crate) trait SettingType: Clone + DeserializeOwned + 'static {
    /// The comparisons that conditions can make with a setting of this type.
    const COMPARABILITY: Comparability;

    /// Converts a value of this type to the common one.
    fn value(&self) -> Value;

    /// Parses the value on the right of a comparison, which is written as in a matrix file.
    fn literal(text: &str) -> Result<Value, ReadErrorKind> {
        typed::from_text::<Self>(text).map(|value| value.value())
    }
}

/// Implements [`SettingType`] for types that have their own variant of [`Value`].
macro_rules! plain {
    ($($comparability:ident: $($type:ident),+;)+) => {$($(
        impl SettingType for $type {
            const COMPARABILITY: Comparability = Comparability::$comparability;

            fn value(&self) -> Value {
                Value::$type(self.clone())
            }
        }
    )+)+};
}

plain! {
    Ordered: Bytes, BitRate, Span, Percent;
    EqualityOnly: Content, Order;
}

/// Implements [`SettingType`] for enums whose variants are written as single words.
macro_rules! words {
    ($($type:ty),+) => {$(
        impl SettingType for $type {
            const COMPARABILITY: Comparability = Comparability::EqualityOnly;

            fn value(&self) -> Value {
                Value::Text(SerializedName(self).to_string())
            }
        }
    )+};
}

words!(
    Accel,
    Mode,
    Write,
    PageSize,
    CatchUp,
    Shaper,
    Distribution,
    StorageKind,
    ImageFormat,
    MirrorSync,
    CacheMode,
    Transport,
    ZeroPageDetection
);

/// Displays a variant of an enum by its serialized name, which is its name in matrix files.
struct SerializedName<'a, T>(&'a T);

impl<T: Serialize> fmt::Display for SerializedName<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

/// Implements [`SettingType`] for numbers. Conditions may compare them with fractions.
macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl SettingType for $type {
            const COMPARABILITY: Comparability = Comparability::Ordered;

            fn value(&self) -> Value {
                Value::Number((*self).into())
            }

            fn literal(text: &str) -> Result<Value, ReadErrorKind> {
                let whole = text.parse().ok().map(|number: u64| number.into());
                let number = whole.or_else(|| text.parse().ok().and_then(Number::from_f64));
                let invalid = || ReadErrorKind::Other(format!("`{text}` is not a number"));
                number.map(Value::Number).ok_or_else(invalid)
            }
        }
    )+};
}

numbers!(u32, u64);

/// Implements [`SettingType`] for lists and mappings, which can only be set as a whole.
macro_rules! structured {
    ($($type:ty),+) => {$(
        impl SettingType for $type {
            const COMPARABILITY: Comparability = Comparability::Never;

            fn value(&self) -> Value {
                Value::Structured(serde_json::to_value(self).unwrap_or_default())
            }
        }
    )+};
}

structured!(GilbertElliott, Slots, Vec<Phase>);

impl SettingType for Wave {
    const COMPARABILITY: Comparability = Comparability::EqualityOnly;

    fn value(&self) -> Value {
        Value::Wave(*self)
    }

    fn literal(text: &str) -> Result<Value, ReadErrorKind> {
        text.parse().map(Value::Wave).map_err(ReadErrorKind::Other)
    }
}

impl<R: TraceRate + 'static> SettingType for TraceFile<R> {
    const COMPARABILITY: Comparability = Comparability::EqualityOnly;

    fn value(&self) -> Value {
        Value::Text(self.path().into())
    }
}

impl SettingType for bool {
    const COMPARABILITY: Comparability = Comparability::EqualityOnly;

    fn value(&self) -> Value {
        Value::Flag(*self)
    }

    fn literal(text: &str) -> Result<Value, ReadErrorKind> {
        let invalid = || ReadErrorKind::Other(format!("`{text}` is neither `true` nor `false`"));
        typed::flag(text).map(Value::Flag).ok_or_else(invalid)
    }
}

impl SettingType for String {
    const COMPARABILITY: Comparability = Comparability::EqualityOnly;

    fn value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl SettingType for Rate {
    const COMPARABILITY: Comparability = Comparability::Ordered;

    fn value(&self) -> Value {
        match self {
            Self::Limited(rate) => Value::ByteRate(*rate),
            Self::Unlimited => Value::Unlimited,
        }
    }
}

impl SettingType for Bandwidth {
    const COMPARABILITY: Comparability = Comparability::Ordered;

    fn value(&self) -> Value {
        match self {
            Self::Bytes(rate) => Value::ByteRate(*rate),
            Self::Bits(rate) => Value::BitRate(*rate),
        }
    }
}

impl SettingType for WorkingSet {
    const COMPARABILITY: Comparability = Comparability::Ordered;

    fn value(&self) -> Value {
        match self {
            Self::Size(size) => Value::Bytes(*size),
            // At every rate, 0 s of dirtying is 0 bytes. So `0` can be compared with sizes.
            Self::Time(Span::ZERO) => Value::Bytes(Bytes::ZERO),
            Self::Time(time) => Value::Span(*time),
        }
    }
}

impl SettingType for Vec<TimelineEntry> {
    const COMPARABILITY: Comparability = Comparability::Never;

    fn value(&self) -> Value {
        if self.is_empty() {
            return Value::None;
        }
        Value::Structured(serde_json::to_value(self).unwrap_or_default())
    }
}

impl<T: SettingType> SettingType for Option<T> {
    const COMPARABILITY: Comparability = match T::COMPARABILITY {
        Comparability::Never => Comparability::AbsenceOnly,
        comparability => comparability,
    };

    fn value(&self) -> Value {
        self.as_ref().map_or(Value::None, T::value)
    }

    fn literal(text: &str) -> Result<Value, ReadErrorKind> {
        if typed::is_none(text) { Ok(Value::None) } else { T::literal(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal<T: SettingType>(text: &str) -> Value {
        T::literal(text).unwrap_or_else(|kind| panic!("{text}: {kind:?}"))
    }

    #[test]
    fn a_value_reads_back_as_it_prints() {
        fn check<T: SettingType>(texts: &[&str]) {
            for text in texts {
                assert_eq!(literal::<T>(text).to_string(), *text);
            }
        }
        check::<Bytes>(&["0", "96MB", "1GiB"]);
        check::<Rate>(&["0", "96MB/s", "unlimited"]);
        check::<Option<BitRate>>(&["none", "940mbit"]);
        check::<Percent>(&["0", "0.1%", "100%"]);
        check::<WorkingSet>(&["0", "96MB", "1s"]);
        check::<Bandwidth>(&["110MB/s", "900mbit"]);
        check::<Content>(&["random", "compressible:25%"]);
        check::<PageSize>(&["4KiB", "2MiB"]);
        check::<Option<Wave>>(&["none", "square:2s:0:1MB/s", "triangle:500ms:8MB/s:24MB/s"]);
        check::<Distribution>(&["pareto_normal"]);
        check::<Option<String>>(&["none", "qemu64"]);
        check::<u64>(&["0", "18446744073709551615", "1.5"]);
        check::<bool>(&["true", "false"]);
    }

    #[test]
    fn large_numbers_compare_exactly() {
        let number = |text| literal::<u64>(text);
        assert_eq!(number("9007199254740993").compare(&number("9007199254740992")), Some(Ordering::Greater));
        assert_eq!(number("1").compare(&number("1.5")), Some(Ordering::Less));
        assert_eq!(number("2").compare(&number("2.0")), Some(Ordering::Equal));
        assert_eq!(number("0").compare(&number("-1")), Some(Ordering::Greater));
    }
}
