//! The types that a setting can have, and what conditions, tables and hashes see of them.

use super::{Accel, Bandwidth, Entry, WorkingSet};
use crate::{
    matrix::typed::{self, Refusal},
    mode::Mode,
};
use netem::{Distribution, GilbertElliott, Percent, Shaper, Slots};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Number, Value as Json};
use std::{cmp::Ordering, fmt};
use stressor::workload::{CatchUp, Content, Order, PageSize, Phase, Rate, Write};
use units::{BitRate, ByteRate, Bytes, Span};

/// The value of one setting, whichever it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    /// An optional setting that is absent.
    None,
    /// `true` or `false`.
    Flag(bool),
    /// A plain number.
    Number(Number),
    /// A size.
    Bytes(Bytes),
    /// A data rate.
    ByteRate(ByteRate),
    /// The rate of a link.
    BitRate(BitRate),
    /// A data rate without a bound.
    Unlimited,
    /// A time.
    Span(Span),
    /// A probability.
    Percent(Percent),
    /// What pages hold.
    Content(Content),
    /// Which page is written next.
    Order(Order),
    /// A fixed word, or any text.
    Text(String),
    /// A list or a mapping.
    Structured(Json),
}

/// What conditions can ask of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Which of two values is larger.
    Ordered,
    /// Whether two values are equal.
    Equal,
    /// Whether it is absent.
    Absent,
    /// Nothing.
    Never,
}

impl Value {
    /// How two values compare; nothing for values that do not.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        let eightfold = |rate: &ByteRate| u128::from(rate.get()) * 8;
        let bits = |rate: &BitRate| u128::from(rate.get());
        match (self, other) {
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::ByteRate(a), Self::ByteRate(b)) => Some(a.cmp(b)),
            (Self::BitRate(a), Self::BitRate(b)) => Some(a.cmp(b)),
            (Self::ByteRate(a), Self::BitRate(b)) => Some(eightfold(a).cmp(&bits(b))),
            (Self::BitRate(a), Self::ByteRate(b)) => Some(bits(a).cmp(&eightfold(b))),
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

    /// As JSON, quantities as text.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::None => Json::Null,
            Self::Flag(flag) => (*flag).into(),
            Self::Number(number) => number.clone().into(),
            Self::Structured(json) => json.clone(),
            other => other.to_string().into(),
        }
    }
}

impl fmt::Display for Value {
    /// In one line, as tables and identities show it; quantities in their shortest form.
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
            Self::Text(text) => f.write_str(text),
            Self::Structured(json) => json.fmt(f),
        }
    }
}

/// What the type of a setting can do.
pub(crate) trait SettingType: Clone + DeserializeOwned + 'static {
    /// What conditions can ask.
    const COMPARED: Compared;

    /// The value.
    fn value(&self) -> Value;

    /// Reads a value of a condition.
    fn literal(text: &str) -> Result<Value, Refusal> {
        typed::from_text::<Self>(text).map(|value| value.value())
    }
}

/// Types that are one variant of [`Value`].
macro_rules! plain {
    ($($compared:ident: $($type:ident),+;)+) => {$($(
        impl SettingType for $type {
            const COMPARED: Compared = Compared::$compared;

            fn value(&self) -> Value {
                Value::$type(self.clone())
            }
        }
    )+)+};
}

plain! {
    Ordered: Bytes, BitRate, Span, Percent;
    Equal: Content, Order;
}

/// Enums of fixed words.
macro_rules! words {
    ($($type:ty),+) => {$(
        impl SettingType for $type {
            const COMPARED: Compared = Compared::Equal;

            fn value(&self) -> Value {
                Value::Text(Word(self).to_string())
            }
        }
    )+};
}

words!(Accel, Mode, Write, PageSize, CatchUp, Shaper, Distribution);

/// Displays a variant by the name that files have for it.
struct Word<'a, T>(&'a T);

impl<T: Serialize> fmt::Display for Word<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

/// Numbers. A condition may compare one with a fraction.
macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl SettingType for $type {
            const COMPARED: Compared = Compared::Ordered;

            fn value(&self) -> Value {
                Value::Number((*self).into())
            }

            fn literal(text: &str) -> Result<Value, Refusal> {
                let whole = text.parse().ok().map(|number: u64| number.into());
                let number = whole.or_else(|| text.parse().ok().and_then(Number::from_f64));
                number.map(Value::Number).ok_or_else(|| Refusal::Other(format!("`{text}` is not a number")))
            }
        }
    )+};
}

numbers!(u32, u64);

/// Lists and mappings, which are set as a whole.
macro_rules! structured {
    ($($type:ty),+) => {$(
        impl SettingType for $type {
            const COMPARED: Compared = Compared::Never;

            fn value(&self) -> Value {
                Value::Structured(serde_json::to_value(self).unwrap_or_default())
            }
        }
    )+};
}

structured!(GilbertElliott, Slots, Vec<Phase>);

impl SettingType for bool {
    const COMPARED: Compared = Compared::Equal;

    fn value(&self) -> Value {
        Value::Flag(*self)
    }

    fn literal(text: &str) -> Result<Value, Refusal> {
        let refusal = |_| Refusal::Other(format!("`{text}` is neither `true` nor `false`"));
        text.parse().map(Value::Flag).map_err(refusal)
    }
}

impl SettingType for String {
    const COMPARED: Compared = Compared::Equal;

    fn value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl SettingType for Rate {
    const COMPARED: Compared = Compared::Ordered;

    fn value(&self) -> Value {
        match self {
            Self::Limited(rate) => Value::ByteRate(*rate),
            Self::Unlimited => Value::Unlimited,
        }
    }
}

impl SettingType for Bandwidth {
    const COMPARED: Compared = Compared::Ordered;

    fn value(&self) -> Value {
        match self {
            Self::Bytes(rate) => Value::ByteRate(*rate),
            Self::Bits(rate) => Value::BitRate(*rate),
        }
    }
}

impl SettingType for WorkingSet {
    const COMPARED: Compared = Compared::Ordered;

    fn value(&self) -> Value {
        match self {
            Self::Size(size) => Value::Bytes(*size),
            // What any rate dirties in no time.
            Self::Time(Span::ZERO) => Value::Bytes(Bytes::ZERO),
            Self::Time(time) => Value::Span(*time),
        }
    }
}

impl SettingType for Vec<Entry> {
    const COMPARED: Compared = Compared::Never;

    fn value(&self) -> Value {
        if self.is_empty() {
            return Value::None;
        }
        Value::Structured(serde_json::to_value(self).unwrap_or_default())
    }
}

impl<T: SettingType> SettingType for Option<T> {
    const COMPARED: Compared = match T::COMPARED {
        Compared::Never => Compared::Absent,
        compared => compared,
    };

    fn value(&self) -> Value {
        self.as_ref().map_or(Value::None, T::value)
    }

    fn literal(text: &str) -> Result<Value, Refusal> {
        if text == "none" { Ok(Value::None) } else { T::literal(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal<T: SettingType>(text: &str) -> Value {
        T::literal(text).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"))
    }

    #[test]
    fn a_value_prints_as_it_is_written_and_reads_back() {
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
