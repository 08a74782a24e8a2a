//! The JSON Schema of matrix files, for editors and for the reference. It is generated from the types that
//! read the files, including their descriptions, so that it cannot disagree with them.

use super::{
    catalog::{self, Setting},
    file::File,
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// Returns the JSON Schema (draft 2020-12) of matrix files.
pub fn schema() -> Schema {
    let mut root = of::<File>();
    let settings: Map<String, Value> =
        catalog::all().map(|setting| (setting.path().into(), schema_of(&root, setting))).collect();
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
