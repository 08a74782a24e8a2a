//! The timeline: changes of the link and the workload during a migration.

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

// The timeline is a section that is a single setting.
impl Section for Vec<TimelineEntry> {
    fn fields() -> Vec<Field<Self>> {
        vec![Field::new("", |timeline: &Self| timeline, |timeline: &mut Self| timeline)]
    }
}

/// A change of the link, the workload or both, at a time during the migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimelineEntry {
    /// The time of the change, counted from the migrate command. It must be later than that of the previous
    /// entry, and earlier than `migrate.timeout`. The entry has no effect if the guest has already stopped at
    /// the source.
    pub at: Span,
    /// The settings of the link that change, in both directions. All others stay as they are. `null` resets
    /// an optional setting, such as `rate`, to its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkChange>,
    /// The settings of the workload that change. All others stay as they are, and so does the guest's memory.
    /// Cannot be used with `stress.phases`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stress: Option<StressChange>,
}

impl TimelineEntry {
    /// Returns whether the entry changes no setting at all.
    pub fn is_empty(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.keys.is_empty())
            && self.stress.as_ref().is_none_or(|stress| *stress == StressChange::default())
    }
}

/// New values for some of the settings of a [`Profile`]. Each is valid by itself; whether the changed link is
/// valid as a whole is checked by [`Settings::check`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// The settings that change, in alphabetical order, so that equal changes print alike.
    keys: BTreeSet<&'static str>,
    /// A profile with the new values. Its other settings are meaningless.
    values: Profile,
}

impl LinkChange {
    /// Returns a copy of `link` with the new values.
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
                    let entry = SingleEntryMap { key: Some(&key), map: &mut map };
                    let values = Profile::deserialize(MapAccessDeserializer::new(entry))?;
                    // Finds exactly one field: `Profile` has already rejected unknown keys.
                    for field in link::fields().iter().filter(|field| field.path() == key) {
                        field.copy(&values, &mut change.values);
                        change.keys.insert(field.path());
                    }
                }
                Ok(change)
            }
        }

        /// One entry of a mapping, as a mapping. Deserializing each entry as a profile of its own keeps track
        /// of the keys that were written; a whole profile would not tell them from defaults.
        struct SingleEntryMap<'a, M> {
            key: Option<&'a str>,
            map: &'a mut M,
        }

        impl<'de, M: MapAccess<'de>> MapAccess<'de> for SingleEntryMap<'_, M> {
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
        // All keys of a profile are optional, so its schema also describes a change.
        generator.subschema_for::<Profile>()
    }
}

/// Changes of the workload. They can only concern settings that leave the guest's memory as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StressChange {
    /// The new dirty rate, such as `96MB/s`, `0` or `unlimited`. A working set written as a time keeps the
    /// size that follows from the original `stress.rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The new order in which the pages of the working set are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The new number of threads that write, each to its own part of the working set. At least 1, and at most
    /// one for each page of the working set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub threads: Option<u32>,
    /// Whether writes that a stall of the guest prevents from then on are made up for afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
}

impl StressChange {
    /// The keys of this type, as messages list them.
    pub(crate) const KEYS: &'static str = "`rate`, `order`, `threads` and `catch_up`";

    /// Returns a copy of `workload` with the new values.
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

/// A resolved entry of a timeline: the whole link and the whole workload after the change.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The time of the change, counted from the migrate command.
    pub at: Span,
    /// The link after the change; absent if the entry does not change it.
    pub link: Option<Profile>,
    /// The workload after the change; absent if the entry does not change it.
    pub workload: Option<Workload>,
}

impl Settings {
    /// Resolves the timeline: applies its entries one after the other to the link and the workload.
    pub fn steps(&self) -> Vec<Step> {
        let (mut link, mut workload) = (self.link.clone(), self.workload());
        let step = |entry: &TimelineEntry| {
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
    fn settings_that_an_entry_does_not_name_stay_as_they_are() {
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
        assert_eq!(idle.working_set, Bytes::new(32_000_000), "follows from the original rate");
        let link = third.link.as_ref().unwrap();
        assert_eq!((link.rate, link.queue), (Some(BitRate::new(50_000_000)), None));
        assert_eq!(link.delay, Span::from_millis(1));
        let workload = third.workload.as_ref().unwrap();
        assert_eq!(workload.rate, Rate::Limited(ByteRate::new(8_000_000)));
        assert_eq!((workload.working_set, workload.threads), (Bytes::new(32_000_000), 2));
    }

    #[test]
    fn equal_changes_print_alike_and_read_back_unchanged() {
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
