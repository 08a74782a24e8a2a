//! The JSON Schema of results. It is generated from the types; the descriptions of figures are from
//! [`FIGURES`].

use super::{
    client::ProbeWindow, environment::Environment, figures::FIGURES, record::Record, telemetry::GuestReport,
};
use crate::measure::samples::Sample;
use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Map, Value};

/// Returns the JSON Schema (draft 2020-12) of a record, which is a line of `cells.jsonl`. Its definitions
/// include those of `environment.json` (`Environment`), of a line of `samples.jsonl` (`Sample`), of
/// `telemetry.jsonl` (`GuestReport`), and of `probe.jsonl` (`ProbeWindow`).
pub fn schema() -> Schema {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Environment>();
    generator.subschema_for::<Sample>();
    generator.subschema_for::<GuestReport>();
    generator.subschema_for::<ProbeWindow>();
    let mut root = generator.into_root_schema_for::<Record>().to_value();
    for figure in FIGURES {
        describe(&mut root, figure.key, figure.description);
    }
    Schema::try_from(root).unwrap_or_default()
}

/// Sets the description of the field of a record at a dotted path.
fn describe(root: &mut Value, path: &str, text: &str) {
    let mut at = String::new();
    for name in path.split('.') {
        // A property with a type of its own refers to a definition, which has the properties below it.
        if let Some(reference) = root.pointer(&at).and_then(|schema| schema["$ref"].as_str()) {
            at = reference.trim_start_matches('#').to_string();
        }
        at = format!("{at}/properties/{name}");
    }
    let property: Option<&mut Map<String, Value>> = root.pointer_mut(&at).and_then(Value::as_object_mut);
    if let Some(schema) = property {
        schema.insert("description".into(), text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_described_by_its_definition() {
        let root = schema().to_value();
        let text = root.to_string();
        for figure in FIGURES {
            let description = Value::from(figure.description).to_string();
            assert!(text.contains(&description), "{} is not described", figure.key);
        }
        assert!(!text.contains("The figure `"), "a figure is described by its field's doc comment");
    }
}
