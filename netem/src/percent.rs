//! Probabilities as people write them, `0.1%`, held exactly as the kernel keeps them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// A probability, or a correlation, between `0%` and `100%`.
///
/// Held in the kernel's own steps, `u32::MAX` of which are 100 %, so that what is read back equals what was
/// asked. One step is 2.3e-10: a loss of one packet in a billion can still be expressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

/// A text that is not a percentage between 0 and 100.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a percentage: {problem}")]
pub struct PercentError {
    text: String,
    problem: &'static str,
}

impl Percent {
    /// Never.
    pub const ZERO: Self = Self(0);
    /// Always.
    pub const ALWAYS: Self = Self(u32::MAX);

    /// This many of the kernel's steps of 1 / (2^32 - 1).
    pub const fn from_kernel(steps: u32) -> Self {
        Self(steps)
    }

    /// The kernel's form of this probability: `u32::MAX` is 100 %.
    pub const fn to_kernel(self) -> u32 {
        self.0
    }

    /// The nearest step to a fraction between 0 and 1; values outside saturate.
    pub fn from_fraction(fraction: f64) -> Self {
        Self((fraction * f64::from(u32::MAX)).round_ties_even() as u32)
    }

    /// As a fraction between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(u32::MAX)
    }

    /// The probability of the opposite.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(u32::MAX - self.0)
    }

    /// Whether this is zero.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let refuse = |problem| Err(PercentError { text: text.to_owned(), problem });
        let trimmed = text.trim();
        let Some(number) = trimmed.strip_suffix('%') else {
            if trimmed == "0" {
                return Ok(Self::ZERO);
            }
            return refuse("write it with its sign, like `0.1%`");
        };
        let number = number.trim_end();
        if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return refuse("expected a decimal number and `%`, like `0.1%`");
        }
        match number.parse::<f64>() {
            Ok(value) if value <= 100.0 => Ok(Self::from_fraction(value / 100.0)),
            Ok(_) => refuse("it cannot exceed 100%"),
            Err(_) => refuse("expected a decimal number and `%`, like `0.1%`"),
        }
    }
}

impl fmt::Display for Percent {
    /// The shortest decimal that parses back to the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.fraction() * 100.0;
        let shortest = (0..12)
            .map(|digits| format!("{percent:.digits$}%"))
            .find(|text| text.parse() == Ok(*self))
            .unwrap_or_else(|| format!("{percent}%"));
        f.pad(&shortest)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Percent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a percentage with its sign, like `0.1%`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Percent, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Percent, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Percent, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Percent, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "a percentage with its sign, like `0.1%`",
            "anyOf": [
                { "type": "string", "pattern": "^ *(0|[0-9]+(\\.[0-9]+)? *%) *$" },
                { "const": 0 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_round_trips() {
        for text in ["0%", "1%", "0.1%", "25%", "99.9%", "100%", "0.0000001%", "33.333%"] {
            assert_eq!(text.parse::<Percent>().unwrap().to_string(), text);
        }
        assert_eq!("0".parse(), Ok(Percent::ZERO));
        assert_eq!(" 5 % ".parse::<Percent>().unwrap().to_string(), "5%");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn every_step_prints_as_something_that_parses_back(
            step in prop_oneof![any::<u32>(), 0..100u32, u32::MAX - 100..=u32::MAX],
        ) {
            let percent = Percent(step);
            prop_assert_eq!(percent.to_string().parse(), Ok(percent));
        }

        #[test]
        fn no_text_panics_and_what_is_read_is_stable(
            text in prop_oneof![any::<String>(), "[ \t]{0,2}-?[0-9]{0,4}\\.?[0-9]{0,24}[ \t]?%?"],
        ) {
            match text.parse::<Percent>() {
                Ok(percent) => prop_assert_eq!(percent.to_string().parse(), Ok(percent), "{}", text),
                Err(error) => prop_assert!(error.to_string().contains("is not a percentage")),
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "%", "1", "-1%", "100.1%", "1e1%", "inf%", "nan%", "1.2.3%", "1 %%"] {
            assert!(text.parse::<Percent>().is_err(), "{text:?}");
        }
        let over = "101%".parse::<Percent>().unwrap_err();
        assert_eq!(over.to_string(), "`101%` is not a percentage: it cannot exceed 100%");
    }

    #[test]
    fn steps_are_those_of_iproute2() {
        // `tc qdisc add ... netem loss 1%` sends 0x028f5c29.
        assert_eq!("1%".parse::<Percent>().unwrap().to_kernel(), 0x028f_5c29);
        assert_eq!("0.3%".parse::<Percent>().unwrap().to_kernel(), 0x00c4_9ba6);
    }
}
