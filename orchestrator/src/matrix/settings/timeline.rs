//! What changes in the middle of a migration.

use super::{
    Settings,
    field::{Field, Section},
    link,
};
use netem::Profile;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{borrow::Cow, collections::BTreeSet, fmt};
use stressor::workload::{CatchUp, Order, Rate, Workload};
use units::Span;

/// The timeline is a section that is a setting by itself.
impl Section for Vec<Entry> {
    fn fields() -> Vec<Field<Self>> {
        vec![Field::new("", |timeline: &Self| timeline, |timeline: &mut Self| timeline)]
    }
}

/// A change of the link, the load or both, while the guest migrates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

impl Entry {
    /// Whether it names no setting at all.
    pub fn is_empty(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.keys.is_empty())
            && self.stress.as_ref().is_none_or(|stress| *stress == StressChange::default())
    }
}

/// Some settings of a link, those of a [`Profile`], each sound in itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Which settings, in alphabetical order, so that equal changes print alike.
    keys: BTreeSet<&'static str>,
    /// A link that has them; the rest of it means nothing.
    values: Profile,
}

impl LinkChange {
    /// The link with these settings in place of its own.
    pub fn apply(&self, link: &Profile) -> Profile {
        let mut changed = link.clone();
        self.fields().for_each(|field| field.copy(&self.values, &mut changed));
        changed
    }

    fn fields(&self) -> impl Iterator<Item = &'static Field<Profile>> {
        self.keys.iter().filter_map(|key| link::fields().iter().find(|field| field.path() == *key))
    }
}

impl Serialize for LinkChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |field: &'static Field<Profile>| (field.path(), field.value(&self.values).to_json());
        serializer.collect_map(self.fields().map(value))
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
                let mut change = LinkChange::default();
                while let Some(key) = map.next_key::<String>()? {
                    let alone = OneEntry { key: Some(&key), map: &mut map };
                    let values = Profile::deserialize(MapAccessDeserializer::new(alone))?;
                    // A key that is none was refused as a profile's.
                    for field in link::fields().iter().filter(|field| field.path() == key) {
                        field.copy(&values, &mut change.values);
                        change.keys.insert(field.path());
                    }
                }
                Ok(change)
            }
        }

        /// One entry of a mapping as a mapping of its own: read as a profile, it is the value of one key, and
        /// which keys were written is not lost.
        struct OneEntry<'a, M> {
            key: Option<&'a str>,
            map: &'a mut M,
        }

        impl<'de, M: MapAccess<'de>> MapAccess<'de> for OneEntry<'_, M> {
            type Error = M::Error;

            fn next_key_seed<K: DeserializeSeed<'de>>(
                &mut self,
                seed: K,
            ) -> Result<Option<K::Value>, M::Error> {
                self.key.take().map(|key| seed.deserialize(key.into_deserializer())).transpose()
            }

            fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
                self.map.next_value_seed(seed)
            }
        }

        deserializer.deserialize_map(Keys)
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
    use serde_json::{Value, json};
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
