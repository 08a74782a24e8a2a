//! The changes of the link and the workload during a migration: the timeline and the workload's phases, as
//! one list of steps.

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
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};
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
    /// `rate` cannot be used with `stress.phases`, which sets the rate already.
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

/// A change during the migration: the whole link and the whole workload after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The time of the change, counted from the migrate command.
    pub at: Span,
    /// The link after the change; absent if the step does not change it.
    pub link: Option<Profile>,
    /// The workload after the change; absent if the step does not change it.
    pub workload: Option<Workload>,
}

/// What changes at one time.
#[derive(Default)]
struct Change<'a> {
    /// The rate of the phase that begins.
    phase: Option<Rate>,
    /// The entry of the timeline that is due.
    entry: Option<&'a TimelineEntry>,
}

impl Settings {
    /// Returns everything that changes during the migration, in the order of the times: the entries of the
    /// timeline, and the beginnings of all phases of the workload but the first, which is in force from
    /// before the migration. [`Settings::workload`] is the workload until the first step.
    ///
    /// A phase that begins at the deadline or later is left out, since no migration gets that far.
    pub fn steps(&self) -> Vec<Step> {
        let mut changes: BTreeMap<Span, Change<'_>> = BTreeMap::new();
        for (at, rate) in self.phase_starts().take_while(|(at, _)| *at < self.migrate.timeout) {
            changes.entry(at).or_default().phase = Some(rate);
        }
        for entry in &self.timeline {
            changes.entry(entry.at).or_default().entry = Some(entry);
        }
        self.resolve(changes)
    }

    /// Returns the step of each entry of the timeline, whatever the order of their times.
    pub(super) fn timeline_steps(&self) -> Vec<Step> {
        let change = |entry| Change { phase: None, entry: Some(entry) };
        self.resolve(self.timeline.iter().map(|entry| (entry.at, change(entry))))
    }

    /// Returns when each phase but the first begins, counted from the migrate command, and its rate.
    /// `stress.rate` follows the last phase, unless the phases are repeated. Then there are endlessly many.
    pub(super) fn phase_starts(&self) -> impl Iterator<Item = (Span, Rate)> {
        let phases = &self.stress.phases;
        let times = if self.stress.repeat_phases { usize::MAX } else { 1 };
        let repeated = || phases.iter().cycle().take(phases.len().saturating_mul(times));
        let next_rates = repeated().skip(1).map(|phase| phase.rate).chain([self.stress.rate]);
        let mut end = Span::ZERO;
        repeated().zip(next_rates).map(move |(phase, next)| {
            end = Span::from_nanos(end.as_nanos().saturating_add(phase.duration.as_nanos()));
            (end, next)
        })
    }

    /// Applies changes one after the other to the link and the workload.
    fn resolve<'a>(&self, changes: impl IntoIterator<Item = (Span, Change<'a>)>) -> Vec<Step> {
        let (mut link, mut workload) = (self.link.clone(), self.workload());
        let step = |(at, Change { phase, entry }): (Span, Change<'_>)| {
            let phase = phase.filter(|rate| *rate != workload.rate);
            let (on_link, on_stress) =
                entry.map_or((None, None), |entry| (entry.link.as_ref(), entry.stress.as_ref()));
            if let Some(change) = on_link {
                link = change.apply(&link);
            }
            if let Some(rate) = phase {
                workload.rate = rate;
            }
            if let Some(change) = on_stress {
                workload = change.apply(&workload);
            }
            let loaded = phase.is_some() || on_stress.is_some();
            // Two phases of the same rate in succession are no change.
            (loaded || entry.is_some()).then(|| Step {
                at,
                link: on_link.map(|_| link.clone()),
                workload: loaded.then(|| workload.clone()),
            })
        };
        changes.into_iter().filter_map(step).collect()
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

    /// Returns the times of all steps, each with the rate of its workload and of its link, as texts.
    fn shown(settings: &Settings) -> Vec<String> {
        let step = |step: Step| {
            let rate = step.workload.map_or("-".into(), |workload| workload.rate.to_string());
            let link = step.link.and_then(|link| link.rate).map_or("-".into(), |rate| rate.to_string());
            format!("{} {rate} {link}", step.at)
        };
        settings.steps().into_iter().map(step).collect()
    }

    #[test]
    fn phases_and_timeline_are_one_list_of_steps() {
        let phases = json!([
            { "rate": 0, "duration": "2s" },
            { "rate": "8MB/s", "duration": "1s" },
            { "rate": "8MB/s", "duration": "1s" },
            { "rate": "unlimited", "duration": "500ms" },
        ]);
        let stress = json!({ "rate": "16MB/s", "phases": phases });
        let alone = settings(json!({ "stress": stress }));
        assert_eq!(alone.check(), []);
        let workload = alone.workload();
        assert_eq!((workload.rate, workload.phases.len()), (Rate::IDLE, 0));
        assert_eq!(workload.working_set, Bytes::new(16_000_000), "follows from the rate after all phases");
        assert_eq!(shown(&alone), ["2s 8MB/s -", "4s unlimited -", "4500ms 16MB/s -"]);
        let both = settings(json!({ "stress": stress, "link": { "rate": "100mbit" }, "timeline": [
            { "at": "1s", "link": { "rate": "50mbit" } },
            { "at": "2s", "stress": { "threads": 2 }, "link": { "rate": "10mbit" } },
            { "at": "3s", "stress": { "threads": 3 } },
        ] }));
        assert_eq!(both.check(), []);
        let expected = ["1s - 50mbit", "2s 8MB/s 10mbit", "3s 8MB/s -", "4s unlimited -", "4500ms 16MB/s -"];
        assert_eq!(shown(&both), expected);
        let threads: Vec<_> =
            both.steps().iter().filter_map(|s| Some(s.workload.as_ref()?.threads)).collect();
        assert_eq!(threads, [2, 3, 3, 3]);
    }

    #[test]
    fn a_phase_that_would_begin_at_the_deadline_is_no_step() {
        let with = |timeout| {
            shown(&settings(json!({
                "stress": { "rate": "16MB/s", "phases": [{ "rate": 0, "duration": "100s" }] },
                "migrate": { "timeout": timeout },
            })))
        };
        assert_eq!(with("100s"), [""; 0]);
        assert_eq!(with("101s"), ["100s 16MB/s -"]);
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
