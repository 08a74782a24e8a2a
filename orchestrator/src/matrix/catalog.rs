//! The catalog of all settings by path, for axes and conditions, and suggestions for misspelt names.

use super::{
    diagnostic::{KeyPath, Segment},
    settings::{Settings, field::Field, value::Value},
    synonyms,
    typed::{ReadErrorKind, plain},
};
use indexmap::IndexMap;
use std::sync::OnceLock;

/// One setting of a migration, such as `stress.rate`.
pub(crate) type Setting = Field<Settings>;

fn catalog() -> &'static IndexMap<&'static str, &'static Setting> {
    static CATALOG: OnceLock<IndexMap<&str, &Setting>> = OnceLock::new();
    CATALOG.get_or_init(|| Settings::all().iter().map(|setting| (setting.path(), setting)).collect())
}

/// Returns all settings, in the order of the sections and of the settings in them.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    Settings::all().iter()
}

/// The sections that may be written as a single value, and the setting that the value gives: `storage:
/// block`.
const SECTIONS_BY_ONE_VALUE: [(&str, &str); 1] = [("storage", "storage.kind")];

/// Returns the setting with this path, such as `stress.rate`, or the one that a single value for this section
/// gives.
pub(crate) fn find(path: &str) -> Option<&'static Setting> {
    let by_one_value = SECTIONS_BY_ONE_VALUE.iter().find(|(section, _)| *section == path);
    catalog().get(by_one_value.map_or(path, |(_, setting)| setting)).copied()
}

/// Returns the names under which settings are found: their paths, and the sections that may be written as a
/// single value.
pub(crate) fn names() -> impl Iterator<Item = (&'static str, &'static Setting)> {
    let by_one_value =
        SECTIONS_BY_ONE_VALUE.iter().filter_map(|(section, _)| Some((*section, find(section)?)));
    all().map(|setting| (setting.path(), setting)).chain(by_one_value)
}

/// Returns whether `name` is a group of settings, such as `stress`.
pub(crate) fn is_section(name: &str) -> bool {
    Settings::SECTIONS.contains(&name) && find(name).is_none()
}

/// Returns advice on what to write instead of an invalid value, if that is known. `at` is the path of the
/// value or, for an unknown key, of that key.
pub(crate) fn help(kind: &ReadErrorKind, at: &KeyPath) -> Option<String> {
    match kind {
        ReadErrorKind::UnknownWord { found, known } => {
            let word = synonyms::word(found, known).map(did_you_mean);
            let not_made = || synonyms::not_made(found).map(Into::into);
            word.or_else(not_made).or_else(|| nearest(found, known.iter().copied()).map(did_you_mean))
        }
        ReadErrorKind::UnknownKey { found, known } => Some(help_with_key(found, known, mapping_of(at))),
        ReadErrorKind::Mismatch { .. } if last_key(at.segments()) == Some("cpu") => {
            Some("the number of CPUs is `guest.vcpus`; `guest.cpu` is their model".into())
        }
        ReadErrorKind::Mismatch { .. } | ReadErrorKind::MissingKey(_) | ReadErrorKind::Other(_) => None,
    }
}

/// Returns advice on a text that means an absent value in other formats, if the setting at this path can be
/// absent.
pub(crate) fn help_with_absence(text: &str, at: &KeyPath) -> Option<String> {
    const WORDS: [&str; 9] =
        ["unlimited", "infinite", "infinity", "inf", "nil", "disabled", "off", "no", "default"];
    let mut keys = at.segments().iter().rev().filter_map(Segment::as_key);
    let last = keys.next()?;
    let setting = find(last).or_else(|| find(&format!("{}.{last}", keys.next()?)))?;
    let can_be_absent = setting.value(&Settings::default()) == Value::None;
    let means_absent = WORDS.iter().any(|word| word.eq_ignore_ascii_case(text.trim()));
    (can_be_absent && means_absent).then(|| "an absent value is written `none`".into())
}

