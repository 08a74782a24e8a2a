//! The JSON Schema of matrix files, for editors and for the reference. It is generated from the types that
//! read the files, including their descriptions, so that it cannot disagree with them.
//!
//! schemars knows the words and types as they are written by default. [`allow_spellings`] adds what the
//! deserializer of [`typed`](super::typed) also reads: words in any case and with any separator, and in
//! settings `none` and the words for a flag.

use super::{
    catalog::{self, Setting},
    file::File,
    settings::Settings,
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A regular expression for an absent setting.
const NONE: &str = r"^\s*[nN][oO][nN][eE]\s*$";

/// A regular expression for the texts that are read as flags.
const FLAG: &str =
    r"^\s*([tT][rR][uU][eE]|[yY][eE][sS]|[oO][nN]|[fF][aA][lL][sS][eE]|[nN][oO]|[oO][fF][fF])\s*$";

/// Returns the JSON Schema (draft 2020-12) of matrix files.
pub fn schema() -> Schema {
    let mut root = of::<File>();
    allow_spellings(&mut root);
    let settings: Map<String, Value> =
        catalog::names().map(|(name, setting)| (name.into(), schema_of(&root, setting))).collect();
    let list = |(path, items): (&String, &Value)| {
        (path.clone(), json!({ "type": "array", "minItems": 1, "items": items }))
    };
    let axes: Map<String, Value> = settings.iter().map(list).collect();
    let overrides = json!({
        "type": "object",
        "description":
            "A mapping from settings to values, such as `{ stress.rate: 96MB/s, link.delay: 20ms }`",
        "properties": settings,
        "additionalProperties": false,
        "minProperties": 1,
    });
    root["$defs"]["Overrides"] = overrides;
    let list_of_overrides =
        json!({ "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/Overrides" } });
    for section in Settings::SECTIONS {
        if let Some(setting) = catalog::find(section).filter(|setting| setting.path() != *section) {
            let one_value = schema_of(&root, setting);
            let schema = &mut root["properties"][section];
            let description = schema.as_object_mut().and_then(|keys| keys.shift_remove("description"));
            *schema = json!({ "description": description, "anyOf": [schema.take(), one_value] });
        }
    }
    root["properties"]["axes"]["properties"] = axes.into();
    root["properties"]["axes"]["additionalProperties"] = list_of_overrides;
    root["properties"]["include"]["items"] = json!({ "$ref": "#/$defs/Overrides" });
    root["properties"]["exclude"]["items"] =
        json!({ "anyOf": [{ "$ref": "#/$defs/Expression" }, { "$ref": "#/$defs/Overrides" }] });
    Schema::try_from(root).unwrap_or_default()
}

/// Returns the schema that schemars generates from a type.
pub(super) fn of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

/// Allows all spellings in a schema of matrix files that the parser reads.
fn allow_spellings(root: &mut Value) {
    let mut sections = BTreeSet::new();
    for section in Settings::SECTIONS {
        definitions(root, &root["properties"][section], &mut sections);
    }
    let timeline = &mut root["properties"]["timeline"];
    allow_text(timeline, NONE);
    let definitions = root["$defs"].as_object_mut().into_iter().flatten();
    for (name, definition) in definitions {
        allow_words(definition);
        if sections.contains(name) {
            allow_absence(definition);
        }
    }
    root["properties"].as_object_mut().into_iter().flatten().for_each(|(_, schema)| allow_words(schema));
}

/// Adds the names of all definitions to which a schema refers.
fn definitions(root: &Value, schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(keys) => {
            let name =
                keys.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
            if let Some(name) = name
                && found.insert(name.into())
            {
                definitions(root, &root["$defs"][name], found);
            }
            keys.values().for_each(|schema| definitions(root, schema, found));
        }
        Value::Array(items) => items.iter().for_each(|schema| definitions(root, schema, found)),
        _ => {}
    }
}

/// Allows every spelling of the words that a schema lists as choices.
fn allow_words(schema: &mut Value) {
    let Some(keys) = schema.as_object_mut() else { return };
    let Some(Value::Array(mut words)) = keys.remove("oneOf") else { return };
    let spellings: Vec<String> =
        words.iter().filter_map(|word| Some(any_spelling(word["const"].as_str()?))).collect();
    words.push(json!({ "type": "string", "pattern": format!("^[-_ ]*({})$", spellings.join("|")) }));
    // A word matches both its own entry and the pattern.
    keys.insert("anyOf".into(), words.into());
}

/// Returns a regular expression for a word in any case and with any separators of its parts.
fn any_spelling(word: &str) -> String {
    let letters = word.chars().filter(char::is_ascii_alphanumeric);
    let letter = |c: char| {
        let (lower, upper) = (c.to_ascii_lowercase(), c.to_ascii_uppercase());
        if lower == upper { format!("{c}[-_ ]*") } else { format!("[{lower}{upper}][-_ ]*") }
    };
    letters.map(letter).collect()
}

/// Allows `none` for the optional settings of a section and the words for its flags.
fn allow_absence(section: &mut Value) {
    let settings = section.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten();
    for (_, setting) in settings {
        let has_type = |kind: &str| match &setting["type"] {
            Value::String(only) => only == kind,
            Value::Array(kinds) => kinds.iter().any(|one| one == kind),
            _ => false,
        };
        let (is_flag, is_optional) = (has_type("boolean"), has_type("null") || has_type("array"));
        if is_flag {
            allow_text(setting, FLAG);
        } else if is_optional {
            allow_text(setting, NONE);
        } else if let Some(alternatives) = setting.get_mut("anyOf").and_then(Value::as_array_mut)
            && alternatives.iter().any(|alternative| alternative["type"] == "null")
        {
            alternatives.push(json!({ "type": "string", "pattern": NONE }));
        }
    }
}

/// Allows texts that match a pattern in addition to the types that a schema has, unless it allows every text.
fn allow_text(schema: &mut Value, pattern: &str) {
    let mut types = match schema["type"].take() {
        Value::Array(types) => types,
        one => vec![one],
    };
    if !types.iter().any(|one| one == "string") {
        types.push("string".into());
        schema["pattern"] = pattern.into();
    }
    schema["type"] = types.into();
}

/// Returns the schema of one setting, taken from the schema of a whole file.
fn schema_of(root: &Value, setting: &Setting) -> Value {
    let key = |schema, name| properties(root, schema).into_iter().find(|(known, _)| *known == name);
    let step = |schema, name| key(schema, name).map(|(_, schema)| schema);
    setting.path().split('.').try_fold(root, step).cloned().unwrap_or_default()
}

/// Returns the keys that an object schema allows, with the schema of each. Follows a `$ref` into `root`.
pub(super) fn properties<'a>(root: &'a Value, schema: &'a Value) -> Vec<(&'a str, &'a Value)> {
    let reference = schema.get("$ref").and_then(Value::as_str);
    let target = reference.and_then(|reference| root.pointer(reference.trim_start_matches('#')));
    let keys = target.unwrap_or(schema).get("properties").and_then(Value::as_object);
    keys.into_iter().flatten().map(|(name, schema)| (name.as_str(), schema)).collect()
}
