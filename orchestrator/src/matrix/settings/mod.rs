//! The settings of one migration. A matrix file sets them, its axes vary them, and every record contains all
//! of them.
//!
//! Every setting has a default, so a file only needs the settings that matter to its author. The types reject
//! values that are invalid by themselves (a size without a unit); [`Settings::check`] rejects values that
//! contradict each other (a working set larger than the guest). Neither looks at the host: whether the host
//! has what a cell needs is checked later.
//!
//! # Adding a setting
//!
//! Add a line to the `section!` of its section, with its description, name, type and default. If the type is
//! new among settings, implement `SettingType` for it in `value.rs`. A setting of the link is a field of
//! [`Profile`](netem::Profile); `link.rs` does not compile until it lists that field. Its trace is a field of
//! [`Link`].
//!
//! To add a section, declare it in its own file and add its line to `settings!` below.
//!
//! Parsing, defaults, the schema, axes, conditions, suggestions, comparisons of two matrices and hashes
//! follow from these declarations. Add conditions that several settings must satisfy together to `check.rs`.

use field::{Field, Section as _};
use std::{
    hash::{Hash, Hasher},
    sync::OnceLock,
};

mod check;
mod course;
mod either;
pub(super) mod field;
mod guest;
mod link;
mod migrate;
mod probe;
mod storage;
mod stress;
mod timeline;
mod trace;
pub(super) mod value;
mod wave;
mod way;

pub use check::{SettingsError, kernel_reserve};
pub use course::Cycle;
pub use either::{Bandwidth, WorkingSet};
pub use guest::{Accel, Guest};
pub use link::Link;
pub use migrate::{Migrate, Transport, ZeroPageDetection};
pub use probe::Probe;
pub use storage::{CacheMode, ImageFormat, MirrorSync, Storage, StorageKind};
pub use stress::Stress;
pub use timeline::{LinkChange, Step, StressChange, TimelineEntry};
pub use trace::{LoadRate, TraceFile};
pub use wave::{Wave, WaveShape};

field::settings! {
    /// All settings of one migration. Each has a value: the default applies to settings that are not given.
    pub struct Settings {
        /// The guest: the virtual machine that migrates.
        pub guest: Guest,
        /// The migration link between source and destination, shaped alike in both directions. The default is
        /// a link that is not shaped.
        pub link: Link,
        /// The guest's disk: where it is stored, and so how it gets to the destination. By default the guest
        /// has no disk.
        #[serde(skip_serializing_if = "is_default")]
        pub storage: Storage,
        /// The links from the controller to each compute node, over which a `shared` disk is read and
        /// written. The properties hold for each link and each direction by itself. They are shaped by the
        /// kernel. By default they are not shaped.
        #[serde(skip_serializing_if = "is_default")]
        pub storage_link: netem::Profile,
        /// The probe: the client that pings the guest, and so measures the downtime from outside.
        pub probe: Probe,
        /// The workload in the guest: how its memory is dirtied while it migrates.
        pub stress: Stress,
        /// How the guest is migrated, and when the migration is given up.
        pub migrate: Migrate,
        /// Changes of the link and the workload during the migration, in the order of their times. Any
        /// setting of the link can change, and those of the workload that leave the guest's memory as it is:
        /// `rate`, `order`, `threads` and `catch_up`. An axis can vary the timeline as a whole.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub timeline: Vec<TimelineEntry>,
    }
}

/// Returns whether a value is the default, which serde then leaves out: results of versions that did not have
/// it look the same.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for setting in Self::all() {
            setting.value(self).hash(state);
        }
    }
}

impl Settings {
    /// Returns the texts of the traces that have been read, with the paths of the settings that name them.
    pub(super) fn traces(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let link = self.link.trace.as_ref().and_then(TraceFile::text).map(|text| ("link.trace", text));
        let load = self.stress.trace.as_ref().and_then(TraceFile::text).map(|text| ("stress.trace", text));
        link.into_iter().chain(load)
    }

    /// Returns all settings, in the order of the sections and of the settings in them.
    pub(crate) fn all() -> &'static [Field<Self>] {
        static ALL: OnceLock<Vec<Field<Settings>>> = OnceLock::new();
        ALL.get_or_init(Self::fields)
    }
}

#[cfg(test)]
mod tests {
    use super::{field::Section, value::Value, *};
    use crate::matrix::{diagnostic::KeyPath, typed::SkippedValues};
    use serde_json::json;

    field::section! {
        /// An example of a section's declaration.
        struct ExampleSection {
            /// A setting that is a plain number.
            count: u32 = 180,
            /// A setting that has a unit.
            time: units::Span = units::Span::from_secs(60),
        }
    }

    field::settings! {
        /// Settings with a single section.
        struct ExampleSettings {
            /// The only section of these settings.
            example: ExampleSection,
        }
    }

    /// Checks that one line declares a setting, as the module's documentation promises.
    #[test]
    fn one_line_declares_a_setting() {
        let fields = ExampleSettings::fields();
        assert_eq!(ExampleSettings::SECTIONS, ["example"]);
        assert_eq!(fields.iter().map(Field::path).collect::<Vec<_>>(), ["example.count", "example.time"]);
        let defaults = ExampleSettings::default();
        assert_eq!(fields[0].value(&defaults).to_string(), "180");
        let mut other = ExampleSettings::default();
        let at = KeyPath::root();
        fields[1].read(&mut other, &json!("1min"), &at, &SkippedValues::default()).unwrap();
        assert_eq!(other, defaults);
        fields[1].read(&mut other, &json!("90s"), &at, &SkippedValues::default()).unwrap();
        let mut copy = ExampleSettings::default();
        fields[1].copy(&other, &mut copy);
        assert_eq!(
            (fields[1].value(&copy), copy.example.count),
            (Value::Span(units::Span::from_secs(90)), 180)
        );
        assert_eq!(
            serde_json::to_value(&copy).unwrap(),
            json!({ "example": { "count": 180, "time": "90s" } })
        );
    }

    #[test]
    fn every_setting_reads_back_what_it_prints() {
        let mut settings: Settings = serde_json::from_value(json!({
            "link": { "loss_bursts": { "enter": "1%", "leave": "50%" }, "loss": "0.5%", "reorder_gap": 5,
                      "slots": { "min_delay": "1ms", "max_delay": "2ms" } },
            "stress": { "phases": [{ "rate": "1MB/s", "duration": "1s" }], "order": "hot-cold:90%/10%" },
            "timeline": [{ "at": "1s", "link": { "rate": null, "loss": "0%" }, "stress": { "rate": 0 } }],
        }))
        .unwrap();
        for _ in 0..2 {
            for setting in Settings::all() {
                let value = setting.value(&settings);
                let mut copy = settings.clone();
                let json = if setting.path() == "timeline" && value == Value::None {
                    json!([])
                } else {
                    value.to_json()
                };
                setting.read(&mut copy, &json, &KeyPath::root(), &SkippedValues::default()).unwrap();
                assert_eq!(copy, settings, "{}", setting.path());
            }
            settings = Settings::default();
        }
    }
}
