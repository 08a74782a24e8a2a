//! The catalog of all settings by path, for axes and conditions, and suggestions for misspelt names.

use super::{
    settings::{Settings, field::Field},
    typed::ReadErrorKind,
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

/// Returns the setting with this path, such as `stress.rate`.
pub(crate) fn find(path: &str) -> Option<&'static Setting> {
    catalog().get(path).copied()
}

/// Returns whether `name` is a group of settings, such as `stress`.
pub(crate) fn is_section(name: &str) -> bool {
    Settings::SECTIONS.contains(&name) && find(name).is_none()
}

/// Returns advice on what to write instead of an invalid value, if that is known.
pub(crate) fn help(kind: &ReadErrorKind) -> Option<String> {
    match kind {
        ReadErrorKind::UnknownWord { found, known } => {
            nearest(found, known.iter().copied()).map(did_you_mean)
        }
        ReadErrorKind::UnknownKey { found, known } => Some(help_with_key(found, known)),
        ReadErrorKind::Mismatch { .. } | ReadErrorKind::MissingKey(_) | ReadErrorKind::Other(_) => None,
    }
}

/// Returns advice on what to write instead of a key that is not one of `known`.
pub(crate) fn help_with_key(found: &str, known: &[&str]) -> String {
    nearest(found, known.iter().copied())
        .map(did_you_mean)
        .or_else(|| suggest(found))
        .unwrap_or_else(|| format!("known keys: {}", known.join(", ")))
}

/// Returns advice on what to write instead of a path that is not that of a setting: the setting of that name
/// in some section, or else the one with the most similar path.
pub(crate) fn suggest(path: &str) -> Option<String> {
    let same_name = all().find(|setting| setting.path().rsplit('.').next() == Some(path));
    let nearest = || nearest(path, all().map(Field::path));
    same_name.map(Field::path).or_else(nearest).map(did_you_mean)
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// Returns the known name that a misspelt name most likely stands for, if one is similar enough.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
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
        assert_eq!(suggest("xyz"), None);
    }
}
