//! Which settings there are, and what each takes: read out of the JSON Schema of [`Settings`], so that the
//! types stay the only list. Unknown keys, unknown paths, expressions and the matrix file's own schema all
//! ask here.

use super::settings::Settings;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// Everything that can be set, in the order of the types.
#[derive(Debug)]
pub(crate) struct Catalog {
    entries: Vec<Entry>,
}

/// One setting.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its dotted path: `stress.rate`.
    pub(crate) path: String,
    /// What it takes.
    pub(crate) kind: Kind,
    /// What it is when nothing sets it, as text.
    pub(crate) default: String,
    /// Its schema, for the schema of the file.
    pub(crate) schema: Value,
}

/// What a setting takes. Several at once, where it takes either.
#[expect(clippy::struct_excessive_bools, reason = "a set, most of whose members are plain")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The quantities, told apart by their units.
    pub(crate) quantities: Vec<Quantity>,
    /// Fixed words.
    pub(crate) words: Vec<String>,
    /// Any text.
    pub(crate) text: bool,
    /// Plain numbers.
    pub(crate) number: bool,
    /// `true` and `false`.
    pub(crate) flag: bool,
    /// Nothing at all.
    pub(crate) optional: bool,
    /// A list or a mapping.
    pub(crate) structured: bool,
}

/// What is measured in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    Bytes,
    ByteRate,
    BitRate,
    Span,
    Percent,
}

impl Catalog {
    /// The settings of this program.
    pub(crate) fn get() -> &'static Self {
        static CATALOG: OnceLock<Catalog> = OnceLock::new();
        CATALOG.get_or_init(Self::build)
    }

    fn build() -> Self {
        let root = schema_of::<Settings>();
        let defaults = serde_json::to_value(Settings::default()).unwrap_or_default();
        let mut entries = Vec::new();
        for (section, schema) in properties(&root, &root) {
            let settings = properties(&root, schema);
            if settings.is_empty() {
                // A setting by itself.
                let mut kind = Kind::default();
                kind.read(&root, schema);
                let default = text_of(&defaults[section]);
                entries.push(Entry { path: section.into(), kind, default, schema: schema.clone() });
            }
            for (name, schema) in settings {
                let mut kind = Kind::default();
                kind.read(&root, schema);
                let path = format!("{section}.{name}");
                let default = match &defaults[section][name] {
                    // Left out when it is the default: an absent option, or something that is zero or the
                    // first of its words.
                    Value::Null if kind.optional => text_of(&Value::Null),
                    Value::Null if kind.quantities.is_empty() => {
                        kind.words.first().cloned().unwrap_or_else(|| text_of(&Value::Null))
                    }
                    Value::Null => "0".into(),
                    value => text_of(value),
                };
                entries.push(Entry { path, kind, default, schema: schema.clone() });
            }
        }
        Self { entries }
    }

    /// The setting of this path.
    pub(crate) fn find(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// Every setting.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether this is a group of settings, such as `stress`.
    pub(crate) fn is_section(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.path.split_once('.').is_some_and(|(section, _)| section == name))
    }

    /// What to write instead of a path that is no setting, in words.
    pub(crate) fn suggest(&self, path: &str) -> Option<String> {
        let same_name = |entry: &&Entry| entry.path.rsplit('.').next() == Some(path);
        if let Some(entry) = self.entries.iter().find(same_name) {
            return Some(format!("the nearest setting is `{}`", entry.path));
        }
        nearest(path, self.entries.iter().map(|entry| entry.path.as_str()))
            .map(|path| format!("the nearest setting is `{path}`"))
    }
}

impl Kind {
    /// Adds what a schema admits.
    fn read(&mut self, root: &Value, schema: &Value) {
        let target = match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                let quantity = match reference.rsplit('/').next() {
                    Some("Bytes") => Some(Quantity::Bytes),
                    Some("ByteRate") => Some(Quantity::ByteRate),
                    Some("BitRate") => Some(Quantity::BitRate),
                    Some("Span") => Some(Quantity::Span),
                    Some("Percent") => Some(Quantity::Percent),
                    _ => None,
                };
                if let Some(quantity) = quantity {
                    self.quantities.push(quantity);
                    return;
                }
                resolve(root, schema)
            }
            None => schema,
        };
        for alternatives in ["anyOf", "oneOf", "allOf"] {
            for schema in target.get(alternatives).and_then(Value::as_array).into_iter().flatten() {
                self.read(root, schema);
            }
        }
        let words = target.get("enum").and_then(Value::as_array).into_iter().flatten();
        let words = words.chain(target.get("const")).filter_map(Value::as_str).map(String::from);
        let known = self.words.len();
        self.words.extend(words);
        let types = match target.get("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        for name in types {
            match name {
                "string" => self.text |= self.words.len() == known,
                "integer" | "number" => self.number = true,
                "boolean" => self.flag = true,
                "null" => self.optional = true,
                "array" | "object" => self.structured = true,
                _ => {}
            }
        }
    }
}

