//! Settings that may be either of two quantities, which differ by their unit.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, str::FromStr};
use units::{BitRate, ByteRate, Bytes, ParseError, Span};

/// The memory that is dirtied over and over. Written as a size, `96MB`, or as a time, `1s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkingSet {
    /// A fixed amount of memory.
    Size(Bytes),
    /// The amount of memory that the dirty rate dirties in this time.
    Time(Span),
}

impl Default for WorkingSet {
    /// Returns the memory that the rate dirties in one second.
    fn default() -> Self {
        Self::Time(Span::from_secs(1))
    }
}

/// A limit on a bandwidth. Written in bytes per second, `110MB/s`, or in bits per second, `900mbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bandwidth {
    /// A limit in bytes per second.
    Bytes(ByteRate),
    /// A limit in bits per second.
    Bits(BitRate),
}

impl Bandwidth {
    /// Returns the limit in bytes per second, rounded down.
    pub const fn to_byte_rate(self) -> ByteRate {
        match self {
            Self::Bytes(rate) => rate,
            Self::Bits(rate) => rate.to_byte_rate(),
        }
    }
}

/// Returns the meanings of a text that may be either of two quantities and is ambiguous as at least one.
fn meanings(a: Result<String, ParseError>, b: Result<String, ParseError>) -> Vec<String> {
    let of = |quantity| match quantity {
        Ok(text) => vec![format!("`{text}`")],
        Err(ParseError::Ambiguous { meanings, .. }) => meanings,
        Err(_) => Vec::new(),
    };
    // If a text is ambiguous as both quantities, the second one has the better word for bits.
    let mut all: Vec<String> = of(a).into_iter().filter(|meaning| !meaning.contains("for bits")).collect();
    all.extend(of(b).pop());
    all
}

/// Implements parsing, display, serde and the schema for an enum of two quantities. A text is parsed as the
/// second quantity if possible, and otherwise as the first. If it is ambiguous as one of them, it is refused
/// even if it has only one meaning as the other: `512m` are minutes, but may be meant as megabytes.
macro_rules! either {
    ($type:ident, $first:ident($a:ty), $second:ident($b:ty), $expected:literal) => {
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let (a, b) = (text.parse::<$a>(), text.parse::<$b>());
                let is_ambiguous = [a.as_ref().err(), b.as_ref().err()]
                    .iter()
                    .any(|error| matches!(error, Some(ParseError::Ambiguous { .. })));
                if is_ambiguous {
                    let meanings = meanings(a.map(|a| a.to_string()), b.map(|b| b.to_string()));
                    return Err(ParseError::Ambiguous { text: text.trim().into(), meanings }.to_string());
                }
                match (a, b) {
                    (_, Ok(b)) => Ok(Self::$second(b)),
                    (Ok(a), _) => Ok(Self::$first(a)),
                    _ => Err(format!(concat!("`{}` is not ", $expected), text)),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::$first(a) => a.fmt(f),
                    Self::$second(b) => b.fmt(f),
                }
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        self.visit_str(&number.to_string())
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        self.visit_str(&number.to_string())
                    }

                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<$type, E> {
                        self.visit_str(&number.to_string())
                    }
                }

                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let either = [generator.subschema_for::<$a>(), generator.subschema_for::<$b>()];
                json_schema!({ "description": $expected, "anyOf": either })
            }
        }
    };
}

either!(WorkingSet, Size(Bytes), Time(Span), "a size with its unit, like `96MB`, or a time, like `1s`");
either!(Bandwidth, Bytes(ByteRate), Bits(BitRate), "a data rate with its unit, like `110MB/s` or `900mbit`");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_selects_the_quantity() {
        assert_eq!("96MB".parse(), Ok(WorkingSet::Size(Bytes::new(96_000_000))));
        assert_eq!("2s".parse(), Ok(WorkingSet::Time(Span::from_secs(2))));
        assert_eq!("8mbit".parse(), Ok(Bandwidth::Bits(BitRate::new(8_000_000))));
        assert_eq!("1MB/s".parse(), Ok(Bandwidth::Bytes(ByteRate::new(1_000_000))));
        assert_eq!("8mbit".parse::<Bandwidth>().unwrap().to_byte_rate(), ByteRate::new(1_000_000));
        assert_eq!(
            "96".parse::<WorkingSet>().unwrap_err(),
            "`96` is not a size with its unit, like `96MB`, or a time, like `1s`"
        );
    }

    #[test]
    fn a_text_that_one_of_the_two_reads_differently_is_ambiguous() {
        fn answer<T: FromStr<Err = String> + fmt::Debug>(text: &str) -> String {
            let error = text.parse::<T>().unwrap_err();
            error.strip_prefix(&format!("`{text}` is ambiguous: write ")).unwrap_or(&error).to_owned()
        }
        let bits = "`900mbit` for bits per second";
        assert_eq!(
            answer::<Bandwidth>("900Mbps"),
            format!("`900MB/s` for bytes per second (as in tc), or {bits}")
        );
        assert_eq!(answer::<Bandwidth>("900Mb/s"), format!("`900MB/s` for bytes per second, or {bits}"));
        assert_eq!(answer::<Bandwidth>("900mb/s"), format!("`900MB/s`, or {bits}"));
        assert_eq!(
            answer::<Bandwidth>("900M"),
            format!("`900MB/s` for 10^6 bytes, or `900MiB/s` for 2^20 bytes, or {bits}")
        );
        assert_eq!(
            answer::<WorkingSet>("512m"),
            "`512MB` for 10^6 bytes, or `512MiB` for 2^20 bytes, or `30720s`"
        );
        assert_eq!("1m30s".parse(), Ok(WorkingSet::Time(Span::from_secs(90))));
        assert_eq!("512Mi".parse(), Ok(WorkingSet::Size(Bytes::new(1 << 29))));
        assert_eq!("900Mbit".parse(), Ok(Bandwidth::Bits(BitRate::new(900_000_000))));
        assert_eq!("900MBps".parse(), Ok(Bandwidth::Bytes(ByteRate::new(900_000_000))));
    }

    #[test]
    fn values_read_back_as_they_are_written() {
        for text in ["96MB", "1s", "0"] {
            let value: WorkingSet = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(value).unwrap(), text);
        }
    }
}
