//! Which settings there are, by path: for axes, conditions and whoever misspells one.

use super::{
    settings::{Settings, field::Field},
    typed::Refusal,
};
use indexmap::IndexMap;
use std::sync::OnceLock;

/// A setting.
pub(crate) type Setting = Field<Settings>;

fn catalog() -> &'static IndexMap<&'static str, &'static Setting> {
    static CATALOG: OnceLock<IndexMap<&str, &Setting>> = OnceLock::new();
    CATALOG.get_or_init(|| Settings::all().iter().map(|setting| (setting.path(), setting)).collect())
}

/// Every setting, in the order of the types.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    Settings::all().iter()
}

/// The setting of this path.
pub(crate) fn find(path: &str) -> Option<&'static Setting> {
    catalog().get(path).copied()
}

/// Whether this is a group of settings, such as `stress`.
pub(crate) fn is_section(name: &str) -> bool {
    Settings::SECTIONS.contains(&name) && find(name).is_none()
}

/// What to write instead of what is refused, in words, where that is known.
pub(crate) fn help(refusal: &Refusal) -> Option<String> {
    match refusal {
        Refusal::Word { found, known } => {
            nearest(found, known.iter().copied()).map(|word| format!("the nearest is `{word}`"))
        }
        Refusal::Key { found, known } => Some(help_with_key(found, known)),
        Refusal::Mismatch { .. } | Refusal::Missing(_) | Refusal::Other(_) => None,
    }
}

/// What to write instead of a key that is not one of the known ones, in words.
pub(crate) fn help_with_key(found: &str, known: &[&str]) -> String {
    nearest(found, known.iter().copied())
        .map(|key| format!("the nearest known key is `{key}`"))
        .or_else(|| suggest(found))
        .unwrap_or_else(|| format!("the known keys are {}", known.join(", ")))
}

/// What to write instead of a path that is no setting, in words.
pub(crate) fn suggest(path: &str) -> Option<String> {
    let same_name = all().find(|setting| setting.path().rsplit('.').next() == Some(path));
    let nearest = || nearest(path, all().map(Field::path));
    same_name.map(Field::path).or_else(nearest).map(|path| format!("the nearest setting is `{path}`"))
}

/// The known name that a misspelt one is probably meant to be.
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
    use crate::matrix::settings::value::Compared;

    #[test]
    fn every_setting_is_known_by_its_path_with_what_can_be_asked_of_it_and_its_default() {
        let default = |path: &str| {
            let setting = find(path).unwrap_or_else(|| panic!("no {path}"));
            (setting.value(&Settings::default()).to_string(), setting.compared())
        };
        let expect =
            |path, text: &str, compared| assert_eq!(default(path), (text.into(), compared), "{path}");
        expect("guest.memory", "1GiB", Compared::Ordered);
        expect("guest.vcpus", "1", Compared::Ordered);
        expect("guest.accel", "auto", Compared::Equal);
        expect("guest.cpu", "none", Compared::Equal);
        expect("migrate.stall_detection", "true", Compared::Equal);
        expect("link.rate", "none", Compared::Ordered);
        expect("link.delay", "0", Compared::Ordered);
        expect("link.loss", "0", Compared::Ordered);
        expect("link.shaper", "tbf", Compared::Equal);
        expect("link.loss_bursts", "none", Compared::Absent);
        expect("stress.rate", "0", Compared::Ordered);
        expect("stress.working_set", "1s", Compared::Ordered);
        expect("stress.content", "random", Compared::Equal);
        expect("stress.phases", "[]", Compared::Never);
        expect("timeline", "none", Compared::Never);
        assert!(find("stress").is_none() && is_section("stress") && !is_section("timeline"));
    }

    /// That a path is spelled as serde spells it.
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
    fn a_misspelt_path_finds_its_neighbour() {
        assert_eq!(suggest("stress.rat").as_deref(), Some("the nearest setting is `stress.rate`"));
        assert_eq!(suggest("timeout").as_deref(), Some("the nearest setting is `migrate.timeout`"));
        assert_eq!(suggest("xyz"), None);
    }
}