/// Returns the last key of a path; of a key that is itself a path, such as `link.slots`, the last part.
fn last_key(path: &[Segment]) -> Option<&str> {
    let key = path.iter().rev().find_map(Segment::as_key)?;
    key.rsplit('.').next()
}

/// Returns the name of the section or the list that the key at this path belongs to; none at the top level.
fn mapping_of(at: &KeyPath) -> Option<&str> {
    let (_, mapping) = at.segments().split_last()?;
    last_key(mapping)
}

/// Returns advice on what to write instead of a key that is not one of `known`, the keys of `mapping`.
pub(crate) fn help_with_key(found: &str, known: &[&str], mapping: Option<&str>) -> String {
    let misspelt = || {
        let other = nearest(found, synonyms::all())?;
        let is_close = strsim::jaro_winkler(found, other) > 0.94;
        is_close.then(|| help_with_synonym(other, known, mapping)).flatten()
    };
    help_with_synonym(found, known, mapping)
        .or_else(|| synonyms::not_made(found).map(Into::into))
        .or_else(|| nearest(found, known.iter().copied()).map(did_you_mean))
        .or_else(misspelt)
        .or_else(|| suggest(found))
        .unwrap_or_else(|| format!("known keys: {}", known.join(", ")))
}

/// Returns advice on what to write instead of a key, if it is another spelling of a known key or another name
/// of a known key or of a setting.
fn help_with_synonym(found: &str, known: &[&str], mapping: Option<&str>) -> Option<String> {
    for form in &synonyms::forms(found) {
        if let Some(name) = known.iter().find(|name| plain(name) == *form) {
            return Some(did_you_mean(name));
        }
        let here = |key: &'static str| match (mapping, key.rsplit_once('.')) {
            (None, None) => known.contains(&key).then_some(key),
            (Some(mapping), Some((section, name))) => {
                (mapping == section && known.contains(&name)).then_some(name)
            }
            _ => None,
        };
        let mut meant: Vec<&str> = synonyms::keys(form).into_iter().filter_map(here).collect();
        if meant.is_empty() || mapping.is_none() {
            meant.extend(elsewhere(form));
        }
        if !meant.is_empty() {
            return Some(did_you_mean_one_of(found, &meant));
        }
    }
    let meant = with_section(found);
    (!meant.is_empty()).then(|| did_you_mean_one_of(found, &meant))
}

/// Returns the settings that a form of a name without a section may mean: those with this name, or else those
/// for which it is another name.
fn elsewhere(form: &str) -> Vec<&'static str> {
    named(form, |_| true)
}

/// Returns the settings whose path satisfies `is_meant` and whose name is this form, or else those for which
/// the form is another name.
fn named(form: &str, is_meant: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let has_name = |path: &&str| path.rsplit('.').next().is_some_and(|name| plain(name) == form);
    let same: Vec<&str> = all().map(Field::path).filter(|path| is_meant(path)).filter(has_name).collect();
    if !same.is_empty() {
        return same;
    }
    synonyms::keys(form).into_iter().filter(|key| find(key).is_some() && is_meant(key)).collect()
}

/// Returns the settings of a section with this name or for which it is another name. The section may be given
/// by another name, too.
fn within(section: &str, name: &str) -> Vec<&'static str> {
    let section = plain(section);
    let spelled = Settings::SECTIONS.iter().copied().filter(|known| plain(known) == section);
    let sections: Vec<&str> = spelled.chain(synonyms::keys(&section)).collect();
    let in_section =
        |path: &str| path.split_once('.').is_some_and(|(section, _)| sections.contains(&section));
    let found =
        synonyms::forms(name).iter().map(|form| named(form, in_section)).find(|found| !found.is_empty());
    found.unwrap_or_default()
}

/// Returns the settings that may be meant by a name that begins with the name of a section:
/// `network_latency`.
fn with_section(name: &str) -> Vec<&'static str> {
    let name = synonyms::snake(name);
    let parts = name.match_indices('_').map(|(at, _)| within(&name[..at], &name[at + 1..]));
    parts.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

