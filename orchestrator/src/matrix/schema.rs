//! The JSON Schema of a matrix file, for editors: generated from the types, so that it cannot disagree with
//! them, descriptions included.

use super::{
    catalog::{Catalog, generator},
    file::File,
};
use schemars::Schema;
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

/// The JSON Schema (draft 2020-12) of a matrix file.
pub fn schema() -> Schema {
    let mut root = raw().clone();
    let axes: Map<String, Value> = Catalog::get()
        .entries()
        .iter()
        .map(|entry| {
            let list = json!({ "type": "array", "minItems": 1, "items": entry.schema });
            (entry.path.clone(), list)
        })
        .collect();
    let settings: Map<String, Value> =
        Catalog::get().entries().iter().map(|entry| (entry.path.clone(), entry.schema.clone())).collect();
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

/// The schema as the types alone give it.
pub(super) fn raw() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| generator().into_root_schema_for::<File>().to_value())
}
