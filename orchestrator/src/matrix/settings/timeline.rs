//! What changes in the middle of a migration.

use super::Settings;
use netem::Profile;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeSeed, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{borrow::Cow, fmt};
use stressor::workload::{CatchUp, Order, Rate, Workload};
use units::Span;

/// A change of the link, the load or both, while the guest migrates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When, counted from the migrate command. Later than the entry before, and before the deadline.
    pub at: Span,
    /// Settings of the link from then on; what is not named stays as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkChange>,
    /// Settings of the load from then on; what is not named stays as it was, and so does the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stress: Option<StressChange>,
}

impl Eq for Entry {}

impl Entry {
    /// Whether it names no setting at all.
    pub fn is_empty(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.0.is_empty())
            && self.stress.as_ref().is_none_or(|stress| *stress == StressChange::default())
    }
}

/// Some settings of a link, those of a [`Profile`], each sound in itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LinkChange(Map<String, Value>);

impl LinkChange {
    /// The link with these settings in place of its own.
    pub fn apply(&self, link: &Profile) -> Profile {
        let mut keys = serde_json::to_value(link).unwrap_or_default();
        if let Value::Object(keys) = &mut keys {
            keys.extend(self.0.clone());
        }
        serde_json::from_value(keys).expect("every key was read as a profile's when the change was")
    }
}

impl<'de> Deserialize<'de> for LinkChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = LinkChange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of keys to values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<LinkChange, M::Error> {
                let mut keys = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value_seed(ProfileKey(&key))?;
                    keys.insert(key, value);
                }
                // In one order, so that equal changes print alike.
                keys.sort_keys();
                Ok(LinkChange(keys))
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// Reads the value of one key as a profile's, so that an error is that key's.
struct ProfileKey<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for ProfileKey<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let written = Value::deserialize(deserializer)?;
        let alone = Value::Object(Map::from_iter([(self.0.to_string(), written.clone())]));
        let profile: Profile = serde_json::from_value(alone).map_err(de::Error::custom)?;
        let mut printed = serde_json::to_value(profile).map_err(de::Error::custom)?;
        Ok(match printed.get_mut(self.0) {
            Some(value) => value.take(),
            // A profile leaves out what is as usual: nothing, a fixed word, or a quantity of zero.
            None if written.is_number() => "0".into(),
            None if written.as_str().is_some_and(|text| text.trim().starts_with('0')) => "0".into(),
            None => written,
        })
    }
}

impl JsonSchema for LinkChange {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LinkChange".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        // Every key of a profile may be left out.
        generator.subschema_for::<Profile>()
    }
}

/// What of a load can change without touching the guest's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StressChange {
    /// How fast memory is dirtied. A working set that is written as a time keeps the size it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Which page is written next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// How many threads write, each to its own part of the working set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub threads: Option<u32>,
    /// Whether writes that a stall prevented are made up for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
}

impl StressChange {
    /// What can change.
    pub(crate) const KEYS: &'static str = "`rate`, `order`, `threads` and `catch_up`";

    /// The workload with these settings in place of its own.
    pub fn apply(&self, workload: &Workload) -> Workload {
        Workload {
            rate: self.rate.unwrap_or(workload.rate),
            order: self.order.unwrap_or(workload.order),
            threads: self.threads.unwrap_or(workload.threads),
            catch_up: self.catch_up.unwrap_or(workload.catch_up),
            ..workload.clone()
        }
    }
}

/// What an entry of a timeline amounts to.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When, counted from the migrate command.
    pub at: Span,
    /// The whole link from then on, where the entry changes it.
    pub link: Option<Profile>,
    /// The whole load from then on, where the entry changes it.
    pub workload: Option<Workload>,
}

impl Settings {
    /// The timeline, resolved.
    pub fn steps(&self) -> Vec<Step> {
        let (mut link, mut workload) = (self.link.clone(), self.workload());
        let step = |entry: &Entry| {
            if let Some(change) = &entry.link {
                link = change.apply(&link);
            }
            if let Some(change) = &entry.stress {
                workload = change.apply(&workload);
            }
            Step {
                at: entry.at,
                link: entry.link.as_ref().map(|_| link.clone()),
                workload: entry.stress.as_ref().map(|_| workload.clone()),
            }
        };
        self.timeline.iter().map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use units::{BitRate, ByteRate, Bytes};

    fn settings(value: Value) -> Settings {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_an_entry_does_not_name_stays_as_it_was() {
        let settings = settings(json!({
            "link": { "rate": "100mbit", "queue": "1MB" },
            "stress": { "rate": "64MB/s", "working_set": "500ms", "threads": 2 },
            "timeline": [
                { "at": "1s", "link": { "rate": "50mbit" } },
                { "at": "2s", "stress": { "rate": 0 } },
                { "at": "3s", "link": { "queue": null, "delay": "1ms" }, "stress": { "rate": "8MB/s" } },
            ],
        }));
        assert_eq!(settings.check(), []);
        let [first, second, third] = &settings.steps()[..] else { panic!("three entries") };
        let link = first.link.as_ref().unwrap();
        assert_eq!((link.rate, link.queue), (Some(BitRate::new(50_000_000)), Some(Bytes::new(1_000_000))));
        assert_eq!((&first.workload, &second.link), (&None, &None));
        let idle = second.workload.as_ref().unwrap();
        assert_eq!(idle, &Workload { rate: Rate::IDLE, ..settings.workload() });
        assert_eq!(idle.working_set, Bytes::new(32_000_000), "of the rate before");
        let link = third.link.as_ref().unwrap();
        assert_eq!((link.rate, link.queue), (Some(BitRate::new(50_000_000)), None));
        assert_eq!(link.delay, Span::from_millis(1));
        let workload = third.workload.as_ref().unwrap();
        assert_eq!(workload.rate, Rate::Limited(ByteRate::new(8_000_000)));
        assert_eq!((workload.working_set, workload.threads), (Bytes::new(32_000_000), 2));
    }

    #[test]
    fn equal_changes_print_alike_and_read_back_as_they_were() {
        let printed = |link: Value| {
            let change: LinkChange = serde_json::from_value(link).unwrap();
            let value = serde_json::to_value(&change).unwrap();
            assert_eq!(serde_json::from_value::<LinkChange>(value.clone()).unwrap(), change);
            value.to_string()
        };
        let one = printed(json!({ "rate": "1000mbit", "delay": 0, "loss": "0%", "shaper": "tbf" }));
        let other = printed(json!({ "shaper": "tbf", "loss": 0, "delay": "0ms", "rate": "1gbit" }));
        assert_eq!(one, other);
        assert_eq!(one, r#"{"delay":"0","loss":"0","rate":"1gbit","shaper":"tbf"}"#);
        assert_eq!(printed(json!({ "rate": null })), r#"{"rate":null}"#);
    }
}
