//! The JSON Schema of matrix files: it has every key, describes each, and has no dangling references.

use serde_json::Value;
use testbed::matrix::schema;

fn root() -> Value {
    schema().to_value()
}

/// Calls `visit` for every value in the document, with the path to it.
fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}"), visit));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| walk(value, &format!("{path}/{i}"), visit));
        }
        _ => {}
    }
}

#[test]
fn every_key_is_present_and_described() {
    let root = root();
    let keys: Vec<&String> = root["properties"].as_object().unwrap().keys().collect();
    let mut expected = [
        "name",
        "description",
        "guest",
        "link",
        "probe",
        "stress",
        "migrate",
        "timeline",
        "axes",
        "include",
        "exclude",
        "repeat",
        "order",
        "seed",
        "expect",
        "reference",
    ];
    let mut found: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    walk(&root, "", &mut |path, value| {
        let parts: Vec<&str> = path.rsplit('/').collect();
        let is_property =
            parts.get(1) == Some(&"properties") && !path.contains("axes") && !path.contains("Overrides");
        assert!(!is_property || value.get("description").is_some(), "{path} has no description: {value}");
    });
}

#[test]
fn every_reference_resolves() {
    let root = root();
    let mut references = 0;
    walk(&root, "", &mut |path, value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            references += 1;
            assert!(root.pointer(reference.trim_start_matches('#')).is_some(), "{path}: {reference}");
        }
    });
    assert!(references > 20);
}

#[test]
fn axes_and_include_have_the_schema_of_each_setting() {
    let root = root();
    let axes = &root["properties"]["axes"];
    assert!(axes["properties"]["stress.rate"]["items"]["$ref"].is_string(), "{axes}");
    assert_eq!(axes["additionalProperties"]["items"]["$ref"], "#/$defs/Overrides");
    assert!(root["$defs"]["Overrides"]["properties"]["link.delay"].is_object());
    assert_eq!(root["$defs"]["Overrides"]["additionalProperties"], false);
    assert_eq!(root["required"], serde_json::json!(["name"]));
}
