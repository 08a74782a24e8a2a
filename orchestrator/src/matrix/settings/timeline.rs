//! The changes of the link and the workload during a migration: the timeline, and the rates that follow a
//! course, as one list of steps.

use super::{
    Settings,
    field::{Field, Section},
    link,
};
use netem::Profile;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use stressor::workload::{CatchUp, Order, Rate, Workload};
use units::{BitRate, Span};

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
    /// the source; with post-copy, the link changes until all of the memory has arrived.
    pub at: Span,
    /// The settings of the link that change, in both directions. All others stay as they are. `null` resets
    /// an optional setting, such as `rate`, to its default. `rate` cannot be used with `link.trace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkChange>,
    /// The settings of the workload that change. All others stay as they are, and so does the guest's memory.
    /// `rate` cannot be used with `stress.phases`, `stress.wave` or `stress.trace`, which set the rate
    /// already.
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

    /// Returns whether the rate of the link changes.
    pub(super) fn sets_rate(&self) -> bool {
        self.keys.contains("rate")
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
                    let values = link::one_key(&key, &mut map)?;
                    // Finds exactly one field: `Profile` has already rejected unknown keys.
                    for field in link::fields().iter().filter(|field| field.path() == key) {
                        field.copy(&values, &mut change.values);
                        change.keys.insert(field.path());
                    }
                }
                Ok(change)
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
    /// Whether the step may be skipped if the next one is already due, because that one includes all of its
    /// changes. An entry of the timeline is never left out.
    pub may_be_late: bool,
}

/// The changes that are due at one time.
#[derive(Default)]
struct Change<'a> {
    /// The new dirty rate, if it follows a course.
    load: Option<Rate>,
    /// The new rate of the link, if it follows a course.
    link: Option<BitRate>,
    /// The entry of the timeline that is due.
    entry: Option<&'a TimelineEntry>,
}

impl Settings {
    /// Returns everything that changes during the migration, in the order of the times: the entries of the
    /// timeline, and all rates of phases, waves and traces but the first, which is in force from before the
    /// migration. Until the first step, the workload is [`Settings::workload`], and the link is
    /// [`Link::at_start`](super::Link::at_start).
    ///
    /// A rate that begins at the deadline or later is left out, since no migration gets that far.
    pub fn steps(&self) -> Vec<Step> {
        let mut changes: BTreeMap<Span, Change<'_>> = BTreeMap::new();
        let timeout = self.migrate.timeout;
        if let Some(load) = self.stress.course() {
            for (at, rate) in load.changes().take_while(|(at, _)| *at < timeout) {
                changes.entry(at).or_default().load = Some(rate);
            }
        }
        if let Some(link) = self.link.course() {
            for (at, rate) in link.changes().take_while(|(at, _)| *at < timeout) {
                changes.entry(at).or_default().link = Some(rate);
            }
        }
        for entry in &self.timeline {
            changes.entry(entry.at).or_default().entry = Some(entry);
        }
        self.resolve(changes)
    }

    /// Returns the step of each entry of the timeline, whatever the order of their times.
    pub(super) fn timeline_steps(&self) -> Vec<Step> {
        let change = |entry| Change { entry: Some(entry), ..Change::default() };
        self.resolve(self.timeline.iter().map(|entry| (entry.at, change(entry))))
    }

    /// Applies changes one after the other to the link and the workload.
    fn resolve<'a>(&self, changes: impl IntoIterator<Item = (Span, Change<'a>)>) -> Vec<Step> {
        let (mut link, mut workload) = (self.link.at_start(), self.workload());
        let step = |(at, Change { load, link: link_rate, entry }): (Span, Change<'_>)| {
            // Two successive phases with the same rate are not a change.
            let load = load.filter(|rate| *rate != workload.rate);
            let link_rate = link_rate.filter(|rate| Some(*rate) != link.rate);
            let (on_link, on_stress) =
                entry.map_or((None, None), |entry| (entry.link.as_ref(), entry.stress.as_ref()));
            if let Some(change) = on_link {
                link = change.apply(&link);
            }
            if let Some(rate) = link_rate {
                link.rate = Some(rate);
            }
            if let Some(rate) = load {
                workload.rate = rate;
            }
            if let Some(change) = on_stress {
                workload = change.apply(&workload);
            }
            let shaped = link_rate.is_some() || on_link.is_some();
            let loaded = load.is_some() || on_stress.is_some();
            (shaped || loaded || entry.is_some()).then(|| Step {
                at,
                link: shaped.then(|| link.clone()),
                workload: loaded.then(|| workload.clone()),
                may_be_late: entry.is_none(),
            })
        };
        changes.into_iter().filter_map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use units::{ByteRate, Bytes};

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
