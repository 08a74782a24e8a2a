//! The text form of settings that people write as one word or phrase: `96MB/s` or `unlimited`,
//! `compressible:50%`, `hot-cold:90%/10%`.
//!
//! The same text form is used on the command line, in YAML and in JSON. (Serde's own form of enum variants
//! would need a tag in YAML, `!hot-cold`, which nobody would guess.) Parsing is exact, and a printed value
//! parses back to the same value. Words are read in upper and lower case, and with `_` or nothing in place of
//! `-`; they are printed as they are listed.

pub use crate::share::TextError;
use crate::workload::{Content, Order, Phase, Rate};
use std::{fmt, str::FromStr};
use units::ParseError;

/// Returns a word in the form used for comparisons: in lower case and without separators.
fn plain(word: &str) -> String {
    word.trim().chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_ascii_lowercase()
}

impl FromStr for Rate {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        match plain(text).as_str() {
            "unlimited" => Ok(Self::Unlimited),
            _ => text.parse().map(Self::Limited).map_err(|error: ParseError| {
                let or = if matches!(error, ParseError::Ambiguous { .. }) { "" } else { ", or `unlimited`" };
                TextError(format!("{error}{or}"))
            }),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(rate) => rate.fmt(f),
            Self::Unlimited => f.pad("unlimited"),
        }
    }
}

impl FromStr for Content {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (word, share) = text.split_once(':').map_or((text, None), |(word, share)| (word, Some(share)));
        match (plain(word).as_str(), share) {
            ("zero", None) => Ok(Self::Zero),
            ("constant", None) => Ok(Self::Constant),
            ("random", None) => Ok(Self::Random),
            ("increment", None) => Ok(Self::Increment),
            ("sparse", Some(share)) => share.parse().map(Self::Sparse),
            ("compressible", Some(share)) => share.parse().map(Self::Compressible),
            _ => Err(TextError(format!(
                "`{text}` is not a page content: use `zero`, `constant`, `random`, `increment`, \
                 `sparse:PERCENT` (with `sparse:1%` a write changes 40 bytes of a page) or \
                 `compressible:PERCENT` (`compressible:25%` compresses to a quarter)"
            ))),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.pad("zero"),
            Self::Constant => f.pad("constant"),
            Self::Random => f.pad("random"),
            Self::Increment => f.pad("increment"),
            Self::Sparse(share) => f.pad(&format!("sparse:{share}")),
            Self::Compressible(share) => f.pad(&format!("compressible:{share}")),
        }
    }
}

impl FromStr for Order {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let unknown = || {
            TextError(format!(
                "`{text}` is not an order: use `sequential`, `random` or `hot-cold:WRITES/PAGES` \
                 (`hot-cold:90%/10%`: 90% of the writes go to 10% of the pages)"
            ))
        };
        let (word, shares) = text.split_once(':').map_or((text, None), |(word, shares)| (word, Some(shares)));
        match (plain(word).as_str(), shares) {
            ("sequential", None) => Ok(Self::Sequential),
            ("random", None) => Ok(Self::Random),
            ("hotcold", Some(shares)) => {
                let (writes, pages) = shares.split_once('/').ok_or_else(unknown)?;
                Ok(Self::HotCold { writes: writes.parse()?, pages: pages.parse()? })
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequential => f.pad("sequential"),
            Self::Random => f.pad("random"),
            Self::HotCold { writes, pages } => f.pad(&format!("hot-cold:{writes}/{pages}")),
        }
    }
}

impl FromStr for Phase {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (rate, duration) = text.split_once(':').ok_or_else(|| {
            TextError(format!("`{text}` is not a phase: write a rate and a duration, like `96MB/s:30s`"))
        })?;
        let duration = duration.parse().map_err(|e: ParseError| TextError(e.to_string()))?;
        Ok(Self { rate: rate.parse()?, duration })
    }
}

/// Implements serde's traits and the JSON Schema of a setting by means of its text form.
macro_rules! text_serde {
    ($type:ty, $expecting:literal, $pattern:expr) => {
        const _: () = {
            use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

            struct Visitor;

            impl de::Visitor<'_> for Visitor {
                type Value = $type;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str($expecting)
                }

                fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                    text.parse().map_err(E::custom)
                }

                // The only valid number is a rate of 0. The text form's parser refuses all others.
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

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    deserializer.deserialize_any(Visitor)
                }
            }

            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            #[cfg(feature = "schema")]
            impl schemars::JsonSchema for $type {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    let schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema = $pattern;
                    schema(generator)
                }
            }
        };
    };
}

