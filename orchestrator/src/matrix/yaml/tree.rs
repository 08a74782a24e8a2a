//! Builds the tree of values of a YAML text, and finds YAML features outside of the supported subset.

use super::Location;
use crate::matrix::diagnostic::{KeyPath, Segment};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
};
use serde_json::{Map, Value};
use std::{cell::RefCell, fmt};

/// A use of a YAML feature that `serde_yaml` accepts and this program does not: a duplicate key, a merge key
/// or a tag.
pub(super) struct SubsetViolation {
    pub(super) location: Location,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Parses a text that holds one document. Returns its value and the violations of the subset in it.
pub(super) fn read(text: &str) -> Result<(Value, Vec<SubsetViolation>), serde_yaml::Error> {
    let violations = RefCell::default();
    let tree = Tree { violations: &violations, path: KeyPath::root() };
    let value = tree.deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok((value, violations.take()))
}

/// Builds the value at `path`, and collects the violations in it.
struct Tree<'a> {
    violations: &'a RefCell<Vec<SubsetViolation>>,
    path: KeyPath,
}

impl Tree<'_> {
    fn violation(&self, location: Location, message: String, help: &'static str) {
        self.violations.borrow_mut().push(SubsetViolation { location, message, help });
    }

    fn below(&self, segment: Segment) -> Self {
        Self { violations: self.violations, path: self.path.with(segment) }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON has no infinity and no NaN. They become strings, which no setting accepts as a number.
        Ok(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(Segment::Index(list.len())))? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.path.key(&key);
            let value = entries.next_value_seed(self.below(Segment::Key(key.clone())))?;
            if key == "<<" {
                let help = "write the keys out, or give each value its own anchor";
                self.violation(Location::Key(path), "merge keys are not supported".into(), help);
            } else if map.contains_key(&key) {
                let help = "remove one of the two";
                self.violation(Location::SecondKey(path), format!("`{key}` is set twice"), help);
            } else {
                map.insert(key, value);
            }
        }
        Ok(map.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let help = "remove the tag, or quote a text that starts with `!`: \"!like this\"";
        self.violation(
            Location::Tag(self.path.clone()),
            "YAML tags (`!name`) are not supported".into(),
            help,
        );
        let (_tag, content) = data.variant::<IgnoredAny>()?;
        content.newtype_variant::<IgnoredAny>()?;
        Ok(Value::Null)
    }
}
