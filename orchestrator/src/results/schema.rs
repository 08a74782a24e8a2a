//! The JSON Schema of results, made from the types; what each figure is comes from [`FIGURES`].

use super::{environment::Environment, figures::FIGURES, record::Record};
use crate::measure::samples::Sample;
use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Map, Value};

/// Returns the JSON Schema (draft 2020-12) of a record, a line of `cells.jsonl`. Its definitions have those
/// of `environment.json` (`Environment`) and of a line of `samples.jsonl` (`Sample`) too.
pub fn schema() -> Schema {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Environment>();
    generator.subschema_for::<Sample>();
    let mut root = generator.into_root_schema_for::<Record>().to_value();
    for figure in FIGURES {
        describe(&mut root, figure.key, figure.what);
    }
    Schema::try_from(root).unwrap_or_default()
}

/// Describes what is at a dotted path of a record.
fn describe(root: &mut Value, path: &str, text: &str) {
    let mut at = String::new();
    for name in path.split('.') {
        // What a property of the record refers to is a definition.
        if let Some(reference) = root.pointer(&at).and_then(|schema| schema["$ref"].as_str()) {
            at = reference.trim_start_matches('#').to_string();
        }
        at = format!("{at}/properties/{name}");
    }
    let place: Option<&mut Map<String, Value>> = root.pointer_mut(&at).and_then(Value::as_object_mut);
    if let Some(schema) = place {
        schema.insert("description".into(), text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_described_and_nothing_is_left_undescribed() {
        let root = schema().to_value();
        let text = root.to_string();
        for figure in FIGURES {
            assert!(text.contains(&Value::from(figure.what).to_string()), "{} is nowhere", figure.key);
        }
        assert!(!text.contains("The figure `"), "a figure has the description of its field");
    }
}