/// Returns a regular expression for a word in all the spellings that [`plain`] treats as equal, followed by
/// `rest`.
#[cfg(feature = "schema")]
fn words(words: &[&str], rest: &str) -> String {
    let letter = |c: char| format!("[{c}{}][-_]*", c.to_ascii_uppercase());
    let words: Vec<String> = words.iter().map(|word| word.chars().map(letter).collect()).collect();
    format!("^\\s*[-_]*({})\\s*{rest}$", words.join("|"))
}

text_serde!(Rate, "a data rate like `96MB/s`, 0 or `unlimited`", |generator| schemars::json_schema!({
    "description": "A data rate like `96MB/s`, 0, or `unlimited`",
    "anyOf": [
        generator.subschema_for::<units::ByteRate>(),
        { "type": "string", "pattern": words(&["unlimited"], "") },
    ],
}));
text_serde!(Content, "a page content like `random` or `compressible:50%`", |_| schemars::json_schema!({
    "description": "`sparse:1%` (changes 40 bytes of a page), `compressible:25%` (to a quarter)",
    "anyOf": [
        { "enum": ["zero", "constant", "random", "increment"] },
        { "type": "string", "pattern": words(&["zero", "constant", "random", "increment"], "") },
        { "type": "string", "pattern": words(&["compressible", "sparse"], r":\d{1,2}(\.\d)?%") },
    ],
}));
text_serde!(Order, "an order like `random` or `hot-cold:90%/10%`", |_| schemars::json_schema!({
    "description": "`hot-cold:90%/10%`: 90% of the writes go to 10% of the pages",
    "anyOf": [
        { "enum": ["sequential", "random"] },
        { "type": "string", "pattern": words(&["sequential", "random"], "") },
        { "type": "string", "pattern": words(&["hotcold"], r":\d{1,2}(\.\d)?%/\d{1,2}(\.\d)?%") },
    ],
}));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{share::Percentage, workload::Workload};
    use std::fmt::{Debug, Display};

    fn round_trip<T: FromStr<Err = TextError> + Display + PartialEq + Debug>(texts: &[&str]) {
        for text in texts {
            let value: T = text.parse().unwrap();
            assert_eq!(value.to_string(), *text);
        }
    }

    #[test]
    fn text_forms_round_trip() {
        round_trip::<Rate>(&["0", "96MB/s", "1GiB/s", "unlimited"]);
        round_trip::<Content>(&["zero", "constant", "random", "increment", "sparse:1%"]);
        round_trip::<Content>(&["compressible:12.5%"]);
        round_trip::<Order>(&["sequential", "random", "hot-cold:90%/10%", "hot-cold:99.9%/0.1%"]);
        round_trip::<Percentage>(&["0.1%", "1%", "50%", "99.9%"]);
    }

    #[test]
    fn words_are_read_in_any_case_and_with_any_separator() {
        assert_eq!("Unlimited".parse(), Ok(Rate::Unlimited));
        assert_eq!("96mb/s".parse::<Rate>().unwrap().to_string(), "96MB/s");
        assert_eq!("Zero".parse(), Ok(Content::Zero));
        assert_eq!("COMPRESSIBLE:25%".parse::<Content>().unwrap().to_string(), "compressible:25%");
        assert_eq!("Random".parse(), Ok(Order::Random));
        for text in ["hot_cold:90%/10%", "HotCold:90%/10%", "HOT-COLD:90%/10%"] {
            assert_eq!(text.parse::<Order>().unwrap().to_string(), "hot-cold:90%/10%");
        }
    }

    #[test]
    fn invalid_text_is_refused_with_the_accepted_forms() {
        for share in
            ["", "%", "50", "0%", "100%", "-1%", "+1%", "1.25%", "1.%", ".5%", "1000%", "5 %", "1.+%"]
        {
            assert!(share.parse::<Percentage>().unwrap_err().to_string().contains("like `50%`"), "{share}");
        }
        for content in ["", "noise", "random:50%", "compressible", "sparse", "zeroes"] {
            assert!(content.parse::<Content>().unwrap_err().to_string().contains("`increment`"), "{content}");
        }
        for order in ["", "reverse", "hot-cold", "hot-cold:90%", "sequential:1"] {
            assert!(order.parse::<Order>().unwrap_err().to_string().contains("hot-cold:90%/10%"), "{order}");
        }
        assert!("96".parse::<Rate>().unwrap_err().to_string().contains("or `unlimited`"));
        assert!("96MB/s".parse::<Phase>().unwrap_err().to_string().contains("like `96MB/s:30s`"));
        assert!("96MB/s:30".parse::<Phase>().unwrap_err().to_string().contains("`30` has no unit"));
    }

    #[test]
    fn parsing_never_panics_and_parsed_values_round_trip() {
        const PIECES: [&str; 16] = [
            "",
            "",
            "9",
            "0",
            ".",
            "%",
            "é",
            "-",
            "+",
            " ",
            "compressible:",
            "hot-cold:",
            "random",
            "1GB/s",
            "50%",
            "/",
        ];
        fn check<T: FromStr<Err = TextError> + Display + PartialEq + Debug>(text: &str) -> usize {
            text.parse::<T>().map_or(0, |value| {
                assert_eq!(value.to_string().parse(), Ok(value), "{text}");
                1
            })
        }
        let (mut state, mut read) = (1, [0; 4]);
        for _ in 0..50_000 {
            state = units::random::mix(state);
            let text: String = (0..5).map(|at| PIECES[(state >> (at * 4)) as usize % PIECES.len()]).collect();
            read[0] += check::<Percentage>(&text);
            read[1] += check::<Content>(&text);
            read[2] += check::<Order>(&text);
            read[3] += check::<Rate>(&text);
            assert!(text.parse::<Phase>().is_err(), "{text}");
        }
        assert!(read.iter().all(|&read| read > 0), "some texts of each kind are valid: {read:?}");
    }

    #[test]
    fn a_percentage_is_neither_nothing_nor_everything() {
        let share = |permille, whole| Percentage::from_permille(permille).unwrap().of(whole);
        assert_eq!(share(100, 1000), 100);
        assert_eq!((share(1, 10), share(999, 2), share(500, 1), share(500, 0)), (1, 1, 0, 0));
        assert_eq!(share(999, u64::MAX), (u128::from(u64::MAX) * 999 / 1000) as u64);
        for whole in 2..2000 {
            for permille in [1, 500, 999] {
                assert!((1..whole).contains(&share(permille, whole)), "{permille} of {whole}");
            }
        }
    }

    #[test]
    fn a_workload_survives_yaml_and_json() {
        let yaml = "{ rate: 96MB/s, working_set: 96MB, ballast: 1GiB, content: compressible:50%,
            write: word, order: hot-cold:90%/10%, threads: 2, page_size: 2MiB, catch_up: burst, step: 500us,
            phases: [{ rate: unlimited, duration: 30s }], ballast_content: zero, seed: 5 }";
        let workload: Workload = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(workload.order.to_string(), "hot-cold:90%/10%");
        assert_eq!(workload.phases[0].rate, Rate::Unlimited);
        let json = serde_json::to_string(&workload).unwrap();
        assert_eq!(serde_json::from_str::<Workload>(&json).unwrap(), workload);
        let yaml = serde_yaml::to_string(&workload).unwrap();
        assert_eq!(serde_yaml::from_str::<Workload>(&yaml).unwrap(), workload);
        assert_eq!(serde_yaml::from_str::<Workload>("rate: 0").unwrap(), Workload::default());
    }

    #[test]
    fn unknown_fields_and_invalid_values_are_refused() {
        let error = |yaml: &str| serde_yaml::from_str::<Workload>(yaml).unwrap_err().to_string();
        assert!(error("rate: 96").contains("`96` has no unit"), "{}", error("rate: 96"));
        assert!(error("speed: 1MB/s").contains("unknown field `speed`"));
        assert!(error("content: noise").contains("`noise` is not a page content"));
        assert!(error("content: true").contains("a page content like `random`"));
        assert!(error("page_size: 4KB").contains("4KiB"));
        assert!(error("phases: [{ rate: 1MB/s }]").contains("missing field `duration`"));
    }
}
