//! [`Percent`]: a probability, written as `0.1%` and stored in the kernel's own fixed-point format.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// A probability or a correlation between `0%` and `100%`.
///
/// Stored in the kernel's steps, `u32::MAX` of which are 100 %, so that the value read back from the kernel
/// equals the requested one. One step is 2.3e-10, so a loss of one packet in a billion can be expressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

/// The error of parsing a text that is not a percentage between `0%` and `100%`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a percentage{problem}")]
pub struct PercentError {
    text: String,
    problem: String,
}

impl Percent {
    /// A probability of 0 %: the default, with which an effect is off.
    pub const ZERO: Self = Self(0);
    /// A probability of 100 %: the effect applies to every packet.
    pub const ALWAYS: Self = Self(u32::MAX);

    /// Creates a probability from a number of the kernel's steps of 1 / (2^32 - 1).
    pub const fn from_kernel(steps: u32) -> Self {
        Self(steps)
    }

    /// Returns the number of the kernel's steps: `u32::MAX` is 100 %.
    pub const fn to_kernel(self) -> u32 {
        self.0
    }

    /// Rounds a fraction between 0 and 1 to the nearest step. Values outside that range saturate.
    pub fn from_fraction(fraction: f64) -> Self {
        Self((fraction * f64::from(u32::MAX)).round_ties_even() as u32)
    }

    /// Returns the probability as a fraction between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(u32::MAX)
    }

    /// Returns the probability of the opposite event: 100 % less this one.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(u32::MAX - self.0)
    }

    /// Returns whether the probability is exactly 0 %. Takes a reference for serde's `skip_serializing_if`.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let fail_with = |problem: String| Err(PercentError { text: text.to_owned(), problem });
        let fail = |problem: &str| fail_with(format!(": {problem}"));
        let trimmed = text.trim();
        let Some(number) = trimmed.strip_suffix('%') else {
            if trimmed == "0" {
                return Ok(Self::ZERO);
            }
            // A number up to 1 may be meant as a fraction.
            let percent = |factor: f64| {
                let value = trimmed.parse::<f64>().ok().filter(|value| *value > 0.0 && *value <= 1.0)?;
                Some(Self::from_fraction(value * factor))
            };
            return match (percent(0.01), percent(1.0)) {
                (Some(percent), Some(fraction)) => {
                    fail(&format!("add the percent sign: `{percent}`, or `{fraction}` if it is a fraction"))
                }
                _ => fail("add the percent sign, like `0.1%`"),
            };
        };
        let number = number.trim_end();
        if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return fail("expected a decimal number and `%`, like `0.1%`");
        }
        match number.parse::<f64>() {
            Ok(value) if value <= 100.0 => match Self::from_fraction(value / 100.0) {
                Self::ZERO if value > 0.0 => fail_with(format!(
                    " that the kernel can hold: above 0%, the smallest is {}; write that, or `0%`",
                    Self(1)
                )),
                Self::ALWAYS if value < 100.0 => fail_with(format!(
                    " that the kernel can hold: below 100%, the largest is {}; write that, or `100%`",
                    Self(u32::MAX - 1)
                )),
                percent => Ok(percent),
            },
            Ok(_) => fail("it cannot exceed 100%"),
            Err(_) => fail("expected a decimal number and `%`, like `0.1%`"),
        }
    }
}

impl fmt::Display for Percent {
    /// Writes the shortest decimal that parses back to the same value.
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
                f.write_str("a percentage, like `0.1%`")
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
            "description": "a percentage, like `0.1%`",
            "anyOf": [
                { "type": "string", "pattern": "^\\s*(0|([0-9]+\\.?[0-9]*|\\.[0-9]+)\\s*%)\\s*$" },
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
        fn every_step_prints_as_a_text_that_parses_back(
            step in prop_oneof![any::<u32>(), 0..100u32, u32::MAX - 100..=u32::MAX],
        ) {
            let percent = Percent(step);
            prop_assert_eq!(percent.to_string().parse(), Ok(percent));
        }

        #[test]
        fn no_text_panics_and_parsed_values_round_trip(
            text in prop_oneof![any::<String>(), "[ \t]{0,2}-?[0-9]{0,4}\\.?[0-9]{0,24}[ \t]?%?"],
        ) {
            match text.parse::<Percent>() {
                Ok(percent) => prop_assert_eq!(percent.to_string().parse(), Ok(percent), "{}", text),
                Err(error) => prop_assert!(error.to_string().contains("is not a percentage")),
            }
        }
    }

    #[test]
    fn malformed_percentages_are_rejected() {
        for text in [
            "",
            "%",
            "1",
            "-1%",
            "100.1%",
            "0.00000001%",
            "99.99999999%",
            "1e1%",
            "inf%",
            "nan%",
            "1.2.3%",
            "1 %%",
        ] {
            assert!(text.parse::<Percent>().is_err(), "{text:?}");
        }
        let fraction = "0.05".parse::<Percent>().unwrap_err().to_string();
        assert!(
            fraction.ends_with("add the percent sign: `0.05%`, or `5%` if it is a fraction"),
            "{fraction}"
        );
        assert!("5".parse::<Percent>().unwrap_err().to_string().ends_with("the percent sign, like `0.1%`"));
        let small = "0.00000001%".parse::<Percent>().unwrap_err().to_string();
        assert!(small.ends_with("above 0%, the smallest is 0.00000002%; write that, or `0%`"), "{small}");
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
