//! Settings as numbers, for programs that calculate with them. The name of each states its unit.
//!
//! A quantity has many texts (`1GiB`, `1024MiB`), which neither sort nor add up. As a number, a setting is
//! called by its path and its unit: `guest.memory_bytes`, `link.delay_ms`, `stress.rate_bytes_per_s`.

use super::{
    catalog,
    settings::{Settings, field::Field, value::Value},
};
use indexmap::IndexMap;
use serde::{Serialize, Serializer};
use serde_json::Number;

/// The unit of a setting's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumberUnit {
    /// A number that has no unit, such as the number of CPUs.
    Plain,
    /// Whole bytes.
    Bytes,
    /// Whole bytes per second.
    BytesPerSecond,
    /// Whole bits per second.
    BitsPerSecond,
    /// Milliseconds, with a fraction if necessary.
    Milliseconds,
    /// Percent, with a fraction if necessary.
    Percent,
}

impl NumberUnit {
    /// Returns what follows the path of a setting in the name of its number; nothing without a unit.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bytes => "_bytes",
            Self::BytesPerSecond => "_bytes_per_s",
            Self::BitsPerSecond => "_bits_per_s",
            Self::Milliseconds => "_ms",
            Self::Percent => "_percent",
        }
    }
}

impl Value {
    /// Returns the value as a number, unless it is absent, unlimited, a word, or more than one number.
    fn number(&self) -> Option<(NumberUnit, Number)> {
        Some(match self {
            Self::Number(number) => (NumberUnit::Plain, number.clone()),
            Self::Bytes(bytes) => (NumberUnit::Bytes, bytes.get().into()),
            Self::ByteRate(rate) => (NumberUnit::BytesPerSecond, rate.get().into()),
            Self::BitRate(rate) => (NumberUnit::BitsPerSecond, rate.get().into()),
            Self::Span(span) => (NumberUnit::Milliseconds, Number::from_f64(span.as_millis_f64())?),
            Self::Percent(percent) => {
                // The text is the shortest that stands for the kernel's fixed-point number.
                let text = percent.to_string();
                (NumberUnit::Percent, Number::from_f64(text.strip_suffix('%')?.parse().ok()?)?)
            }
            Self::None
            | Self::Flag(_)
            | Self::Unlimited
            | Self::Content(_)
            | Self::Order(_)
            | Self::Wave(_)
            | Self::Text(_)
            | Self::Structured(_) => return None,
        })
    }
}

impl Settings {
    /// Returns the setting with this path as a number. Returns nothing if there is no such setting, or if its
    /// value is not a single number.
    pub fn number(&self, path: &str) -> Option<(NumberUnit, Number)> {
        catalog::find(path)?.value(self).number()
    }
}

/// Settings that are serialized as numbers, by their paths with the suffixes of their units. Settings that
/// are not a single number are left out.
#[derive(Debug, Clone, Copy)]
pub struct SettingNumbers<'a> {
    settings: &'a Settings,
    axes: Option<&'a IndexMap<String, String>>,
}

impl<'a> SettingNumbers<'a> {
    /// Returns all settings.
    pub fn of_all(settings: &'a Settings) -> Self {
        Self { settings, axes: None }
    }

    /// Returns the settings that are axes.
    pub fn of_axes(settings: &'a Settings, axes: &'a IndexMap<String, String>) -> Self {
        Self { settings, axes: Some(axes) }
    }
}

impl Serialize for SettingNumbers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbered = |path: &str| {
            let (unit, number) = self.settings.number(path)?;
            Some((format!("{path}{}", unit.suffix()), number))
        };
        match self.axes {
            Some(axes) => serializer.collect_map(axes.keys().filter_map(|path| numbered(path))),
            None => serializer.collect_map(catalog::all().map(Field::path).filter_map(numbered)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn settings(json: Json) -> Settings {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_name_of_a_number_has_its_unit() {
        let settings = settings(json!({
            "guest": { "memory": "1GiB", "vcpus": 2 },
            "link": { "rate": "940mbit", "delay": "1500us", "loss": "0.1%" },
            "stress": { "rate": "112MB/s", "working_set": "1s" },
        }));
        let all = serde_json::to_value(SettingNumbers::of_all(&settings)).unwrap();
        for (name, number) in [
            ("guest.memory_bytes", json!(1_073_741_824)),
            ("guest.vcpus", json!(2)),
            ("link.rate_bits_per_s", json!(940_000_000)),
            ("link.delay_ms", json!(1.5)),
            ("link.loss_percent", json!(0.1)),
            ("stress.rate_bytes_per_s", json!(112_000_000)),
            ("stress.working_set_ms", json!(1000.0)),
        ] {
            assert_eq!(all[name], number, "{name}");
        }
        assert!(all.as_object().unwrap().values().all(Json::is_number), "{all:#}");
    }

    #[test]
    fn what_is_not_one_number_is_left_out() {
        let settings = settings(json!({ "stress": { "rate": "unlimited", "working_set": "96MB" } }));
        for path in ["stress.rate", "link.rate", "guest.accel", "timeline", "stress.of_old"] {
            assert_eq!(settings.number(path), None, "{path}");
        }
        let paths = ["stress.rate", "stress.working_set", "stress.of_old"];
        let axes = paths.map(|path| (path.to_owned(), String::new())).into();
        let numbers = serde_json::to_value(SettingNumbers::of_axes(&settings, &axes)).unwrap();
        assert_eq!(numbers, json!({ "stress.working_set_bytes": 96_000_000 }));
    }
}