/// A schema generator as this program uses it, here and for the file's schema.
pub(crate) fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

fn schema_of<T: schemars::JsonSchema>() -> Value {
    generator().into_root_schema_for::<T>().to_value()
}

/// Follows a reference inside a schema.
pub(crate) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.trim_start_matches('#')))
        .unwrap_or(schema)
}

/// The keys a schema knows, with the schema of each.
pub(crate) fn properties<'a>(root: &'a Value, schema: &'a Value) -> Vec<(&'a str, &'a Value)> {
    let schema = resolve(root, schema);
    let own = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut all: Vec<_> = own.map(|(name, schema)| (name.as_str(), schema)).collect();
    for alternatives in ["anyOf", "oneOf", "allOf"] {
        for schema in schema.get(alternatives).and_then(Value::as_array).into_iter().flatten() {
            all.extend(properties(root, schema));
        }
    }
    all
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

/// Sets a setting among those of all sections.
pub(crate) fn set(sections: &mut Map<String, Value>, path: &str, value: Value) {
    let Some((section, name)) = path.split_once('.') else {
        sections.insert(path.into(), value);
        return;
    };
    let section = sections.entry(section).or_insert_with(|| Map::new().into());
    if let Some(keys) = section.as_object_mut() {
        keys.insert(name.into(), value);
    }
}

/// A value in one line, as tables and identities show it.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The value of a setting as text, where serialization may have left it out.
pub(crate) fn setting_text(path: &str, value: &Value) -> String {
    match (value, Catalog::get().find(path)) {
        (Value::Null, Some(entry)) => entry.default.clone(),
        _ => text_of(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_known_by_its_path_with_its_kind_and_default() {
        let catalog = Catalog::get();
        let entry = |path: &str| catalog.find(path).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!(entry("guest.memory").kind.quantities, [Quantity::Bytes]);
        assert_eq!(entry("guest.memory").default, "1GiB");
        assert_eq!(entry("stress.working_set").kind.quantities, [Quantity::Bytes, Quantity::Span]);
        assert_eq!(entry("guest.accel").kind.words, ["auto", "kvm", "tcg"]);
        assert!(!entry("guest.accel").kind.text);
        assert!(entry("guest.cpu").kind.text && entry("guest.cpu").kind.optional);
        assert_eq!(entry("guest.cpu").default, "none");
        assert!(entry("guest.vcpus").kind.number);
        assert!(entry("migrate.stall_detection").kind.flag);
        assert_eq!(entry("link.rate").kind.quantities, [Quantity::BitRate]);
        assert!(entry("link.rate").kind.optional);
        assert_eq!(entry("link.delay").default, "0");
        assert_eq!(entry("link.loss").kind.quantities, [Quantity::Percent]);
        assert_eq!(entry("link.loss").default, "0");
        assert_eq!(entry("link.shaper").default, "tbf");
        assert!(entry("link.loss_bursts").kind.structured && entry("link.loss_bursts").kind.optional);
        assert_eq!(entry("stress.rate").kind.quantities, [Quantity::ByteRate]);
        assert_eq!(entry("stress.rate").kind.words, ["unlimited"]);
        assert!(entry("stress.content").kind.text);
        assert_eq!(entry("stress.phases").default, "[]");
        assert!(entry("timeline").kind.structured && !catalog.is_section("timeline"));
        assert_eq!(entry("timeline").default, "none");
        assert!(catalog.find("stress").is_none() && catalog.is_section("stress"));
    }

    #[test]
    fn a_setting_takes_something() {
        for Entry { path, kind, .. } in Catalog::get().entries() {
            assert_ne!(*kind, Kind { optional: kind.optional, ..Kind::default() }, "{path}");
        }
    }

    #[test]
    fn a_misspelt_path_finds_its_neighbour() {
        let suggest = |path| Catalog::get().suggest(path);
        assert_eq!(suggest("stress.rat").as_deref(), Some("the nearest setting is `stress.rate`"));
        assert_eq!(suggest("timeout").as_deref(), Some("the nearest setting is `migrate.timeout`"));
        assert_eq!(suggest("xyz"), None);
    }
}
