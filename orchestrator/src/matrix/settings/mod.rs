//! The settings of one migration: what a matrix file sets, axes vary, and a record repeats in full.
//!
//! Every setting has a default, so a file names only what it cares about. The types refuse values that mean
//! nothing on their own (a size without a unit); [`Settings::check`] refuses those that contradict each
//! other (a working set larger than the guest). Neither looks at the machine: what it lacks is found later.
//!
//! To add a setting, add its line to the section's `section!`: description, name, type and default. A setting
//! of the link is a field of [`Profile`](netem::Profile), and `link.rs` does not compile until it names it. A
//! type that no setting has had yet implements `SettingType`, in `value.rs`. To add a section, declare it in
//! a file of its own and add its line to `settings!` below. Parsing, defaults, the schema, axes, conditions,
//! suggestions, comparisons of two matrices and hashes follow; what settings must satisfy together is added
//! to `check.rs`.

use field::{Field, Section as _};
use std::{
    hash::{Hash, Hasher},
    sync::OnceLock,
};

mod check;
mod either;
pub(super) mod field;
mod guest;
mod link;
mod migrate;
mod probe;
mod stress;
mod timeline;
pub(super) mod value;

pub use check::{Problem, kernel_reserve};
pub use either::{Bandwidth, WorkingSet};
pub use guest::{Accel, Guest};
pub use migrate::Migrate;
pub use probe::Probe;
pub use stress::Stress;
pub use timeline::{Entry, LinkChange, Step, StressChange};

field::settings! {
    /// All settings of one migration, resolved: nothing is left to a default.
    pub struct Settings {
        /// The virtual machine that migrates.
        pub guest: Guest,
        /// The link between source and destination, the same in both directions.
        pub link: netem::Profile,
        /// The client that measures the downtime from outside.
        pub probe: Probe,
        /// What dirties the guest's memory.
        pub stress: Stress,
        /// How the guest is migrated, and when that is given up.
        pub migrate: Migrate,
        /// What changes in the middle of the migration, in order: of the link any setting, of the load what
        /// leaves the memory as it is.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub timeline: Vec<Entry>,
    }
}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for setting in Self::all() {
            setting.value(self).hash(state);
        }
    }
}

impl Settings {
    /// Every setting, in the order of the types.
    pub(crate) fn all() -> &'static [Field<Self>] {
        static ALL: OnceLock<Vec<Field<Settings>>> = OnceLock::new();
        ALL.get_or_init(Self::fields)
    }
}

#[cfg(test)]
mod tests {
    use super::{field::Section, value::Value, *};
    use crate::matrix::{diagnostic::FilePath, typed::Skipped};
    use serde_json::json;

    field::section! {
        /// A section.
        struct Kitchen {
            /// A setting.
            heat: u32 = 180,
            /// Another one.
            time: units::Span = units::Span::from_secs(60),
        }
    }

    field::settings! {
        /// Other settings.
        struct House {
            /// A section.
            kitchen: Kitchen,
        }
    }

    /// What [`super`] says is all that adding a section takes.
    #[test]
    fn a_line_declares_a_setting() {
        let fields = House::fields();
        assert_eq!(House::SECTIONS, ["kitchen"]);
        assert_eq!(fields.iter().map(Field::path).collect::<Vec<_>>(), ["kitchen.heat", "kitchen.time"]);
        let house = House::default();
        assert_eq!(fields[0].value(&house).to_string(), "180");
        let mut other = House::default();
        let at = FilePath::root();
        fields[1].read(&mut other, &json!("1min"), &at, &Skipped::default()).unwrap();
        assert_eq!(other, house);
        fields[1].read(&mut other, &json!("90s"), &at, &Skipped::default()).unwrap();
        let mut copy = House::default();
        fields[1].copy(&other, &mut copy);
        assert_eq!(
            (fields[1].value(&copy), copy.kitchen.heat),
            (Value::Span(units::Span::from_secs(90)), 180)
        );
        assert_eq!(
            serde_json::to_value(&copy).unwrap(),
            json!({ "kitchen": { "heat": 180, "time": "90s" } })
        );
    }

    #[test]
    fn every_setting_reads_what_it_prints() {
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
                setting.read(&mut copy, &json, &FilePath::root(), &Skipped::default()).unwrap();
                assert_eq!(copy, settings, "{}", setting.path());
            }
            settings = Settings::default();
        }
    }
}
