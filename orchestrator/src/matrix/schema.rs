//! The JSON Schema of a matrix file, for editors: generated from the types, so that it cannot disagree with
//! them, descriptions included.

use super::{
    catalog::{self, Setting},
    file::File,
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The JSON Schema (draft 2020-12) of a matrix file.
pub fn schema() -> Schema {
    let mut root = of::<File>();
    let settings: Map<String, Value> =
        catalog::all().map(|setting| (setting.path().into(), schema_of(&root, setting))).collect();
    let list = |(path, items): (&String, &Value)| {
        (path.clone(), json!({ "type": "array", "minItems": 1, "items": items }))
    };
    let axes: Map<String, Value> = settings.iter().map(list).collect();
    let point = json!({
        "type": "object",
        "description": "Values by setting: { stress.rate: 96MB/s, link.delay: 20ms }",
        "properties": settings,
        "additionalProperties": false,
        "minProperties": 1,
    });
    root["$defs"]["Point"] = point;
    let points = json!({ "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/Point" } });
    root["properties"]["axes"]["properties"] = axes.into();
    root["properties"]["axes"]["additionalProperties"] = points;
    root["properties"]["include"]["items"] = json!({ "$ref": "#/$defs/Point" });
    root["properties"]["exclude"]["items"] =
        json!({ "anyOf": [{ "$ref": "#/$defs/Expression" }, { "$ref": "#/$defs/Point" }] });
    Schema::try_from(root).unwrap_or_default()
}

/// The schema as a type alone gives it.
pub(super) fn of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

/// The schema of a setting inside that of all settings.
fn schema_of(root: &Value, setting: &Setting) -> Value {
    let key = |schema, name| properties(root, schema).into_iter().find(|(known, _)| *known == name);
    let step = |schema, name| key(schema, name).map(|(_, schema)| schema);
    setting.path().split('.').try_fold(root, step).cloned().unwrap_or_default()
}

/// The keys that a schema knows, with the schema of each.
pub(super) fn properties<'a>(root: &'a Value, schema: &'a Value) -> Vec<(&'a str, &'a Value)> {
    let reference = schema.get("$ref").and_then(Value::as_str);
    let target = reference.and_then(|reference| root.pointer(reference.trim_start_matches('#')));
    let keys = target.unwrap_or(schema).get("properties").and_then(Value::as_object);
    keys.into_iter().flatten().map(|(name, schema)| (name.as_str(), schema)).collect()
}