/// Returns advice on what to write instead of a path that is not the path of a setting: the setting of that
/// name or with that other name, in the section of the path if it has one, or else the setting with the most
/// similar path.
pub(crate) fn suggest(path: &str) -> Option<String> {
    let (section, name) = path.split_once('.').map_or((None, path), |(section, name)| (Some(section), name));
    let mut meant = section.map(|section| within(section, name)).unwrap_or_default();
    if meant.is_empty() {
        let found = synonyms::forms(name).iter().map(|form| elsewhere(form)).find(|found| !found.is_empty());
        meant = found.unwrap_or_else(|| with_section(name));
    }
    if !meant.is_empty() {
        return Some(did_you_mean_one_of(name, &meant));
    }
    let not_made = synonyms::not_made(name).map(Into::into);
    not_made.or_else(|| nearest(path, all().map(Field::path)).map(did_you_mean))
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// Returns the question that offers all settings for which `found` is another name.
fn did_you_mean_one_of(found: &str, names: &[&str]) -> String {
    let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
    let round_trip =
        synonyms::forms(found).iter().any(|form| matches!(form.as_str(), "rtt" | "roundtriptime"));
    let note = if round_trip { " It is one way: half of the round-trip time." } else { "" };
    format!("did you mean {names}?{note}")
}

/// Returns the known name that a misspelt name most likely means, if one is similar enough.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::settings::value::Comparability;

    #[test]
    fn settings_are_listed_with_their_defaults_and_comparability() {
        let default = |path: &str| {
            let setting = find(path).unwrap_or_else(|| panic!("no {path}"));
            (setting.value(&Settings::default()).to_string(), setting.comparability())
        };
        let expect = |path, text: &str, comparability| {
            assert_eq!(default(path), (text.into(), comparability), "{path}");
        };
        expect("guest.memory", "1GiB", Comparability::Ordered);
        expect("guest.vcpus", "1", Comparability::Ordered);
        expect("guest.accel", "auto", Comparability::EqualityOnly);
        expect("guest.cpu", "none", Comparability::EqualityOnly);
        expect("migrate.stall_detection", "true", Comparability::EqualityOnly);
        expect("link.rate", "none", Comparability::Ordered);
        expect("link.delay", "0", Comparability::Ordered);
        expect("link.loss", "0", Comparability::Ordered);
        expect("link.shaper", "tbf", Comparability::EqualityOnly);
        expect("link.loss_bursts", "none", Comparability::AbsenceOnly);
        expect("stress.rate", "0", Comparability::Ordered);
        expect("stress.working_set", "1s", Comparability::Ordered);
        expect("stress.content", "random", Comparability::EqualityOnly);
        expect("stress.phases", "[]", Comparability::Never);
        expect("stress.wave", "none", Comparability::EqualityOnly);
        expect("stress.trace", "none", Comparability::EqualityOnly);
        expect("link.trace", "none", Comparability::EqualityOnly);
        expect("link.repeat_trace", "true", Comparability::EqualityOnly);
        expect("link.tcp_tuning", "true", Comparability::EqualityOnly);
        expect("timeline", "none", Comparability::Never);
        assert!(find("stress").is_none() && is_section("stress") && !is_section("timeline"));
    }

    /// Checks that paths are spelled as serde spells the keys.
    #[test]
    fn the_settings_are_those_of_the_schema() {
        let root = super::super::schema::of::<Settings>();
        let mut paths = Vec::new();
        for (section, schema) in super::super::schema::properties(&root, &root) {
            let names = super::super::schema::properties(&root, schema);
            paths.extend(names.iter().map(|(name, _)| format!("{section}.{name}")));
            if names.is_empty() {
                paths.push(section.into());
            }
        }
        assert!(all().map(Field::path).eq(paths.iter().map(String::as_str)), "{paths:?}");
    }

    #[test]
    fn a_misspelt_path_gets_a_suggestion() {
        assert_eq!(suggest("stress.rat").as_deref(), Some("did you mean `stress.rate`?"));
        assert_eq!(suggest("timeout").as_deref(), Some("did you mean `migrate.timeout`?"));
        assert_eq!(suggest("Stress.Rate").as_deref(), Some("did you mean `stress.rate`?"));
        assert_eq!(
            suggest("migrate.downtime-limit").as_deref(),
            Some("did you mean `migrate.downtime_limit`?")
        );
        assert_eq!(
            suggest("rate").as_deref(),
            Some("did you mean `link.rate` or `storage_link.rate` or `stress.rate`?")
        );
        assert_eq!(suggest("xyz"), None);
    }

    /// Returns the keys of a section, or of a mapping in a list.
    fn keys_of(mapping: Option<&str>) -> Vec<String> {
        let root = super::super::schema::of::<super::super::File>();
        let definition = match mapping {
            None => return names(&root, &root),
            Some("loss_bursts") => "GilbertElliott",
            Some("slots") => "Slots",
            Some("phases") => "Phase",
            Some("wave") => "Wave",
            Some("timeline") => "TimelineEntry",
            Some("expect") => "Expectation",
            Some("reference") => "Reference",
            Some("rows") => "ReferenceRow",
            Some(section) => return names(&root, &root["properties"][section]),
        };
        names(&root, &root["$defs"][definition])
    }

    fn names(root: &serde_json::Value, schema: &serde_json::Value) -> Vec<String> {
        super::super::schema::properties(root, schema).into_iter().map(|(name, _)| name.into()).collect()
    }

    #[test]
    fn every_synonym_points_to_a_key_and_is_none_itself() {
        let mut seen = std::collections::HashSet::new();
        for (key, others) in synonyms::SYNONYMS {
            let (mapping, name) =
                key.rsplit_once('.').map_or((None, *key), |(mapping, name)| (Some(mapping), name));
            let known = keys_of(mapping);
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            assert!(known.contains(&name), "{key} does not exist");
            for other in *others {
                assert!(
                    known.iter().all(|known| plain(known) != plain(other)),
                    "{other} is a key beside {key}"
                );
                assert!(seen.insert((mapping, plain(other))), "{other} is listed twice beside {key}");
                for spelling in [(*other).to_owned(), other.to_uppercase(), other.replace('_', "-")] {
                    let help = help_with_key(&spelling, &known, mapping);
                    assert!(help.contains(&format!("`{name}`")), "{spelling} beside {key}: {help}");
                }
                if find(key).is_some() {
                    let help = suggest(&format!("{}.{other}", mapping.unwrap_or_default())).unwrap();
                    assert!(help.starts_with(&format!("did you mean `{key}`?")), "{other}: {help}");
                    let help = suggest(other).unwrap();
                    assert!(
                        help.contains(&format!("`{key}`")) || !elsewhere(&plain(other)).is_empty(),
                        "{other}: {help}"
                    );
                }
            }
        }
        for mapping in [None, Some("guest"), Some("phases")] {
            let known = keys_of(mapping);
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            for other in synonyms::all() {
                let help = help_with_key(other, &known, mapping);
                assert!(!help.contains(&format!("`{other}`")) || known.contains(&other), "{other}: {help}");
            }
        }
    }

    #[test]
    fn names_brought_from_elsewhere_point_to_ours() {
        let help = |found: &str, mapping: Option<&str>| {
            let known = keys_of(mapping);
            help_with_key(found, &known.iter().map(String::as_str).collect::<Vec<_>>(), mapping)
        };
        assert_eq!(help("max_downtime", Some("migrate")), "did you mean `downtime_limit`?");
        assert_eq!(help("max_downtime", None), "did you mean `migrate.downtime_limit`?");
        assert_eq!(help("cpus", Some("guest")), "did you mean `vcpus`?");
        assert_eq!(help("bandwidth", Some("link")), "did you mean `rate`?");
        assert_eq!(help("bandwidth", Some("migrate")), "did you mean `max_bandwidth`?");
        assert_eq!(help("bandwidth", None), "did you mean `link.rate` or `migrate.max_bandwidth`?");
        assert_eq!(help("bandwidth_mbps", Some("link")), "did you mean `rate`?");
        assert_eq!(help("latency", Some("link")), "did you mean `delay`?");
        assert_eq!(
            help("rtt", Some("link")),
            "did you mean `delay`? It is one way: half of the round-trip time."
        );
        assert_eq!(help("ram", Some("guest")), "did you mean `memory`?");
        assert_eq!(help("dirty-rate", None), "did you mean `stress.rate`?");
        assert_eq!(help("dirty_rate", Some("migrate")), "did you mean `stress.rate`?");
        assert_eq!(help("hugepages", Some("guest")), "did you mean `stress.page_size`?");
        assert_eq!(help("downtimeLimit", Some("migrate")), "did you mean `downtime_limit`?");
        assert_eq!(help("iterations", None), "did you mean `repeat` or `migrate.max_passes`?");
        assert_eq!(help("rate", None), "did you mean `link.rate` or `storage_link.rate` or `stress.rate`?");
        assert_eq!(help("vm", None), "did you mean `guest`?");
        assert_eq!(help("memory_mb", None), "did you mean `guest.memory`?");
        assert_eq!(help("rateMbit", Some("link")), "did you mean `rate`?");
        assert_eq!(help("num_vcpus", None), "did you mean `guest.vcpus`?");
        assert_eq!(help("vcpuCount", Some("guest")), "did you mean `vcpus`?");
        assert_eq!(help("network_bandwidth", None), "did you mean `link.rate`?");
        assert_eq!(help("migration_timeout", None), "did you mean `migrate.timeout`?");
        assert_eq!(help("bandwith", Some("link")), "did you mean `rate`?");
        assert_eq!(help("timeout_seconds", None), "did you mean `migrate.timeout`?");
        assert_eq!(help("auto-converge", Some("migrate")), "did you mean `auto_converge`?");
        assert_eq!(help("multifd-channels", Some("migrate")), "did you mean `multifd_channels`?");
        assert_eq!(help("compression", Some("migrate")), "did you mean `multifd_compression`?");
        assert!(help("rdma", Some("migrate")).starts_with("COLO and background snapshots are not"));
        assert_eq!(help("oscillating", Some("stress")), "did you mean `wave`?");
        assert_eq!(help("sine", None), "did you mean `stress.wave`?");
        assert_eq!(help("mahimahi", Some("link")), "did you mean `trace`?");
        assert_eq!(help("peak", Some("wave")), "did you mean `high`?");
        assert_eq!(suggest("vm.ram").as_deref(), Some("did you mean `guest.memory`?"));
        assert_eq!(suggest("network.latency").as_deref(), Some("did you mean `link.delay`?"));
        assert_eq!(suggest("guest.dirty_rate").as_deref(), Some("did you mean `stress.rate`?"));
    }

    #[test]
    fn every_other_word_points_to_one_of_ours() {
        use crate::{
            matrix::{Accel, CellOrder, WaveShape},
            mode::Mode,
            outcome::Outcome,
        };
        use netem::{Distribution, Shaper};
        use stressor::workload::{CatchUp, PageSize, Write};

        /// Returns the help for a word that no variant of `T` has.
        fn help_with<T: serde::de::DeserializeOwned>(word: &str) -> Option<String> {
            let kind = crate::matrix::typed::from_text::<T>(word).err()?;
            help(&kind, &KeyPath::root())
        }
        for (word, others) in synonyms::WORDS {
            for other in *others {
                let found = [
                    help_with::<Outcome>(other),
                    help_with::<Mode>(other),
                    help_with::<Accel>(other),
                    help_with::<CellOrder>(other),
                    help_with::<Shaper>(other),
                    help_with::<Distribution>(other),
                    help_with::<PageSize>(other),
                    help_with::<Write>(other),
                    help_with::<CatchUp>(other),
                    help_with::<WaveShape>(other),
                ];
                let wanted = did_you_mean(word);
                assert!(found.iter().flatten().any(|help| *help == wanted), "{other}: {found:?}");
            }
        }
        assert_eq!(help_with::<Outcome>("success").as_deref(), Some("did you mean `converged`?"));
        assert!(help_with::<Mode>("rdma").unwrap().starts_with("COLO and background snapshots are not"));
    }
}
